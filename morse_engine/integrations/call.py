"""One call of an accelerated pipeline: what its loop is given in the place of model and scheduler.

The pipeline's own code runs from its first line to its last. In its loop it calls

    control = controlnet(x, t, ...)      where there is one
    z       = unet(x, t, ...)
    latents = scheduler.step(z, t, latents, ...)

and each of the three is this object's. There are two ways to serve them.

    whole loop     The first `step` knows everything: the latents, the conditioning, the guidance
                   scale. It starts the whole plan in a sampler. The unet's outputs are
                   placeholders, and each `step` returns when that step has been made, so progress
                   bars follow the device. The last one returns the image.
    step by step   The unet is asked on Dash steps, Dot on the others, and the pipeline's scheduler
                   makes the step. Where something changes between the steps, this is the only way.

Noise. What the pipeline draws, the first latents above all, is its own. What a stochastic solver
adds on the way is `noise.normal` of one seed for each image, in both ways; the seeds are drawn from
the pipeline's generator at the first step. So the same generator gives the same image, with a
callback and without, but not that of the pipeline before `accelerate`. A scheduler without a
solver's table draws its noise itself.
"""

import copy
import math

import torch
from torch import Tensor

from ..runtime.run import Run
from ..sampling import noise
from ..sampling.loop import second_half
from ..sampling.plan import Plan
from ..sampling.solver import Column, SolverTable
from ..system.errors import Refused, Unavailable
from .proxies import DASH_ONLY, RESIDUALS, stand_in

PASSED_ON = ("unet", "scheduler", "controlnet")


