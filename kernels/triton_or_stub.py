"""Triton where it is installed. Without it the package imports all the same and runs references."""

try:
    import triton
    import triton.language as tl

    jit, constexpr = triton.jit, tl.constexpr
except ImportError:
    triton = None

    class tl:
        constexpr = object

    def jit(function):
        return function

    def constexpr(value):
        return value


__all__ = ["constexpr", "jit", "tl", "triton"]
