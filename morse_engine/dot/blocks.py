"""The blocks of Dot: all of it that is not Dash's trunk."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .. import kernels


class TimeSiLU(nn.Module):
    """`silu((1 + scale) (h + bias) + shift)`, scale and shift by time, bias of the convolution."""

    def __init__(self, channels: int, emb_dim: int):
        super().__init__()
        self.linear = nn.Linear(emb_dim, 2 * channels)

    def forward(self, conv: nn.Conv2d, h: Tensor, scale_shift: Tensor) -> Tensor:
        h = nn.functional.conv2d(h, conv.weight, None, conv.stride, conv.padding)
        return kernels.time_silu(h, conv.bias, scale_shift)


class Down(nn.Module):
    """Halve the resolution: a convolution of stride 2, then `TimeSiLU`."""

    def __init__(self, c_in: int, c_out: int, emb_dim: int):
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, 3, stride=2, padding=1)
        self.act = TimeSiLU(c_out, emb_dim)

    def forward(self, h: Tensor, scale_shift: Tensor) -> Tensor:
        return self.act(self.conv, h, scale_shift)


class Residual(nn.Module):
    """`h + conv2(act(conv1(norm(h))))`, one group of the norm for about 8 channels."""

    def __init__(self, channels: int, emb_dim: int):
        super().__init__()
        groups = max(n for n in range(1, channels // 8 + 2) if channels % n == 0)
        self.norm: Any = nn.GroupNorm(groups, channels)  # or a `Norm`
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.act = TimeSiLU(channels, emb_dim)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, h: Tensor, scale_shift: Tensor) -> Tensor:
        return h + self.conv2(self.act(self.conv1, self.norm(h), scale_shift))


class Up(nn.Module):
    """Double the resolution: `shuffle(conv2(refine(act(conv1([h, skip])))))`.

    `features` is all but conv2 and the shuffle, which the last block leaves to the solver's step.
    """

    def __init__(self, c_in: int, c_mid: int, c_out: int, emb_dim: int, *, refine: bool):
        super().__init__()
        self.conv1 = nn.Conv2d(c_in + c_mid, c_mid, 3, padding=1)
        self.act = TimeSiLU(c_mid, emb_dim)
        self.refine = Residual(c_mid, emb_dim) if refine else None
        self.conv2 = nn.Conv2d(c_mid, 4 * c_out, 3, padding=1)

    def features(self, h: Tensor, skip: Tensor, scale_shifts: Iterator[Tensor]) -> Tensor:
        h = self.act(self.conv1, torch.cat([h, skip], dim=1), next(scale_shifts))
        return h if self.refine is None else self.refine(h, next(scale_shifts))

    def shuffle(self, h: Tensor) -> Tensor:
        return nn.functional.pixel_shuffle(self.conv2(h), 2)