class Call:
    """The loop of one call.

    Args:
        pipe: the pipeline.
        sampler: the compiled models.
        plan: of the whole run; None: as many Dash steps as the pipeline asks for.
        arguments: those of the call, by name.
        why: reasons to go step by step that are known already.
        tables: `tables(scheduler, first, eta) -> SolverTable`.
        must_be_whole: refuse to go step by step.

    Attributes:
        why: the reasons to go step by step; "" for the whole loop.
        plan: of the steps of this call, once it has begun.
        made: how many steps the pipeline has been given.
        num_dash, num_dot: how many of them each has made.
    """

    def __init__(self, pipe, sampler, plan, arguments: dict, why: str, tables, must_be_whole):
        self.pipe, self.sampler, self.why = pipe, sampler, why
        self.plan: Plan | None = None
        self.table: SolverTable | None = None
        self.made = self.num_dash = self.num_dot = 0
        self.notes: list[str] = []
        self._whole_plan, self._arguments = plan, arguments
        self._tables, self._must_be_whole = tables, must_be_whole
        self._real = {name: vars(pipe)[name] for name in PASSED_ON if name in vars(pipe)}
        self.scheduler = None
        # of the whole loop
        self._run: Run | None = None
        self._seen: tuple[Tensor, dict] | None = None  # what the unet was given first
        self._control: dict | None = None
        self._out: Tensor | None = None
        # of a loop step by step
        self._symbol = "-"
        self._trajectory: tuple | None = None  # x_s, z_s, t_s, z_p, t_p
        self._dash_input: tuple | None = None  # x, z, t of a Dash step that has not been stepped
        self._residuals = None
        self._seeds: list[int] | None = None
        self._history: list[Tensor] = []

    # -- in and out of the pipeline ------------------------------------------------------------

    def __enter__(self) -> "Call":
        real = self._real
        scheduler = real["scheduler"]
        self.scheduler = stand_in(scheduler, "step", self.step, own_state=True)
        places = {
            "scheduler": self.scheduler,
            "unet": stand_in(real["unet"], "__call__", self.unet),
        }
        if real.get("controlnet") is not None:
            places["controlnet"] = stand_in(real["controlnet"], "__call__", self.controlnet)
        vars(self.pipe).update(places)  # not by setattr, which registers what it is given
        return self

    def __exit__(self, *_) -> None:
        vars(self.pipe).update(self._real)
        if self._run is not None and self.made < len(self.plan):
            self._run.cancel()
        self._run = self._seen = self._control = self._out = self._residuals = None
        self._trajectory = self._dash_input = self.scheduler = None
        self._history, self._arguments = [], {}

    # -- what the pipeline calls ---------------------------------------------------------------

    def controlnet(self, sample: Tensor, timestep, **cond):
        """In the place of the ControlNet, which runs on Dash steps only."""
        if self.plan is None:
            self._begin(timestep, "guess_mode" if cond.get("guess_mode") else "")
        if not self.why:
            self._control = {k: v for k, v in cond.items() if k != "return_dict"}
            return [], None
        text = cond["encoder_hidden_states"]
        self._choose(text.shape)
        if self._symbol == "-":
            self._residuals = self._real["controlnet"](sample, timestep, **cond)
        return self._residuals

    def unet(self, sample: Tensor, timestep, *, return_dict: bool = True, **cond):
        """In the place of the unet."""
        if self.plan is None:
            self._begin(timestep)
        if not self.why:
            if self._run is None:
                self._seen = sample, cond
            channels = self._real["unet"].config.out_channels
            z = sample.new_zeros(()).expand(len(sample), channels, *sample.shape[2:])
        else:
            if "controlnet" not in self._real:
                self._choose(sample.shape)
            make = self._dash if self._symbol == "-" else self._dot
            z = make(sample, timestep, cond)
        return _Output(sample=z) if return_dict else (z,)

    def step(self, z: Tensor, timestep, x: Tensor, *args, return_dict: bool = True, **options):
        """In the place of the scheduler's."""
        if self.why:
            make, more = self._step, (args, options)
        else:
            make, more = self._follow, ()
        out = make(z, timestep, x, *more)
        return _Output(prev_sample=out[0], denoised=out[1]) if return_dict else out

    def interrupted(self) -> None:
        """The pipeline has seen that it is interrupted: its latents become those reached by now."""
        if self._run is not None and self.made < len(self.plan):
            self._run.cancel()
            self._out.copy_(self._run.x)

    # -- both ways -----------------------------------------------------------------------------

    def _begin(self, timestep, why: str = "") -> None:
        """Plan and table of this loop: from here on it is known whether it is served whole."""
        scheduler, pipe, plan = self.scheduler, self.pipe, self._whole_plan
        calls = len(scheduler.timesteps)
        if plan is not None and len(plan) != calls:
            raise Refused(
                f'the plan "{plan}" has {len(plan)} steps, the timesteps or sigmas of this call '
                f"make {calls}: give {len(plan)}, or accelerate with a plan of {calls}"
            )
        morse = str(plan) if plan is not None else "-" * calls
        count = getattr(pipe, "_num_timesteps", calls)
        first = _first(scheduler, timestep, count)
        self.plan = Plan("-" + morse[first + 1 : first + count])
        if self._arguments.get("use_clipped_model_output"):
            why = why or "use_clipped_model_output"
        else:
            try:
                settled = copy.copy(scheduler)
                settled.__class__ = type(self._real["scheduler"])  # whose step() is to be read
                table = self._tables(settled, first, self._arguments.get("eta") or 0.0)
                self.table = _cut(table, count)
            except ValueError as error:
                why = why or str(error)
        self.why = self.why or why
        if self.why and self._must_be_whole:
            raise Unavailable(refusal(self.why, self.sampler.backend))

    def _seeds_of(self, count: int) -> list[int]:
        """One seed for each image, drawn from the pipeline's generator where noise is needed."""
        if self._seeds is None:
            needed = self.table is not None and self.table.uses_noise
            generator = self._arguments.get("generator")
            self._seeds = seeds(generator, count) if needed else [0] * count
        return self._seeds

    # -- the whole loop ------------------------------------------------------------------------

    def _follow(self, z: Tensor, timestep, x: Tensor) -> tuple[Tensor, Tensor]:
        if self._run is None:
            self._start(x)
        self.made += 1
        made = self.plan.morse[: self.made]
        self.num_dash, self.num_dot = made.count("-"), made.count(".")
        self._run.reach(self.made, stop=lambda: getattr(self.pipe, "_interrupt", False))
        if self.made == len(self.plan):
            self._out.copy_(self._run.x)
        return self._out, self._out

    def _start(self, x: Tensor) -> None:
        sample, cond = self._seen
        if len(sample) not in (len(x), 2 * len(x)):
            raise Unavailable(
                f"the unet is given {len(sample)} samples for {len(x)} images: this guidance is "
                "not supported; restore(pipe)"
            )
        guided = len(sample) == 2 * len(x)
        dash_only = {}
        if sample.shape[1] > x.shape[1]:
            dash_only["channels"] = sample[:, x.shape[1] :]
        if self._control is not None:
            dash_only["controlnet"] = self._control
        cond = _plain(cond) | ({DASH_ONLY: dash_only} if dash_only else {})
        self._out = torch.zeros_like(x)
        self._run = self.sampler.with_table(self.plan, self.table).start(
            x,
            seed=self._seeds_of(len(x)),
            guidance_scale=float(self.pipe.guidance_scale) if guided else None,
            **cond,
        )

    # -- step by step --------------------------------------------------------------------------

    def _choose(self, shape) -> None:
        """Whose step this is: Dot's where the plan says so and the batch is still the same."""
        self._symbol = self.plan.morse[self.made]
        if self._symbol == "." and shape != self._shape:
            self._symbol = "-"
            self.notes.append(
                f"step {self.made} was made by Dash: the batch changed from {tuple(self._shape)} "
                f"to {tuple(shape)}, which Dot has no estimate for"
            )
            self._trajectory = None
        self._shape = shape

    def _dash(self, sample: Tensor, timestep, cond: dict) -> Tensor:
        z = self._real["unet"](sample, timestep, return_dict=False, **cond)[0]
        self._dash_input = sample[:, : z.shape[1]], z, timestep
        self.num_dash += 1
        return z

    def _dot(self, sample: Tensor, timestep, cond: dict) -> Tensor:
        x_s, z_s, t_s, z_p, t_p = self._trajectory
        models, cond = self.sampler.models, _plain(cond)
        x = sample[: len(x_s), : x_s.shape[1]]
        if models.guided_dot:
            if len(sample) == 2 * len(x_s):
                cond = second_half(cond)
            cond["guidance_scale"] = float(self.pipe.guidance_scale)
        z = z_s + models.dot(x, timestep, x_s, z_s, t_s, z_p, t_p, **cond)
        self.num_dot += 1
        # The pipeline guides two equal halves to z itself.
        return torch.cat([z, z]) if len(sample) == 2 * len(z) else z

    def _step(self, z: Tensor, timestep, x: Tensor, args, options) -> tuple[Tensor, ...]:
        if self._dash_input is not None:
            x_s, z_s, t_s = self._dash_input
            if self.sampler.models.guided_dot:  # its estimate is the guided one
                x_s, z_s = x_s[: len(x)], z
            _, z_p, t_p, *_ = self._trajectory or (None, z_s, t_s)
            self._trajectory, self._dash_input = (x_s, z_s, t_s, z_p, t_p), None
        i, self.made = self.made, self.made + 1
        if self.table is None or not self.table.uses_noise:
            step = type(self._real["scheduler"]).step
            out = step(self.scheduler, z, timestep, x, *args, return_dict=False, **options)
            return out if len(out) > 1 else (*out, None)
        fresh = None
        if self.table.adds_noise(i):
            fresh = noise.normal(self._seeds_of(len(x)), i, x.shape[1:], device=x.device)
        x_next, m = self.table.step(i, x.float(), z.float(), self._history, fresh)
        self._history = [m, *self._history][: self.table.num_history]
        if getattr(self.scheduler, "_step_index", None) is not None:
            self.scheduler._step_index += 1  # the pipeline has it scale the next model input
        # What LCM pipelines decode: its x is sqrt(1 - D^2) denoised + D noise.
        scale = self.table.rows[i, Column.D].item()
        denoised = x_next
        if fresh is not None and scale < 1:
            denoised = (x_next - scale * fresh) / math.sqrt(1 - scale**2)
        return x_next.to(x.dtype), denoised.to(x.dtype)


