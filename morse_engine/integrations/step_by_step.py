"""A pipeline's loop with a model call and a solver step whenever it asks for one.

The unet is asked on Dash steps, Dot on its own, and the pipeline's scheduler makes the step; where
the solver adds noise or the plan has free steps, the solver's table makes it. A free step has its z
from the line through the clean images of the last two calls, as guided. Where something changes
between the steps, this is the only way.
"""

from typing import Any

import torch
from torch import Tensor

from ..sampling.free import Line
from ..sampling.loop import Trajectory, second_half
from ..sampling.plan import DASH, DOT, FREE
from ..sampling.solver import SolverTable
from ..system.errors import Unavailable
from .way import Residuals, Way, plain


class StepByStep(Way):
    """Each step as it is asked for."""

    PATH = "step by step"

    def __init__(self, *args: Any):
        super().__init__(*args)
        self._symbol = DASH
        self._shape = torch.Size()  # of what the first model of a step is given
        self._trajectory: Trajectory | None = None
        # x, z, t of a Dash step that has not been stepped
        self._asked: tuple[Tensor, Tensor, Tensor] | None = None
        self._residuals: Residuals | None = None
        self._history: list[Tensor] = []
        self._line: Line | None = None  # of a plan with free steps

    def controlnet(self, sample: Tensor, timestep: Tensor, cond: dict) -> Residuals:
        self._choose(cond["encoder_hidden_states"].shape)
        if self._symbol == DASH:
            self._residuals = self.real["controlnet"](sample, timestep, **cond)
        assert self._residuals is not None  # the first step of a plan is Dash's
        return self._residuals

    def unet(self, sample: Tensor, timestep: Tensor, cond: dict) -> Tensor:
        if "controlnet" not in self.real:
            self._choose(sample.shape)
        if self._symbol == FREE:  # nothing is asked: see `step`
            channels = self.real["unet"].config.out_channels
            return sample.new_zeros(()).expand(len(sample), channels, *sample.shape[2:])
        make = self._dash if self._symbol == DASH else self._dot
        return make(sample, timestep, cond)

    def step(
        self, z: Tensor, timestep: Tensor, x: Tensor, *args: Any, **options: Any
    ) -> tuple[Tensor, Tensor | None]:
        if self._asked is not None:
            x_s, z_s, t_s = self._asked
            if self.sampler.models.guided_dot:  # its estimate is the guided one
                x_s, z_s = x_s[: len(x)], z
            self._trajectory = Trajectory.after(self._trajectory, x_s, z_s, t_s)
            self._asked = None
        i, self.made = self.made, self.made + 1
        self.count(self._symbol)
        if self.plan.num_free:
            z = self._on_line(i, z, x)
        if self.table is not None and (self.table.uses_noise or self.plan.num_free):
            return self._step_by_table(self.table, i, z, x)
        step = type(self.real["scheduler"]).step
        out = step(self.scheduler, z, timestep, x, *args, return_dict=False, **options)
        return out if len(out) > 1 else (*out, None)

    def end(self) -> None:
        super().end()
        self._trajectory = self._asked = self._residuals = self._line = None
        self._history = []

    def _choose(self, shape: torch.Size) -> None:
        """Whose step this is: Dot's where the plan says so and the batch is still the same."""
        self._symbol = self.plan.morse[self.made]
        if shape != self._shape and self._symbol != FREE:
            self._trajectory = None
            if self._symbol == DOT:
                self._symbol = DASH
                self.notes.append(
                    f"step {self.made} was made by Dash: the batch changed from "
                    f"{tuple(self._shape)} to {tuple(shape)}, which Dot has no estimate for"
                )
        if self._symbol != FREE:  # whose line is of the guided estimate, of one row an image
            self._shape = shape

    def _dash(self, sample: Tensor, timestep: Tensor, cond: dict) -> Tensor:
        z = self.real["unet"](sample, timestep, return_dict=False, **cond)[0]
        self._asked = sample[:, : z.shape[1]], z, timestep
        return z

    def _dot(self, sample: Tensor, timestep: Tensor, cond: dict) -> Tensor:
        models, cond, last = self.sampler.models, plain(cond), self._trajectory
        assert models.dot is not None
        assert last is not None  # see `_choose`
        x = sample[: len(last.x_s), : last.x_s.shape[1]]
        if models.guided_dot:
            if len(sample) > 2 * len(x):
                raise Unavailable(
                    f"the unet is given {len(sample)} samples for {len(x)} images, a guided Dot "
                    "knows guidance of two: use a Dot of each branch, or leave that guidance out"
                )
            if len(sample) == 2 * len(x):
                cond = second_half(cond)
            cond["guidance_scale"] = self.guidance_scale
        z = last.z_s + models.dot(x, timestep, *last, **cond)
        # The pipeline guides two equal halves to z itself.
        return torch.cat([z, z]) if len(sample) == 2 * len(z) else z

    def _on_line(self, i: int, z: Tensor, x: Tensor) -> Tensor:
        """z of step i: a call's as it is, whose clean image is kept; a free step's by the line."""
        assert self.table is not None  # a plan with free steps has one
        if self._symbol != FREE:
            self._line = Line.after(self._line, self.table.clean(i, x.float(), z.float()))
            return z
        assert self._line is not None  # a plan begins with Dash
        return self.table.free(i, x.float(), self._line).to(x.dtype)

    def _step_by_table(
        self, table: SolverTable, i: int, z: Tensor, x: Tensor
    ) -> tuple[Tensor, Tensor]:
        fresh = self.fresh(i, x)
        x_next, m = table.step(i, x.float(), z.float(), self._history, fresh)
        self._history = [m, *self._history][: table.num_history]
        if getattr(self.scheduler, "_step_index", None) is not None:
            self.scheduler._step_index += 1  # the pipeline has it scale the next model input
        return x_next.to(x.dtype), self.denoised(i, x_next, fresh).to(x.dtype)
