"""`dash_update`: all that follows a model's output in one pass over the image.

    z           = z_u + g (z_c - z_u)                 with guidance; the model's output without
    z_p, z_s    = z_s, z      (at step 0: z, z)       the trajectory, if it is kept
    x_s         = scale_i x
    x           = solver row i of (x, z, history, noise), then those of the free steps behind it
    model_input = scale x, of the next call's row

Per element, without guidance and with a solver of first order: 3 loads (x, z, z_s) and 5 stores (x,
model_input, x_s, z_s, z_p).
"""

import torch
from torch import Tensor

from ..sampling.solver import Column
from ..system.errors import Refused
from .checks import check, leading, on_device, plane_strides, runs_kernel
from .philox_normal import normal_block
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

BLOCK = 512


def dash_update_ref(
    z: Tensor, trajectory: tuple[Tensor, Tensor, Tensor] | None, state: State
) -> None:
    """The op in plain PyTorch; trajectory is (x_s, z_s, z_p)."""
    z_guided = guided(z, state.guidance)
    if trajectory is not None:
        x_s, z_s, z_p = trajectory
        kept = z if len(z_s) == len(z) else z_guided
        z_p.copy_(kept if int(state.step) == 0 else z_s)
        z_s.copy_(kept)
        x_s.copy_(state.rows[int(state.step), Column.SCALE] * state.x.float())
    solver_step_ref(state, z_guided)


@jit
def _keep(z_s_ptr, z_p_ptr, z, mask, i):
    before = z
    if i > 0:
        before = tl.load(z_s_ptr, mask, other=0).to(tl.float32)
    tl.debug_barrier()  # the thread that stores an element need not be the one that loaded it
    tl.store(z_p_ptr, before, mask)
    tl.store(z_s_ptr, z, mask)


