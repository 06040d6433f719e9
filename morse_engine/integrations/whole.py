"""A pipeline's loop as one run of a sampler.

The first `step` knows everything: the latents, the conditioning, the guidance scale. It starts the
whole plan. The unet's outputs are placeholders, and each `step` returns when that step has been
made, so progress bars follow the device; free steps are made with the call before them. The last
one returns the image.
"""

from typing import Any

import torch
from torch import Tensor

from ..dot.family import DASH_ONLY
from ..runtime.run import Run
from ..system.errors import Unavailable
from .proxies import ADAPTED
from .way import Residuals, Way, plain


class Whole(Way):
    """The whole plan in a sampler."""

    PATH = "whole loop"

    def __init__(self, *args: Any):
        super().__init__(*args)
        self._asked: tuple[Tensor, dict] | None = None  # what the unet was given first
        self._control: dict | None = None  # and what the ControlNet
        self._running: tuple[Run, Tensor] | None = None  # and the latents that the pipeline holds

    def controlnet(self, sample: Tensor, timestep: Tensor, cond: dict) -> Residuals:
        self._control = {k: v for k, v in cond.items() if k != "return_dict"}
        return [], None

    def unet(self, sample: Tensor, timestep: Tensor, cond: dict) -> Tensor:
        if self._running is None:
            self._asked = sample, cond
        channels = self.real["unet"].config.out_channels
        return sample.new_zeros(()).expand(len(sample), channels, *sample.shape[2:])

    def step(
        self, z: Tensor, timestep: Tensor, x: Tensor, *args: Any, **options: Any
    ) -> tuple[Tensor, Tensor]:
        if self._running is None:
            self._running = self._start(x)
        run, out = self._running
        self.count(self.plan.morse[self.made])
        self.made += 1
        run.reach(self.made, stop=lambda: getattr(self.pipe, "_interrupt", False))
        if self.made < len(self.plan):
            return out, out
        last = run.x
        out.copy_(last)
        i = self.made - 1
        return out, self.denoised(i, last, self.fresh(i, last)).to(x.dtype)

    def interrupted(self) -> None:
        if unfinished := self._unfinished():
            run, out = unfinished
            run.cancel()
            out.copy_(run.x)
            # Free steps are made with the call before them, captured steps may run ahead.
            self.count(self.plan.morse[self.made : run.reached])
            self.made = max(self.made, run.reached)

    def end(self) -> None:
        super().end()
        if unfinished := self._unfinished():
            unfinished[0].cancel()
        self._running = self._asked = self._control = None

    def _unfinished(self) -> tuple[Run, Tensor] | None:
        return self._running if self.made < len(self.plan) else None

    def _start(self, x: Tensor) -> tuple[Run, Tensor]:
        """The run from x, and memory for what the pipeline is to hold."""
        assert self._asked is not None  # the unet is asked first
        assert self.table is not None  # without one it goes step by step
        sample, cond = self._asked
        if len(sample) not in (len(x), 2 * len(x)):
            raise Unavailable(
                f"the unet is given {len(sample)} samples for {len(x)} images: this guidance is "
                "not supported; restore(pipe)"
            )
        guided = len(sample) == 2 * len(x)
        dash_only: dict[str, Any] = {}
        if sample.shape[1] > x.shape[1]:
            dash_only["channels"] = sample[:, x.shape[1] :]
        if self._control is not None:
            dash_only["controlnet"] = self._control
        if cond.get(ADAPTED) is not None:
            dash_only["adapted"] = cond[ADAPTED]
        cond = plain(cond) | ({DASH_ONLY: dash_only} if dash_only else {})
        out = torch.zeros_like(x)
        run = self.sampler.with_table(self.plan, self.table).start(
            x,
            seed=self.seeds(len(x)),
            guidance_scale=self.guidance_scale if guided else None,
            **cond,
        )
        return run, out
