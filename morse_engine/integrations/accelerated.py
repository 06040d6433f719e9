"""A pipeline whose loop is run by a sampler: its calls, and the report of the last one.

What happens within a call is in `call.py`; the scheduler of the pipeline is read, never stepped.
"""

import functools
import inspect
import threading
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..engine import Sampler
from ..engine.report import Report
from ..sampling import probe
from ..sampling.free import Range
from ..sampling.plan import Plan
from ..system.errors import Refused, Unavailable
from .call import Call, refusal
from .tables import Tables


@dataclass(frozen=True)
class LoopReport:
    """How the last call of an accelerated pipeline was served.

    Attributes:
        path: "whole loop" or "step by step"; "none" before any call.
        why: what made it go step by step; "" for a whole loop.
        plan: of its steps; before any call that of all calls, None if each call says it.
        num_dash, num_dot, num_free: steps that each has made.
        notes: steps that were not made as planned.
        solver: the table's name; None where the scheduler made the steps.
        sampler: what the sampler runs, its captures and its memory.
    """

    path: str
    why: str
    plan: Plan | None
    num_dash: int
    num_dot: int
    num_free: int
    notes: list[str]
    solver: str | None
    sampler: Report

    def __str__(self) -> str:
        plan = f"{self.plan}" if self.plan is not None else "Dash steps, as many as a call asks for"
        eager = " (eager)" if self.path == "step by step" else ""
        free = f", {self.num_free} free" if self.num_free else ""
        lines = [
            f"path      {self.path}" + (f" ({self.why})" if self.why else ""),
            f"plan      {plan}   (made: {self.num_dash} Dash, {self.num_dot} Dot{free})",
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

    def __init__(
        self, pipe: Any, sampler: Sampler, plan: Plan | None, latents: Range, backend: str
    ):
        self.pipe, self.sampler, self.plan, self._latents = pipe, sampler, plan, latents
        self.original_class = cls = type(pipe)
        self._whole_only = backend in ("host", "device")
        self._parts = _parts(pipe)
        self._tables = Tables()
        self._turn = threading.RLock()
        self._call: Call | None = None  # the one in progress
        self._last: Call | None = None

        @functools.wraps(cls.__call__)
        def call(pipe: Any, *args: Any, **kwargs: Any) -> Any:
            return self._run(pipe, args, kwargs)

        members = {"__call__": call, "__module__": cls.__module__, "_morse": self}
        if isinstance(getattr(cls, "interrupt", None), property):
            members["interrupt"] = property(lambda pipe: self._interrupted(pipe))
        # Of the same name: files that a pipeline writes name its class.
        self.pipeline_class = type(cls.__name__, (cls,), members)

    def report(self) -> LoopReport:
        """How the last call was served, and why so."""
        last, plan, sampler = self._last, self.plan, self.sampler.report()
        if last is None or last.way is None:
            why = last.why if last is not None else ""
            return LoopReport("none", why, plan, 0, 0, 0, [], None, sampler)
        way, why = last.way, last.why
        made, notes = (way.num_dash, way.num_dot, way.num_free), list(way.notes)
        solver = way.table.name if way.table is not None else None
        return LoopReport(way.PATH, why, way.plan, *made, notes, solver, sampler)

    def _run(self, pipe: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
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
            signature = inspect.signature(call)
            bound = signature.bind(pipe, *args, **kwargs)
            self._check_models()
            self._set_steps(bound.arguments)
            given = {name: parameter.default for name, parameter in signature.parameters.items()}
            given |= bound.arguments | bound.arguments.get("kwargs", {})
            why = _step_by_step_because(pipe, given)
            if why and self._whole_only:
                raise Unavailable(refusal(why, self.sampler.backend))
            self._call = self._last = Call(
                pipe,
                self.sampler,
                self.plan,
                given,
                why,
                self._tables,
                self._latents,
                self._whole_only,
            )
            try:
                with self._call:
                    return call(*bound.args, **bound.kwargs)
            finally:
                self._call = None

    def _check_models(self) -> None:
        check_not_offloaded(self.pipe)
        if any(a is not b for a, b in zip(_parts(self.pipe), self._parts, strict=True)):
            raise Unavailable(
                "the unet or ControlNet of this pipeline is another one than when it was "
                "accelerated: call morse_engine.restore(pipe), then accelerate again"
            )
        if (helper := self.sampler.models.helper) is not None and helper.levels is not None:
            helper.levels.check(self.pipe.scheduler)  # which may be another one by now
        try:
            self.sampler.models.check()
        except Unavailable as error:
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

    def _interrupted(self, pipe: Any) -> bool:
        stopped = self.original_class.interrupt.fget(pipe)
        if stopped and self._call is not None:
            self._call.interrupted()
        return stopped


def _parts(pipe: Any) -> tuple[Any, Any]:
    """Its unet, and its ControlNet or None."""
    return pipe.unet, getattr(pipe, "controlnet", None)


def check_not_offloaded(pipe: Any) -> None:
    """Refuse models whose weights are moved between the steps.

    Raises:
        Unavailable: one of them has hooks of accelerate or diffusers.
    """
    for name, part in zip(("unet", "controlnet"), _parts(pipe), strict=True):
        modules = list(part.modules()) if isinstance(part, nn.Module) else []
        if any(hasattr(m, "_hf_hook") for m in modules):
            raise Unavailable(
                f"the pipeline's {name} is offloaded or has hooks, which move its weights between "
                "steps: call pipe.remove_all_hooks() and pipe.to(device), or restore(pipe)"
            )
        registries = (getattr(m, "_diffusers_hook", None) for m in modules)
        if hooks := {hook for registry in registries if registry for hook in registry.hooks}:
            raise Unavailable(f"the pipeline's {name} {_of_hooks(name, hooks)}, or restore(pipe)")


def _of_hooks(name: str, hooks: set[str]) -> str:
    """What hooks of diffusers do to a model, and what helps."""
    for part, does, method in (
        ("layerwise_casting", "casts its weights layer by layer", "enable_layerwise_casting()"),
        ("group_offloading", "is offloaded in groups of layers", "enable_group_offload()"),
    ):
        if any(part in hook for hook in hooks):
            return f"{does}, which is not undone: load it again, without {method}"
    one = min(hooks)
    return (
        f'has diffusers\' hook "{one}", which changes what its layers do from step to step: '
        f"diffusers.hooks.HookRegistry.check_if_exists_or_initialize(pipe.{name})"
        f'.remove_hook("{one}") takes it off'
    )


def _step_by_step_because(pipe: Any, given: dict) -> str:
    """What in the arguments of a call needs the pipeline's own steps; "" if nothing does.

    Something may change between the steps, or the pipeline guides in another way than by two
    branches.
    """
    for name in ("callback_on_step_end", "callback"):
        if given.get(name) is not None:
            return name
    if given.get("guidance_rescale"):
        return f"guidance_rescale={given['guidance_rescale']}"
    config = pipe.unet.config
    if "Inpaint" in type(pipe).__name__ and config.in_channels == config.out_channels:
        return f"inpainting with a unet of {config.in_channels} channels"
    if given.get("pag_scale"):
        return f"pag_scale={given['pag_scale']}"
    if "image_guidance_scale" in given and given["guidance_scale"] > 1:
        return f"image_guidance_scale={given['image_guidance_scale']}"
    for name, whole in (
        ("control_guidance_start", 0.0),
        ("control_guidance_end", 1.0),
        ("adapter_conditioning_factor", 1.0),
    ):
        value = given.get(name, whole)
        if any(v != whole for v in (value if isinstance(value, (list, tuple)) else [value])):
            return f"{name}={value}"
    return ""
