"""Morse as a sampler of k-diffusion, the form that ComfyUI and others take their samplers in.

The host gives a function `model(x, sigma, **extra_args)` that returns the clean image D, and the
noise levels; its x is variance-exploding, x = x_0 + sigma noise. In these terms

    z = (x - D) / sigma, the noise that the model sees in x: Dash, asked at the first step and
        wherever else the plan has a `-`
    z = z_s + eta(x, sigma, x_s, z_s, sigma_s, z_p, sigma_p) on a Dot step, which does not ask it

and the solver is k-diffusion's own, as a table (`solver.py`) of two or three numbers for each step.
What D already holds, guidance and a mask for instance, is in z: a Dot works on the guided estimate.

Source: Karras et al. 2022 (arXiv 2206.00364) for x and D; Lu et al. 2022 (arXiv 2211.01095) for
DPM-Solver++ 2M; k-diffusion's sampling.py for the form of a sampler.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import inf, log

import torch
from torch import Tensor

from ..dot.dot import Dot
from ..dot.free import extrapolate_sigma as extrapolate
from ..dot.free import reuse
from ..sampling.loop import walk
from ..sampling.plan import Plan
from ..sampling.solver import Column, SolverTable
from ..system.errors import Refused

__all__ = ["extrapolate", "reuse", "sampler"]
SOLVERS = ("euler", "dpmpp_2m")


def sampler(
    plan: Plan | str = "-.",
    dot: Dot | Callable[..., Tensor] = extrapolate,
    *,
    solver: str = "dpmpp_2m",
    cond: dict | None = None,
) -> Callable[..., Tensor]:
    """A sampler of k-diffusion that asks its model at the Dash steps of a plan only.

    Args:
        plan: Morse code, repeated over the steps of a run, whose number the host chooses: `"-.."`
            asks the model at every third step. A plan of exactly these steps is used as it is.
        dot: the residual of Dot steps. `extrapolate` and `reuse` need no training and take next to
            no time; they are the rivals that a Dot has to beat. A `Dot` is one whose Dash is the
            model that the host runs, which cannot be checked here; it is used on the device and in
            the dtype that it is in. Else any `eta(x, sigma, x_s, z_s, sigma_s, z_p, sigma_p)`.
        solver: "euler" or "dpmpp_2m" (DPM-Solver++ of order 2), k-diffusion's `sample_euler` and
            `sample_dpmpp_2m` where every step is a Dash.
        cond: what a `Dot` is given by keyword; what the host gives its model is not known here.

    Returns:
        `f(model, x, sigmas, extra_args=None, callback=None, disable=None) -> x` for the host. Each
        step calls `callback({"x", "i", "sigma", "sigma_hat", "denoised"})`; what it raises ends the
        run. `disable=True` hides the progress bar. It keeps nothing of a run, and of the host's
        model nothing at all.

    Raises:
        Refused: plan, dot or solver do not fit; in f: the plan has more steps than the run, or
            the noise levels are not finite, above 0 but for the last, and falling.
    """
    plan = plan if isinstance(plan, Plan) else Plan(plan)
    if solver not in SOLVERS:
        raise Refused(f"solver={solver!r}: choose {' or '.join(SOLVERS)}")
    if not callable(dot):
        raise Refused(f"dot is a {type(dot).__name__}: give a Dot, extrapolate or reuse")
    sigma_max = inf
    if isinstance(dot, Dot):
        sigma_max, dot = _sigma_max(dot), _variance_exploding(dot.merged(), cond or {})

    @torch.no_grad()
    def sample_morse(
        model: Callable[..., Tensor],
        x: Tensor,
        sigmas: Tensor,
        extra_args: dict | None = None,
        callback: Callable[[dict], None] | None = None,
        disable: bool | None = None,
    ) -> Tensor:
        from tqdm.auto import tqdm

        levels = _levels(sigmas)
        num_steps = len(levels) - 1
        if num_steps == 0:  # a host that splits its levels may leave one: nothing to do
            return x
        if len(plan) > num_steps:
            raise Refused(f'plan "{plan}" has {len(plan)} steps, but this run {num_steps}')
        if levels[0] > 1.001 * sigma_max:
            raise Refused(
                f"this Dot was trained up to sigma {sigma_max:.4g}, the run begins at "
                f"{levels[0]:.4g}: use the noise levels of the model that the Dot belongs to"
            )
        steps = Plan((plan.morse * num_steps)[:num_steps])
        extra_args, ones, dtype = extra_args or {}, x.new_ones(x.shape[0]), x.dtype
        x = x.to(torch.promote_types(dtype, torch.float32))
        denoised = x

        def dash(x: Tensor, sigma: Tensor) -> Tensor:
            nonlocal denoised
            denoised = model(x.to(dtype), sigma.to(dtype) * ones, **extra_args).to(x)
            return (x - denoised) / sigma

        def residual(x: Tensor, sigma: Tensor, x_s: Tensor, z_s: Tensor, *before) -> Tensor:
            nonlocal denoised
            eta = dot(x, sigma, x_s, z_s, *before)
            denoised = x - sigma * (z_s + eta)
            return eta

        states = walk(dash, residual, steps, _table(levels, solver, x.dtype), x, ())
        for i, after in enumerate(tqdm(states, total=num_steps, disable=disable)):
            if callback is not None:
                at = {"x": x.to(dtype), "i": i, "sigma": sigmas[i], "sigma_hat": sigmas[i]}
                callback(at | {"denoised": denoised.to(dtype)})
            x = after
        return x.to(dtype)

    return sample_morse


def _levels(sigmas: Tensor) -> list[float]:
    """The noise levels as numbers, checked."""
    if not isinstance(sigmas, Tensor) or sigmas.ndim != 1 or not len(sigmas):
        shape = list(sigmas.shape) if isinstance(sigmas, Tensor) else type(sigmas).__name__
        raise Refused(f"sigmas is {shape}: give a tensor [steps + 1]")
    levels = sigmas.double().tolist()
    for i, (sigma, after) in enumerate(pairwise(levels)):
        if not inf > sigma > after >= 0:
            raise Refused(
                f"sigmas {i} and {i + 1} are {sigma:.4g} and {after:.4g}: noise levels are finite, "
                "each is below the one before it, and none is below 0"
            )
    return levels


def _table(levels: Sequence[float], solver: str, dtype: torch.dtype) -> SolverTable:
    """k-diffusion's step as rows; with q = sigma' / sigma, the ratio to the next level,

        m       = x - sigma z                                           the clean image D
        x_next  = q x + (1 - q) m                                       euler; 2m, first and last
        x_next  = q x + (1 - q) ((1 + 1 / 2r) m - 1 / 2r m_1)           2m

    where r is the last step in log sigma over this one. The timestep is sigma.
    """
    rows = []
    for i, (sigma, after) in enumerate(pairwise(levels)):
        ratio, share = after / sigma, 0.0
        if solver == "dpmpp_2m" and i and after:
            share = log(sigma / after) / log(levels[i - 1] / sigma) / 2
        row = {Column.TIMESTEP: sigma, Column.SCALE: 1.0, Column.LO: -inf, Column.HI: inf}
        row |= {Column.P: 1.0, Column.Q: -sigma, Column.A: ratio}
        row |= {Column.C0: (1 - ratio) * (1 + share), Column.C1: -(1 - ratio) * share}
        rows.append([row.get(column, 0.0) for column in Column])
    rows = torch.tensor(rows, dtype=torch.float64)
    timesteps = torch.tensor(levels[:-1], dtype=dtype)
    return SolverTable(f"k-diffusion {solver}", rows, timesteps, init_noise_sigma=1.0)


def _sigma_max(dot: Dot) -> float:
    alpha_bar = float(dot.levels.alphas_cumprod[-1])
    return ((1 - alpha_bar) / alpha_bar) ** 0.5


def _variance_exploding(dot: Dot, cond: dict) -> Callable[..., Tensor]:
    """A Dot as a residual of (x, sigma).

    It is given x / sqrt(1 + sigma^2) and the timestep at which its own noise levels have sigma.
    """
    if dot.levels.prediction_type != "epsilon":
        raise Refused(
            f"this Dot corrects {dot.levels.prediction_type}, but here z is the noise: use a Dot "
            "of a model with prediction type epsilon, or extrapolate"
        )

    def eta(x: Tensor, sigma: Tensor, x_s: Tensor, z_s: Tensor, sigma_s, z_p, sigma_p) -> Tensor:
        weight = next(dot.parameters())
        given = (x / (1 + sigma**2).sqrt(), x_s / (1 + sigma_s**2).sqrt(), z_s, z_p)
        x_, x_s, z_s, z_p = (tensor.to(weight) for tensor in given)
        t, t_s, t_p = (_timestep(dot, level) for level in (sigma, sigma_s, sigma_p))
        return dot(x_, t, x_s, z_s, t_s, z_p, t_p, **cond).to(x)

    return eta


def _timestep(dot: Dot, sigma: Tensor) -> Tensor:
    """The t, with fractions, at which the Dot's `NoiseLevels.at` has sigma; at most the last."""
    alpha_bar = dot.levels.alphas_cumprod  # falls with t
    wanted = (1 / (1 + sigma.to(alpha_bar) ** 2)).reshape(1)
    low = (torch.searchsorted(-alpha_bar, -wanted) - 1).clamp(0, len(alpha_bar) - 2)
    share = (alpha_bar[low] - wanted) / (alpha_bar[low] - alpha_bar[low + 1])
    return (low + share.clamp(0, 1))[0]
