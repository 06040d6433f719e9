"""From models and a plan to a `Sampler`."""

from .compile import compile
from .sampler import Sampler

__all__ = ["Sampler", "compile"]
