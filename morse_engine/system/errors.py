"""The two errors that this package raises on purpose: each names the value and the fix."""

import functools
import sys
from collections.abc import Callable


class Refused(ValueError):
    """An argument, a file or a combination of them that the package does not work with."""


class Unavailable(RuntimeError):
    """Something that is asked for rightly and is not there: a GPU, a library, a state, a device."""


def one_line(main: Callable[[], None]) -> Callable[[], None]:
    """A script's `main` whose errors of these kinds, and of files, are one line and status 2."""

    @functools.wraps(main)
    def run() -> None:
        try:
            main()
        except (Refused, Unavailable, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(2) from None

    return run
