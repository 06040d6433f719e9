"""`add_layer_norm`: the sum that goes on in a transformer, and its norm, which a layer reads.

    sum  = h + delta
    norm = (sum - mean) / sqrt(variance + eps) weight + bias        of each token

2 loads and 2 stores per element; a program makes a token.
"""

import torch
from torch import Tensor, nn

from ..system.errors import Refused
from .checks import check, leading, on_device, power_of_2, runs_kernel
from .reference_gradient import reference_gradient
from .triton_or_stub import jit, tl

MOST = 8192  # channels that a program holds


def add_layer_norm_ref(
    h: Tensor, delta: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """The op in plain PyTorch."""
    total = h + delta
    return total, nn.functional.layer_norm(total, weight.shape, weight, bias, eps)


@jit
def _add_layer_norm_kernel(
    sum_ptr,  # [..., D]
    norm_ptr,  # [..., D]
    h_ptr,  # [..., D]
    delta_ptr,  # [..., D]
    weight_ptr,  # [D]
    bias_ptr,  # [D]
    channels,  # D
    eps,
    BLOCK: tl.constexpr,
):
    start = tl.program_id(0).to(tl.int64) * channels
    c = tl.arange(0, BLOCK)
    mask = c < channels
    total = tl.load(h_ptr + start + c, mask, other=0).to(tl.float32)
    total += tl.load(delta_ptr + start + c, mask, other=0).to(tl.float32)
    tl.store(sum_ptr + start + c, total, mask)
    mean = tl.sum(total, 0) / channels
    off = tl.where(mask, total - mean, 0)
    rstd = 1 / tl.sqrt(tl.sum(off * off, 0) / channels + eps)
    weight = tl.load(weight_ptr + c, mask, other=0).to(tl.float32)
    bias = tl.load(bias_ptr + c, mask, other=0).to(tl.float32)
    tl.store(norm_ptr + start + c, off * rstd * weight + bias, mask)


@torch.library.custom_op("morse_engine::add_layer_norm", mutates_args=())
def add_layer_norm(
    h: Tensor, delta: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """`h + delta` and its layer norm. Differentiable, by way of the reference.

    Args:
        h, delta: `[B, N, D]`, float16, bfloat16 or float32, contiguous.
        weight, bias: `[D]` of the norm.
        eps: is added to the variance.

    Returns:
        The sum and its norm, each as h. The norm is that of the sum before it is rounded.

    Raises:
        Refused: an argument of another shape, dtype, device or layout, by its name.
    """
    channels = leading(weight)
    check("h", h, (None, None, channels), h.device)
    check("delta", delta, h.shape, h.device, (h.dtype,))
    check("weight", weight, (channels,), h.device)
    check("bias", bias, (channels,), h.device)
    if not 0 < channels <= MOST or not h.numel():
        raise Refused(f"h has shape {list(h.shape)}: has to have tokens of 1 to {MOST} channels")
    if not runs_kernel(h):
        return add_layer_norm_ref(h, delta, weight, bias, eps)
    total, norm = torch.empty_like(h), torch.empty_like(h)
    with on_device(h):
        _add_layer_norm_kernel[(h.numel() // channels,)](
            total,
            norm,
            h,
            delta,
            weight,
            bias,
            channels,
            eps,
            BLOCK=power_of_2(channels),
            enable_fp_fusion=True,
        )
    return total, norm


@add_layer_norm.register_fake
def _(h: Tensor, delta: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return torch.empty_like(h), torch.empty_like(h)


reference_gradient(add_layer_norm, add_layer_norm_ref)
