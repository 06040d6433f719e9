"""The two steps of a run with the fused kernels: static memory, and no number from the host.

    Dash step:  unet(model_input, timestep)      -> dash_update
    Dot step:   the row of `When` for this step  -> Dot's blocks -> residual_up_update

Where a run is, which row of the table it needs, its seeds, the guidance scale: all of it lies in
device memory. So the same two sequences of launches serve every step of every run of a shape,
whatever its plan and its solver. The specification is `sampler.sample`; the state is described in
`kernels/solver_step.py`.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map

from .. import kernels
from ..dot.dot import Dot, Moments, When
from ..dot.unet import Given
from ..kernels.solver_step import State
from ..sampling import noise
from ..sampling.loop import second_half
from ..sampling.plan import Plan
from ..sampling.request import Request
from ..sampling.solver import HISTORY, Column, SolverTable
from ..system.errors import Refused


class Layout(NamedTuple):
    """All that the memory of `Steps` depends on.

    Attributes:
        shape: `(B, C, H, W)`.
        dtype: of the models' inputs and outputs; x and the estimates are float32.
        timestep_dtype: of the models' timestep: int64, or float32 for solvers between timesteps.
        device: of everything.
        guidance: whether each image is given to the models twice.
        with_dot: whether there are Dot steps.
        cond: structure of the conditioning, `cond_layout`.
        capacity: the most steps of a plan.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    timestep_dtype: torch.dtype
    device: torch.device
    guidance: bool
    with_dot: bool
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
            `sampler.sample`; None if no step is Dot's.
        cond: an example of the conditioning; nested dicts and lists of tensors, whose memory is
            copied, and other values, which are fixed.
    """

    def __init__(
        self,
        dash: Callable[..., Tensor],
        dot: Callable[..., Tensor] | None,
        layout: Layout,
        cond: dict | None = None,
    ):
        self.dash, self.dot, self.layout = dash, dot, layout
        self.plan: Plan | None = None
        self.table: SolverTable | None = None
        self.owner: object = None  # token of the run that uses the memory
        # The memory serves runs within inference_mode and outside, and never training.
        with torch.inference_mode(False), torch.no_grad():
            self._allocate(cond or {})

    def _allocate(self, cond: dict) -> None:
        shape, dtype, timestep_dtype, device = self.layout[:4]
        capacity = self.layout.capacity

        def zeros(*size: int, dtype: torch.dtype) -> Tensor:
            return torch.zeros(size, dtype=dtype, device=device)

        doubled = (2 * shape[0] if self.layout.guidance else shape[0], *shape[1:])
        self.state = State(
            x=zeros(*shape, dtype=torch.float32),
            history=zeros(1 + len(HISTORY), *shape, dtype=torch.float32),
            model_input=zeros(*doubled, dtype=dtype),
            timestep=zeros(1, dtype=timestep_dtype),
            rows=zeros(capacity, len(Column), dtype=torch.float32),
            step=zeros(1, dtype=torch.int32),
            seeds=zeros(shape[0], dtype=torch.int64),
            guidance=zeros(1, dtype=torch.float32) if self.layout.guidance else None,
        )
        self._initial = torch.full((1,), noise.INITIAL, dtype=torch.int64, device=device)
        self.sigma = zeros(1, dtype=torch.float32)  # of the initial noise
        self.cond = tree_map(lambda v: v.to(device, copy=True) if is_tensor(v) else v, cond)
        self.trajectory: list[Tensor] = []  # x_s, z_s, z_p
        # (t, t_s, t_p) of each step; the rows behind the plan's are computed with, never used
        self.times = torch.ones(capacity, 3, dtype=timestep_dtype, device=device)
        self.moments: Moments | None = None  # of all steps, as `times`
        self.when: When | None = None  # likewise; its rows also lie in `packed`
        self.packed: Tensor | None = None
        self.given: Given | None = None
        self.guided_dot = getattr(self.dot, "guided", False) and self.layout.guidance
        # Views: what is copied into `cond` is there too.
        self.dot_cond = second_half(self.cond) if self.guided_dot else self.cond
        if self.layout.with_dot:
            size = shape if self.guided_dot else doubled
            self.trajectory = [zeros(*s, dtype=dtype) for s in (shape, size, size)]
            if isinstance(self.dot, Dot):
                self.moments = self.dot.moments(*self.times.unbind(1))
                self.given = tree_map(owned, self._what_is_given())
                self.when = self.dot.when(self.moments, self.given)
                self.packed = self.when.pack()

    @property
    def num_bytes(self) -> int:
        """Bytes of the memory that this object holds, without the models'."""
        held = (self.state, self.trajectory, self.times, self.moments, self.packed)
        held = (*held, self.cond, self.given)
        return sum(t.numel() * t.element_size() for t in leaves(held) if is_tensor(t))

    @torch.no_grad()
    def load(self, plan: Plan, table: SolverTable) -> None:
        """Make `plan` with `table` the one of the next runs."""
        if plan == self.plan and table is self.table:
            return
        n = len(plan)
        self.state.rows[:n].copy_(table.rows.float())
        self.times[:n].copy_(_times(plan, table))
        self.sigma.fill_(table.init_noise_sigma)
        if self.moments is not None:
            for mine, new in zip(
                self.moments, self.dot.moments(*self.times.unbind(1)), strict=True
            ):
                mine.copy_(new)
        self.plan, self.table = plan, table

    @torch.no_grad()
    def fill(self, request: Request) -> None:
        """Copy what a run of the loaded plan is asked for; no wait for the device.

        The request has to be of the layout.
        """
        noise, seeds, _, guidance_scale, cond, _ = request
        state = self.state
        signed = [seed - (1 << 64) if seed >> 63 else seed for seed in seeds]
        seeds = torch.tensor(signed, dtype=torch.int64)
        if state.seeds.is_cuda:
            seeds = seeds.pin_memory()
        state.seeds.copy_(seeds, non_blocking=True)
        if noise is None:
            noise = kernels.philox_normal(state.seeds, self._initial, list(state.x.shape[1:]))
        state.x.copy_(noise)
        if state.guidance is not None:
            state.guidance.fill_(guidance_scale)
        pairs = zip(*map(leaves, (self.cond, cond)), strict=True)
        for mine, given in pairs:
            if is_tensor(mine):
                mine.copy_(given, non_blocking=True)

    @torch.no_grad()
    def begin(self) -> None:
        """From unit noise in x to the first step; each run anew: Dot's weights may have changed."""
        state = self.state
        state.x.mul_(self.sigma)
        halves = state.model_input.view(-1, *state.x.shape)  # two with guidance
        halves.copy_(state.rows[0, Column.SCALE] * state.x)
        state.timestep.copy_(self.times[0, :1])
        state.step.zero_()
        if self.moments is not None:
            pairs = zip(*map(leaves, (self.given, self._what_is_given())), strict=True)
            for mine, new in pairs:
                if is_tensor(mine):
                    mine.copy_(new)
            self.packed.copy_(self.dot.when(self.moments, self.given).pack())

    def _what_is_given(self) -> Given:
        if not self.layout.guidance and getattr(self.dot, "guided", False):
            raise Refused("this Dot is guided: it needs guidance_scale")
        return self.dot.given(self.dot_cond, self.state.guidance if self.guided_dot else None)

    @torch.no_grad()
    def dash_step(self) -> None:
        """One step of Dash."""
        state = self.state
        z = self.dash(state.model_input, state.timestep[0], **self.cond)
        kernels.dash_update(_plain(z), *state, *(self.trajectory or (None, None, None)))
        state.step.add_(1)

    @torch.no_grad()
    def dot_step(self) -> None:
        """One step of Dot."""
        state = self.state
        x, (x_s, z_s, z_p) = state.model_input, self.trajectory
        cond = self.dot_cond
        if self.guided_dot:
            x = x[: len(x_s)]  # both halves are the same
            cond = cond | {"guidance_scale": state.guidance}
        elif self.layout.guidance:
            x_s = torch.cat([x_s, x_s])
        if self.when is not None:
            when = self.when.unpack(self.packed.index_select(0, state.step))
            h = self.dot.features(x, x_s, z_s, z_p, when, self.given)
            conv = self.dot.up[-1].conv2
            kernels.residual_up_update(
                h, conv.weight, conv.bias, when.mix, *self.trajectory, *state
            )
        else:
            t, t_s, t_p = self.times.index_select(0, state.step)[0].unbind()
            z = z_s.float() + self.dot(x, t, x_s, z_s, t_s, z_p, t_p, **cond)
            if self.guided_dot:  # the update guides two equal branches to z itself
                z = torch.cat([z, z])
            kernels.dash_update(_plain(z), *state, None, None, None)
        state.step.add_(1)


def leaves(tree) -> list:
    return tree_flatten(tree)[0]


def owned(value):
    return value.clone() if is_tensor(value) else value


def is_tensor(value) -> bool:
    return isinstance(value, Tensor)


def _plain(z: Tensor) -> Tensor:
    """z in a layout that the kernels read."""
    return z if kernels.is_channels_last(z) else z.contiguous()


def _times(plan: Plan, table: SolverTable) -> Tensor:
    """`(t, t_s, t_p)` of each step, `[n, 3]`; of a Dash step the ones that it leaves."""
    rows, t_s, t_p = [], None, None
    for symbol, t in zip(plan, table.timesteps, strict=True):
        if symbol == "-":
            t_p, t_s = t if t_s is None else t_s, t
        rows.append(torch.stack((t, t_s, t_p)))
    return torch.stack(rows)
