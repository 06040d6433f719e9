"""`trajectory_down`: Dot's first block reads the trajectory where it lies.

    f_j = sum_k mix[j, k] (x, x_s, z_s, z_p)_k            j = 0..3: what Dot looks at
    h   = conv3x3 stride 2 of [f_0, f_1, f_2, f_3] + bias
    out = silu((1 + scale) h + shift)                     one scale and shift per channel

Neither the f_j nor their concatenation nor h are written: 4 C values in, O / 4 out per pixel.
"""

import torch
from torch import Tensor, nn

from .checks import (
    block_of,
    check,
    check_image,
    is_channels_last,
    leading,
    on_device,
    plane_strides,
    power_of_2,
    runs_kernel,
    tap_strides,
    widens,
)
from .reference_gradient import reference_gradient
from .triton_or_stub import jit, tl, triton


def trajectory_down_ref(
    x: Tensor,
    x_s: Tensor,
    z_s: Tensor,
    z_p: Tensor,
    mix: Tensor,
    weight: Tensor,
    bias: Tensor,
    scale_shift: Tensor,
) -> Tensor:
    """The op in plain PyTorch."""
    # Large terms cancel in these sums, so no matrix product, which autocast or TF32 would round.
    trajectory = torch.stack([t.float() for t in (x, x_s, z_s, z_p)], dim=1)
    f = (mix.float()[:, :, :, None, None, None] * trajectory[:, None]).sum(2)
    f = f.flatten(1, 2).to(weight.dtype)
    h = nn.functional.conv2d(f, weight, bias, stride=2, padding=1)
    scale, shift = scale_shift.float()[:, :, None, None].chunk(2, dim=1)
    return nn.functional.silu(torch.addcmul(shift, h.float(), 1 + scale)).to(weight.dtype)


@jit
def _to_nearest_bfloat16(value):
    """What the interpreter, which cuts bits off, then converts without an error."""
    bits = value.to(tl.int32, bitcast=True)
    return (bits + 0x7FFF + ((bits >> 16) & 1)).to(tl.float32, bitcast=True)


