"""`residual_up_update`: Dot's last convolution, the residual, and all that `dash_update` does.

    h    = pixel_shuffle(conv3x3(features) + bias)
    eta  = k0 h + k1 x_in + k2 x_s + k3 z_s + k4 z_p      k: one row of `mix`; x_in = scale_i x
    z    = z_s + eta                                      per branch, then guidance
    x    = solver row i of (x, z, history, noise), then those of the free steps behind it
    model_input = scale x, of the next call's row

One program makes the 4 C values of each of BLOCK pixels of the low resolution by nine small matrix
products and never writes h, eta or z. x_s, z_s and z_p stay as Dash left them.
"""

import torch
from torch import Tensor, nn

from ..sampling.solver import Column
from ..system.errors import Refused
from .checks import (
    block_of,
    check,
    check_image,
    leading,
    on_device,
    plane_strides,
    power_of_2,
    runs_kernel,
    tap_strides,
    widens,
)
from .philox_normal import normal_at
from .solver_step import (
    ROW,
    SCALE,
    D,
    State,
    check_state,
    guided,
    solver_step,
    solver_step_ref,
)
from .triton_or_stub import jit, tl, triton


def residual_up_ref(
    features: Tensor, weight: Tensor, bias: Tensor | None, mix: Tensor,
    x_in: Tensor, x_s: Tensor, z_s: Tensor, z_p: Tensor,
) -> Tensor:  # fmt: skip
    """eta in plain PyTorch, `[B, C, H, W]` in the dtype of x_in; mix float32 `[1 or B, 5]`."""
    h = nn.functional.pixel_shuffle(nn.functional.conv2d(features, weight, bias, padding=1), 2)
    # Large terms cancel in this sum, so no matrix product, which autocast or TF32 would round.
    terms = torch.stack([t.float() for t in (h, x_in, x_s, z_s, z_p)], dim=1)
    return (mix.float()[:, :, None, None, None] * terms).sum(1).to(x_in.dtype)


def residual_up_update_ref(
    features: Tensor, weight: Tensor, bias: Tensor, mix: Tensor,
    x_s: Tensor, z_s: Tensor, z_p: Tensor, state: State,
) -> None:  # fmt: skip
    """The op in plain PyTorch."""
    copies = len(z_s) // len(x_s)
    x_in = (state.rows[int(state.step), Column.SCALE] * state.x.float()).to(state.model_input.dtype)
    x_in, x_s = (tensor.float().repeat(copies, 1, 1, 1) for tensor in (x_in, x_s))
    args = (features, weight, bias, mix, x_in, x_s, z_s.float(), z_p.float())
    z = z_s.float() + residual_up_ref(*(tensor.float() for tensor in args))
    solver_step_ref(state, guided(z, state.guidance if copies == 2 else None))


