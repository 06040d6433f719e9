"""What the launchers share: which device runs a kernel, and checks that name the argument."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..system.errors import Refused, Unavailable
from .triton_or_stub import jit, triton

Result = TypeVar("Result")

FLOATS = (torch.float16, torch.bfloat16, torch.float32)
INTS = (torch.int32, torch.int64)
# Positions within an image are counted in int32 with room for a block; images in int64.
MAX_ELEMENTS = (1 << 31) - (1 << 16)

# What runs: "auto", a kernel for CUDA tensors and else a reference, which is called as the plain
# function that it is; "ops", the same with references as ops, to count them as on a GPU; "kernels",
# for CPU tensors too; "references", for all.
_mode: ContextVar[str] = ContextVar("mode", default="auto")


@contextmanager
def interpreter() -> Iterator[None]:
    """Within it the ops run their kernels on CPU tensors too, in Triton's interpreter.

    For tests and for debugging with `print`; it is slow.

    Raises:
        Unavailable: Triton is missing, or was imported without TRITON_INTERPRET=1.
    """
    if triton is None or not interpreted():
        raise Unavailable(
            "kernels run on the CPU only in Triton's interpreter: install triton, and set "
            "TRITON_INTERPRET=1 before Python starts"
        )
    with in_mode("kernels"):
        yield


def references() -> AbstractContextManager[None]:
    """Within it the ops run their references, on every device: the specification does."""
    return in_mode("references")


def or_reference(
    op: Callable[..., Result], reference: Callable[..., Result]
) -> Callable[..., Result]:
    """The op, and where its reference runs that, called as the plain function that it is.

    The dispatch of an op of our own costs some 50 us on a CPU, more than the small ones compute.
    """

    @wraps(reference)
    def either(*args: Any) -> Result:
        mode = _mode.get()
        plain = mode == "references" or (mode == "auto" and not args[0].is_cuda)
        return reference(*args) if plain and not torch.compiler.is_compiling() else op(*args)

    return either


@contextmanager
def in_mode(mode: str) -> Iterator[None]:
    """Within it the ops run as `_mode` says."""
    token = _mode.set(mode)
    try:
        yield
    finally:
        _mode.reset(token)


@jit
def _nothing() -> None:
    pass


def interpreted() -> bool:
    """Whether Triton, imported with TRITON_INTERPRET=1, interprets kernels and compiles none."""
    return triton is not None and not isinstance(_nothing, triton.JITFunction)


def widens(dtype: torch.dtype) -> bool:
    """Whether products have to be of float32: the interpreter multiplies bfloat16 as integers."""
    return dtype == torch.bfloat16 and interpreted()


def runs_kernel(tensor: Tensor) -> bool:
    """Whether an op on this tensor launches its kernel; its reference runs otherwise."""
    mode = _mode.get()
    if mode in ("auto", "ops"):
        return tensor.is_cuda and triton is not None
    return mode == "kernels"


def available() -> bool:
    """Whether Triton is installed, without which only the references run."""
    return triton is not None


def on_device(tensor: Tensor) -> AbstractContextManager:
    """The tensor's GPU as the current one, which is where Triton launches."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def leading(tensor: Tensor) -> int:
    """The first size; 0 for a number."""
    return tensor.shape[0] if tensor.ndim else 0


def check(
    name: str,
    tensor: Tensor,
    shape: Sequence[int | None],
    device: torch.device,
    dtypes: Sequence[torch.dtype] = FLOATS,
    *,
    channels_last: bool = False,
) -> None:
    """Refuse a tensor that a kernel would misread.

    Args:
        shape: the sizes it has to have; None for any.
        channels_last: whether a channels-last `[B, C, H, W]` is as good as a contiguous one.

    Raises:
        Refused: shape, dtype, device or memory layout is wrong; the message names the argument.
    """
    fits = tensor.ndim == len(shape) and all(
        wanted in (None, size) for wanted, size in zip(shape, tensor.shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise Refused(f"{name} has shape {list(tensor.shape)}: has to be [{wanted}]")
    if tensor.dtype not in dtypes:
        names = ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        raise Refused(f"{name} is {tensor.dtype}: has to be {names}")
    if tensor.device != device:
        raise Refused(f"{name} is on {tensor.device}: the other arguments are on {device}")
    if not tensor.is_contiguous() and not (channels_last and is_channels_last(tensor)):
        layouts = "contiguous or channels-last" if channels_last else "contiguous"
        raise Refused(f"{name} has strides {tensor.stride()}: has to be {layouts}")


def check_image(name: str, tensor: Tensor) -> None:
    """Refuse what is no batch of images, or has images too large to be counted in 32 bits."""
    if tensor.ndim != 4 or 0 in tensor.shape:
        raise Refused(f"{name} has shape {list(tensor.shape)}: has to be [B, C, H, W]")
    if tensor[0].numel() > MAX_ELEMENTS:
        raise Refused(f"{name} has {tensor[0].numel()} elements an image: at most 2^31 - 2^16")


def is_channels_last(tensor: Tensor) -> bool:
    return tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last)


def plane_strides(tensor: Tensor) -> tuple[int, int]:
    """Elements from one channel to the next and from one pixel to the next."""
    _, channels, height, width = tensor.shape
    return (height * width, 1) if tensor.is_contiguous() else (1, channels)


def tap_strides(weight: Tensor) -> tuple[int, int]:
    """Elements from one input channel to the next and from one tap of 3 x 3 to the next."""
    return (9, 1) if weight.is_contiguous() else (1, weight.shape[1])


def block_of(pixels: int, batch: int) -> int:
    """Pixels of a program: 32, or 16 where an H100 has more processors than programs of 32."""
    return 32 if batch * (-(-pixels // 32)) >= 132 else 16


def power_of_2(n: int, least: int = 1) -> int:
    return max(least, 1 << (n - 1).bit_length())
