"""The quality experiment: Morse against the same sampler with fewer steps, at equal time.

Each point is one plan, sampled from one set of seeds, with its cost (by measured latencies and by
the clock) and its Frechet distance to real images. Extrapolation and reuse, which need no training,
are the free rivals: their Dot steps cost nothing, so all of the budget goes into Dash steps. What
the rows say is told by `verdict`.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..dot.free import extrapolate, reuse
from ..runtime.models import Models
from ..runtime.speed import Speed, measure_speed
from ..sampling import noise
from ..sampling.budget import plan_of
from ..sampling.loop import sample
from ..sampling.plan import DASH as DASH_STEP
from ..sampling.plan import Plan
from ..sampling.solver import SolverTable
from ..system.errors import Refused
from ..system.machine import machine, now
from .frechet import Frechet, rmse_to_full
from .partial import Partial
from .verdict import DASH, MORSE, REUSE, RIVAL

SEEDS_A_SET = 100_000  # set k has the seeds from 100000 k on


@dataclass(frozen=True)
class Point:
    """One plan of one variant and set of seeds: its budget, and what it costs by the latencies."""

    variant: str
    plan: Plan
    budget_lsd: float
    cost_lsd: float
    set: int = 0


class Experiment:
    """The models, the yardstick and the seeds of a run with one solver.

    Args:
        models: Dash and Dot, as a sampler calls them.
        shape: `(C, H, W)` of an image.
        scheduler: the diffusers scheduler whose step counts are compared.
        frechet: the distance to real images.
        solver, model: names for the rows.
        num_images: per point; set k has the seeds `seed + 100000 k`, and counting up.
        full_steps: Dash steps of the images that `rmse_to_full` of a row compares with; None: no
            such column.
        about: of the rows, what their times depend on; default: `machine()`.
        partial: where finished rows are kept and taken from; None: nowhere.

    Attributes:
        speed: the latencies that costs follow from, once `measure` has found them.

    Raises:
        Refused: fewer images than the Frechet distance needs.
    """

    speed: Speed

    def __init__(
        self,
        models: Models,
        shape: Sequence[int],
        scheduler: Any,
        frechet: Frechet,
        *,
        solver: str,
        model: str,
        num_images: int,
        batch_size: int = 100,
        seed: int = 0,
        full_steps: int | None = None,
        about: dict | None = None,
        partial: Partial | None = None,
    ):
        if num_images <= frechet.num_features:
            raise Refused(
                f"{num_images} images: the Frechet distance of {frechet.num_features} features "
                f"needs at least {frechet.num_features + 1}"
            )
        self.models, self.shape, self.device = models, tuple(shape), models.device or "cpu"
        self.scheduler, self.frechet, self.solver, self.model = scheduler, frechet, solver, model
        self.num_images, self.batch_size = num_images, min(batch_size, num_images)
        self.seed, self.full_steps = seed, full_steps
        self.about = machine() if about is None else about
        self.partial = partial
        self._full_images: dict[int, Tensor] = {}  # by the set of seeds
        found = partial.rows() if partial is not None else []
        self._finished = {_key(row): row for row in found if row["solver"] == solver}

    def measure(self, repeats: int = 20) -> Speed:
        """Measure a Dash and a Dot step at the batch size in use; the costs follow from it."""
        self.speed = measure_speed(
            self.models.dash,
            self.models.dot,
            self.shape,
            batch_size=self.batch_size,
            repeats=repeats,
            device=self.device,
        )
        return self.speed

    def points(
        self,
        steps: Sequence[int],
        budgets: Sequence[int],
        *,
        sets: int = 1,
        rivals: Sequence[str] = (RIVAL,),
        rivals_up_to: float = float("inf"),
    ) -> list[Point]:
        """What is to be done: in each set Dash alone, then Morse, in the first one its rivals too.

        Args:
            steps: of Dash alone; those of all steps come first, since rows are compared with them.
            budgets: of Morse, in LSD.
            rivals: extrapolation, reuse; each makes as many Dot steps for a Dash step as Morse.
            rivals_up_to: the largest budget of the rivals, in LSD.
        """
        speed = self.speed.dot_speed
        assert speed is not None  # there is a Dot
        ordered = sorted(set(steps), key=lambda n: (n != self.full_steps, n))
        alone = [Point(DASH, Plan.spread(n, 0), n, n) for n in ordered]
        morse = []
        for budget in sorted(set(budgets)):
            plan = plan_of(budget, self.scheduler, speed)
            morse.append(Point(MORSE, plan, budget, plan.lsd(speed)))
        free = []
        for variant in rivals:
            for point in morse:
                if point.budget_lsd <= rivals_up_to:
                    num_dash = int(point.budget_lsd)
                    ratio = point.plan.num_dot / point.plan.num_dash
                    plan = Plan.spread(num_dash, round(num_dash * ratio))
                    free.append(replace(point, variant=variant, plan=plan, cost_lsd=num_dash))
        again = [replace(p, set=k) for k in range(1, sets) for p in alone + morse]
        return alone + morse + free + again

    def sample(
        self, point: Point, num_images: int, on_cost: Callable[[float], None] = lambda cost: None
    ) -> tuple[Tensor, float]:
        """The first images of a point, as they would be shown, and the seconds they took.

        Args:
            on_cost: called after each step of a batch with its cost, LSD x images.

        Returns:
            `[num_images, C, H, W]` float32 on the CPU, clamped to [-1, 1]; seconds.
        """
        dots = {RIVAL: extrapolate, REUSE: reuse}
        first = self.seed + SEEDS_A_SET * point.set
        dot_cost = (point.cost_lsd - point.plan.num_dash) / max(1, point.plan.num_dot)
        costs = [1.0 if symbol == DASH_STEP else dot_cost for symbol in point.plan]
        began = time.perf_counter()
        images = sample_many(
            self.models.dash,
            dots.get(point.variant, self.models.dot),
            point.plan,
            SolverTable.for_calls(self.scheduler, len(point.plan)),
            range(first, first + num_images),
            self.shape,
            self.batch_size,
            device=self.device,
            on_step=lambda i, size: on_cost(costs[i] * size),
        )
        return images.clamp(-1, 1), time.perf_counter() - began

    def row(self, point: Point, on_cost: Callable[[float], None] = lambda cost: None) -> dict:
        """The row of a point: of an earlier run where there is one, else evaluated and kept."""
        finished = self._finished.get(_key(vars(point)))
        if finished is not None:
            on_cost(point.cost_lsd * self.num_images)
            return finished
        row, _ = self.evaluate(point, on_cost)
        if self.partial is not None:
            self.partial.add(row)
        return row

    def evaluate(
        self, point: Point, on_cost: Callable[[float], None] = lambda cost: None
    ) -> tuple[dict, Tensor]:
        """The row of a point, as `figures.quality_plot` takes it, and its images `[n, C, H, W]`."""
        images, seconds = self.sample(point, self.num_images, on_cost)
        row = {
            "bench": "quality",
            "model": self.model,
            "solver": self.solver,
            "variant": point.variant,
            "plan": str(point.plan),
            "budget_lsd": point.budget_lsd,
            "cost_lsd": point.cost_lsd,
            "set": point.set,
            "images": len(images),
            "unit": "Frechet distance",
            "value": self.frechet.distance(images),
        }
        if self.full_steps is not None:
            full = self._full(point, images, self.full_steps)
            row["rmse_to_full"] = rmse_to_full(images, full)
        row |= {
            "ms_per_image": 1e3 * seconds / len(images),
            "batch_size": self.batch_size,
            "lsd_ms": self.speed.lsd_ms,
            "dot_ms": self.speed.dot_ms,
            "dot_speed": self.speed.dot_speed,
            **self.about,
            "date": now(),
        }
        return row, images

    def _full(self, point: Point, images: Tensor, n: int) -> Tensor:
        """The images of n Dash steps from the seeds of a point, whose own images are given."""
        k = point.set
        full = Point(DASH, Plan.spread(n, 0), n, n, k)

        def make() -> Tensor:
            return images if point == full else self.sample(full, self.num_images)[0]

        if k not in self._full_images:
            name = f"full-{self.solver}-{k}"
            kept = self.partial
            self._full_images[k] = make() if kept is None else kept.images(name, make)
        return self._full_images[k]


def _key(values: dict) -> tuple:
    """What a row and its point have in common."""
    return values["variant"], str(values["plan"]), values["budget_lsd"], values["set"]


def sample_many(
    dash: Callable,
    dot: Callable | None,
    plan: Plan,
    table: SolverTable,
    seeds: Sequence[int],
    shape: Sequence[int],
    batch_size: int = 100,
    *,
    device: torch.device | str = "cpu",
    progress: bool = False,
    on_step: Callable[[int, int], None] | None = None,
    **cond: Any,
) -> Tensor:
    """The images of many seeds, sampled in batches by the eager loop.

    Args:
        dash, dot, plan, table: as for `sampling.loop.sample`; dot may be None if the plan has no
            Dot steps.
        seeds: one whole number per image; an image depends on its seed alone, not on the batch.
        shape: `(C, H, W)`.
        device: where the models are.
        progress: show a progress bar.
        on_step: called as `on_step(i, size)` after step i of each batch of `size` images.
        cond: the same for all images.

    Returns:
        `[len(seeds), C, H, W]` float32 on the CPU.
    """
    from rich.progress import track

    seeds = [int(seed) for seed in seeds]
    batches = [seeds[i : i + batch_size] for i in range(0, len(seeds), batch_size)]
    images = []
    for batch in track(batches, description=f"sampling {plan}", disable=not progress):
        size, after = len(batch), None
        if on_step is not None:
            after = lambda i, n, size=size: on_step(i, size)  # noqa: E731
        start = noise.normal(batch, noise.INITIAL, shape, device=device)
        images.append(sample(dash, dot, plan, table, start, batch, cond, on_step=after).cpu())
    return torch.cat(images)
