"""Reading the rows of a solver's table off a diffusers scheduler; the form is in `solver.py`.

Why probing is exact. The numbers come from the scheduler itself. Except for the clamp, `step()` is
linear in its tensors, so a few dozen random elements over-determine at most eight numbers: a least
squares fit returns them to float64 rounding, and one that leaves a residual proves that the
scheduler is not of this form. The clamp is part of the fit: probes are chosen so that about half of
them hit it, the bounds are `clip_sample_range`. The scheduler's scalars stay as it computes them
(float32); its casts of tensors to float32 are bypassed, see `_Double`.
"""

import copy
import difflib
import inspect
from bisect import bisect_left
from enum import IntEnum
from itertools import product
from math import inf
from typing import Any

import torch
from torch import Tensor

from ..system import checks
from ..system.errors import Refused
from .clean import clean


class Column(IntEnum):
    """The columns of a row; the form is in `solver.py`, U, V, SLOPE and FREE are in `free.py`."""

    TIMESTEP, SCALE, P, Q, LO, HI, A, B, C0, C1, C2, C3, D, U, V, SLOPE, FREE = range(17)


HISTORY = (Column.C1, Column.C2, Column.C3)

# These start a step from an x that they saved, so they are probed along their own run only.
_SAVES_X = ("DPMSolverSinglestep", "UniPCMultistep", "PNDM", "HeunDiscrete")
_SUPPORTED = (
    "DDPM",
    "DDIM",
    "DPMSolverMultistep",
    "EulerDiscrete",
    "EulerAncestralDiscrete",
    "LCM",
    "DEISMultistep",
    "FlowMatchEulerDiscrete",
    "ScoreSdeVp",
    "ScoreSdeVe",
    *_SAVES_X,
)

_LEARNED = "'fixed_small' (None for a DPM-Solver) and a model without variance channels"
_REFUSED = {
    ("thresholding", True): "thresholding=False: a quantile of each image is not linear",
    ("variance_type", "learned"): _LEARNED,
    ("variance_type", "learned_range"): _LEARNED,
    ("variance_type", "fixed_large_log"): "'fixed_large': diffusers' own step() gives NaN here",
    ("skip_prk_steps", False): "skip_prk_steps=True: that start reaches back twelve calls",
}

_SHAPE = (1, 1, 8, 8)
# Of the largest element. A right form leaves 1e-12, a wrong one 1e-5, and the noise of 1e-10 that
# DDPM has in place of zero is left out.
_TOLERANCE = 1e-8


def check(scheduler: Any, num_steps: int, eta: float) -> str:
    """The name of a scheduler that may have a table; ValueError for one that has none."""
    if isinstance(scheduler, type):
        raise Refused(f"scheduler is {checks.kind(scheduler)}: pass an object of it")
    cls, kind = type(scheduler).__name__, kind_of(scheduler)
    if kind is None:
        near = difflib.get_close_matches(cls.removesuffix("Scheduler"), _SUPPORTED, 1, 0.0)[0]
        raise Refused(
            f"{cls} has no solver table; the nearest supported one is diffusers' {near}Scheduler, "
            f"all of them: {', '.join(_SUPPORTED)}"
        )
    if any(not _is_of_diffusers(scheduler, name) for name in ("step", "step_pred")):
        raise Refused(
            f"{cls} has a step() of its own, which may be anything: it has no solver table, use "
            f"diffusers' {kind}Scheduler"
        )
    options = _options(scheduler)
    for (option, value), advice in _REFUSED.items():
        if options.get(option) == value:
            raise Refused(f"{cls} with {option}={value!r} has no solver table; use {advice}")
    most = options["num_train_timesteps"]
    try:
        checks.integer("steps", num_steps, 1, most)
    except Refused:
        raise Refused(
            f"{cls}: {checks.shown(num_steps)} steps; use an int from 1 to num_train_timesteps = "
            f"{most}"
        ) from None
    eta = checks.number("eta", eta)
    if eta < 0 or (eta and kind != "DDIM"):
        raise Refused(f"{cls} with eta={eta}: use DDIMScheduler with an eta from 0 to 1, or 0")
    details = [f"order {options['solver_order']}"] if "solver_order" in options else []
    details += [f"eta {eta:g}"] if eta else []
    return f"{cls}({', '.join(details)})" if details else cls


def kind_of(scheduler: Any) -> str | None:
    """The supported diffusers class that this object is an instance of, without "Scheduler"."""
    for cls in type(scheduler).__mro__:
        kind = cls.__name__.removesuffix("Scheduler")
        if kind in _SUPPORTED and cls.__module__.startswith("diffusers."):
            return kind
    return None


def _is_of_diffusers(scheduler: Any, name: str) -> bool:
    """Whether the class has this method from diffusers, if at all: of another one nobody can see by
    some tensors alone what it does."""
    method = getattr(type(scheduler), name, None)
    return method is None or getattr(method, "__module__", "").startswith("diffusers.")


