"""Triton where it is installed. Without it the package imports all the same and runs references."""

from collections.abc import Callable

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


__all__ = ["constexpr", "jit", "tl", "triton"]
