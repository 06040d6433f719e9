"""The two steps of a run with the fused kernels: static memory, and no number from the host.

    Dash step:  unet(model_input, timestep)      -> dash_update
    Dot step:   the row of `When` for this step  -> Dot's blocks -> residual_up_update

The free steps behind either are made by the same updates: they cost no launch.
Where a run is, which row of the table it needs, its seeds, the guidance scale: all of it lies in
device memory. So the same two sequences of launches serve every step of every run of a shape,
whatever its plan and its solver. The specification is `sampling.loop.sample`; the state is
described in `kernels/solver_step.py`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeGuard, cast

import torch
from torch import Tensor
from torch.utils._pytree import PyTree, tree_flatten, tree_map

from .. import kernels
from ..dot.dot import Dot
from ..dot.helper import Helper, as_helper, seen
from ..kernels.solver_step import State
from ..sampling import noise
from ..sampling.free import bounds
from ..sampling.loop import Trajectory, second_half
from ..sampling.plan import DASH, Plan
from ..sampling.request import Request
from ..sampling.solver import HISTORY, Column, SolverTable


class Layout(NamedTuple):
    """All that the memory of `Steps` depends on.

    Attributes:
        shape: `(B, C, H, W)`.
        dtype: of the models' inputs and outputs; x and the estimates are float32.
        timestep_dtype: of the models' timestep: int64, or float32 for solvers between timesteps.
        device: of everything.
        guidance: whether each image is given to the models twice.
        with_dot: whether there are Dot steps.
        with_free: whether there are free steps, which need some memory more.
        cond: structure of the conditioning, `cond_layout`.
        capacity: the most steps of a plan.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    timestep_dtype: torch.dtype
    device: torch.device
    guidance: bool
    with_dot: bool
    with_free: bool
    cond: tuple
    capacity: int


def cond_layout(cond: dict) -> tuple:
    """What of the conditioning is fixed with the memory: shapes, dtypes, and all but tensors."""
    leaves, structure = tree_flatten(cond)
    return structure, tuple(
        (tuple(leaf.shape), leaf.dtype) if isinstance(leaf, Tensor) else leaf for leaf in leaves
    )


