"""What `dash_update` and `residual_up_update` share: rows of the solver's table, on the way out.

    m      = clamp(P x + Q z, lo, hi)
    x_next = A x + B z + C0 m + C1 m_1 + C2 m_2 + C3 m_3 + D noise

for the row of the call, and then for those of the FREE free steps directly behind it (see
`sampling/free.py`), without a model and without a launch:

    clean  = U x + V z                                            of the call
    z      = (clamp(clean + f (clean - before), lo, hi) - U x) / V   of each free step; f: SLOPE

and the bookkeeping around it. All that changes from step to step lies in device memory, so that a
captured launch stays valid: the table and the step number, the seeds, the guidance scale. The state
of a run, which the updates change in place:

    x            [B, C, H, W]        the sample
    history      [h + 1, B, C, H, W] estimates m, that of step i in slot i mod (h + 1), for solvers
                                     that read up to h earlier ones
    model_input  [B or 2 B, ...]     scale x_next of the next call's row, what the model is given
                                     next; twice (2 B) for classifier-free guidance
    timestep     [1]                 the model's next timestep

and, for plans with free steps,

    clean        [B, C, H, W]        the clean image of the last call, `before` of the next one
    advance      [1]                 1 + FREE, how many steps were made: the caller counts by it

The arithmetic is float32 whatever the tensors hold, in the order of `SolverTable`.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ..sampling import noise
from ..sampling.free import Line
from ..sampling.loop import guide
from ..sampling.solver import HISTORY, Column
from ..system.errors import Refused
from .checks import FLOATS, INTS, check, check_image
from .philox_normal import normal_at
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
    "clean_ptr": "*fp32",
    "bounds_ptr": "*fp32",
    "advance_ptr": "*i32",
}


class State(NamedTuple):
    """The state of a run, and what is read at each step; shapes as above and in the ops.

    clean, bounds and advance are None for plans without free steps.
    """

    x: Tensor
    history: Tensor
    model_input: Tensor
    timestep: Tensor
    rows: Tensor
    step: Tensor
    seeds: Tensor
    guidance: Tensor | None
    clean: Tensor | None = None
    bounds: Tensor | None = None
    advance: Tensor | None = None

    def pointers(self) -> list[Tensor]:
        """What a kernel is given; x in the place of what is not there, which it does not read."""
        return [self.x if tensor is None else tensor for tensor in self]


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
        raise Refused(f"rows has shape {list(state.rows.shape)}: has to have a row")
    check("step", state.step, (1,), device, INTS)
    check("seeds", state.seeds, (batch,), device, (torch.int64,))
    if state.guidance is not None:
        check("guidance", state.guidance, (1,), device, (torch.float32,))
    if state.clean is not None and state.bounds is not None and state.advance is not None:
        check("clean", state.clean, state.x.shape, device)
        check("bounds", state.bounds, (2, image[0]), device, (torch.float32,))
        check("advance", state.advance, (1,), device, INTS)
    elif (state.clean, state.bounds, state.advance) != (None, None, None):
        raise Refused("clean, bounds and advance go together: give all three or none")


def guided(z: Tensor, guidance: Tensor | None) -> Tensor:
    """`z_u + g (z_c - z_u)` of a doubled batch (unconditional first), float32."""
    z = z.float()
    return z if guidance is None else guide(z, guidance)


def solver_step_ref(state: State, z: Tensor) -> None:
    """The rows of this call for the guided z, float32 `[B, C, H, W]`; changes the state."""
    i, size = int(state.step), len(state.history)
    history = [state.history[(i - k) % size].float() for k in range(1, size)]  # newest first
    start = state.x.float()
    x, m = _row_ref(state, i, start, z, history)
    last = i
    if state.clean is not None and state.bounds is not None and state.advance is not None:
        row = state.rows[i].tolist()
        clean = row[Column.U] * start + row[Column.V] * z
        line = Line(clean, state.clean.float() if i > 0 else clean)
        last += int(row[Column.FREE])
        for j in range(i + 1, last + 1):
            history = [m, *history][: size - 1]
            row = state.rows[j].tolist()
            x_0 = line.at(row[Column.SLOPE], *state.bounds[:, :, None, None])
            x, m = _row_ref(state, j, x, (x_0 - row[Column.U] * x) / row[Column.V], history)
        state.clean.copy_(clean)
        state.advance.fill_(1 + last - i)
    state.x.copy_(x)
    following = state.rows[min(last + 1, len(state.rows) - 1)]
    copies = len(state.model_input) // len(x)
    state.model_input.copy_((following[Column.SCALE] * state.x.float()).repeat(copies, 1, 1, 1))
    state.timestep.copy_(following[Column.TIMESTEP].reshape(1))


def _row_ref(
    state: State, i: int, x: Tensor, z: Tensor, history: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """x_next and m of row i, float32; m is written into its slot."""
    row = state.rows[i].tolist()
    m = (row[Column.P] * x + row[Column.Q] * z).clamp(row[Column.LO], row[Column.HI])
    x_next = row[Column.A] * x
    if row[Column.B]:  # z may be infinite where the clamp keeps m finite
        x_next = x_next + row[Column.B] * z
    x_next = x_next + row[Column.C0] * m
    for column, earlier in zip(HISTORY, history, strict=False):
        if row[column]:
            x_next = x_next + row[column] * earlier
    if row[Column.D]:
        words = [seed % (1 << 64) for seed in state.seeds.tolist()]
        x_next = x_next + row[Column.D] * noise.normal(words, i, x.shape[1:], device=x.device)
    if len(state.history) > 1:
        state.history[i % len(state.history)] = m
    return x_next, m


@jit
def solver_step(
    x,  # this step's sample, float32, any block of elements
    z,  # the guided estimate there
    noise,  # the noise there, times D
    at,  # offsets of the elements in x, int64
    input_at,  # offsets in model_input
    mask,
    i,  # the step
    image,  # which image they are of
    position,  # of the elements within it
    x_ptr,
    history_ptr,
    model_input_ptr,
    timestep_ptr,
    rows_ptr,  # [n, 17] float32
    seeds_ptr,
    clean_ptr,
    bounds_ptr,
    advance_ptr,
    last_row,  # n - 1
    total,  # elements of x
    channels,
    pixels,
    SLOTS: tl.constexpr,
    COPIES: tl.constexpr,
    LINE: tl.constexpr,  # whether the plan has free steps
):
    m1 = _earlier(1, x, history_ptr, rows_ptr, at, mask, i, last_row, total, SLOTS, LINE)
    m2 = _earlier(2, x, history_ptr, rows_ptr, at, mask, i, last_row, total, SLOTS, LINE)
    m3 = _earlier(3, x, history_ptr, rows_ptr, at, mask, i, last_row, total, SLOTS, LINE)
    row = rows_ptr + tl.minimum(i, last_row) * ROW
    last = i
    if LINE:
        clean = tl.load(row + U) * x + tl.load(row + V) * z
        before = clean
        if i > 0:
            before = tl.load(clean_ptr + at, mask, other=0).to(tl.float32)
        last += tl.load(row + FREE).to(tl.int32)
        channel = position // pixels
        low = tl.load(bounds_ptr + channel, mask, other=0)
        high = tl.load(bounds_ptr + channels + channel, mask, other=0)
    x, m = _row(row, x, z, noise, m1, m2, m3, SLOTS)
    if LINE:
        # Not range(): before Triton 3.9 the interpreter cannot count to a number in memory.
        j = i + 1
        while j <= last:
            row = rows_ptr + tl.minimum(j, last_row) * ROW
            x_0 = _clamp(clean + tl.load(row + SLOPE) * (clean - before), low, high)
            z = (x_0 - tl.load(row + U) * x) / tl.load(row + V)
            d = tl.load(row + D)
            fresh = tl.zeros_like(x)
            if d != 0:
                # The seed is read here: kept in registers through the loop, it spills on sm_120.
                fresh = d * normal_at(tl.load(seeds_ptr + image), j, position)
            m3, m2, m1 = m2, m1, m
            x, m = _row(row, x, z, fresh, m1, m2, m3, SLOTS)
            j += 1
        # Those that load an element need not be the threads that store it.
        tl.debug_barrier()
        tl.store(clean_ptr + at, clean, mask)
        earlier = (m1, m2, m3)
        for k in tl.static_range(1, SLOTS):  # of the free steps, those that are still needed
            slot = ((last + SLOTS - k) % SLOTS).to(tl.int64)
            made = mask & (tl.zeros_like(at) + (last - i) >= k)
            tl.store(history_ptr + slot * total + at, earlier[k - 1], made)
    if SLOTS > 1:
        tl.store(history_ptr + (last % SLOTS).to(tl.int64) * total + at, m, mask)
    x = x.to(x_ptr.dtype.element_ty)
    tl.store(x_ptr + at, x, mask)
    following = rows_ptr + tl.minimum(last + 1, last_row) * ROW
    model_input = x.to(tl.float32) * tl.load(following + SCALE)
    for copy in tl.static_range(COPIES):
        tl.store(model_input_ptr + copy * total + input_at, model_input, mask)
    if tl.program_id(0) == 0:
        tl.store(timestep_ptr, tl.load(following + TIMESTEP).to(timestep_ptr.dtype.element_ty))
        if LINE:
            tl.store(advance_ptr, (1 + last - i).to(advance_ptr.dtype.element_ty))


@jit
def _earlier(
    k: tl.constexpr, x, history_ptr, rows_ptr, at, mask, i, last_row, total,
    SLOTS: tl.constexpr, LINE: tl.constexpr,
):  # fmt: skip
    """m of step i - k; zeros where no row reads it, of the call and of the steps that follow."""
    # The slots that a call without free steps writes are not among those that it reads: the threads
    # that load an element need not be those that store it.
    m = tl.zeros_like(x)
    if k < SLOTS:
        c = 0.0
        for further in tl.static_range(SLOTS - k if LINE else 1):
            row = rows_ptr + tl.minimum(i + further, last_row) * ROW
            c += tl.abs(tl.load(row + C0 + k + further))
        # Of a block: Triton's interpreter cannot combine a comparison of one float with a mask. And
        # not in a branch, which spills.
        used = mask & (m + c != 0)
        slot = ((i + SLOTS - k) % SLOTS).to(tl.int64)
        m = tl.load(history_ptr + slot * total + at, used, other=0).to(tl.float32)
    return m


@jit
def _row(row, x, z, noise, m1, m2, m3, SLOTS: tl.constexpr):
    """(x_next, m) of a row."""
    m = _clamp(tl.load(row + P) * x + tl.load(row + Q) * z, tl.load(row + LO), tl.load(row + HI))
    x_next = tl.load(row + A) * x
    b = tl.load(row + B)
    if b != 0:  # z may be infinite where the clamp keeps m finite
        x_next += b * z
    x_next += tl.load(row + C0) * m
    earlier = (m1, m2, m3)
    for k in tl.static_range(1, SLOTS):
        c = tl.load(row + C0 + k)
        x_next += c * tl.where(c != 0, earlier[k - 1], 0.0)
    return x_next + noise, m


@jit
def _clamp(value, low, high):
    # Not clamp(): a NaN has to stay one, as in PyTorch.
    value = tl.maximum(value, low, propagate_nan=tl.PropagateNan.ALL)
    return tl.minimum(value, high, propagate_nan=tl.PropagateNan.ALL)
