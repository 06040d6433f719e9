"""How the loop of one call is served: what `Whole` and `StepByStep` have in common."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..engine import Sampler
from ..sampling import noise
from ..sampling.plan import DASH, DOT, FREE, Plan
from ..sampling.solver import Column, SolverTable
from .proxies import ADAPTED, RESIDUALS

Generator = torch.Generator | list[torch.Generator] | None  # of a call: None is torch's own
Residuals = tuple[Sequence[Tensor], Tensor | None]  # of the levels and of the middle


class Way(ABC):
    """One loop from its first model call on, as the pipeline asks for it.

    Args:
        pipe: the pipeline.
        sampler: the compiled models.
        real: the pipeline's own "unet", "scheduler" and "controlnet", if it has one.
        scheduler: what the pipeline has in the place of its own.
        plan: of the steps of this loop.
        table: their solver; None where the scheduler has to make them.
        arguments: the call's, with the defaults of those that it was not given.

    Attributes:
        made: how many steps the pipeline has been given.
        num_dash, num_dot, num_free: how many of them each has made.
        notes: steps that were not made as planned.
    """

    PATH: str  # in reports

    def __init__(
        self,
        pipe: Any,
        sampler: Sampler,
        real: dict[str, Any],
        scheduler: Any,
        plan: Plan,
        table: SolverTable | None,
        arguments: dict[str, Any],
    ):
        self.pipe, self.sampler, self.real, self.scheduler = pipe, sampler, real, scheduler
        self.plan, self.table = plan, table
        self.made = self.num_dash = self.num_dot = self.num_free = 0
        self.notes: list[str] = []
        self._generator: Generator = arguments.get("generator")
        self._guidance_scale: Any = arguments.get("guidance_scale")
        self._seeds: list[int] | None = None

    def count(self, made: str) -> None:
        """Count the steps of a piece of the plan as made."""
        self.num_dash += made.count(DASH)
        self.num_dot += made.count(DOT)
        self.num_free += made.count(FREE)

    @abstractmethod
    def controlnet(self, sample: Tensor, timestep: Tensor, cond: dict) -> Residuals:
        """The residuals of the ControlNet."""

    @abstractmethod
    def unet(self, sample: Tensor, timestep: Tensor, cond: dict) -> Tensor:
        """The model's output, of as many samples as it is given."""

    @abstractmethod
    def step(
        self, z: Tensor, timestep: Tensor, x: Tensor, *args: Any, **options: Any
    ) -> tuple[Tensor, Tensor | None]:
        """(x_next, denoised), as the scheduler's step returns them."""

    def interrupted(self) -> None:  # noqa: B027 - a loop step by step has only what it has made
        """The pipeline has seen that it is interrupted: its latents become those reached by now."""

    def end(self) -> None:
        """Let go of what the loop has worked with; what it has made can still be read."""
        self.scheduler = self._generator = None

    @property
    def guidance_scale(self) -> float:
        """The pipeline's own, which a callback may change; where it has none, the call's."""
        return float(getattr(self.pipe, "guidance_scale", self._guidance_scale))

    def fresh(self, i: int, x: Tensor) -> Tensor | None:
        """The noise of step i, float32 as x; None where it adds none."""
        if self.table is None or not self.table.adds_noise(i):
            return None
        return noise.normal(self.seeds(len(x)), i, x.shape[1:], device=x.device)

    def seeds(self, count: int) -> list[int]:
        """One seed for each image, drawn from the pipeline's generator where noise is needed."""
        if self._seeds is None:
            needed = self.table is not None and self.table.uses_noise
            self._seeds = seeds(self._generator, count) if needed else [0] * count
        return self._seeds

    def denoised(self, i: int, x_next: Tensor, fresh: Tensor | None) -> Tensor:
        """What LCM pipelines decode: their x_next is sqrt(1 - D^2) denoised + D noise."""
        if fresh is None or self.table is None:
            return x_next
        scale = self.table.rows[i, Column.D].item()
        if scale >= 1:
            return x_next
        return (x_next - scale * fresh) / math.sqrt(1 - scale**2)


def seeds(generator: Generator, count: int) -> list[int]:
    """One seed for each image, drawn from a generator, a list of them, or torch's own."""
    if isinstance(generator, list) and len(generator) == 1:
        generator = generator[0]
    if isinstance(generator, list):
        return [seed for one in generator for seed in seeds(one, 1)]
    device = generator.device if generator is not None else "cpu"
    return torch.randint(2**63 - 1, (count,), generator=generator, device=device).tolist()


def plain(cond: dict) -> dict:
    """The keywords that are given a value, without what a ControlNet or an adapter adds."""
    return {k: v for k, v in cond.items() if v is not None and k not in (*RESIDUALS, ADAPTED)}