class Steps:
    """The two steps for batches of one layout, and the memory that they work on.

    Args:
        dash: `dash(x, timestep, **cond) -> z` on samples of the layout's dtype.
        dot: a `Dot`, whose last block is fused with the solver's step; or any callable as in
            `sampling.loop.sample`; None if no step is Dot's.
        cond: an example of the conditioning; nested dicts and lists of tensors, whose memory is
            copied, and other values, which are fixed.

    Raises:
        Refused: a conditioning that a `Dot` does not take.
    """

    def __init__(
        self,
        dash: Callable[..., Tensor],
        dot: Callable[..., Tensor] | None,
        layout: Layout,
        cond: dict | None = None,
    ):
        self.dash, self.layout = dash, layout
        self.plan: Plan | None = None
        self.table: SolverTable | None = None
        self.owner: object = None  # token of the run that uses the memory
        # The memory serves runs within inference_mode and outside, and never training.
        with torch.inference_mode(False), torch.no_grad():
            self._allocate(cond or {})
            self.trajectory: list[Tensor] = []  # x_s, z_s, z_p
            self.dot: _Fused | _Called | None = None
            if layout.with_dot and dot is not None:
                self._begin_with(as_helper(dot))

    def _allocate(self, cond: dict) -> None:
        shape, dtype, timestep_dtype, device = self.layout[:4]
        capacity, copies = self.layout.capacity, 2 if self.layout.guidance else 1

        def zeros(*size: int, dtype: torch.dtype) -> Tensor:
            return torch.zeros(size, dtype=dtype, device=device)

        self.state = State(
            x=zeros(*shape, dtype=torch.float32),
            history=zeros(1 + len(HISTORY), *shape, dtype=torch.float32),
            model_input=zeros(copies * shape[0], *shape[1:], dtype=dtype),
            timestep=zeros(1, dtype=timestep_dtype),
            rows=zeros(capacity, len(Column), dtype=torch.float32),
            step=zeros(1, dtype=torch.int32),
            seeds=zeros(shape[0], dtype=torch.int64),
            guidance=zeros(1, dtype=torch.float32) if self.layout.guidance else None,
        )
        if self.layout.with_free:
            self.state = self.state._replace(
                clean=zeros(*shape, dtype=torch.float32),
                bounds=zeros(2, shape[1], dtype=torch.float32),
                advance=zeros(1, dtype=torch.int32),
            )
        self._initial = torch.full((1,), noise.INITIAL, dtype=torch.int64, device=device)
        self.sigma = zeros(1, dtype=torch.float32)  # of the initial noise
        self.cond = tree_map(lambda v: v.to(device, copy=True) if is_tensor(v) else v, cond)
        # (t, t_s, t_p) of each step; the rows behind the plan's are computed with, never used
        self.times = torch.ones(capacity, 3, dtype=timestep_dtype, device=device)

    def _begin_with(self, dot: Helper) -> None:
        x, both = self.state.x, self.state.model_input
        once = dot.guided and self.layout.guidance  # one residual for both branches
        estimates = x if once else both
        self.trajectory = [both.new_zeros(t.shape) for t in (x, estimates, estimates)]
        # Views: what is copied into `cond` is there too.
        cond = second_half(self.cond) if once else self.cond
        guidance = self.state.guidance if once else None
        if dot.fused:
            self.dot = _Fused(cast(Dot, dot), self.times, cond, guidance)
        else:
            self.dot = _Called(dot, self.times, cond, guidance)

    @property
    def num_bytes(self) -> int:
        """Bytes of the memory that this object holds, without the models'."""
        held = (self.state, self.trajectory, self.times, self.cond, self.dot and self.dot.held)
        return sum(t.numel() * t.element_size() for t in leaves(held) if is_tensor(t))

    def load(self, plan: Plan, table: SolverTable) -> None:
        """Make `plan` with `table` the one of the next runs; the layout has to be theirs.

        Raises:
            Refused: free steps that the solver cannot make, or a range of other channels.
        """
        if plan != self.plan or self.table is None or not table.equals(self.table):
            self._load(plan, table)

    @torch.no_grad()
    def _load(self, plan: Plan, table: SolverTable) -> None:
        n, state = len(plan), self.state
        rows = table.for_plan(plan).rows.float()
        if state.bounds is not None:
            for mine, bound in zip(state.bounds, bounds(table.clean_range, state.x), strict=True):
                mine[:, None, None].copy_(torch.as_tensor(bound))
        state.rows[:n].copy_(rows)
        state.rows[n:].zero_()  # those of a longer plan: warm-ups and timings step over the end
        self.times[:n].copy_(_times(plan, table))
        self.sigma.fill_(table.init_noise_sigma)
        if self.dot is not None:
            self.dot.load()
        self.plan, self.table = plan, table

    @torch.no_grad()
    def fill(self, request: Request) -> None:
        """Copy what a run of the loaded plan is asked for; no wait for the device.

        The request has to be of the layout. Where it has no noise, `draw` is next.
        """
        state = self.state
        signed = [seed - (1 << 64) if seed >> 63 else seed for seed in request.seeds]
        seeds = torch.tensor(signed, dtype=torch.int64)
        if state.seeds.is_cuda:
            seeds = seeds.pin_memory()
        state.seeds.copy_(seeds, non_blocking=True)
        if request.noise is not None:
            state.x.copy_(request.noise)
        if state.guidance is not None:
            assert request.guidance_scale is not None  # as the layout says
            state.guidance.fill_(request.guidance_scale)
        copy_tensors(self.cond, request.cond, non_blocking=True)

    @torch.no_grad()
    def draw(self) -> None:
        """The noise of the seeds in x."""
        x, seeds = self.state.x, self.state.seeds
        x.copy_(kernels.philox_normal(seeds, self._initial, list(x.shape[1:])))

    @torch.no_grad()
    def begin(self) -> None:
        """From unit noise in x to the first step; each run anew: Dot's weights may have changed."""
        state = self.state
        state.x.mul_(self.sigma)
        halves = state.model_input.view(-1, *state.x.shape)  # two with guidance
        halves.copy_(state.rows[0, Column.SCALE] * state.x)
        state.timestep.copy_(self.times[0, :1])
        state.step.zero_()
        if self.dot is not None:
            self.dot.begin()

    @torch.no_grad()
    def dash_step(self) -> None:
        """One step of Dash."""
        state = self.state
        z = self.dash(state.model_input, state.timestep[0], **self.cond)
        kernels.dash_update(_plain(z), *state, *(self.trajectory or (None, None, None)))
        self._count()

    @torch.no_grad()
    def dot_step(self) -> None:
        """One step of Dot, of a layout that has one."""
        assert self.dot is not None
        self.dot.step(self.state, self.trajectory)
        self._count()

    def _count(self) -> None:
        """The step number behind a call and its free steps."""
        advance = self.state.advance
        self.state.step.add_(1 if advance is None else advance)


