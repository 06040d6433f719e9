"""A group norm for inference, with what stands around it."""

from torch import Tensor, nn

from .. import kernels


class Norm(nn.Module):
    """`norm(h + shift)`, and SiLU behind it if it is asked for, as one operation."""

    def __init__(self, norm: nn.GroupNorm, *, silu: bool):
        super().__init__()
        self.weight, self.bias = norm.weight, norm.bias
        self.groups, self.eps, self.silu = norm.num_groups, norm.eps, silu

    def forward(self, h: Tensor, shift: Tensor | None = None) -> Tensor:
        return kernels.group_norm_silu(
            h, self.weight, self.bias, shift, self.groups, self.eps, self.silu
        )
