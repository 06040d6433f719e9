"""The dual-sampling loop in plain PyTorch: the specification that every faster path must reproduce.

    z_i    = theta(x_i, t_i)                               on a Dash step: remember x_s, z_s, t_s
    z_i    = z_s + eta(x_i, t_i, x_s, z_s, t_s, z_p, t_p)  on a Dot step
    z_i    = by the line through the last two clean images on a free step, see `free.py`
    x_next = solver(x_i, z_i, earlier estimates, noise)    one row of the solver's table

z_p, t_p: Dash's estimate before the last, (z_s, t_s) as long as there is none; they tell Dot where
Dash's estimates are heading. The rows are explained in `solver.py`, the noise in `noise.py`. x and
x_s reach both models as the solver scales its model input.

With classifier-free guidance Dash is given every image twice, without the condition first, and the
solver is given

    z_u + guidance_scale (z_c - z_u)

So is Dot, each half with its own trajectory and residual; or it is a guided Dot, whose trajectory
is that of the guided estimate, and which is given the condition and the guidance scale. Free steps
go on with the guided estimate.

Source: Morse (arXiv 2506.18251), section 3; z_p and t_p are ours. Guidance: Ho & Salimans 2022
(arXiv 2207.12598).
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from . import noise
from .free import Line
from .plan import DASH, DOT, Plan
from .solver import SolverTable


class Trajectory(NamedTuple):
    """Where Dash's last two estimates were made: what Dot is given beside x and t."""

    x_s: Tensor  # the model input of the last Dash step
    z_s: Tensor  # Dash's estimate there
    t_s: Tensor  # and its time
    z_p: Tensor  # the estimate of the Dash step before it
    t_p: Tensor  # and its time

    @classmethod
    def after(cls, last: "Trajectory | None", x: Tensor, z: Tensor, t: Tensor) -> "Trajectory":
        """The trajectory once Dash has said z at (x, t). At the first Dash step p is s."""
        return cls(x, z, t, *((z, t) if last is None else (last.z_s, last.t_s)))


def guide(z: Tensor, scale: float | Tensor) -> Tensor:
    """Classifier-free guidance of `[2 B, ...]` estimates, those without the condition first."""
    unconditional, conditional = z.chunk(2)
    return unconditional + scale * (conditional - unconditional)


def sample(
    dash: Callable[..., Tensor],
    dot: Callable[..., Tensor] | None,
    plan: Plan,
    table: SolverTable,
    start: Tensor,
    seeds: Sequence[int],
    cond: dict | None = None,
    guidance_scale: float | None = None,
    *,
    guided_dot: bool = False,
    on_step: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Run the plan from noise to images.

    Args:
        dash: `dash(x, timestep, **cond) -> z`, the pre-trained model.
        dot: `dot(x, timestep, x_s, z_s, timestep_s, z_p, timestep_p, **cond) -> eta`; None if no
            step is Dot's.
        plan: one symbol per step, `len(plan) == len(table)`.
        table: the solver.
        start: `[B, C, H, W]`, unit normal noise; its dtype and device are those of the run.
        seeds: one int per image, the key of the noise that stochastic solvers add on the way.
        cond: further tensors that both models are given by keyword.
        guidance_scale: if given, the models see 2 B images, those without the condition first;
            tensors in `cond` have to be doubled likewise.
        guided_dot: whether `dot` corrects the guided estimate of B images; it is then given
            `guidance_scale` by keyword, and the second half of each tensor in `cond`.
        on_step: called as `on_step(i, len(plan))` after step i.

    Returns:
        `[B, C, H, W]`, the solver's last x, not clamped.
    """
    x = start
    steps = walk(dash, dot, plan, table, start, seeds, cond, guidance_scale, guided_dot)
    for i, x in enumerate(steps):  # noqa: B007 - the last x is the result
        if on_step is not None:
            on_step(i, len(plan))
    return x


@torch.no_grad()
def walk(
    dash: Callable[..., Tensor],
    dot: Callable[..., Tensor] | None,
    plan: Plan,
    table: SolverTable,
    start: Tensor,
    seeds: Sequence[int],
    cond: dict | None = None,
    guidance_scale: float | None = None,
    guided_dot: bool = False,
) -> Iterator[Tensor]:
    """The run of `sample`, step by step: x after each step."""
    cond = cond or {}
    dot_cond = second_half(cond) | {"guidance_scale": guidance_scale} if guided_dot else cond
    twice = guidance_scale is not None
    each = twice and not guided_dot  # each branch has its own residual

    table = table.for_plan(plan)
    x = table.init_noise_sigma * start
    history: list[Tensor] = []  # estimates m, newest first
    num_history = table.num_history
    timesteps = table.timesteps.to(start.device)
    noisy = [i for i in range(len(plan)) if table.adds_noise(i)]
    drawn = noise.of_steps(seeds, noisy, x.shape[1:], device=x.device)
    trajectory: Trajectory | None = None
    line: Line | None = None
    for i, symbol in enumerate(plan):
        t = timesteps[i]
        if symbol in (DASH, DOT):
            scaled = table.scale_model_input(i, x)
            both = torch.cat([scaled, scaled]) if twice else scaled
            for_dot = both if each else scaled
            if symbol == DASH:
                z = dash(both, t, **cond)
                if guidance_scale is not None and guided_dot:
                    z = guide(z, guidance_scale)
                trajectory = Trajectory.after(trajectory, for_dot, z, t)
            else:
                assert dot is not None  # of a plan with Dot steps
                assert trajectory is not None  # a plan begins with Dash
                z = trajectory.z_s + dot(for_dot, t, *trajectory, **dot_cond)
            if guidance_scale is not None and not guided_dot:
                z = guide(z, guidance_scale)
            if plan.num_free:
                line = Line.after(line, table.clean(i, x, z))
        else:
            assert line is not None  # a plan begins with Dash
            z = table.free(i, x, line)
        fresh = next(drawn).to(x.dtype) if table.adds_noise(i) else None
        x, m = table.step(i, x, z, history, fresh)
        history = [m, *history][:num_history]
        yield x


def second_half(cond: dict) -> dict:
    """Of each tensor in the conditioning the rows with the condition."""
    return tree_map(lambda v: v.chunk(2)[-1] if isinstance(v, Tensor) and v.ndim else v, cond)
