"""What an experiment is about: models with a scheduler, and their pictures of seeds."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..runtime.models import Models
from ..runtime.speed import Speed, measure_speed
from ..sampling.free import NO_RANGE, Range
from ..sampling.plan import Plan
from ..sampling.solver import SolverTable
from .many import sample_many


class Subject:
    """Models of pixels that are told nothing but x and t.

    Args:
        name: for rows and figures.
        models: Dash and Dot, as a sampler calls them.
        shape: `(C, H, W)` of a sample.
        scheduler: the diffusers scheduler whose step counts are compared.

    Attributes:
        guidance_scale: of classifier-free guidance; None without.
        plans: the folder of a search; None: that of the Dot.
        latents: the range of free steps where neither Dot nor scheduler know one.
        device: where the models are.
    """

    guidance_scale: float | None = None
    plans: str | Path | None = None
    latents: Range = NO_RANGE

    def __init__(self, name: str, models: Models, shape: Sequence[int], scheduler: Any):
        self.name, self.models, self.shape = name, models, tuple(shape)
        self.scheduler, self.device = scheduler, models.device or torch.device("cpu")

    def told(self, seeds: Sequence[int]) -> dict:
        """What both models are given by keyword for the images of these seeds.

        With guidance of twice as many rows, those without the condition first.
        """
        return {}

    def prompts(self, seeds: Sequence[int]) -> list[str]:
        """What the images of these seeds are to show; empty where that is not asked."""
        return []

    def pictures(self, x: Tensor) -> Tensor:
        """Samples `[n, C, H, W]` as pictures `[n, c, h, w]` float32 on the CPU, not clamped."""
        return x

    @property
    def known(self) -> dict[str, Any]:
        """What `sampling.budget.choose` is told of the models."""
        told = self.models.known | ({} if self.plans is None else {"folder": self.plans})
        told["guided"] = self.guidance_scale is not None
        if told["clean_range"] is None and self.latents != NO_RANGE:
            told |= {"clean_range": self.latents}
        return told

    def sample(
        self,
        plan: Plan,
        seeds: Sequence[int],
        batch_size: int,
        *,
        dot: Callable[..., Tensor] | None = None,
        on_step: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """The samples of a plan, `[len(seeds), C, H, W]` float32 on the CPU.

        Args:
            dot: makes the Dot steps; default: that of the models. A function corrects each branch
                of the guidance.
            on_step: as for `sample_many`.
        """
        table, known = SolverTable.for_calls(self.scheduler, len(plan)), self.models.clean_range
        if known is None and table.clean_range == NO_RANGE:  # as integrations.accelerate has it
            known = self.latents
        return sample_many(
            self.models.dash,
            self.models.dot if dot is None else dot,
            plan,
            table if known is None else table.with_range(known),
            seeds,
            self.shape,
            batch_size,
            device=self.device,
            on_step=on_step,
            told=self.told,
            guidance_scale=self.guidance_scale,
            guided_dot=dot is None and self.models.guided_dot,
        )

    def measure(self, batch_size: int, repeats: int) -> Speed:
        """Measure a Dash and a Dot step at a batch size, with guidance where there is any."""
        return measure_speed(
            self.models.dash,
            self.models.dot,
            self.shape,
            batch_size=batch_size,
            repeats=repeats,
            device=self.device,
            cond=self.told(range(batch_size)),
            guidance_scale=self.guidance_scale,
            guided_dot=self.models.guided_dot,
        )