@jit
def _trajectory_down_kernel(
    out_ptr,  # [B, c_out, ceil(H / 2), ceil(W / 2)], any plane strides
    x_ptr,  # [B, C, H, W]
    x_s_ptr,  # [B, C, H, W]
    z_s_ptr,  # [B, C, H, W]
    z_p_ptr,  # [B, C, H, W]
    mix_ptr,  # [1 or B, 4, 4] float32
    weight_ptr,  # [c_out, 4 C, 3, 3], channels-last or not
    bias_ptr,  # [c_out]
    scale_shift_ptr,  # [1 or B, 2 c_out]
    c_out,
    height,
    width,
    height_out,
    width_out,
    out_stride_c,
    out_stride_pixel,
    weight_stride_k,
    weight_stride_tap,
    mix_stride,  # 0 or 16
    scale_stride,  # 0 or 2 c_out
    CHANNELS: tl.constexpr,  # C
    BLOCK: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_N: tl.constexpr,
    WIDEN: tl.constexpr,
):
    pixels = height_out * width_out
    blocks = tl.cdiv(pixels, BLOCK)
    image = (tl.program_id(0) // blocks).to(tl.int64)
    pixel = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    y, x = 2 * (pixel // width_out), 2 * (pixel % width_out)
    n = tl.arange(0, BLOCK_N)
    in_n = n < c_out
    plane = height * width
    start = image * CHANNELS * plane
    acc = tl.zeros([BLOCK, BLOCK_N], tl.float32)
    for first in tl.static_range(0, 4 * CHANNELS, BLOCK_K):
        k = first + tl.arange(0, BLOCK_K)  # channel c of f_j is input j C + c of the convolution
        in_k, c = k < 4 * CHANNELS, k % CHANNELS
        mix = mix_ptr + image * mix_stride + 4 * (k // CHANNELS)
        of_x, of_x_s = tl.load(mix, in_k, other=0), tl.load(mix + 1, in_k, other=0)
        of_z_s, of_z_p = tl.load(mix + 2, in_k, other=0), tl.load(mix + 3, in_k, other=0)
        for tap in range(9):
            yy, xx = y + tap // 3 - 1, x + tap % 3 - 1
            inside = (yy >= 0) & (yy < height) & (xx >= 0) & (xx < width) & (pixel < pixels)
            at = start + (yy * width + xx)[:, None] + c[None, :] * plane
            mask = inside[:, None] & in_k[None, :]
            f = of_x[None, :] * tl.load(x_ptr + at, mask, other=0).to(tl.float32)
            f += of_x_s[None, :] * tl.load(x_s_ptr + at, mask, other=0).to(tl.float32)
            f += of_z_s[None, :] * tl.load(z_s_ptr + at, mask, other=0).to(tl.float32)
            f += of_z_p[None, :] * tl.load(z_p_ptr + at, mask, other=0).to(tl.float32)
            if WIDEN:
                f = _to_nearest_bfloat16(f)
            f = f.to(weight_ptr.dtype.element_ty)
            at = n[None, :] * (36 * CHANNELS) + k[:, None] * weight_stride_k
            w = tl.load(
                weight_ptr + at + tap * weight_stride_tap, in_n[None, :] & in_k[:, None], other=0
            )
            if WIDEN:
                f, w = f.to(tl.float32), w.to(tl.float32)
            acc = tl.dot(f, w, acc, input_precision="ieee")
    acc += tl.load(bias_ptr + n, in_n, other=0).to(tl.float32)[None, :]
    scale_at = scale_shift_ptr + image * scale_stride + n
    scale = tl.load(scale_at, in_n, other=0).to(tl.float32)
    shift = tl.load(scale_at + c_out, in_n, other=0).to(tl.float32)
    u = (1 + scale)[None, :] * acc + shift[None, :]
    at = image * c_out * pixels + n[None, :] * out_stride_c + pixel[:, None] * out_stride_pixel
    tl.store(out_ptr + at, u * tl.sigmoid(u), (pixel < pixels)[:, None] & in_n[None, :])


@torch.library.custom_op("morse_engine::trajectory_down", mutates_args=())
def trajectory_down(
    x: Tensor,
    x_s: Tensor,
    z_s: Tensor,
    z_p: Tensor,
    mix: Tensor,
    weight: Tensor,
    bias: Tensor,
    scale_shift: Tensor,
) -> Tensor:
    """Dot's first block: mix the trajectory, halve its size, scale and shift by time, SiLU.

    The formula is in the module's docstring. Differentiable, by way of the reference.

    Args:
        x, x_s, z_s, z_p: `[B, C, H, W]`, float16, bfloat16 or float32, contiguous.
        mix: float32 `[1, 4, 4]`, or one matrix for each image.
        weight, bias: `[O, 4 C, 3, 3]` and `[O]` of the convolution.
        scale_shift: `[1, 2 O]`, or a row for each image: the scales, then the shifts.

    Returns:
        `[B, O, ceil(H/2), ceil(W/2)]` in the dtype of weight, and channels-last if weight is.

    Raises:
        Refused: an argument of another shape, dtype, device or layout, by its name.
    """
    check_image("x", x)
    batch, channels, height, width = x.shape
    device, c_out = x.device, leading(weight)
    for name, tensor in (("x", x), ("x_s", x_s), ("z_s", z_s), ("z_p", z_p)):
        check(name, tensor, x.shape, device)
    check("mix", mix, (1 if leading(mix) == 1 else batch, 4, 4), device, (torch.float32,))
    check("weight", weight, (c_out, 4 * channels, 3, 3), device, channels_last=True)
    check("bias", bias, (c_out,), device)
    rows = 1 if leading(scale_shift) == 1 else batch
    check("scale_shift", scale_shift, (rows, 2 * c_out), device)
    if not runs_kernel(x):
        return trajectory_down_ref(x, x_s, z_s, z_p, mix, weight, bias, scale_shift)
    out = _trajectory_down_fake(x, x_s, z_s, z_p, mix, weight, bias, scale_shift)
    check_image("the result", out)
    pixels, block_n = out.shape[2] * out.shape[3], power_of_2(c_out, 16)
    block = 16 if block_n > 64 else block_of(pixels, batch)
    with on_device(x):
        _trajectory_down_kernel[(triton.cdiv(pixels, block) * batch,)](
            out,
            x,
            x_s,
            z_s,
            z_p,
            mix,
            weight,
            bias,
            scale_shift,
            c_out,
            height,
            width,
            *out.shape[2:],
            *plane_strides(out),
            *tap_strides(weight),
            16 if len(mix) > 1 else 0,
            2 * c_out if len(scale_shift) > 1 else 0,
            CHANNELS=channels,
            BLOCK=block,
            BLOCK_K=16 if channels <= 4 else 32,
            BLOCK_N=block_n,
            WIDEN=widens(weight.dtype),
            num_stages=1,
            maxnreg=255,  # ptxas for sm_120 aims at fewer than these need, and spills
            enable_fp_fusion=True,
        )
    return out


@trajectory_down.register_fake
def _trajectory_down_fake(
    x: Tensor,
    x_s: Tensor,
    z_s: Tensor,
    z_p: Tensor,
    mix: Tensor,
    weight: Tensor,
    bias: Tensor,
    scale_shift: Tensor,
) -> Tensor:
    size = (x.shape[0], weight.shape[0], (x.shape[2] + 1) // 2, (x.shape[3] + 1) // 2)
    layout = torch.channels_last if is_channels_last(weight) else torch.contiguous_format
    return torch.empty(size, dtype=weight.dtype, device=x.device, memory_format=layout)


reference_gradient(trajectory_down, trajectory_down_ref)
