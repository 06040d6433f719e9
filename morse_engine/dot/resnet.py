"""The residual blocks of a trunk that is for inference alone: the same function, fewer launches."""

from typing import Any

import torch
from torch import Tensor, nn

from ..kernels import is_channels_last
from .joined import Columns, columns, joined
from .norm import Norm


class Resnet(nn.Module):
    """`shortcut(h) + conv2(silu(norm2(conv1(silu(norm1(h))) + shift)))`, as a `ResnetBlock2D`.

    The shift is this block's part of what all of them are told of time, with the bias of conv1 in
    it; the shortcut's bias is in conv2's. A shortcut of channels-last features is added by the
    product that makes it.
    """

    def __init__(self, block: Any):
        super().__init__()
        self.norm1, self.norm2 = Norm(block.norm1, silu=True), Norm(block.norm2, silu=True)
        self.conv1, self.conv2 = block.conv1, block.conv2
        self.conv1.bias = None
        self.time_emb_proj: Columns = block.time_emb_proj
        self.conv_shortcut: nn.Conv2d | None = block.conv_shortcut
        if self.conv_shortcut is not None and self.conv_shortcut.bias is not None:
            bias = (self.conv2.bias + self.conv_shortcut.bias).detach()
            self.conv2.bias, self.conv_shortcut.bias = nn.Parameter(bias, False), None

    def forward(self, h: Tensor, told: Tensor) -> Tensor:
        out = self.conv1(self.norm1(h))
        out = self.conv2(self.norm2(out, self.time_emb_proj(told)))
        if self.conv_shortcut is None:
            return h + out
        if not (is_channels_last(h) and is_channels_last(out)):
            return self.conv_shortcut(h) + out
        pixels = out.permute(0, 2, 3, 1)
        weight = self.conv_shortcut.weight.flatten(1)
        rows = h.permute(0, 2, 3, 1).flatten(0, 2)
        out = torch.addmm(pixels.flatten(0, 2), rows, weight.t())
        return out.view(pixels.shape).permute(0, 3, 1, 2)


def _takes(block: Any) -> bool:
    """Whether a `ResnetBlock2D` that is told its part of the time is a `Resnet`."""
    shortcut = block.conv_shortcut
    return (
        block.time_embedding_norm == "default"
        and block.output_scale_factor == 1
        and isinstance(block.nonlinearity, nn.SiLU)
        and block.upsample is None
        and block.downsample is None
        and (shortcut is None or shortcut.kernel_size == (1, 1))
    )


def replace(trunk: nn.Module) -> nn.Module | None:
    """Put a `Resnet` in the place of each residual block of a private trunk that is one.

    Returns:
        the activation and the time projections of all blocks as one layer, whose output they are
        told in the place of the embedding. None, and the trunk as it is, where a block makes
        something else of the embedding.
    """
    from diffusers.models.resnet import ResnetBlock2D, ResnetBlockCondNorm2D

    named = list(trunk.named_modules())
    found = [(n, m) for n, m in named if isinstance(m, ResnetBlock2D) and m.time_emb_proj]
    others = any(isinstance(m, ResnetBlockCondNorm2D) for _, m in named)
    blocks: list[Any] = [block for _, block in found]
    kinds = {(type(block.nonlinearity), block.skip_time_act) for block in blocks}
    if others or len(kinds) != 1:
        return None
    act = nn.Identity() if blocks[0].skip_time_act else blocks[0].nonlinearity
    layers = [block.time_emb_proj for block in blocks]
    told = joined(layers)
    for (name, _), block, part in zip(found, blocks, columns(layers), strict=True):
        block.time_emb_proj, block.skip_time_act = part, True
        if _takes(block):
            with torch.no_grad():
                told.bias[part.part] += block.conv1.bias
            parent = trunk.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], Resnet(block))
    return nn.Sequential(act, told)
