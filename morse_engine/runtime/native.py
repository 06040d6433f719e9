"""The C++ extension: two captured CUDA graphs as one loop on the device.

    if native.available():
        loop = native.LoopGraph(native.Driver(), dash, dot, step, capacity)

Importing this module never fails, and loads neither torch nor a CUDA driver. Driver, LoopGraph,
Node, census and default_layout come from the extension; without it, using one raises RuntimeError
with the reason. csrc/include/morse_engine/loop_graph.h says what they do.
"""

from pathlib import Path
from typing import Any

from ..system.errors import Unavailable

try:
    from .. import _native

    _MISSING = ""
except ImportError as error:
    _native = None
    _MISSING = (
        f"the C++ extension was not built ({error}); install morse-engine again with "
        "MORSE_ENGINE_NATIVE=1 in the environment to see why"
    )

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
    try:
        _native.default_layout(_native.Driver(library))
    except RuntimeError as error:
        return str(error)
    return ""


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
