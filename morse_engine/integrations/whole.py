"""A pipeline's loop as one run of a sampler.

The first `step` knows everything: the latents, the conditioning, the guidance scale. It starts the
whole plan. The unet's outputs are placeholders, and each `step` returns when that step has been
made, so progress bars follow the device. The last one returns the image.
"""

import torch
from torch import Tensor

from ..dot.family import DASH_ONLY
from ..runtime.run import Run
from ..sampling.plan import DASH
from ..system.errors import Unavailable
from .way import Way, plain


class Whole(Way):
    """The whole plan in a sampler."""

    PATH = "whole loop"

    def __init__(self, *args):
        super().__init__(*args)
        self._asked: tuple[Tensor, dict] | None = None  # what the unet was given first
        self._control: dict | None = None  # and what the ControlNet
        self._run: Run | None = None
        self._out: Tensor | None = None  # the latents that the pipeline holds

    def controlnet(self, sample: Tensor, timestep, cond: dict):
        self._control = {k: v for k, v in cond.items() if k != "return_dict"}
        return [], None

    def unet(self, sample: Tensor, timestep, cond: dict) -> Tensor:
        if self._run is None:
            self._asked = sample, cond
        channels = self.real["unet"].config.out_channels
        return sample.new_zeros(()).expand(len(sample), channels, *sample.shape[2:])

    def step(self, z: Tensor, timestep, x: Tensor, *args, **options) -> tuple[Tensor, Tensor]:
        if self._run is None:
            self._start(x)
        self.made += 1
        self.num_dash = self.plan.morse[: self.made].count(DASH)
        self.num_dot = self.made - self.num_dash
        self._run.reach(self.made, stop=lambda: getattr(self.pipe, "_interrupt", False))
        if self.made < len(self.plan):
            return self._out, self._out
        last = self._run.x
        self._out.copy_(last)
        i = self.made - 1
        return self._out, self.denoised(i, last, self.fresh(i, last)).to(x.dtype)

    def interrupted(self) -> None:
        if self._unfinished():
            self._run.cancel()
            self._out.copy_(self._run.x)

    def end(self) -> None:
        super().end()
        if self._unfinished():
            self._run.cancel()
        self._run = self._asked = self._control = self._out = None

    def _unfinished(self) -> bool:
        return self._run is not None and self.made < len(self.plan)

    def _start(self, x: Tensor) -> None:
        sample, cond = self._asked
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
        cond = plain(cond) | ({DASH_ONLY: dash_only} if dash_only else {})
        self._out = torch.zeros_like(x)
        self._run = self.sampler.with_table(self.plan, self.table).start(
            x,
            seed=self.seeds(len(x)),
            guidance_scale=float(self.pipe.guidance_scale) if guided else None,
            **cond,
        )
