"""The memory format of a model's convolutions."""

import torch
from torch import nn

CHANNELS_LAST, CONTIGUOUS = "channels-last", "contiguous"


def layout_of(model: nn.Module) -> str:
    """`CHANNELS_LAST` if the weights of any convolution larger than 1 x 1 are, else `CONTIGUOUS`.

    Of one input channel or one pixel there is no difference to be seen.
    """
    convolutions = (p for p in model.parameters() if p.ndim == 4 and not p.is_contiguous())
    last = any(p.is_contiguous(memory_format=torch.channels_last) for p in convolutions)
    return CHANNELS_LAST if last else CONTIGUOUS


def settle(dot: nn.Module, trunk: nn.Module) -> None:
    """Make a private Dot channels-last where that is faster, its trunk and its own blocks alike.

    That is so for half precision on a GPU, whose tensor cores read no other layout, and wherever
    Dash is channels-last, whose weights the trunk has copied.
    """
    like = next(trunk.parameters())
    half = like.is_cuda and like.dtype in (torch.float16, torch.bfloat16)
    if half or layout_of(trunk) == CHANNELS_LAST:
        dot.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # it is one
