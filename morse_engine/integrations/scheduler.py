"""Morse as a diffusers scheduler, for stacks where nothing but the scheduler can be replaced.

The host sees the timesteps of the Dash steps alone and asks its model, Dash, at these. Each
`step()` makes that step with the scheduler inside, and then the steps up to the next Dash:

    x = inner.step(z_s, t_s, x)                                       with what the host gives
    x = inner.step(z_s + eta(x, t; x_s, z_s, t_s, z_p, t_p), t, x)    for each Dot step behind it
    x = inner.step((x0 - U x) / V, t, x)                              for each free step

x0 of a free step lies on the line through the clean images of the last two calls, Dash's or Dot's
(`sampling/free.py`), and a Dash step behind it corrects it (`sampling/correction.py`). z_s is what
the host has made of Dash's outputs. With guidance it is the guided estimate, of which there is one
an image; so Dot has to be one that corrects that (a guided Dot, `sampling/loop.py`).

Source: Morse (arXiv 2506.18251), section 3.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers import SchedulerMixin
from torch import Tensor

from ..dot.dot import Dot
from ..dot.free import FORM
from ..dot.helper import as_helper
from ..sampling.free import as_range
from ..sampling.loop import Trajectory
from ..sampling.plan import DASH, DOT, MOST_STEPS, Plan
from ..sampling.solver import range_of
from ..system import checks
from ..system.checks import configured, integer, shown
from ..system.errors import Refused
from . import levels
from .free_steps import FreeSteps
from .tables import Tables


class MorseScheduler(SchedulerMixin):
    """A diffusers scheduler that makes Dot and free steps by itself, between those of its host.

    `set_timesteps(n)` makes n the number of Dash steps, which is how often the host asks its model;
    the scheduler inside makes `len(scheduler.plan)` steps. Whatever is not defined here (config,
    `init_noise_sigma`, `add_noise`, `alphas_cumprod` ...) is that of the scheduler inside. With
    `"-"` for a plan it is that scheduler, bit for bit.

    Args:
        inner: a diffusers scheduler that makes one model call a step; it is set and stepped here,
            so it must not be used elsewhere at the same time.
        plan: Morse code, repeated until it has as many Dash steps as the host asks for: `"-.."`
            makes two Dot steps behind each Dash, `"-::"` two free steps, which need no Dot. A plan
            with exactly these is used as it is.
        dot: a `Dot` of the host's model, or any
            `eta(x, timestep, x_s, z_s, timestep_s, z_p, timestep_p, **cond) -> Tensor`, for
            instance `morse_engine.evaluation.extrapolate`; None if no step is Dot's.
        cond: what Dot is given by keyword, for as many images as the host's x has. A host that
            changes its prompt sets `scheduler.cond` before the run.
        clean_range: (lowest, highest) of the clean images as the model sees them, each a number or
            one for each channel: free steps stay within it. Default: the Dot's, if it knows; else
            that of `clip_sample` of the scheduler inside; else without bounds.

    Attributes:
        plan: the plan of all steps after `set_timesteps`.
        timesteps: `[n]`, those of the Dash steps.

    Raises:
        Refused: plan and dot do not fit, the scheduler makes several calls a step, or has other
            noise levels than the Dot was trained with.
    """

    order = 1

    def __init__(
        self,
        inner: Any,
        plan: Plan | str,
        dot: Dot | Callable[..., Tensor] | None = None,
        cond: dict[str, Any] | None = None,
        clean_range: Any = None,
    ):
        if cond is not None and not isinstance(cond, dict):
            raise Refused(f"cond={shown(cond)}: a dict of what the Dot is given by keyword")
        configured("inner", inner, "a diffusers scheduler")
        self.inner, self.cond = inner, cond or {}
        self._code = plan if isinstance(plan, Plan) else Plan(plan)
        if self._code.num_dot and dot is None:
            raise Refused(f"{shown(self._code)} has Dot steps, but dot is None")
        if getattr(inner, "order", None) != 1:
            raise Refused(
                f"{type(inner).__name__} asks its model several times a step: use a scheduler that "
                "asks once, such as DPMSolverMultistepScheduler"
            )
        helper = None if dot is None else as_helper(dot)
        if helper is not None and helper.levels is not None:
            helper.levels.check(inner)
        self._dot = None if helper is None else helper.merged()
        self._form = "[B, C, H, W]" if helper is not None and helper.levels is not None else FORM
        if clean_range is None and helper is not None:
            clean_range = helper.clean_range
        self._range = range_of(inner.config) if clean_range is None else as_range(clean_range)
        self._tables = Tables()
        self.plan: Plan | None = None
        self._begin: int | None = None
        self._next: int | None = None

    def __getattr__(self, name: str) -> Any:
        # Called for what is not found here. `inner` itself is not there yet in a copy being made.
        if name == "inner":
            raise AttributeError(name)
        return getattr(self.inner, name)

    def __len__(self) -> int:
        return len(self.inner)

    @property
    def config(self) -> Any:
        """That of the scheduler inside."""
        return self.inner.config

    @property
    def sigmas(self) -> Tensor:
        """`[n + 1]`, the noise levels of the Dash steps and the last; if the one inside has any."""
        if self.plan is None:
            return self.inner.sigmas
        positions = torch.tensor([*self.plan.dash_positions, len(self.plan)])
        return self.inner.sigmas[positions.to(self.inner.sigmas.device)]

    @property
    def step_index(self) -> int | None:
        """The Dash step that comes next; None before the first."""
        return self._next

    @property
    def begin_index(self) -> int | None:
        """The Dash step that the run begins with, if the host has said so."""
        return self._begin

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: torch.device | str | None = None,
        sigmas: Sequence[float] | None = None,
        **options: Any,
    ) -> None:
        """Begin a run with `num_inference_steps` Dash steps.

        Args:
            sigmas: noise levels of the Dash steps, for schedulers that take them, as pipelines of
                flow matching give them; those of the steps between lie on a line to the next one.
            options: for the scheduler inside, e.g. `mu`.

        Raises:
            Refused: no Dash step, fewer than the plan has, the scheduler inside cannot make that
                many steps, or what its model says of the image is not known and the plan has free
                steps.
        """
        if sigmas is None:
            self.plan = plan = _repeated(self._code, num_inference_steps)
            options["num_inference_steps"] = len(plan)
        else:
            given, end = levels.of_dash(sigmas, num_inference_steps)
            self.plan = plan = _repeated(self._code, len(given))
            options["sigmas"] = levels.of_steps(given, plan) + end
        try:
            self.inner.set_timesteps(device=device, **options)
        except Exception as error:
            raise Refused(
                f"{type(self.inner).__name__} cannot be set to {len(plan)} steps: "
                f"{str(error)[:200]}"
            ) from error
        if len(self.inner.timesteps) != len(plan):
            raise Refused(
                f"{type(self.inner).__name__} makes {len(self.inner.timesteps)} calls for "
                f"{len(plan)} steps: use a scheduler, or a number of steps, where it makes as many"
            )
        positions = torch.tensor(plan.dash_positions, device=self.inner.timesteps.device)
        self.timesteps = self.inner.timesteps[positions]
        self.num_inference_steps = plan.num_dash
        self._begin = self._next = None
        self._trajectory: Trajectory | None = None
        self._free = FreeSteps(self.inner, plan, self._range) if plan.num_free else None

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Let the run begin with a later Dash step, as for an image that is noised in part."""
        begin_index = integer("begin_index", begin_index, 0, self._planned().num_dash - 1)
        self._begin = begin_index
        if hasattr(self.inner, "set_begin_index"):
            self.inner.set_begin_index(self._planned().dash_positions[begin_index])

    def scale_model_input(self, sample: Tensor, timestep: Tensor | None = None) -> Tensor:
        """The sample as the model wants it at a Dash step."""
        self._find(timestep)
        return self._scaled(sample, timestep)

    def _scaled(self, x: Tensor, timestep: Tensor | None) -> Tensor:
        """x as the model wants it; a scheduler of flow matching leaves it as it is."""
        scale = getattr(self.inner, "scale_model_input", None)
        return x if scale is None else scale(x, timestep)

    def step(
        self,
        model_output: Tensor,
        timestep: Tensor,
        sample: Tensor,
        eta: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
        **options: Any,
    ) -> Any:
        """The Dash step at `timestep`, and the Dot and free steps behind it.

        Args:
            model_output: `[B, C, H, W]`, z_s, after guidance; without a `Dot` also of video, sound
                or tokens, `[B, C, ...]`.
            sample: as that, not scaled.
            eta, generator: for the scheduler inside, if it takes them.
            options: further arguments of its `step()`.

        Returns:
            what the scheduler inside returns for the last of these steps; `prev_sample` is x at the
            next Dash step.

        Raises:
            Refused: no `set_timesteps` before it, steps beyond the last, or a model that also
                predicts a variance where the plan has other steps.
        """
        checks.tensor("model_output", model_output, self._form)
        checks.tensor("sample", sample, self._form)
        eta, return_dict = checks.number("eta", eta), checks.flag("return_dict", return_dict)
        drawn = generator if isinstance(generator, list) else [generator]
        if not all(one is None or isinstance(one, torch.Generator) for one in drawn):
            raise Refused(f"generator={shown(generator)}: a torch.Generator, or a list of them")
        position = self._find(timestep)
        if position >= len(self.timesteps):
            raise Refused(
                f"all {len(self.timesteps)} Dash steps of this run are made: call set_timesteps"
            )
        accepted = inspect.signature(self.inner.step).parameters
        as_read = not any(options.values())  # else a step is not what a table says
        own = {"eta": eta, "generator": generator}
        options |= {name: value for name, value in own.items() if name in accepted}
        options["return_dict"] = return_dict

        plan = self._planned()
        first = plan.dash_positions[position]
        run = plan.morse[first + 1 :].split(DASH)[0]  # what follows up to the next Dash
        self._next = position + 1
        if run and model_output.shape != sample.shape:
            raise Refused(
                f"the model makes {list(model_output.shape)} of {list(sample.shape)}: Dot and free "
                "steps work with models that predict no variance"
            )
        if self._free is not None and self._trajectory is None:
            self._free.begin(self._tables, self.inner, first, eta, as_read)
        x_s = self._scaled(sample, timestep)
        last = Trajectory.after(self._trajectory, x_s, model_output, timestep)
        self._trajectory = last
        out = self._make(first, sample, model_output, options)
        for i, symbol in enumerate(run, first + 1):
            z = self._estimate(i, out[0], last) if symbol == DOT else None
            out = self._make(i, out[0], z, options)
        return out

    def _make(self, i: int, x: Tensor, z: Tensor | None, options: dict[str, Any]) -> Any:
        """The step at place i; z of a call, None of a free step."""
        free = self._free
        if free is None:
            return self.inner.step(z, self.inner.timesteps[i], x, **options)
        if z is None:
            z = free.z(i, x)
        else:
            free.say(i, x, z)
        out = self.inner.step(z, self.inner.timesteps[i], x, **options)
        return free.step(i, x, z, out)

    @torch.no_grad()
    def _estimate(self, i: int, x: Tensor, last: Trajectory) -> Tensor:
        """What Dot makes of Dash's last estimate at x, at place i."""
        assert self._dot is not None  # the plan has Dot steps
        t = self.inner.timesteps[i]
        x = self._scaled(x, t)
        return last.z_s + self._dot(x, t, *last, **self.cond)

    def _planned(self) -> Plan:
        """The plan of this run."""
        if self.plan is None:
            raise Refused("set_timesteps has not been called")
        return self.plan

    def _find(self, timestep: Tensor | None) -> int:
        """Which Dash step comes next: the first of a run by its timestep, the others in order."""
        self._planned()
        if self._next is not None:
            return self._next
        begin = self._begin
        if begin is None:
            if timestep is None:
                raise Refused(
                    "which Dash step is the first? Give its timestep, or call set_begin_index"
                )
            # Only now: a number on a GPU is waited for.
            t = checks.number("timestep", timestep, "a number, or a tensor []")
            found = (self.timesteps == t).nonzero()
            if not len(found):
                raise Refused(
                    f"timestep {t:g} is not a Dash step of this run: "
                    f"{[round(float(t), 3) for t in self.timesteps]}"
                )
            begin = int(found[0])
            self.set_begin_index(begin)
        self._next = begin
        return begin


def _repeated(code: Plan, num_dash: Any) -> Plan:
    """The code, again and again, up to where Dash step `num_dash + 1` would come."""
    try:
        num_dash = integer("num_inference_steps", num_dash, 1, MOST_STEPS)
    except Refused as error:
        raise Refused(f"{error} (the number of Dash steps, at least 1)") from None
    if code.num_dash > num_dash:
        raise Refused(
            f'num_inference_steps={num_dash}, but plan "{code}" has {code.num_dash} Dash steps: '
            "ask for as many, or shorten the plan"
        )
    times = -(-num_dash // code.num_dash)
    runs = (code.morse * times).split(DASH)[1 : 1 + num_dash]  # what follows each Dash
    return Plan("".join(DASH + run for run in runs))
