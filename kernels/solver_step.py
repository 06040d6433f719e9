"""What `dash_update` and `residual_up_update` share: one row of the solver's table, on the way out.

    m      = clamp(P x + Q z, lo, hi)
    x_next = A x + B z + C0 m + C1 m_1 + C2 m_2 + C3 m_3 + D noise

and the bookkeeping around it. All that changes from step to step lies in device memory, so that a
captured launch stays valid: the table and the step number, the seeds, the guidance scale. The state
of a run, which the updates change in place:

    x            [B, C, H, W]        the sample
    history      [h + 1, B, C, H, W] estimates m, that of step i in slot i mod (h + 1), for solvers
                                     that read up to h earlier ones
    model_input  [B or 2 B, ...]     scale_(i+1) x_next, what the model is given next; twice (2 B)
                                     for classifier-free guidance
    timestep     [1]                 the model's next timestep

The arithmetic is float32 whatever the tensors hold.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ..sampling import noise
from ..sampling.loop import guide
from ..sampling.solver import HISTORY, Column
from ..system.errors import Refused
from .checks import FLOATS, INTS, check, check_image
from .triton_or_stub import constexpr, jit, tl

ROW = constexpr(len(Column))
TIMESTEP, SCALE, P, Q, LO, HI, A, B, C0, C1, C2, C3, D, U, V, SLOPE, FREE = (
    constexpr(int(c)) for c in Column
)

# For `aot.py`: the types of the state's pointers where the models' dtype does not matter.
STATE_TYPES = {
    "x_ptr": "*fp32",
    "history_ptr": "*fp32",
    "timestep_ptr": "*i64",
    "rows_ptr": "*fp32",
    "step_ptr": "*i32",
    "seeds_ptr": "*i64",
    "guidance_ptr": "*fp32",
}


class State(NamedTuple):
    """The state of a run, and what is read at each step; shapes as above and in the ops."""

    x: Tensor
    history: Tensor
    model_input: Tensor
    timestep: Tensor
    rows: Tensor
    step: Tensor
    seeds: Tensor
    guidance: Tensor | None


def check_state(state: State) -> None:
    """Refuse a state that a kernel would misread, by the name of the tensor."""
    check_image("x", state.x)
    batch, *image = state.x.shape
    device = state.x.device
    doubled = 2 * batch if state.guidance is not None else batch
    check("x", state.x, state.x.shape, device)
    check("history", state.history, (None, batch, *image), device)
    if not 1 <= len(state.history) <= len(HISTORY) + 1:
        raise Refused(f"history has {len(state.history)} slots: 1 to {len(HISTORY) + 1}")
    check("model_input", state.model_input, (doubled, *image), device, channels_last=True)
    check("timestep", state.timestep, (1,), device, (*FLOATS, *INTS))
    check("rows", state.rows, (None, len(Column)), device, (torch.float32,))
    if not len(state.rows):
        raise Refused("rows has shape [0, 13]: has to have a row")
    check("step", state.step, (1,), device, INTS)
    check("seeds", state.seeds, (batch,), device, (torch.int64,))
    if state.guidance is not None:
        check("guidance", state.guidance, (1,), device, (torch.float32,))


def guided(z: Tensor, guidance: Tensor | None) -> Tensor:
    """`z_u + g (z_c - z_u)` of a doubled batch (unconditional first), float32."""
    z = z.float()
    return z if guidance is None else guide(z, guidance)


def solver_step_ref(state: State, z: Tensor) -> None:
    """The row of this step for the guided estimate z, float32 `[B, C, H, W]`; changes the state."""
    i, size = int(state.step), len(state.history)
    row = state.rows[i].tolist()
    x = state.x.float()
    m = (row[Column.P] * x + row[Column.Q] * z).clamp(row[Column.LO], row[Column.HI])
    x_next = row[Column.A] * x + row[Column.C0] * m
    if row[Column.B]:  # z may be infinite where the clamp keeps m finite
        x_next = x_next + row[Column.B] * z
    for k, column in enumerate(HISTORY[: size - 1], 1):
        if row[column]:
            x_next = x_next + row[column] * state.history[(i - k) % size].float()
    if row[Column.D]:
        words = [seed % (1 << 64) for seed in state.seeds.tolist()]
        x_next = x_next + row[Column.D] * noise.normal(words, i, x.shape[1:], device=x.device)
    if size > 1:
        state.history[i % size] = m
    state.x.copy_(x_next)
    following = state.rows[min(i + 1, len(state.rows) - 1)]
    copies = len(state.model_input) // len(x)
    state.model_input.copy_((following[Column.SCALE] * state.x.float()).repeat(copies, 1, 1, 1))
    state.timestep.copy_(following[Column.TIMESTEP].reshape(1))


@jit
def solver_step(
    x,  # this step's sample, float32, any block of elements
    z,  # the guided estimate there
    noise,  # the noise there; only read if the row adds noise
    at,  # offsets of the elements in x, int64
    input_at,  # offsets in model_input
    mask,
    i,  # the step
    x_ptr,
    history_ptr,
    model_input_ptr,
    timestep_ptr,
    rows_ptr,  # [n, 13] float32
    last_row,  # n - 1
    total,  # elements of x
    SLOTS: tl.constexpr,
    COPIES: tl.constexpr,
):
    row = rows_ptr + tl.minimum(i, last_row) * ROW
    m = tl.load(row + P) * x + tl.load(row + Q) * z
    # Not clamp(): a NaN has to stay one, as in PyTorch.
    m = tl.maximum(m, tl.load(row + LO), propagate_nan=tl.PropagateNan.ALL)
    m = tl.minimum(m, tl.load(row + HI), propagate_nan=tl.PropagateNan.ALL)
    x_next = tl.load(row + A) * x + tl.load(row + C0) * m
    b = tl.load(row + B)
    if b != 0:  # z may be infinite where the clamp keeps m finite
        x_next += b * z
    # The slot that this step writes is not among those that it reads: the threads that load an
    # element need not be those that store it.
    for k in tl.static_range(1, SLOTS):
        c = tl.load(row + C0 + k)
        # Of a block: Triton's interpreter cannot combine a comparison of one float with a mask. And
        # not in a branch, which spills.
        used = mask & (tl.zeros_like(x) + c != 0)
        slot = ((i + SLOTS - k) % SLOTS).to(tl.int64)
        x_next += c * tl.load(history_ptr + slot * total + at, used, other=0).to(tl.float32)
    x_next += noise
    if SLOTS > 1:
        tl.store(history_ptr + (i % SLOTS).to(tl.int64) * total + at, m, mask)
    x_next = x_next.to(x_ptr.dtype.element_ty)
    tl.store(x_ptr + at, x_next, mask)
    following = rows_ptr + tl.minimum(i + 1, last_row) * ROW
    model_input = x_next.to(tl.float32) * tl.load(following + SCALE)
    for copy in tl.static_range(COPIES):
        tl.store(model_input_ptr + copy * total + input_at, model_input, mask)
    if tl.program_id(0) == 0:
        tl.store(timestep_ptr, tl.load(following + TIMESTEP).to(timestep_ptr.dtype.element_ty))