class _Fused:
    """The steps of a `Dot`: what its weights make of all times and of the conditioning, beforehand.

    Args:
        times: `[n, 3]`, the memory in which (t, t_s, t_p) of each step lie.
        cond: the memory of what it is given by keyword.
        guidance: that of the guidance scale, `[1]`, if it corrects the guided estimate.
    """

    def __init__(self, dot: Dot, times: Tensor, cond: dict, guidance: Tensor | None):
        self.dot, self.times, self.cond, self.guidance = dot, times, cond, guidance
        self.moments = dot.moments(*times.unbind(1))
        self.given = tree_map(owned, dot.given(cond, guidance))
        self.when = dot.when(self.moments, self.given, of_a_run=True)  # its rows are in `packed`
        self.packed = self.when.pack()

    @property
    def held(self) -> tuple:
        """The memory of its own."""
        return self.moments, self.packed, self.given

    def load(self) -> None:
        """Once the times are those of another plan."""
        copy_tensors(self.moments, self.dot.moments(*self.times.unbind(1)))

    def begin(self) -> None:
        """Once the conditioning is that of another run, or the weights have changed."""
        copy_tensors(self.given, self.dot.given(self.cond, self.guidance))
        when = self.dot.when(self.moments, self.given, of_a_run=True)
        self.packed.copy_(when.pack())

    def step(self, state: State, trajectory: list[Tensor]) -> None:
        when = self.when.unpack(self.packed.index_select(0, state.step))
        self.dot.update(state, trajectory, when, self.given)


class _Called:
    """The steps of any other helper, which is called; arguments as `_Fused`."""

    held = ()

    def __init__(self, dot: Helper, times: Tensor, cond: dict, guidance: Tensor | None):
        self.dot, self.times = dot, times
        self.cond = cond if guidance is None else cond | {"guidance_scale": guidance}

    def load(self) -> None:
        """Nothing depends on the plan."""

    def begin(self) -> None:
        """Nothing depends on the run."""

    def step(self, state: State, trajectory: list[Tensor]) -> None:
        x, x_s, z_s, z_p = seen(state, trajectory)
        t, t_s, t_p = self.times.index_select(0, state.step)[0].unbind()
        eta = self.dot(x, t, x_s, z_s, t_s, z_p, t_p, **self.cond)
        z = z_s.float() + eta.to(x.dtype)
        if len(z) < len(state.model_input):  # the update guides two equal branches to z itself
            z = torch.cat([z, z])
        kernels.dash_update(_plain(z), *state, None, None, None)


def leaves(tree: PyTree) -> list:
    return tree_flatten(tree)[0]


def copy_tensors(into: PyTree, tree: PyTree, **options: Any) -> None:
    """Copy each tensor of a tree into its place in another one of the same structure."""
    for mine, new in zip(leaves(into), leaves(tree), strict=True):
        if is_tensor(mine):
            mine.copy_(new, **options)


def owned(value: object) -> object:
    return value.clone() if is_tensor(value) else value


def is_tensor(value: object) -> TypeGuard[Tensor]:
    return isinstance(value, Tensor)


def _plain(z: Tensor) -> Tensor:
    """z in a layout that the kernels read."""
    return z if kernels.is_channels_last(z) else z.contiguous()


def _times(plan: Plan, table: SolverTable) -> Tensor:
    """`(t, t_s, t_p)` of each step, `[n, 3]`; of a Dash step the ones that it leaves."""
    rows: list[Tensor] = []
    at: Trajectory | None = None
    for symbol, t in zip(plan, table.timesteps, strict=True):
        if at is None or symbol == DASH:  # the first is Dash's
            at = Trajectory.after(at, t, t, t)  # of which only the times are wanted
        rows.append(torch.stack((t, at.t_s, at.t_p)))
    return torch.stack(rows)
