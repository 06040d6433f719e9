"""What a Dot is worth: its images beside those of all steps, of free rivals and of Dash alone.

    rmse = sqrt(mean((images - images of FULL_STEPS Dash steps)^2))      from the same seeds

It needs no other images, and no features. It says whether a Dot is worth using at all; what it
brings at equal time is measured by `morse-engine evaluate`.
"""

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..dot.free import extrapolate, reuse
from ..sampling import noise
from ..sampling.loop import sample
from ..sampling.plan import DOT, FREE, Plan
from ..sampling.solver import SolverTable
from ..system.errors import Refused
from ..system.files import whole
from ..system.images import MODES
from .fit import step_generator
from .prompts import Prompts

FULL_STEPS = 30  # of Dash, the images that are compared with
SEEDS = 16
FIRST_SEED = 2**40  # nobody's first seeds
IN_PREVIEW = 8


@dataclass(frozen=True)
class Verdict:
    """How far images are from those of all steps: rmse, in units of the data range.

    Attributes:
        plan: of Dot and its rivals.
        dot: rmse of the Dot.
        rivals: name -> rmse of what needs no training, with the same Dash steps.
    """

    plan: str
    solver: str
    seeds: int
    full_steps: int
    dot: float
    rivals: dict[str, float]

    @property
    def best_rival(self) -> str:
        return min(self.rivals, key=lambda name: self.rivals[name])

    @property
    def useful(self) -> bool:
        """Whether the Dot comes closer than every rival."""
        return self.dot < self.rivals[self.best_rival]

    def __str__(self) -> str:
        rivals = ", ".join(f"{name} {rmse:.3f}" for name, rmse in self.rivals.items())
        said = (
            f"Distance to {self.full_steps} Dash steps ({self.solver}, {self.seeds} new seeds, "
            f"plan {self.plan}): this Dot {self.dot:.3f}; {rivals}."
        )
        if self.useful:
            return f"{said} The Dot is the closest."
        return (
            f"{said} The Dot is WORSE than {self.best_rival}, which needs no training: do not use "
            "it as it is. Train longer (--steps), or with more images."
        )


class Judge:
    """Runs a Dot and its rivals from seeds that no training draws.

    Args:
        prompts: of Dash, with the images whose prompts are used.
        schedulers: the first one is the solver.
        most_steps: of a run, as the training walks them.
    """

    def __init__(self, prompts: Prompts, schedulers: Sequence, most_steps: int):
        self.prompts, self.solver = prompts, schedulers[0]
        num_steps = min(12, most_steps)
        num_dash = max(1, num_steps // 3)
        self.plan = Plan.spread(num_dash, num_steps - num_dash)

    def run(self, dot: Callable[..., Tensor] | None, plan: Plan) -> Tensor:
        """The images of a plan, `[SEEDS, C, H, W]` float32 on the CPU, clamped if pictures."""
        prompts = self.prompts
        shape, device = tuple(prompts.data.shape[1:]), prompts.device
        columns, scale = prompts.run(SEEDS, step_generator(0, 0))
        asked = prompts.asked(columns)
        seeds = range(FIRST_SEED, FIRST_SEED + SEEDS)
        start = noise.normal(seeds, noise.INITIAL, shape, device=device)

        def dash(x: Tensor, t: Tensor, **cond: Any) -> Tensor:
            return prompts.unet(x, t, **cond).sample.float()

        # A Dot is given its own conditions, of a guided one with the scale of each image.
        own = None if dot is None else lambda *point, **_: dot(*point, **asked.dot)
        table = SolverTable.from_scheduler(self.solver, len(plan))
        images = sample(
            *(dash, own, plan, table, start, seeds, asked.dash, scale), guided_dot=prompts.guided
        ).cpu()
        return images.clamp(-1, 1) if shape[0] in MODES else images

    @cached_property
    def full(self) -> Tensor:
        """The images of all steps."""
        return self.run(None, Plan.spread(FULL_STEPS, 0))

    def rmse(self, dot: Callable[..., Tensor] | None, plan: Plan) -> float:
        """The distance of a plan's images to those of all steps."""
        return (self.run(dot, plan).double() - self.full).square().mean().sqrt().item()

    def preview(self, dot: Callable[..., Tensor]) -> Tensor | None:
        """Pairs of pictures, all steps and with Dot; None where the images are no pictures."""
        if self.prompts.data.shape[1] not in MODES:
            return None
        pairs = zip(self.full[:IN_PREVIEW], self.run(dot, self.plan), strict=False)
        return torch.stack([image for pair in pairs for image in pair])

    def verdict(self, dot: Callable[..., Tensor], folder: Path) -> Verdict:
        """Judge a Dot, and write what is found to `folder`/verdict.json."""
        alone = Plan.spread(self.plan.num_dash, 0)
        rivals = {
            "reuse": self.rmse(reuse, self.plan),
            "extrapolation": self.rmse(extrapolate, self.plan),
            f"Dash alone in {len(alone)} steps": self.rmse(None, alone),
        }
        free = Plan(str(self.plan).replace(DOT, FREE))
        with suppress(Refused):  # some solvers cannot make them
            rivals["free steps"] = self.rmse(None, free)
        found = Verdict(
            plan=str(self.plan),
            solver=type(self.solver).__name__,
            seeds=SEEDS,
            full_steps=FULL_STEPS,
            dot=self.rmse(dot, self.plan),
            rivals=rivals,
        )
        with whole(folder / "verdict.json") as partial:
            content = asdict(found) | {"useful": found.useful}
            partial.write_text(json.dumps(content, indent=1) + "\n")
        return found
