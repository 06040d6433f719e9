"""Morse dual sampling for diffusion models: the same images, sooner.

    sampler = morse_engine.compile(unet, dot)
    images = sampler(batch_size=8, seed=0)

Source: Morse (ICML 2025, arXiv 2506.18251).
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import zoo
    from .dot import Dot
    from .engine import Sampler
    from .engine.compile import compile
    from .integrations.pipelines import accelerate, restore
    from .runtime import native
    from .runtime.native import get_include
    from .sampling import noise
    from .sampling.plan import Plan
    from .sampling.solver import SolverTable
    from .system.errors import Refused, Unavailable
    from .training import train_dash, train_dot

__version__ = "0.1.0"
__all__ = [
    "Dot",
    "Plan",
    "Refused",
    "Sampler",
    "SolverTable",
    "Unavailable",
    "accelerate",
    "compile",
    "get_include",
    "native",
    "noise",
    "restore",
    "train_dash",
    "train_dot",
    "zoo",
]

_HOME = {
    "Dot": "dot",
    "Plan": "sampling.plan",
    "Refused": "system.errors",
    "Sampler": "engine",
    "SolverTable": "sampling.solver",
    "Unavailable": "system.errors",
    "accelerate": "integrations.pipelines",
    "compile": "engine",
    "get_include": "runtime.native",
    "native": "runtime",
    "noise": "sampling",
    "restore": "integrations.pipelines",
    "train_dash": "training",
    "train_dot": "training",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used: torch takes seconds, and `--help` needs none."""
    if name in ("native", "noise"):  # modules that are public by a short name
        return import_module(f".{_HOME[name]}.{name}", __name__)
    if name in _HOME:
        return getattr(import_module(f".{_HOME[name]}", __name__), name)
    if name in __all__:
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
