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

# Where each public name lives; names that are modules stand for the module itself.
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
    "restore": "integrations.pipelines",
    "train_dash": "training",
    "train_dot": "training",
}
_MODULES = {"native": "runtime.native", "noise": "sampling.noise", "zoo": "zoo"}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used: torch takes seconds, and `--help` needs none."""
    if name in _MODULES:
        return import_module(f".{_MODULES[name]}", __name__)
    if name in _HOME:
        return getattr(import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