@jit
def _up(
    features_ptr,
    weight_ptr,
    bias_ptr,
    image,  # of the features
    batch,  # images from one branch to the next
    y,
    x,
    height,
    width,
    stride_c,
    stride_pixel,
    weight_stride_k,
    weight_stride_tap,
    c_out,
    BRANCHES: tl.constexpr,
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_N: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """The convolution at a block of pixels (y, x), all outputs: float32 [BLOCK, BLOCK_N].

    Returns:
        That of both branches, which share the weights; of one branch it twice.
    """
    n = tl.arange(0, BLOCK_N)
    in_n = n < c_out
    acc = tl.zeros([BLOCK, BLOCK_N], tl.float32)
    acc += tl.load(bias_ptr + n, in_n, other=0).to(tl.float32)[None, :]
    second = acc
    base = features_ptr + image * CHANNELS * height * width
    base_second = features_ptr + (image + batch) * CHANNELS * height * width
    # Not unrolled: nine unrolled products keep all of their operands in registers at once.
    for term in range(9 * tl.cdiv(CHANNELS, BLOCK_K)):
        k = (term // 9) * BLOCK_K + tl.arange(0, BLOCK_K)
        tap = term % 9
        in_k = k < CHANNELS
        yy, xx = y + tap // 3 - 1, x + tap % 3 - 1
        inside = (yy >= 0) & (yy < height) & (xx >= 0) & (xx < width)
        mask = inside[:, None] & in_k[None, :]
        at = n[None, :] * (CHANNELS * 9) + k[:, None] * weight_stride_k + tap * weight_stride_tap
        w = tl.load(weight_ptr + at, in_n[None, :] & in_k[:, None], other=0)
        at = (yy * width + xx)[:, None] * stride_pixel + k[None, :] * stride_c
        h = tl.load(base + at, mask, other=0)
        if WIDEN:
            h, w = h.to(tl.float32), w.to(tl.float32)
        acc = tl.dot(h, w, acc, input_precision="ieee")
        if BRANCHES == 2:
            h = tl.load(base_second + at, mask, other=0)
            if WIDEN:
                h = h.to(tl.float32)
            second = tl.dot(h, w, second, input_precision="ieee")
    return acc, second


@jit
def _places(
    height, width, c_out, stride_c, stride_pixel, BLOCK: tl.constexpr, BLOCK_N: tl.constexpr
):
    """Which outputs this program makes.

    Returns:
        (image, y, x, position, input_at, mask): pixels of the features `[BLOCK]`; within the image
        of x and in model_input `[BLOCK, BLOCK_N]`; where there is one.
    """
    pixels = height * width
    blocks = tl.cdiv(pixels, BLOCK)
    image = (tl.program_id(0) // blocks).to(tl.int64)
    pixel = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    y, column = pixel // width, pixel % width
    n = tl.arange(0, BLOCK_N)
    mask = (pixel < pixels)[:, None] & (n < c_out)[None, :]
    # Output n of a pixel is channel n div 4 at the place (n div 2 mod 2, n mod 2) of its 2 x 2.
    shuffled = (2 * y[:, None] + (n[None, :] // 2) % 2) * (2 * width)
    shuffled += 2 * column[:, None] + n[None, :] % 2
    position = n[None, :] // 4 * (4 * pixels) + shuffled
    input_at = n[None, :] // 4 * stride_c + shuffled * stride_pixel
    return image, y, column, position, image * (c_out * pixels) + input_at, mask


@jit
def _residual(h, x_in, x_s, z_s, z_p, mix_ptr):
    eta = tl.load(mix_ptr) * h + tl.load(mix_ptr + 1) * x_in + tl.load(mix_ptr + 2) * x_s
    return eta + tl.load(mix_ptr + 3) * z_s + tl.load(mix_ptr + 4) * z_p


@jit
def _residual_up_update_kernel(
    features_ptr,  # [B or 2 B, CHANNELS, H / 2, W / 2], any plane strides
    weight_ptr,  # [4 C, CHANNELS, 3, 3], dtype of the features, channels-last or not
    bias_ptr,  # [4 C]
    mix_ptr,  # [1, B or 2 B; 5] float32
    x_s_ptr,  # [B, C, H, W]
    z_s_ptr,  # [B or 2 B, C, H, W]
    z_p_ptr,  # as z_s
    x_ptr,  # [B, C, H, W]
    history_ptr,  # [SLOTS, B, C, H, W]
    model_input_ptr,  # [B or 2 B, C, H, W]
    timestep_ptr,  # [1]
    rows_ptr,  # [n, 17] float32
    step_ptr,  # [1]
    seeds_ptr,  # [B] int64
    guidance_ptr,  # [1] float32
    clean_ptr,  # [B, C, H, W]
    bounds_ptr,  # [2, C] float32
    advance_ptr,  # [1]
    total,  # elements of x
    batch,
    c_out,  # 4 C
    height,  # of the features
    width,
    stride_c,
    stride_pixel,
    weight_stride_k,
    weight_stride_tap,
    input_stride_c,
    input_stride_pixel,
    mix_stride,  # 0 or 5
    last_row,
    BRANCHES: tl.constexpr,
    CHANNELS: tl.constexpr,  # of the features
    COPIES: tl.constexpr,
    SLOTS: tl.constexpr,
    LINE: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_N: tl.constexpr,
    WIDEN: tl.constexpr,
):
    image, y, column, position, input_at, mask = _places(
        height, width, c_out, input_stride_c, input_stride_pixel, BLOCK, BLOCK_N
    )
    at = image * (c_out * height * width) + position

    i = tl.load(step_ptr).to(tl.int32)
    row = rows_ptr + tl.minimum(i, last_row) * ROW
    x = tl.load(x_ptr + at, mask, other=0).to(tl.float32)
    x_in = (x * tl.load(row + SCALE)).to(model_input_ptr.dtype.element_ty).to(tl.float32)
    x_s = tl.load(x_s_ptr + at, mask, other=0).to(tl.float32)
    z = tl.zeros([BLOCK, BLOCK_N], tl.float32)
    up = _up(
        features_ptr, weight_ptr, bias_ptr, image, batch, y, column, height, width, stride_c,
        stride_pixel, weight_stride_k, weight_stride_tap, c_out,
        BRANCHES, CHANNELS, BLOCK, BLOCK_K, BLOCK_N, WIDEN,
    )  # fmt: skip
    for branch in tl.static_range(BRANCHES):
        z_s = tl.load(z_s_ptr + branch * total + at, mask, other=0).to(tl.float32)
        z_p = tl.load(z_p_ptr + branch * total + at, mask, other=0).to(tl.float32)
        mix = mix_ptr + (image + branch * batch) * mix_stride
        z_branch = z_s + _residual(up[branch], x_in, x_s, z_s, z_p, mix)
        if branch == 0:
            z = z_branch
        else:
            z += tl.load(guidance_ptr) * (z_branch - z)

    noise = tl.zeros([BLOCK, BLOCK_N], tl.float32)
    d = tl.load(row + D)
    if d != 0:
        noise = d * normal_at(tl.load(seeds_ptr + image), i, position)
    solver_step(
        x, z, noise, at, input_at, mask, i, image, position, x_ptr, history_ptr, model_input_ptr,
        timestep_ptr, rows_ptr, seeds_ptr, clean_ptr, bounds_ptr, advance_ptr, last_row, total,
        c_out // 4, 4 * height * width, SLOTS, COPIES, LINE,
    )  # fmt: skip


def _check(
    features: Tensor, weight: Tensor, bias: Tensor, mix: Tensor,
    trajectory: tuple[Tensor, Tensor, Tensor], x: Tensor, branches: int,
) -> None:  # fmt: skip
    batch, c, height, width = x.shape
    if height % 2 or width % 2:
        raise Refused(f"x has shape {list(x.shape)}: height and width have to be even")
    low = (branches * batch, None, height // 2, width // 2)
    check_image("features", features)
    check("features", features, low, x.device, channels_last=True)
    shape = (4 * c, features.shape[1], 3, 3)
    check("weight", weight, shape, x.device, (features.dtype,), channels_last=True)
    check("bias", bias, (4 * c,), x.device, (features.dtype,))
    rows_of_mix = 1 if leading(mix) == 1 else branches * batch
    check("mix", mix, (rows_of_mix, 5), x.device, (torch.float32,))
    x_s, z_s, z_p = trajectory
    check("x_s", x_s, x.shape, x.device)
    check("z_s", z_s, (branches * batch, *x.shape[1:]), x.device)
    check("z_p", z_p, z_s.shape, x.device)


@torch.library.custom_op(
    "morse_engine::residual_up_update",
    mutates_args=("x", "history", "model_input", "timestep", "clean", "advance"),
)
def residual_up_update(
    features: Tensor,
    weight: Tensor,
    bias: Tensor,
    mix: Tensor,
    x_s: Tensor,
    z_s: Tensor,
    z_p: Tensor,
    x: Tensor,
    history: Tensor,
    model_input: Tensor,
    timestep: Tensor,
    rows: Tensor,
    step: Tensor,
    seeds: Tensor,
    guidance: Tensor | None,
    clean: Tensor | None,
    bounds: Tensor | None,
    advance: Tensor | None,
) -> None:
    """The end of a Dot step: up-sampling, the residual on z_s, guidance, the solver's rows.

    The formula is in the module's docstring, the state in `solver_step.py`.

    Args:
        features: `[B, K, H/2, W/2]`, contiguous or channels-last; `[2 B, ...]` where z_s is.
        weight, bias: `[4 C, K, 3, 3]` and `[4 C]` of the convolution, in the dtype of features.
        mix: float32 `[1, 5]`, or a row for each image of z_s.
        x_s, z_s, z_p: the trajectory as `dash_update` left it. With `guidance`, z_s of 2 B images
            is two branches, each with its own residual, guided after it; z_s of B images is the
            guided estimate itself.
        x, history, model_input, timestep, rows, step, seeds, guidance, clean, bounds, advance: as
            in `dash_update`.

    Raises:
        Refused: an argument of another shape, dtype, device or layout, by its name.
    """
    state = State(
        x, history, model_input, timestep, rows, step, seeds, guidance, clean, bounds, advance
    )  # fmt: skip
    check_state(state)
    batch, c, height, width = x.shape
    branches = 2 if guidance is not None and leading(z_s) == 2 * batch else 1
    _check(features, weight, bias, mix, (x_s, z_s, z_p), x, branches)
    if not runs_kernel(x):
        return residual_up_update_ref(features, weight, bias, mix, x_s, z_s, z_p, state)
    with on_device(x):
        pixels, channels = height // 2 * (width // 2), features.shape[1]
        # Half as many where free steps need registers too, which would spill.
        block = 16 if clean is not None else block_of(pixels, batch)
        _residual_up_update_kernel[(triton.cdiv(pixels, block) * batch,)](
            *(features, weight, bias, mix, x_s, z_s, z_p),
            *state.pointers(),
            *(x.numel(), batch, 4 * c, height // 2, width // 2),
            *plane_strides(features),
            *tap_strides(weight),
            *plane_strides(model_input),
            5 if len(mix) > 1 else 0,
            len(rows) - 1,
            BRANCHES=branches,
            CHANNELS=channels,
            COPIES=len(model_input) // batch,
            SLOTS=len(history),
            LINE=clean is not None,
            BLOCK=block,
            # Of float32, which has no matrix units, as many in registers would spill.
            BLOCK_K=min(32 if features.dtype == torch.float32 else 64, power_of_2(channels, 16)),
            BLOCK_N=power_of_2(4 * c, 16),
            WIDEN=widens(features.dtype),
            # Loads ahead of the products need channels side by side.
            num_stages=1 if features.is_contiguous() else 3,
            maxnreg=255,  # ptxas for sm_120 aims at fewer than these need, and spills
            enable_fp_fusion=True,
        )


@residual_up_update.register_fake
def _(*arguments: Tensor | None) -> None:
    return None
