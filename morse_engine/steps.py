"""The two steps of a run with the fused kernels: static memory, and no number from the host.

    Dash step:  unet(model_input, timestep)      -> dash_update
    Dot step:   the row of `When` for this step  -> Dot's blocks -> residual_up_update

Where a run is, which row of the table it needs, its seeds: all of it lies in device memory. So the
same two sequences of launches serve every step of every run of a shape. The specification is
`sampler.sample`; the state is described in `kernels/solver_step.py`.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from . import kernels
from .dot import Dot, When
from .kernels.solver_step import State
from .plan import Plan
from .solver import Column, SolverTable


class Steps:
    """The steps of one plan with one solver for batches of one shape.

    Args:
        dash: `dash(x, timestep, **cond) -> z` on samples of `dtype`.
        dot: a `Dot`, whose last block is fused with the solver's step; or any callable as in
            `sampler.sample`; None if no step is Dot's.
        shape: `(B, C, H, W)`.
        dtype: of the models' inputs and outputs; x and the estimates are float32.
    """

    def __init__(
        self,
        dash: Callable[..., Tensor],
        dot: Callable[..., Tensor] | None,
        plan: Plan,
        table: SolverTable,
        shape: Sequence[int],
        dtype: torch.dtype,
        device: torch.device | str,
    ):
        self.dash, self.dot, self.plan, self.table = dash, dot, plan, table
        # The memory serves runs within inference_mode and outside, and never training.
        with torch.inference_mode(False), torch.no_grad():
            self._allocate(shape, dtype, device)

    def _allocate(self, shape: Sequence[int], dtype: torch.dtype, device) -> None:
        plan, table = self.plan, self.table

        def empty(*size: int, dtype: torch.dtype) -> Tensor:
            return torch.empty(size, dtype=dtype, device=device)

        self.state = State(
            x=empty(*shape, dtype=torch.float32),
            history=empty(1 + table.num_history, *shape, dtype=torch.float32),
            model_input=empty(*shape, dtype=dtype),
            timestep=empty(1, dtype=table.timesteps.dtype),
            rows=table.to(device),
            step=empty(1, dtype=torch.int32),
            seeds=empty(shape[0], dtype=torch.int64),
            guidance=None,
        )
        self.trajectory: list[Tensor] = []  # x_s, z_s, z_p
        if plan.num_dot:
            self.trajectory = [empty(*shape, dtype=dtype) for _ in range(3)]
        self.times = _times(plan, table).to(device)
        self.when: When | None = None  # of all steps; its rows also lie in `packed`
        self.packed: Tensor | None = None
        if isinstance(self.dot, Dot):
            self.when = self.dot.when(*self.times.unbind(1))
            self.packed = torch.empty_like(self.when.pack())

    @torch.no_grad()
    def run(
        self,
        noise: Tensor,
        seeds: Sequence[int],
        cond: dict | None = None,
        on_step: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """As `sampler.sample`: from unit noise `[B, C, H, W]` to the last x, a new tensor."""
        self.start(noise, seeds)
        for i, symbol in enumerate(self.plan):
            step = self.dash_step if symbol == "-" else self.dot_step
            step(cond or {})
            if on_step is not None:
                on_step(i, len(self.plan))
        return self.state.x.clone()

    @torch.no_grad()
    def start(self, noise: Tensor, seeds: Sequence[int]) -> None:
        """Fill the memory for a run."""
        state = self.state
        state.x.copy_(self.table.init_noise_sigma * noise.float())
        state.history.zero_()
        state.model_input.copy_(state.rows[0, Column.SCALE] * state.x)
        state.timestep.copy_(self.table.timesteps[:1])
        state.step.zero_()
        signed = [seed - (1 << 64) if seed >> 63 else seed for seed in seeds]
        state.seeds.copy_(torch.tensor(signed, dtype=torch.int64))
        if isinstance(self.dot, Dot):  # each time: its weights may have changed
            self.packed.copy_(self.dot.when(*self.times.unbind(1)).pack())

    def dash_step(self, cond: dict) -> None:
        """One step of Dash."""
        state = self.state
        z = self.dash(state.model_input, state.timestep[0], **cond)
        kernels.dash_update(_plain(z), *state, *(self.trajectory or (None, None, None)))
        state.step.add_(1)

    def dot_step(self, cond: dict) -> None:
        """One step of Dot."""
        state = self.state
        x_s, z_s, z_p = self.trajectory
        if isinstance(self.dot, Dot):
            if cond:
                raise ValueError(f"this Dot takes no conditioning, got {', '.join(cond)}")
            when = self.when.unpack(self.packed.index_select(0, state.step))
            h = self.dot.features(state.model_input, x_s, z_s, z_p, when)
            conv = self.dot.up[-1].conv2
            kernels.residual_up_update(
                h, conv.weight, conv.bias, when.mix, *self.trajectory, *state
            )
        else:
            t, t_s, t_p = self.times.index_select(0, state.step)[0].unbind()
            eta = self.dot(state.model_input, t, x_s, z_s, t_s, z_p, t_p, **cond)
            kernels.dash_update(_plain(z_s.float() + eta), *state, None, None, None)
        state.step.add_(1)


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
