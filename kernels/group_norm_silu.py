"""`group_norm_silu`: what stands before a convolution of a UNet, in one pass and in its layout.

    u   = h + shift                               by channel and time; may be left out
    v   = (u - mean) / sqrt(variance + eps) weight + bias        in a group of channels
    out = silu(v), or v

PyTorch's own group norm on CUDA is three launches, reads and writes contiguous tensors alone, and
so copies a channels-last one twice. One program makes one group of one image: meant for the inner
levels of a model, whose images are small.
"""

import torch
from torch import Tensor, nn

from ..system.errors import Refused
from .checks import check, check_image, leading, on_device, plane_strides, power_of_2, runs_kernel
from .reference_gradient import reference_gradient
from .triton_or_stub import jit, tl, triton

TILE = 4096  # elements of a group that a program holds at once


def group_norm_silu_ref(
    h: Tensor,
    weight: Tensor,
    bias: Tensor,
    shift: Tensor | None,
    groups: int,
    eps: float,
    silu: bool,
) -> Tensor:
    """The op in plain PyTorch, in the order of diffusers' residual block."""
    u = h if shift is None else h + shift[:, :, None, None]
    v = nn.functional.group_norm(u, groups, weight, bias, eps)
    return nn.functional.silu(v) if silu else v


@jit
def _read(
    h_ptr,
    shift,
    channel,
    in_group,
    pixels,
    first,
    stride_c,
    stride_pixel,
    BLOCK: tl.constexpr,
):
    """h + shift of a block of pixels, `[BLOCK, BLOCK_C]`, with the mask and where they lie."""
    pixel = first + tl.arange(0, BLOCK)
    mask = (pixel < pixels)[:, None] & in_group[None, :]
    at = channel[None, :] * stride_c + pixel[:, None] * stride_pixel
    u = tl.load(h_ptr + at, mask, other=0).to(tl.float32) + shift[None, :]
    return u, mask, at


@jit
def _group_norm_silu_kernel(
    out_ptr,  # [B, C, H, W], strides as h
    h_ptr,  # [B, C, H, W], any plane strides
    weight_ptr,  # [C]
    bias_ptr,  # [C]
    shift_ptr,  # [1 or B, C]
    channels,
    groups,
    pixels,  # of one image
    stride_c,
    stride_pixel,
    shift_stride,  # from one image's row to the next; 0 if there is one
    eps,
    SHIFTED: tl.constexpr,
    SILU: tl.constexpr,
    PER_GROUP: tl.constexpr,  # channels of a group
    BLOCKS: tl.constexpr,  # of pixels
    BLOCK: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    image = (tl.program_id(0) // groups).to(tl.int64)
    h_ptr += image * channels * pixels
    out_ptr += image * channels * pixels
    c = tl.arange(0, BLOCK_C)
    in_group = c < PER_GROUP
    channel = (tl.program_id(0) % groups) * PER_GROUP + c
    shift = tl.zeros([BLOCK_C], tl.float32)
    if SHIFTED:
        shift_at = shift_ptr + image * shift_stride + channel
        shift += tl.load(shift_at, in_group, other=0).to(tl.float32)
    # Mean and squares about it, block by block (Chan): a sum of squares would cancel.
    mean = tl.full([], 0, tl.float32)
    squares = tl.full([], 0, tl.float32)
    for i in range(0, BLOCKS):
        u, mask, _ = _read(
            h_ptr,
            shift,
            channel,
            in_group,
            pixels,
            i * BLOCK,
            stride_c,
            stride_pixel,
            BLOCK,
        )
        count = PER_GROUP * tl.minimum(pixels - i * BLOCK, BLOCK).to(tl.float32)
        seen = PER_GROUP * i * BLOCK
        of_block = tl.sum(tl.sum(tl.where(mask, u, 0), 1), 0) / count
        off = tl.where(mask, u - of_block, 0)
        step = of_block - mean
        squares += tl.sum(tl.sum(off * off, 1), 0) + step * step * (seen * count / (seen + count))
        mean += step * (count / (seen + count))
    rstd = 1 / tl.sqrt(squares / (PER_GROUP * pixels) + eps)
    scale = tl.load(weight_ptr + channel, in_group, other=0).to(tl.float32) * rstd
    bias = tl.load(bias_ptr + channel, in_group, other=0).to(tl.float32)
    for i in range(0, BLOCKS):
        u, mask, at = _read(
            h_ptr,
            shift,
            channel,
            in_group,
            pixels,
            i * BLOCK,
            stride_c,
            stride_pixel,
            BLOCK,
        )
        v = (u - mean) * scale[None, :] + bias[None, :]
        if SILU:
            v = v * tl.sigmoid(v)
        tl.store(out_ptr + at, v, mask)


@torch.library.custom_op("morse_engine::group_norm_silu", mutates_args=())
def group_norm_silu(
    h: Tensor,
    weight: Tensor,
    bias: Tensor,
    shift: Tensor | None,
    groups: int,
    eps: float,
    silu: bool,
) -> Tensor:
    """Group norm of `h + shift`, then SiLU. Differentiable, by way of the reference.

    Args:
        h: `[B, C, H, W]`, float16, bfloat16 or float32, contiguous or channels-last.
        weight, bias: `[C]` of the norm.
        shift: `[1, C]`, or a row for each image, which may lie apart; None for none.
        groups: of channels; it divides C.
        eps: is added to the variance.
        silu: whether the activation follows.

    Returns:
        as h.

    Raises:
        Refused: an argument of another shape, dtype, device or layout, by its name.
    """
    check_image("h", h)
    batch, channels = h.shape[:2]
    check("h", h, h.shape, h.device, channels_last=True)
    check("weight", weight, (channels,), h.device)
    check("bias", bias, (channels,), h.device)
    rows = 0
    if shift is not None:
        rows = 1 if leading(shift) == 1 else batch
        # Each of its rows has to be one piece; they are columns of a table.
        check("shift", shift[:1] if leading(shift) == batch else shift, (1, channels), h.device)
    if groups < 1 or channels % groups:
        raise Refused(f"groups={groups}: has to divide the {channels} channels of h")
    if not runs_kernel(h):
        out = group_norm_silu_ref(h, weight, bias, shift, groups, eps, silu)
        # PyTorch's group norm on CUDA answers contiguously.
        return out if out.stride() == h.stride() else torch.empty_like(h).copy_(out)
    out, pixels, per_group = torch.empty_like(h), h[0, 0].numel(), channels // groups
    block_c = power_of_2(per_group)
    block = min(max(1, TILE // block_c), power_of_2(pixels))
    with on_device(h):
        _group_norm_silu_kernel[(batch * groups,)](
            out,
            h,
            weight,
            bias,
            h if shift is None else shift,
            channels,
            groups,
            pixels,
            *plane_strides(h),
            shift.stride(0) if shift is not None and rows > 1 else 0,
            eps,
            SHIFTED=shift is not None,
            SILU=silu,
            PER_GROUP=per_group,
            BLOCKS=triton.cdiv(pixels, block),
            BLOCK=block,
            BLOCK_C=block_c,
            enable_fp_fusion=True,
            num_stages=1,
        )
    return out


@group_norm_silu.register_fake
def _(
    h: Tensor,
    weight: Tensor,
    bias: Tensor,
    shift: Tensor | None,
    groups: int,
    eps: float,
    silu: bool,
) -> Tensor:
    return torch.empty_like(h)


reference_gradient(group_norm_silu, group_norm_silu_ref)
