"""`accelerate(pipe, dot)`: a diffusers pipeline whose loop is run by a sampler.

    morse_engine.accelerate(pipe, dot, plan="-..-..-..")
    images = pipe("a lighthouse", generator=generator).images
    morse_engine.restore(pipe)

The pipeline keeps its signature, its outputs and its own code; `call.py` says what happens within a
call. Between calls nothing of it is changed but its class, which is a subclass that runs its
`__call__`. How its calls are served:

    whole loop     text to image, image to image, inpainting with a unet of 9 channels, ControlNet
    step by step   with `callback_on_step_end` or `callback`, with `guidance_rescale`, inpainting
                   with a unet of 4 channels (the pipeline mixes the image in after each step),
                   ControlNet with `guess_mode` or for a part of the run, schedulers without a
                   solver's table

What a call asks for and how that meets the plan:

- The plan says how many steps there are, so `num_inference_steps` can be left out; another number
  than the plan's is an error. Without plan, budget and Dot, the call says it, and all are Dash's.
- `strength`, `denoising_start` and `denoising_end` make a part of the plan. It begins with a Dash.
- ControlNet runs on Dash steps only. A Dot step corrects Dash's last estimate, which has seen its
  residuals; Dot itself is not given them.
- A Dot is given the keywords that the unet is given, without those that are None.

Noise: see `call.py`. The scheduler of the pipeline is read, never stepped.
"""

import functools
import inspect
import threading
from collections import OrderedDict
from dataclasses import dataclass

from torch import Tensor

from ..engine import Sampler, compile
from ..engine.report import Report
from ..sampling import probe
from ..sampling.budget import DEFAULT_BUDGET
from ..sampling.plan import Plan
from ..sampling.solver import SolverTable
from ..system.errors import Refused, Unavailable
from .call import Call, refusal
from .example import plan_of
from .proxies import Dash, without_dash_only

SUPPORTED = (
    "DDPMPipeline",
    "DDIMPipeline",
    "StableDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionInpaintPipeline",
    "StableDiffusionXLPipeline",
    "StableDiffusionXLImg2ImgPipeline",
    "StableDiffusionXLInpaintPipeline",
    "LatentConsistencyModelPipeline",
    "LatentConsistencyModelImg2ImgPipeline",
    "StableDiffusionControlNetPipeline",
    "StableDiffusionControlNetImg2ImgPipeline",
    "StableDiffusionControlNetInpaintPipeline",
    "StableDiffusionXLControlNetPipeline",
    "StableDiffusionXLControlNetImg2ImgPipeline",
    "StableDiffusionXLControlNetInpaintPipeline",
)
NUM_TABLES = 16  # tables that are kept: reading one takes milliseconds a step


def accelerate(
    pipe,
    dot=None,
    *,
    plan: Plan | str | None = None,
    budget: float | None = None,
    dot_speed: float | None = None,
    backend: str = "auto",
) -> "Accelerated":
    """Run the loop of a diffusers pipeline by Morse, with the pipeline's own call.

    Args:
        pipe: a pipeline of `SUPPORTED`, on its device and in its dtype; it is changed in place,
            and used as before.
        dot: the `Dot` of `pipe.unet`, or a callable as in `compile`; None for Dash steps only.
        plan: Morse code or a `Plan`, the model calls of a whole run. Default: a budget of 10 LSD
            with a Dot; as many Dash steps as each call asks for without.
        budget: in LSD, in the place of a plan.
        dot_speed: N, to spend a budget. Default: measured here, one image, with guidance where the
            pipeline has it.
        backend: as in `compile`. "host" and "device" refuse calls that have to go step by step.

    Returns:
        an `Accelerated`, whose `report()` says what the last call has run and why.

    Raises:
        Refused: a pipeline, a Dot or a plan that does not fit, or is accelerated already.
        Unavailable: the backend is not available; or the pipeline's models are offloaded.
    """
    _check_pipeline(pipe)
    if plan is not None and budget is not None:
        raise Refused(f"plan={plan!r} and budget={budget!r}: give one of the two")
    plan = Plan(plan) if isinstance(plan, str) else plan
    if plan is not None and not isinstance(plan, Plan):
        raise Refused(f"plan={plan!r}: a Plan or Morse code; a number of LSD is a budget=")
    unet, controlnet = pipe.unet, getattr(pipe, "controlnet", None)
    size, channels = unet.config.sample_size, unet.config.out_channels
    if size is not None:
        size = (channels, *((size, size) if isinstance(size, int) else size))
    if controlnet is not None or unet.config.in_channels > channels:
        compiled_dot = without_dash_only(dot) if dot is None or callable(dot) else dot
    else:
        compiled_dot = dot
    sampler = compile(
        Dash(unet, controlnet),
        compiled_dot,
        plan="-",
        shape=size,
        backend=backend,
        merge_dot=compiled_dot is dot,
    )
    if plan is None and (budget is not None or dot is not None):
        plan = plan_of(DEFAULT_BUDGET if budget is None else budget, dot_speed, pipe, sampler)
    if plan is not None:
        if plan.num_dot and dot is None:
            raise Refused(f'plan "{plan}" has {plan.num_dot} Dot steps, but there is no dot')
        probe.steps_for_calls(pipe.scheduler, len(plan))
    accelerated = Accelerated(pipe, sampler, plan, backend)
    pipe.__class__ = accelerated.pipeline_class
    return accelerated