def _options(scheduler: Any) -> dict:
    """The options that this class takes; a config may carry those of other classes along."""
    taken = inspect.signature(type(scheduler).__init__).parameters
    return {option: value for option, value in scheduler.config.items() if option in taken}


def prepare(scheduler: Any, num_steps: int) -> Any:
    """A copy on the CPU, set to `num_steps` steps, at the first of them."""
    if _options(scheduler).get("use_dynamic_shifting"):
        raise Refused(
            f"{type(scheduler).__name__} with use_dynamic_shifting=True has no solver table before "
            "a pipeline has set it; use use_dynamic_shifting=False and a fixed shift"
        )
    scheduler = _on_cpu(scheduler)
    try:
        scheduler.set_timesteps(num_steps, device="cpu")
        if hasattr(scheduler, "set_sigmas"):
            scheduler.set_sigmas(num_steps)
    except Exception as error:
        name = type(scheduler).__name__
        raise Refused(f"{name} cannot be set to {num_steps} steps: {error}") from error
    if hasattr(scheduler, "set_begin_index"):
        # Otherwise the place is looked up by the first timestep, wrongly where that is repeated.
        scheduler.set_begin_index(0)
    return scheduler


def at(scheduler: Any, first: int) -> Any:
    """A copy on the CPU of a scheduler that is set to its timesteps, before call `first`."""
    scheduler = _on_cpu(scheduler)
    if hasattr(scheduler, "set_begin_index"):
        scheduler._step_index = None  # scale_model_input may have looked it up
        scheduler.set_begin_index(first)
    return scheduler


def steps_for_calls(scheduler: Any, num_calls: int) -> int:
    """The number of steps with which a scheduler makes `num_calls` model calls.

    Raises:
        Refused: there is none; the message names the nearest numbers of calls.
    """

    def calls(num_steps: int) -> int:
        return len(prepare(scheduler, num_steps).timesteps)

    num_steps = num_calls
    if calls(num_steps) != num_calls:  # a step is one call or more, and calls grow with steps
        num_steps = 1 + bisect_left(range(1, num_calls + 1), num_calls, key=calls)
    if calls(num_steps) != num_calls:
        near = " or ".join(str(calls(n)) for n in sorted({max(1, num_steps - 1), num_steps}))
        name = type(scheduler).__name__
        raise Refused(f"{name} cannot make {num_calls} model calls; nearest: {near}")
    return num_steps


def _on_cpu(scheduler: Any) -> Any:
    """A copy on the CPU that its owner does not see: with the methods of its class.

    A method that was replaced on the object itself, to watch it for instance, is left out: it may
    hold the object, and would step that.
    """
    twin = copy.copy(scheduler)
    for name in [name for name in vars(twin) if callable(getattr(type(twin), name, None))]:
        delattr(twin, name)
    twin = copy.deepcopy(twin)
    for name, value in vars(twin).items():
        if isinstance(value, Tensor):
            setattr(twin, name, value.cpu())
    return twin


def model_timesteps(scheduler: Any) -> Tensor:
    if kind_of(scheduler) == "ScoreSdeVp":  # t is in (0, 1], models count the training steps
        return scheduler.timesteps * (scheduler.config.num_train_timesteps - 1)
    return (scheduler.sigmas if kind_of(scheduler) == "ScoreSdeVe" else scheduler.timesteps).clone()


class _Double(Tensor):
    """A float64 tensor that stays float64 where a scheduler casts its tensors to float32."""

    def to(self, *args: Any, **kwargs: Any) -> "_Double":
        return self


def _randn(generator: torch.Generator) -> Tensor:
    return torch.randn(_SHAPE, generator=generator, dtype=torch.float64).as_subclass(_Double)


