"""One call of an accelerated pipeline: what its loop is given in the place of model and scheduler.

The pipeline's own code runs from its first line to its last. In its loop it calls

    control = controlnet(x, t, ...)      where there is one
    z       = unet(x, t, ...)
    latents = scheduler.step(z, t, latents, ...)

and each of the three is this object's. When the first of them is called, all is known that decides
how the loop is served: as a whole (`whole.py`) or step by step (`step_by_step.py`).

Noise. What the pipeline draws, the first latents above all, is its own. What a stochastic solver
adds on the way is `noise.normal` of one seed for each image, in both ways; the seeds are drawn from
the pipeline's generator at the first step. So the same generator gives the same image, with a
callback and without, but not that of the pipeline before `accelerate`. A scheduler without a
solver's table draws its noise itself.
"""

import copy
from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..engine import Sampler
from ..sampling.free import NO_RANGE, Range
from ..sampling.plan import DASH, Plan
from ..sampling.solver import SolverTable
from ..system.errors import Refused, Unavailable
from .proxies import stand_in
from .step_by_step import StepByStep
from .way import Residuals, Way
from .whole import Whole

PASSED_ON = ("unet", "scheduler", "controlnet")


class Call:
    """The loop of one call.

    Args:
        pipe: the pipeline.
        sampler: the compiled models.
        plan: of the whole run; None: as many Dash steps as the pipeline asks for.
        arguments: those of the call, by name, with their defaults.
        why: reasons to go step by step that are known already.
        tables: `tables(scheduler, first, eta) -> SolverTable`.
        latents: the range of free steps where neither models nor scheduler know one.
        must_be_whole: refuse to go step by step.

    Attributes:
        why: the reasons to go step by step; "" for the whole loop.
        way: how the loop is served; None before it has begun.
    """

    def __init__(
        self,
        pipe: Any,
        sampler: Sampler,
        plan: Plan | None,
        arguments: dict[str, Any],
        why: str,
        tables: Callable[[Any, int, float], SolverTable],
        latents: Range,
        must_be_whole: bool,
    ):
        self.pipe, self.sampler, self.why = pipe, sampler, why
        self.way: Way | None = None
        self._plan, self._arguments = plan, arguments
        self._tables, self._latents, self._must_be_whole = tables, latents, must_be_whole
        self._real = {name: vars(pipe)[name] for name in PASSED_ON if name in vars(pipe)}
        self._scheduler: Any = None  # in the place of the pipeline's, during the call

    # -- in and out of the pipeline ------------------------------------------------------------

    def __enter__(self) -> "Call":
        real = self._real
        self._scheduler = stand_in(real["scheduler"], "step", self.step, own_state=True)
        places = {
            "scheduler": self._scheduler,
            "unet": stand_in(real["unet"], "__call__", self.unet),
        }
        if real.get("controlnet") is not None:
            places["controlnet"] = stand_in(real["controlnet"], "__call__", self.controlnet)
        vars(self.pipe).update(places)  # not by setattr, which registers what it is given
        return self

    def __exit__(self, *_: object) -> None:
        vars(self.pipe).update(self._real)
        if self.way is not None:
            self.way.end()
        self._scheduler, self._arguments = None, {}

    # -- what the pipeline calls ---------------------------------------------------------------

    def controlnet(self, sample: Tensor, timestep: Tensor, **cond: Any) -> Residuals:
        """In the place of the ControlNet, which runs on Dash steps only."""
        why = "guess_mode" if cond.get("guess_mode") else ""
        return self._begun(timestep, why).controlnet(sample, timestep, cond)

    def unet(
        self, sample: Tensor, timestep: Tensor, *, return_dict: bool = True, **cond: Any
    ) -> "_Output | tuple[Tensor]":
        """In the place of the unet."""
        z = self._begun(timestep).unet(sample, timestep, cond)
        return _Output(sample=z) if return_dict else (z,)

    def step(
        self,
        z: Tensor,
        timestep: Tensor,
        x: Tensor,
        *args: Any,
        return_dict: bool = True,
        **options: Any,
    ) -> "_Output | tuple[Tensor, Tensor | None]":
        """In the place of the scheduler's."""
        assert self.way is not None  # the unet was called before
        out = self.way.step(z, timestep, x, *args, **options)
        return _Output(prev_sample=out[0], denoised=out[1]) if return_dict else out

    def interrupted(self) -> None:
        """The pipeline has seen that it is interrupted: its latents become those reached by now."""
        if self.way is not None:
            self.way.interrupted()

    # -- how the loop is served ----------------------------------------------------------------

    def _begun(self, timestep: Tensor, why: str = "") -> Way:
        """The way of this loop, chosen at its first model call."""
        if self.way is not None:
            return self.way
        first, plan = self._part(timestep)
        table, untold = None, "use_clipped_model_output"
        if not self._arguments.get("use_clipped_model_output"):
            try:
                table = self._table(first, len(plan))
            except ValueError as error:
                untold = str(error)
        if table is None and plan.num_free:
            raise Refused(f'plan "{plan}" has free steps, which this call has not ({untold})')
        self.why = self.why or why or ("" if table is not None else untold)
        table = table.for_plan(plan) if table is not None else None
        if self.why and self._must_be_whole:
            raise Unavailable(refusal(self.why, self.sampler.backend))
        kind: type[Way] = StepByStep if self.why else Whole
        self.way = kind(
            self.pipe, self.sampler, self._real, self._scheduler, plan, table, self._arguments
        )
        return self.way

    def _part(self, timestep: Tensor) -> tuple[int, Plan]:
        """Where in the scheduler's timesteps this loop begins, and its part of the plan."""
        calls, plan = len(self._scheduler.timesteps), self._plan
        if plan is not None and len(plan) != calls:
            raise Refused(
                f'the plan "{plan}" has {len(plan)} steps, the timesteps or sigmas of this call '
                f"make {calls}: give others, or accelerate with a plan of {calls}"
            )
        morse = plan.morse if plan is not None else DASH * calls
        count = getattr(self.pipe, "_num_timesteps", calls)
        first = _first(self._scheduler, timestep, count)
        count = min(count, _before(self._scheduler, first, self._arguments.get("denoising_end")))
        return first, Plan(DASH + morse[first + 1 : first + count])

    def _table(self, first: int, count: int) -> SolverTable:
        """The solver of `count` calls from `first` on, with the range of their free steps."""
        settled = copy.copy(self._scheduler)
        settled.__class__ = type(self._real["scheduler"])  # whose step() is to be read
        table = self._tables(settled, first, self._arguments.get("eta") or 0.0)
        known = self.sampler.models.clean_range
        if known is None and table.clean_range == NO_RANGE:
            known = self._latents
        table = table if known is None else table.with_range(known)
        return table.up_to(count)


class _Output(dict):
    """The fields of an output that pipelines read."""

    __getattr__ = dict.__getitem__


def refusal(why: str, backend: str) -> str:
    """What is said where a call has to go step by step, and the backend does not."""
    return (
        f'backend="{backend}" runs whole loops, and this call has to go step by step ({why}): '
        'accelerate with backend="auto", or leave that out'
    )


def _first(scheduler: Any, timestep: Tensor, count: int) -> int:
    """Where in the scheduler's timesteps a loop of `count` steps begins."""
    begin = getattr(scheduler, "begin_index", None)
    if begin is not None:
        return begin
    times = scheduler.timesteps
    last = len(times) - count  # a loop that was cut at its start; timesteps may be repeated
    return last if times[last] == timestep else int((times == timestep).nonzero()[0])


def _before(scheduler: Any, first: int, denoising_end: Any) -> int:
    """How many timesteps from `first` on lie before `denoising_end`, as pipelines count them.

    Some say in `_num_timesteps` how many there are without it.
    """
    times = scheduler.timesteps[first:]
    if not isinstance(denoising_end, float) or not 0 < denoising_end < 1:
        return len(times)
    total = scheduler.config.num_train_timesteps
    return int((times >= round(total - denoising_end * total)).sum())
