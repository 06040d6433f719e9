"""`time_silu`: what stands between two convolutions of Dot, in one pass.

    out = silu((1 + scale) (h + bias) + shift)      bias, scale and shift per channel

bias is the one of the convolution that made h. 1 load and 1 store per element.
"""

import torch
from torch import Tensor, nn

from .checks import check, check_image, leading, on_device, runs_kernel
from .reference_gradient import reference_gradient
from .triton_or_stub import jit, tl, triton

BLOCK = 512


def time_silu_ref(h: Tensor, bias: Tensor, scale_shift: Tensor) -> Tensor:
    """The op in plain PyTorch."""
    scale, shift = scale_shift.float()[:, :, None, None].chunk(2, dim=1)
    u = torch.addcmul(shift, h.float() + bias.float()[:, None, None], 1 + scale)
    return nn.functional.silu(u).to(h.dtype)


@jit
def _time_silu_kernel(
    out_ptr,  # [B, C, H, W], strides as h
    h_ptr,  # [B, C, H, W], any plane strides
    bias_ptr,  # [C]
    scale_shift_ptr,  # [1 or B, 2 C]
    channels,
    numel,  # elements of one image
    pixels,  # of one image
    scale_stride,  # 0 or 2 C
    CHANNELS_LAST: tl.constexpr,
    BLOCK: tl.constexpr,
):
    blocks = tl.cdiv(numel, BLOCK)
    image = (tl.program_id(0) // blocks).to(tl.int64)
    position = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    mask = position < numel
    channel = position % channels if CHANNELS_LAST else position // pixels
    at = image * numel + position
    h = tl.load(h_ptr + at, mask, other=0).to(tl.float32)
    scale_at = scale_shift_ptr + image * scale_stride + channel
    scale = tl.load(scale_at, mask, other=0).to(tl.float32)
    shift = tl.load(scale_at + channels, mask, other=0).to(tl.float32)
    bias = tl.load(bias_ptr + channel, mask, other=0).to(tl.float32)
    u = (1 + scale) * (h + bias) + shift
    tl.store(out_ptr + at, u * tl.sigmoid(u), mask)


@torch.library.custom_op("morse_engine::time_silu", mutates_args=())
def time_silu(h: Tensor, bias: Tensor, scale_shift: Tensor) -> Tensor:
    """`silu((1 + scale) (h + bias) + shift)`. Differentiable, by way of the reference.

    Args:
        h: `[B, C, H, W]`, float16, bfloat16 or float32, contiguous or channels-last.
        bias: `[C]`.
        scale_shift: `[1, 2 C]`, or a row for each image: the scales, then the shifts.

    Returns:
        as h.

    Raises:
        Refused: an argument of another shape, dtype, device or layout, by its name.
    """
    check_image("h", h)
    batch, channels = h.shape[:2]
    check("h", h, h.shape, h.device, channels_last=True)
    check("bias", bias, (channels,), h.device)
    rows = 1 if leading(scale_shift) == 1 else batch
    check("scale_shift", scale_shift, (rows, 2 * channels), h.device)
    if not runs_kernel(h):
        return time_silu_ref(h, bias, scale_shift)
    out, numel = torch.empty_like(h), h[0].numel()
    with on_device(h):
        _time_silu_kernel[(triton.cdiv(numel, BLOCK) * batch,)](
            out,
            h,
            bias,
            scale_shift,
            channels,
            numel,
            numel // channels,
            2 * channels if len(scale_shift) > 1 else 0,
            CHANNELS_LAST=not h.is_contiguous(),
            BLOCK=BLOCK,
            enable_fp_fusion=True,
        )
    return out


@time_silu.register_fake
def _(h: Tensor, bias: Tensor, scale_shift: Tensor) -> Tensor:
    return torch.empty_like(h)


reference_gradient(time_silu, time_silu_ref)