def restore(pipe) -> None:
    """Undo `accelerate`: the pipeline is as it was before.

    Raises:
        Refused: it is not accelerated.
    """
    accelerated = _accelerated(pipe)
    if accelerated is None:
        raise Refused(f"this {type(pipe).__name__} is not accelerated: nothing to restore")
    pipe.__class__ = accelerated.original_class
    if pipe is accelerated.pipe:
        accelerated.sampler.free()


@dataclass(frozen=True)
class LoopReport:
    """How the last call of an accelerated pipeline was served.

    Attributes:
        path: "whole loop" or "step by step"; "none" before any call.
        why: what made it go step by step; "" for a whole loop.
        plan: of its steps; before any call that of all calls, None if each call says it.
        num_dash, num_dot: steps that each has made.
        notes: steps that were not made as planned.
        solver: the table's name; None where the scheduler made the steps.
        sampler: what the sampler runs, its captures and its memory.
    """

    path: str
    why: str
    plan: Plan | None
    num_dash: int
    num_dot: int
    notes: list[str]
    solver: str | None
    sampler: Report

    def __str__(self) -> str:
        plan = f"{self.plan}" if self.plan is not None else "Dash steps, as many as a call asks for"
        eager = " (eager)" if self.path == "step by step" else ""
        lines = [
            f"path      {self.path}" + (f" ({self.why})" if self.why else ""),
            f"plan      {plan}   (made: {self.num_dash} Dash, {self.num_dot} Dot)",
            f"solver    {self.solver or 'the scheduler itself'}",
            f"backend   {self.sampler.backend} on {self.sampler.device}{eager}",
            *(f"note      {note}" for note in self.notes),
        ]
        return "\n".join(lines)


class Accelerated:
    """A pipeline whose loop is run by a sampler; made by `accelerate`.

    Attributes:
        pipe: the pipeline.
        plan: of a whole run; None if each call says how many Dash steps.
        sampler: the compiled models. Its captures are dropped by `restore`.
    """

    def __init__(self, pipe, sampler: Sampler, plan: Plan | None, backend: str):
        self.pipe, self.sampler, self.plan = pipe, sampler, plan
        self.original_class = cls = type(pipe)
        self._whole_only = backend in ("host", "device")
        self._parts = _parts(pipe)
        self._tables: OrderedDict[tuple, SolverTable] = OrderedDict()
        self._turn = threading.RLock()
        self._call: Call | None = None  # the one in progress
        self._last: Call | None = None

        @functools.wraps(cls.__call__)
        def call(pipe, *args, **kwargs):
            return self._run(pipe, args, kwargs)

        members = {"__call__": call, "__module__": cls.__module__, "_morse": self}
        if isinstance(getattr(cls, "interrupt", None), property):
            members["interrupt"] = property(lambda pipe: self._interrupted(pipe))
        # Of the same name: files that a pipeline writes name its class.
        self.pipeline_class = type(cls.__name__, (cls,), members)

    def report(self) -> LoopReport:
        """How the last call was served, and why so."""
        last = self._last
        if last is None or last.plan is None:
            path = "none"
        else:
            path = "step by step" if last.why else "whole loop"
        return LoopReport(
            path=path,
            why=last.why if last else "",
            plan=last.plan if last and last.plan is not None else self.plan,
            num_dash=last.num_dash if last else 0,
            num_dot=last.num_dot if last else 0,
            notes=list(last.notes) if last else [],
            solver=last.table.name if last and last.table is not None else None,
            sampler=self.sampler.report(),
        )

    def _run(self, pipe, args, kwargs):
        """A call of the pipeline, with this in the place of its models."""
        if pipe is not self.pipe:
            raise Unavailable(
                "this pipeline is a copy of an accelerated one: call morse_engine.restore on it, "
                "then accelerate"
            )
        with self._turn:  # a pipeline serves one call at a time, as diffusers' own
            if self._call is not None:
                raise Unavailable(
                    "the pipeline was called from within its own call: use another pipeline there"
                )
            call = self.original_class.__call__
            bound = inspect.signature(call).bind(pipe, *args, **kwargs)
            self._check_models()
            self._set_steps(bound.arguments)
            why = _step_by_step_because(pipe, bound.arguments)
            if why and self._whole_only:
                raise Unavailable(refusal(why, self.sampler.backend))
            self._call = self._last = Call(
                pipe,
                self.sampler,
                self.plan,
                bound.arguments | bound.arguments.get("kwargs", {}),
                why,
                self._table,
                self._whole_only,
            )
            try:
                with self._call:
                    return call(*bound.args, **bound.kwargs)
            finally:
                self._call = None

    def _check_models(self) -> None:
        _check_not_offloaded(self.pipe)
        if any(a is not b for a, b in zip(_parts(self.pipe), self._parts, strict=True)):
            raise Unavailable(
                "the unet or ControlNet of this pipeline is another one than when it was "
                "accelerated: call morse_engine.restore(pipe), then accelerate again"
            )
        try:
            self.sampler.models.check()
        except RuntimeError as error:
            raise Unavailable(
                f"{error} (morse_engine.restore(pipe), then accelerate again)"
            ) from error

    def _set_steps(self, arguments: dict) -> None:
        """Have the pipeline make the plan's number of model calls."""
        if self.plan is None or any(
            arguments.get(name) is not None for name in ("timesteps", "sigmas")
        ):
            return
        steps = probe.steps_for_calls(self.pipe.scheduler, len(self.plan))
        given = arguments.get("num_inference_steps")
        if given is not None and given != steps:
            raise Refused(
                f'num_inference_steps={given}: the plan "{self.plan}" of this pipeline has '
                f"{len(self.plan)} model calls, with this scheduler num_inference_steps={steps}; "
                "leave it out, or call morse_engine.restore(pipe) and accelerate with another plan"
            )
        arguments["num_inference_steps"] = steps

    def _table(self, scheduler, first: int, eta: float) -> SolverTable:
        key = (type(scheduler), _state(scheduler), first, eta)
        if key not in self._tables:
            self._tables[key] = SolverTable.of_prepared(scheduler, first, eta=eta)
            if len(self._tables) > NUM_TABLES:
                self._tables.popitem(last=False)
        self._tables.move_to_end(key)
        return self._tables[key]

    def _interrupted(self, pipe) -> bool:
        stopped = self.original_class.interrupt.fget(pipe)
        if stopped and self._call is not None:
            self._call.interrupted()
        return stopped