@torch.no_grad()
def rows(name: str, scheduler: Any, timesteps: Tensor, eta: float, first: int = 0) -> Tensor:
    """All rows: takes the scheduler through a run on random tensors and fits each of its steps.

    Args:
        scheduler: set to its timesteps, before call `first`; it is used up.
    """
    kind, options = kind_of(scheduler), _options(scheduler)
    hi = float(options["clip_sample_range"]) if options.get("clip_sample") else inf
    generator = torch.Generator().manual_seed(0)
    twin = copy.deepcopy(scheduler)
    x = _randn(generator)
    history: list[Tensor] = []
    found: list[list[float]] = []
    for i, t in enumerate(scheduler.timesteps[first:], first):
        try:
            scale = 1.0
            if hasattr(scheduler, "scale_model_input"):
                one = torch.ones(1, dtype=torch.float64)
                scale = scheduler.scale_model_input(one, t).item()
                twin.scale_model_input(one, t)  # Euler's step() warns if it was not called
            # Tiny probes of a second scheduler show the estimate below the clamp.
            tiny = {Column.P: 1e-9 * _randn(generator), Column.Q: 1e-9 * _randn(generator)}
            _, of_tiny, _ = _call(twin, i, tiny[Column.P], tiny[Column.Q], eta, generator)
            estimate = _solve(of_tiny, tiny)
            if estimate is None:
                raise ArithmeticError("its estimate is not finite")
            p, q = estimate.values()
            # z is chosen such that m is of order one, or on both sides of the clamp.
            z = ((1.0 if hi == inf else 1.2 * hi) * _randn(generator) - p * x) / q
            x_next, _, noise = _call(scheduler, i, x, z, eta, generator)
            if not x_next.isfinite().all():
                raise ArithmeticError("its x is not finite")
        except Exception as error:
            raise Refused(
                f"{name}: diffusers' own step() fails in call {i} of {len(timesteps)} ({error}); "
                "use final_sigmas_type='sigma_min' if that is where the noise reaches zero, "
                "prediction_type='v_prediction' if the signal is zero, else a lower order"
            ) from error
        m = (p * x + q * z).clamp(-hi, hi)
        row = _fit(x_next, x, z, m, history, noise, clamped=hi < inf)
        if row is None:
            raise Refused(
                f"{name} has no solver table: call {i} of {len(timesteps)} is not linear in x, z, "
                "the last three estimates and its noise; use order 1 or a multistep solver"
            )
        if kind == "PNDM" and i == first + 1:
            # PNDM drops its second output from the history, so its fifth call reaches back four
            # calls, one too many. With m = A x + B z here, the second call's share of x_next, that
            # oldest output becomes a difference of x_next and this m.
            p, q = row[Column.A], row[Column.C0]
            m = p * x + q * z
            row |= {Column.A: 0.0, Column.C0: 1.0}
        row |= {Column.TIMESTEP: timesteps[i].item(), Column.SCALE: scale}
        row |= dict(zip((Column.U, Column.V), clean(kind, twin, i), strict=True))
        row |= {Column.P: p, Column.Q: q, Column.LO: -hi, Column.HI: hi}
        found.append([row.get(column, 0.0) for column in Column])
        history = [m, *history][: len(HISTORY)]
        x = x_next if kind in _SAVES_X else _randn(generator)
    return torch.tensor(found, dtype=torch.float64)


def _call(
    scheduler: Any, i: int, x: Tensor, z: Tensor, eta: float, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """(x_next, the estimate before it, the noise) of one step of the scheduler."""
    seed = int(torch.randint(2**62, (), generator=generator))
    noise = _randn(torch.Generator().manual_seed(seed))  # the draw that the scheduler will make
    options: dict[str, Any] = {"generator": torch.Generator().manual_seed(seed)}
    t, last = scheduler.timesteps[i], i == len(scheduler.timesteps) - 1
    match kind_of(scheduler):  # both return (x, its mean without the noise)
        case "ScoreSdeVp":
            return scheduler.step_pred(z, x, t, **options)[last], z, noise
        case "ScoreSdeVe":
            return scheduler.step_pred(z, t, x, **options, return_dict=False)[last], z, noise
    options |= {"variance_noise": noise, "eta": eta}
    accepted = inspect.signature(scheduler.step).parameters
    if "variance_noise" in accepted:
        del options["generator"]  # one or the other
    out = scheduler.step(z, t, x, **{k: v for k, v in options.items() if k in accepted})
    if hasattr(scheduler, "model_outputs"):  # the multistep and single-step families
        estimate = scheduler.model_outputs[-1]
    elif "denoised" in out:  # LCM mixes its x0 with x
        skip, weight = scheduler.get_scalings_for_boundary_condition_discrete(t)
        estimate = (out.denoised - skip * x) / weight
    else:
        estimate = out.get("pred_original_sample", z)
    return out.prev_sample, estimate, noise


def _fit(
    x_next: Tensor,
    x: Tensor,
    z: Tensor,
    m: Tensor,
    history: list[Tensor],
    noise: Tensor,
    *,
    clamped: bool,
) -> dict[Column, float] | None:
    """The fewest columns that give x_next; z is one only where the clamp makes it differ from m."""
    choices = product((0, 1), range(len(history) + 1), (0, 1) if clamped else (0,))
    for with_noise, depth, with_z in sorted(choices, key=sum):
        columns = {Column.A: x, Column.C0: m, **dict(zip(HISTORY, history[:depth], strict=False))}
        columns |= ({Column.B: z} if with_z else {}) | ({Column.D: noise} if with_noise else {})
        if (row := _solve(x_next, columns)) is not None:
            return row
    return None


def _solve(y: Tensor, columns: dict[Column, Tensor]) -> dict[Column, float] | None:
    """Coefficients with y = sum of coefficient * column, None where there are none."""
    matrix = torch.stack([column.flatten() for column in columns.values()], 1).as_subclass(Tensor)
    norms = matrix.norm(dim=0)
    y = y.flatten().as_subclass(Tensor)
    solution = torch.linalg.lstsq(matrix / norms, y[:, None]).solution[:, 0]
    error = (matrix / norms @ solution - y).abs().max()
    if not error <= _TOLERANCE * y.abs().max():
        return None
    solution[solution.abs() < 1e-11 * y.norm()] = 0  # the rounding of a column that is not used
    return dict(zip(columns, (solution / norms).tolist(), strict=True))
