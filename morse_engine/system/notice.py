"""Warnings that point at the line of the caller's, however deep in the package they are raised."""

import sys
import warnings

PACKAGE = __name__.partition(".")[0]


def warn(message: str) -> None:
    """A warning whose place is the nearest line outside of this package."""
    depth = 1
    frame = sys._getframe()
    while frame.f_back is not None and _ours(frame.f_globals.get("__name__", "")):
        frame, depth = frame.f_back, depth + 1
    warnings.warn(message, stacklevel=depth)


def _ours(module: str) -> bool:
    return module.partition(".")[0] == PACKAGE
