"""`trajectory_down`: Dot's first block reads the trajectory where it lies.

    f_j = sum_k mix[j, k] (x, x_s, z_s, z_p)_k            j = 0..3: what Dot looks at
    h   = conv3x3 stride 2 of [f_0, f_1, f_2, f_3] + bias
    out = silu((1 + scale) h + shift)                     one scale and shift per channel

Neither the f_j nor their concatenation nor h are written: 4 C values in, O / 4 out per pixel.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from .checks import (
    check,
    check_image,
    is_channels_last,
    leading,
    on_device,
    plane_strides,
    power_of_2,
    runs_kernel,
    tap_strides,
)
from .reference_gradient import reference_gradient
from .triton_or_stub import Variant, jit, tl, triton

TILE = 2048  # numbers that one program makes: pixels times outputs


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
    channels,  # C
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
    BLOCK: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    pixels = height_out * width_out
    blocks = tl.cdiv(pixels, BLOCK)
    image = (tl.program_id(0) // blocks).to(tl.int64)
    pixel = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    y, x = 2 * (pixel // width_out), 2 * (pixel % width_out)
    n = tl.arange(0, BLOCK_N)
    in_n = n < c_out
    mix = mix_ptr + image * mix_stride
    plane = height * width
    acc = tl.zeros([BLOCK, BLOCK_N], tl.float32)
    for term in range(0, 9 * channels):
        c, tap = term // 9, term % 9
        yy, xx = y + tap // 3 - 1, x + tap % 3 - 1
        inside = (yy >= 0) & (yy < height) & (xx >= 0) & (xx < width) & (pixel < pixels)
        at = (image * channels + c) * plane + yy * width + xx
        x_here = tl.load(x_ptr + at, inside, other=0).to(tl.float32)
        x_s_here = tl.load(x_s_ptr + at, inside, other=0).to(tl.float32)
        z_s_here = tl.load(z_s_ptr + at, inside, other=0).to(tl.float32)
        z_p_here = tl.load(z_p_ptr + at, inside, other=0).to(tl.float32)
        w_at = weight_ptr + n * (36 * channels) + c * weight_stride_k + tap * weight_stride_tap
        for j in tl.static_range(4):
            f = tl.load(mix + 4 * j) * x_here + tl.load(mix + 4 * j + 1) * x_s_here
            f += tl.load(mix + 4 * j + 2) * z_s_here + tl.load(mix + 4 * j + 3) * z_p_here
            w = tl.load(w_at + j * channels * weight_stride_k, in_n, other=0).to(tl.float32)
            acc += f[:, None] * w[None, :]
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
    pixels, block_n = out.shape[2] * out.shape[3], power_of_2(c_out)
    block = max(16, TILE // block_n)
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
            channels,
            c_out,
            height,
            width,
            *out.shape[2:],
            *plane_strides(out),
            *tap_strides(weight),
            16 if len(mix) > 1 else 0,
            2 * c_out if len(scale_shift) > 1 else 0,
            BLOCK=block,
            BLOCK_N=block_n,
            num_stages=1,
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


def variants() -> Iterator[Variant]:
    """What `aot.py` compiles: (kernel, types of the arguments, constants)."""
    for dtype in ("fp32", "fp16", "bf16"):
        names = ("out_ptr", "x_ptr", "x_s_ptr", "z_s_ptr", "z_p_ptr", "weight_ptr", "bias_ptr")
        types = {name: f"*{dtype}" for name in names}
        types |= {"mix_ptr": "*fp32", "scale_shift_ptr": "*fp32"}
        for block_n in (16, 64):
            yield _trajectory_down_kernel, types, {"BLOCK": TILE // block_n, "BLOCK_N": block_n}