def _accelerated(pipe) -> Accelerated | None:
    return getattr(type(pipe), "_morse", None)


def _parts(pipe) -> tuple:
    return pipe.unet, getattr(pipe, "controlnet", None)


def _check_pipeline(pipe) -> None:
    if _accelerated(pipe) is not None:
        raise Refused("this pipeline is accelerated already: call morse_engine.restore(pipe) first")
    owner = next((c for c in type(pipe).__mro__ if "__call__" in vars(c)), object)
    if owner.__name__ not in SUPPORTED or not owner.__module__.startswith("diffusers."):
        raise Refused(
            f"{type(pipe).__name__} cannot be accelerated: its loop is not known here; supported "
            f"are {', '.join(SUPPORTED)}; morse_engine.compile(unet, dot) runs any other loop"
        )
    config = pipe.unet.config
    if config.out_channels > config.in_channels:
        raise Refused(
            f"the unet has {config.in_channels} input and {config.out_channels} output channels: "
            "models that also predict a variance are not supported"
        )
    _check_not_offloaded(pipe)


def _check_not_offloaded(pipe) -> None:
    for name, part in zip(("unet", "controlnet"), _parts(pipe), strict=True):
        modules = part.modules() if part is not None else ()
        if any(hasattr(m, "_hf_hook") or hasattr(m, "_diffusers_hook") for m in modules):
            raise Unavailable(
                f"the pipeline's {name} is offloaded or has hooks, which move its weights between "
                "steps: call pipe.remove_all_hooks() and pipe.to(device), or restore(pipe)"
            )


def _step_by_step_because(pipe, arguments: dict) -> str:
    """What in the arguments of a call changes something between the steps; "" if nothing does."""
    given = arguments | arguments.get("kwargs", {})
    for name in ("callback_on_step_end", "callback"):
        if given.get(name) is not None:
            return name
    if given.get("guidance_rescale"):
        return f"guidance_rescale={given['guidance_rescale']}"
    config = pipe.unet.config
    if "Inpaint" in type(pipe).__name__ and config.in_channels == config.out_channels:
        return f"inpainting with a unet of {config.in_channels} channels"
    for name, whole in (("control_guidance_start", 0.0), ("control_guidance_end", 1.0)):
        value = given.get(name, whole)
        if any(v != whole for v in (value if isinstance(value, (list, tuple)) else [value])):
            return f"{name}={value}"
    return ""


def _state(scheduler) -> tuple:
    """All that a scheduler's steps depend on, to be compared."""

    def plain(value):
        if isinstance(value, Tensor):
            return value.cpu().numpy().tobytes()
        return value.tobytes() if hasattr(value, "tobytes") else repr(value)

    return tuple((name, plain(value)) for name, value in sorted(vars(scheduler).items()))
