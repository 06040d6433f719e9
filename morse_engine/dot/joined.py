"""Linear layers of one input as one layer, each with its columns of the output."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Columns(nn.Module):
    """In the place of a layer: its part of what all of them make at once."""

    def __init__(self, part: slice):
        super().__init__()
        self.part = part

    def forward(self, made: Tensor) -> Tensor:
        return made[..., self.part]


def joined(layers: Sequence[nn.Linear]) -> nn.Linear:
    """The layers as one, for inference: `[..., D]` to `[..., sum of their outputs]`."""
    with torch.no_grad():
        weight = torch.cat([layer.weight for layer in layers])
        biased = layers[0].bias is not None
        bias = torch.cat([layer.bias for layer in layers]) if biased else None
    one = nn.utils.skip_init(nn.Linear, weight.shape[1], len(weight), bias=bias is not None)
    one.weight = nn.Parameter(weight, requires_grad=False)
    one.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
    return one


def columns(layers: Sequence[nn.Linear]) -> list[Columns]:
    """The parts of `joined(layers)`."""
    parts, first = [], 0
    for layer in layers:
        parts.append(Columns(slice(first, first := first + layer.out_features)))
    return parts


def can_be_joined(layers: Sequence[nn.Module]) -> bool:
    """Whether there are any, all take one input, and all have a bias or none has."""
    kinds = {
        (layer.in_features, layer.bias is None) if isinstance(layer, nn.Linear) else None
        for layer in layers
    }
    return len(kinds) == 1 and None not in kinds