@jit
def _dash_update_kernel(
    z_ptr,  # [B or 2 B, C, H, W], any dtype and plane strides
    x_s_ptr,  # [B, C, H, W]
    z_s_ptr,  # as z with KEEP == 2; the guided estimate [B, C, H, W] with KEEP == 1
    z_p_ptr,  # likewise
    x_ptr,  # [B, C, H, W]
    history_ptr,  # [SLOTS, B, C, H, W]
    model_input_ptr,  # as z
    timestep_ptr,  # [1]
    rows_ptr,  # [n, 17] float32
    step_ptr,  # [1]
    seeds_ptr,  # [B] int64
    guidance_ptr,  # [1] float32
    clean_ptr,  # [B, C, H, W]
    bounds_ptr,  # [2, C] float32
    advance_ptr,  # [1]
    total,  # elements of x
    numel,  # elements of one image
    pixels,  # of one image
    z_stride_c,
    z_stride_pixel,
    input_stride_c,
    input_stride_pixel,
    last_row,
    GUIDANCE: tl.constexpr,
    KEEP: tl.constexpr,  # 0: no trajectory, 1: of the guided estimate, 2: of z as it is
    SLOTS: tl.constexpr,
    LINE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    blocks = tl.cdiv(numel, BLOCK)
    image = (tl.program_id(0) // blocks).to(tl.int64)
    first = (tl.program_id(0) % blocks) * BLOCK
    position = first + tl.arange(0, BLOCK)
    mask = position < numel
    i = tl.load(step_ptr).to(tl.int32)
    row = rows_ptr + tl.minimum(i, last_row) * ROW
    start = image * numel
    at = start + position
    channel, pixel = position // pixels, position % pixels
    z_at = start + channel * z_stride_c + pixel * z_stride_pixel
    input_at = start + channel * input_stride_c + pixel * input_stride_pixel

    x = tl.load(x_ptr + at, mask, other=0).to(tl.float32)
    z = tl.load(z_ptr + z_at, mask, other=0).to(tl.float32)
    branch = z
    if GUIDANCE:
        other = tl.load(z_ptr + total + z_at, mask, other=0).to(tl.float32)
        z = branch + tl.load(guidance_ptr) * (other - branch)
    if KEEP > 0:
        tl.store(x_s_ptr + at, x * tl.load(row + SCALE), mask)
        kept = z if KEEP == 1 else branch
        _keep(z_s_ptr + at, z_p_ptr + at, kept, mask, i)
        if GUIDANCE and KEEP == 2:
            _keep(z_s_ptr + total + at, z_p_ptr + total + at, other, mask, i)

    noise = tl.zeros([BLOCK], tl.float32)
    d = tl.load(row + D)
    if d != 0:
        noise = d * normal_block(tl.load(seeds_ptr + image), i, first // 4, BLOCK)
    solver_step(
        x, z, noise, at, input_at, mask, i, image, position, x_ptr, history_ptr, model_input_ptr,
        timestep_ptr, rows_ptr, seeds_ptr, clean_ptr, bounds_ptr, advance_ptr, last_row, total,
        numel // pixels, pixels, SLOTS, 2 if GUIDANCE else 1, LINE,
    )  # fmt: skip


@torch.library.custom_op(
    "morse_engine::dash_update",
    mutates_args=(
        "x",
        "history",
        "model_input",
        "timestep",
        "clean",
        "advance",
        "x_s",
        "z_s",
        "z_p",
    ),
)
def dash_update(
    z: Tensor,
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
    x_s: Tensor | None,
    z_s: Tensor | None,
    z_p: Tensor | None,
) -> None:
    """What follows a model's output: guidance, the trajectory, the solver's rows, the next input.

    The formula is in the module's docstring, the state in `solver_step.py`.

    Args:
        z: `[B, C, H, W]`, or `[2 B, C, H, W]` with guidance (unconditional images first); float16,
            bfloat16 or float32, contiguous or channels-last, as is model_input.
        x, history, model_input, timestep: the state, changed in place.
        rows: float32 `[n, 17]`, `SolverTable.for_plan(plan).rows`.
        step: int32 or int64 `[1]`, which row; the caller counts.
        seeds: int64 `[B]`, the key of the noise.
        guidance: float32 `[1]`, the guidance scale; None for no guidance.
        clean, advance: the state of plans with free steps, changed in place; None without.
            clean is as x, advance int32 or int64 `[1]`.
        bounds: float32 `[2, C]`, the range of clean images by channel; None without free steps.
        x_s, z_s, z_p: the trajectory, changed in place; all None if no Dot step follows. x_s is
            `[B, C, H, W]`; z_s and z_p are as z, or `[B, C, H, W]` to keep the guided estimate.

    Raises:
        Refused: an argument of another shape, dtype, device or layout, by its name.
    """
    state = State(
        x, history, model_input, timestep, rows, step, seeds, guidance, clean, bounds, advance
    )  # fmt: skip
    check_state(state)
    check("z", z, model_input.shape, x.device, channels_last=True)
    trajectory = (x_s, z_s, z_p)
    if any(t is None for t in trajectory) and any(t is not None for t in trajectory):
        raise Refused("x_s, z_s and z_p are kept together: give all three or none")
    keep, kept = 0, None
    if x_s is not None and z_s is not None and z_p is not None:
        kept = (x_s, z_s, z_p)
        keep = 2 if leading(z_s) == len(z) else 1
        check("x_s", x_s, x.shape, x.device)
        check("z_s", z_s, (len(z) if keep == 2 else len(x), *x.shape[1:]), x.device)
        check("z_p", z_p, z_s.shape, x.device)
    if not runs_kernel(x):
        return dash_update_ref(z, kept, state)
    numel = x[0].numel()
    with on_device(x):
        _dash_update_kernel[(triton.cdiv(numel, BLOCK) * len(x),)](
            z,
            *(x if t is None else t for t in trajectory),
            *state.pointers(),
            x.numel(),
            numel,
            x.shape[2] * x.shape[3],
            *plane_strides(z),
            *plane_strides(model_input),
            len(rows) - 1,
            GUIDANCE=guidance is not None,
            KEEP=keep,
            SLOTS=len(history),
            LINE=clean is not None,
            BLOCK=BLOCK,
            maxnreg=255,  # ptxas for sm_120 aims at fewer than free steps need, and spills
            enable_fp_fusion=True,
        )


@dash_update.register_fake
def _(*arguments: Tensor | None) -> None:
    return None
