"""From models and a plan to a `Sampler`."""

from .sampler import Sampler, compile

__all__ = ["Sampler", "compile"]
