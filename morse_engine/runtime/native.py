"""The C++ extension: two captured CUDA graphs as one loop on the device.

    if native.available():
        composed = native.compose(native.Driver(), dash, dot, step, capacity)
        composed.loop.launch(stream)

Importing this module never fails, and loads neither torch nor a CUDA driver. Driver, LoopGraph,
Node, census and default_layout come from the extension; without it, using one raises RuntimeError
with the reason. csrc/include/morse_engine/loop_graph.h says what they do.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..system.errors import Refused, Unavailable

try:
    from .. import _native

    _MISSING = ""
except ImportError as error:
    _native = None
    _MISSING = (
        f"the C++ extension was not built ({error}); install morse-engine again with "
        "MORSE_ENGINE_NATIVE=1 in the environment to see why"
    )

# Tried in this order. "unrolled" has no conditional nodes, and its kernels are a module of their
# own: what a driver does not do for the others does not stop it.
LAYOUTS = ("switch", "two_ifs", "unrolled")
FORCED = "MORSE_ENGINE_LAYOUT"
TRIAL_S = 10  # for a run of no steps

_NAMES = ("Driver", "LoopGraph", "Node", "census", "default_layout")


def available(library: str = "libcuda.so.1") -> bool:
    """Whether loops can be made: the extension is built, and the driver has conditional nodes.

    Opens the CUDA driver `library` and does not initialise it. Whether there is a GPU is another
    question, which torch.cuda.is_available() answers.
    """
    return reason(library) == ""


def reason(library: str = "libcuda.so.1") -> str:
    """Why available() is False, in one line; "" where it is True."""
    if _native is None:
        return _MISSING
    if os.environ.get(FORCED) == "none":
        return f"{FORCED} is none"
    try:
        _native.default_layout(_native.Driver(library))
    except RuntimeError as error:
        return str(error)
    return ""


@dataclass(frozen=True)
class Composed:
    """A loop that runs, and why layouts that were tried before it do not, by name."""

    loop: Any
    refused: dict[str, str]


def layouts() -> tuple[str, ...]:
    """The layouts to be tried: the one that MORSE_ENGINE_LAYOUT in the environment names, or all.

    Raises:
        Unavailable: it says "none", so that there are no loops.
        Refused: it names no layout.
    """
    forced = os.environ.get(FORCED, "")
    if not forced:
        return LAYOUTS
    if forced == "none":
        raise Unavailable(f"{FORCED} is none")
    if forced not in (known := (*LAYOUTS, "nested")):
        raise Refused(
            f"{FORCED}={forced!r}: use one of {', '.join(known)}, none, or leave it unset"
        )
    return (forced,)


def compose(
    driver: Any,
    dash: int,
    dot: int,
    step: int,
    capacity: int,
    stream: int = 0,
    look: Callable[[], object] = lambda: None,
) -> Composed:
    """The loop of two captured steps in the first layout that can be built and launched.

    Each is launched once, for a run of no steps: what the driver refuses only then is noticed too.

    Args:
        driver, dash, dot, step, capacity: of LoopGraph.
        stream: CUDA stream of the trial, an address.
        look: of `ends_within`.

    Raises:
        Unavailable: no layout works, or a launch does not end; the message has the reason of each.
        Refused: MORSE_ENGINE_LAYOUT names no layout.
    """
    refused: dict[str, str] = {}
    for layout in layouts():
        try:
            loop = __getattr__("LoopGraph")(driver, dash, dot, step, capacity, layout)
            loop.set_plan("-", stream)
            loop.launch(stream, 0)
        except RuntimeError as error:
            refused[layout] = str(error)
            continue
        if not ends_within(loop, TRIAL_S, look):
            # The stream is lost: another layout would wait as long.
            refused[layout] = f"a run of no steps did not end within {TRIAL_S} s"
            break
        return Composed(loop, refused)
    raise Unavailable(said(refused))


def said(refused: dict[str, str]) -> str:
    """Why layouts do not run, in one text; one reason of several layouts once."""
    names: dict[str, list[str]] = {}
    for layout, why in refused.items():
        names.setdefault(why, []).append(layout)
    return "\n".join(f"layout {', '.join(some)}: {why}" for why, some in names.items())


def ends_within(loop: Any, seconds: float, look: Callable[[], object] = lambda: None) -> bool:
    """Whether all runs of a loop end within `seconds`; those that do not are cancelled.

    The host waits with short sleeps, never in the driver, so Ctrl-C works.

    Args:
        look: called meanwhile; raises where the device has failed, which no run would end after.
    """
    end = time.monotonic() + seconds
    while not loop.done():
        look()
        if time.monotonic() > end:
            loop.cancel()
            return False
        time.sleep(1e-4)
    return True


def get_include() -> str:
    """The folder of the C++ headers; the sources to compile, *.cpp, are in the folder above it.

    bindings.cpp is the Python module and is not needed in a C++ program. Raises RuntimeError if the
    headers are not installed.
    """
    package = Path(__file__).parents[1]
    # Beside the package in a checkout, inside it in a wheel.
    for folder in (package / "csrc", package.parent / "csrc"):
        if (folder / "include" / "morse_engine" / "loop_graph.h").is_file():
            return str(folder / "include")
    raise Unavailable(f"no C++ headers beside {package}: install morse-engine again")


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if _native is None:
        raise Unavailable(_MISSING)
    return getattr(_native, name)
