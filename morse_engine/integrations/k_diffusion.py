"""Morse as a sampler of k-diffusion, the form that ComfyUI and others take their samplers in.

The host gives a function `model(x, sigma, **extra_args)` that returns the clean image D, and the
noise levels; its x is variance-exploding, x = x_0 + sigma noise. In these terms

    z = (x - D) / sigma, the noise that the model sees in x: Dash, asked at the first step and
        wherever else the plan has a `-`
    z = z_s + eta(x, sigma, x_s, z_s, sigma_s, z_p, sigma_p) on a Dot step, which does not ask it
    z = (x - D) / sigma with D on the line through the last two clean images, in log(10 + sigma), on
        a free step (`sampling/free.py`, `sampling/clean.py`)

and the solver is k-diffusion's own, as a table (`sampling/solver.py`) of a few numbers a step.
What D already holds, guidance and a mask for instance, is in z: a Dot works on the guided estimate.

Source: Karras et al. 2022 (arXiv 2206.00364) for x and D; Lu et al. 2022 (arXiv 2211.01095) for
DPM-Solver++ 2M; k-diffusion's sampling.py for the form of a sampler.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from math import inf, log
from typing import Any

import torch
from torch import Tensor

from ..dot.dot import Dot
from ..dot.free import FORM, reuse
from ..dot.free import extrapolate_sigma as extrapolate
from ..dot.helper import Helper, as_helper
from ..dot.levels import NoiseLevels
from ..sampling.clean import place
from ..sampling.free import NO_RANGE, Line, Range, as_range
from ..sampling.loop import walk
from ..sampling.plan import FREE, Plan
from ..sampling.solver import Column, SolverTable
from ..system import checks
from ..system.checks import shown
from ..system.errors import Refused

__all__ = ["extrapolate", "reuse", "sampler"]
SOLVERS = ("euler", "dpmpp_2m")


def sampler(
    plan: Plan | str | None = None,
    dot: Dot | Callable[..., Tensor] | None = None,
    *,
    solver: str = "dpmpp_2m",
    cond: dict | None = None,
    clean_range: Any = None,
) -> Callable[..., Tensor]:
    """A sampler of k-diffusion that asks its model at the Dash steps of a plan only.

    Args:
        plan: Morse code, repeated over the steps of a run, whose number the host chooses: `"-.."`
            asks the model at every third step, and so does `"-::"`, with free steps between. A plan
            of exactly these steps is used as it is. Default: `"-:"`, or `"-."` with a `dot`.
        dot: the residual of Dot steps; default: `extrapolate`, which needs no training, nor does
            `reuse`; they take next to no time, and are the rivals that a Dot has to beat. A `Dot`
            is one whose Dash is the model that the host runs, which cannot be checked here; it is
            used on the device and in the dtype that it is in. Else any
            `eta(x, sigma, x_s, z_s, sigma_s, z_p, sigma_p)`.
        solver: "euler" or "dpmpp_2m" (DPM-Solver++ of order 2), k-diffusion's `sample_euler` and
            `sample_dpmpp_2m` where every step is a Dash.
        cond: what a `Dot` is given by keyword; what the host gives its model is not known here.
        clean_range: (lowest, highest) of the clean images as the host's model returns them, each a
            number or one for each channel: free steps stay within it. Default: the Dot's, if it
            knows; else without bounds.

    Returns:
        `f(model, x, sigmas, extra_args=None, callback=None, disable=None) -> x` for the host, x of
        `[B, C, H, W]`, without a `Dot` also of video or sound, `[B, C, ...]`. Each
        step calls `callback({"x", "i", "sigma", "sigma_hat", "denoised"})`; what it raises ends the
        run. `disable=True` hides the progress bar. It keeps nothing of a run, and of the host's
        model nothing at all.

    Raises:
        Refused: plan, dot or solver do not fit; in f: the plan has more steps than the run, or
            the noise levels are not finite and above 0 but for the last, or two that follow each
            other are equal, which "dpmpp_2m" divides by and "euler" does not. Rising levels, as
            ComfyUI's FlipSigmas makes them, are taken.
    """
    plan = ("-:" if dot is None else "-.") if plan is None else plan
    plan = plan if isinstance(plan, Plan) else Plan(plan)
    if cond is not None and not isinstance(cond, dict):
        raise Refused(f"cond={shown(cond)}: a dict of what the Dot is given by keyword")
    if not isinstance(solver, str) or solver not in SOLVERS:
        raise Refused(f"solver={shown(solver)}: choose {' or '.join(SOLVERS)}")
    helper = as_helper(extrapolate if dot is None else dot).merged()
    known = helper.clean_range if clean_range is None else clean_range
    held = NO_RANGE if known is None else as_range(known)
    levels = helper.levels
    if levels is None:
        return _Sampler(plan, helper, solver, held, inf, FORM).sample_morse
    # Its times are timesteps, not noise levels.
    eta = _variance_exploding(helper, levels, cond or {})
    made = _Sampler(plan, eta, solver, held, _sigma_max(levels), "[B, C, H, W]")
    return made.sample_morse


class _Sampler:
    """A plan with a residual and a solver, for runs of any number of steps."""

    def __init__(
        self,
        plan: Plan,
        dot: Callable[..., Tensor],
        solver: str,
        held: Range,
        sigma_max: float,
        form: str,
    ):
        self.plan, self.dot, self.solver = plan, dot, solver
        self.held, self.sigma_max, self.form = held, sigma_max, form

    @torch.no_grad()
    def sample_morse(
        self,
        model: Callable[..., Tensor],
        x: Tensor,
        sigmas: Tensor,
        extra_args: dict | None = None,
        callback: Callable[[dict], None] | None = None,
        disable: bool | None = None,
    ) -> Tensor:
        """What `sampler` returns."""
        from tqdm.auto import tqdm

        levels = _levels(sigmas, self.solver)
        checks.tensor("x", x, self.form)
        if extra_args is not None and not isinstance(extra_args, Mapping):
            raise Refused(f"extra_args={shown(extra_args)}: a dict of keywords of the model")
        keywords = list(extra_args or {})
        if wrong := [key for key in keywords if not isinstance(key, str)]:
            raise Refused(f"extra_args has the key {shown(wrong[0])}: names of keywords")
        checks.function("model", model, "a function of x, sigma and extra_args", 2, keywords)
        if callback is not None:
            checks.function("callback", callback, "a function of a dict", 1)
        disable = None if disable is None else checks.flag("disable", disable)
        if len(levels) == 1:  # a host that splits its levels may leave one: nothing to do
            return x
        plan, dtype = self._plan(levels), x.dtype
        host = _Host(model, self.dot, extra_args or {}, x.new_ones(len(x)))
        x = x.to(torch.promote_types(dtype, torch.float32))
        table = _table(levels, self.solver, x.dtype).with_range(self.held).for_plan(plan)
        states = walk(host.dash, host.residual, plan, table, x, ())
        for i, after in enumerate(tqdm(states, total=len(plan), disable=disable)):
            if callback is not None:
                if plan.morse[i] == FREE:
                    assert host.line is not None  # a plan begins with Dash
                    host.denoised = table.clean(i, x, table.free(i, x, host.line))
                at = {"x": x.to(dtype), "i": i, "sigma": sigmas[i], "sigma_hat": sigmas[i]}
                callback(at | {"denoised": host.denoised.to(dtype)})
            x = after
        return x.to(dtype)

    def _plan(self, levels: list[float]) -> Plan:
        """The plan of a run between these levels."""
        plan, num_steps = self.plan, len(levels) - 1
        if len(plan) > num_steps:
            raise Refused(
                f"{shown(plan)} has {len(plan)} steps, but this run {num_steps}: shorten the plan, "
                "or take more steps"
            )
        if max(levels) > 1.001 * self.sigma_max:
            raise Refused(
                f"this Dot was trained up to sigma {self.sigma_max:.4g}, the run "
                f"{'begins at' if levels[0] == max(levels) else 'goes up to'} "
                f"{max(levels):.4g}: use the noise levels of the model that the Dot belongs to"
            )
        return Plan((plan.morse * num_steps)[:num_steps])


class _Host:
    """The host's model as Dash, and a residual: both keep the clean image of the step they make.

    Attributes:
        denoised: that of the last step.
        line: those of the last two calls; None before the first.
    """

    denoised: Tensor

    def __init__(
        self,
        model: Callable[..., Tensor],
        dot: Callable[..., Tensor],
        extra_args: dict[str, Any],
        ones: Tensor,
    ):
        self._model, self._dot, self._extra_args = model, dot, extra_args
        self._ones = ones  # one for each image, in the dtype of the host's
        self.line: Line | None = None

    def dash(self, x: Tensor, sigma: Tensor) -> Tensor:
        given = x.to(self._ones.dtype), sigma.to(self._ones.dtype) * self._ones
        denoised = self._model(*given, **self._extra_args)
        if not isinstance(denoised, Tensor) or denoised.shape != x.shape:
            raise Refused(f"model returned {shown(denoised)}: the clean image has the shape of x")
        self._say(denoised.to(x))
        return (x - self.denoised) / sigma

    def residual(
        self, x: Tensor, sigma: Tensor, x_s: Tensor, z_s: Tensor, *before: Tensor
    ) -> Tensor:
        eta = self._dot(x, sigma, x_s, z_s, *before)
        self._say(x - sigma * (z_s + eta))
        return eta

    def _say(self, clean: Tensor) -> None:
        self.denoised, self.line = clean, Line.after(self.line, clean)


def _levels(sigmas: Any, solver: str) -> list[float]:
    """The noise levels as numbers, checked."""
    if not isinstance(sigmas, Tensor) or sigmas.ndim != 1 or not len(sigmas):
        shape = list(sigmas.shape) if isinstance(sigmas, Tensor) else type(sigmas).__name__
        raise Refused(f"sigmas is {shape}: give a tensor [steps + 1]")
    levels = sigmas.tolist()  # in float64, which is not on every device
    for i, (sigma, after) in enumerate(pairwise(levels)):
        if not (inf > sigma > 0 and inf > after >= 0):
            raise Refused(
                f"sigmas {i} and {i + 1} are {sigma:.4g} and {after:.4g}: noise levels are finite, "
                "and above 0 but for the last"
            )
        if solver == "dpmpp_2m" and sigma == after:
            raise Refused(
                f'sigmas {i} and {i + 1} are both {sigma:.4g}, which "dpmpp_2m" divides by: use '
                'solver="euler", or each level once'
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
        row |= {Column.U: 1.0, Column.V: -sigma}
        row |= {Column.C0: (1 - ratio) * (1 + share), Column.C1: -(1 - ratio) * share}
        rows.append([row.get(column, 0.0) for column in Column])
    coefficients = torch.tensor(rows, dtype=torch.float64)
    timesteps = torch.tensor(levels[:-1], dtype=dtype)
    places = torch.tensor([place(sigma) for sigma in levels[:-1]], dtype=torch.float64)
    return SolverTable(f"k-diffusion {solver}", coefficients, timesteps, 1.0, places=places)


def _sigma_max(levels: NoiseLevels) -> float:
    alpha_bar = float(levels.alphas_cumprod[-1])
    return ((1 - alpha_bar) / alpha_bar) ** 0.5


def _variance_exploding(
    dot: Helper, levels: NoiseLevels, cond: dict[str, Any]
) -> Callable[..., Tensor]:
    """A Dot as a residual of (x, sigma).

    It is given x / sqrt(1 + sigma^2) and the timestep at which its own noise levels have sigma.
    """
    if levels.prediction_type != "epsilon":
        raise Refused(
            f"this Dot corrects {levels.prediction_type}, but here z is the noise: use a Dot "
            "of a model with prediction type epsilon, or extrapolate"
        )

    def eta(
        x: Tensor,
        sigma: Tensor,
        x_s: Tensor,
        z_s: Tensor,
        sigma_s: Tensor,
        z_p: Tensor,
        sigma_p: Tensor,
    ) -> Tensor:
        weight = next(dot.parameters())
        given = (x / (1 + sigma**2).sqrt(), x_s / (1 + sigma_s**2).sqrt(), z_s, z_p)
        x_, x_s, z_s, z_p = (tensor.to(weight) for tensor in given)
        t, t_s, t_p = map(levels.timestep, (sigma, sigma_s, sigma_p))
        return dot(x_, t, x_s, z_s, t_s, z_p, t_p, **cond).to(x)

    return eta
