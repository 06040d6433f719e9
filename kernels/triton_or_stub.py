"""Triton where it is installed. Without it the package imports all the same and runs references."""

from collections.abc import Callable
from typing import Any

try:
    import triton
    import triton.language as tl

    jit, constexpr = triton.jit, tl.constexpr
except ImportError:
    triton = None

    class tl:  # type: ignore[no-redef] # in the place of the module
        constexpr = object

    def jit(function: Callable) -> Callable:
        return function

    def constexpr(value: object) -> object:
        return value


# What `aot.py` compiles: a kernel, the types of its arguments, its constants.
Variant = tuple[Any, dict[str, str], dict[str, int]]

__all__ = ["Variant", "constexpr", "jit", "tl", "triton"]