class _Output(dict):
    """The fields of an output that pipelines read."""

    __getattr__ = dict.__getitem__


def refusal(why: str, backend: str) -> str:
    return (
        f'backend="{backend}" runs whole loops, and this call has to go step by step ({why}): '
        'accelerate with backend="auto", or leave that out'
    )


def seeds(generator, count: int) -> list[int]:
    """One seed for each image, drawn from a generator, a list of them, or torch's own."""
    if isinstance(generator, list) and len(generator) == 1:
        generator = generator[0]
    if isinstance(generator, list):
        return [seed for one in generator for seed in seeds(one, 1)]
    device = generator.device if generator is not None else "cpu"
    return torch.randint(2**63 - 1, (count,), generator=generator, device=device).tolist()


def _plain(cond: dict) -> dict:
    """The keywords that are given a value, without what a ControlNet adds."""
    return {k: v for k, v in cond.items() if v is not None and k not in RESIDUALS}


def _first(scheduler, timestep, count: int) -> int:
    """Where in the scheduler's timesteps a loop of `count` steps begins."""
    begin = getattr(scheduler, "begin_index", None)
    if begin is not None:
        return begin
    times = scheduler.timesteps
    last = len(times) - count  # a loop that was cut at its start; timesteps may be repeated
    return last if times[last] == timestep else int((times == timestep).nonzero()[0])


def _cut(table: SolverTable, count: int) -> SolverTable:
    """The first `count` calls; the table itself where that is all of it."""
    if count == len(table):
        return table
    return SolverTable(table.name, table.rows[:count], table.timesteps[:count], 1.0)
