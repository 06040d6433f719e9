"""The quality experiment: Morse against the same sampler with fewer steps, at equal time.

Each point is one plan, sampled from one set of seeds, with its cost (by measured latencies and by
the clock) and its distance: Frechet's to real images, or that to the full run of the same seeds.
Morse's plan is what a budget buys, the rival's what it buys without a Dot: Dash and free steps.
Extrapolation and reuse put a function that needs no training in the place of the Dot; their Dot
steps cost nothing, so all of the budget goes into Dash steps. What the rows say is told by
`verdict`.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from ..dot.free import extrapolate, reuse
from ..runtime.speed import Speed
from ..sampling.budget import choose
from ..sampling.plan import DASH as DASH_STEP
from ..sampling.plan import DOT as DOT_STEP
from ..sampling.plan import Plan
from ..sampling.request import MOST_SEED
from ..system.errors import Refused
from ..system.machine import machine, now
from .frechet import Frechet, rmse_to_full
from .paired import Paired, unlike
from .partial import Partial
from .subject import Subject
from .verdict import DASH, LINE, MORSE, REUSE, RIVAL

SEEDS_A_SET = 100_000  # set k has the seeds from 100000 k on
DOTS_OF_A_FUNCTION = 2  # behind each Dash, where a function makes the Dot steps


@dataclass(frozen=True)
class Point:
    """One plan of one variant and set of seeds: its budget, and what it costs by the latencies."""

    variant: str
    plan: Plan
    budget_lsd: float
    cost_lsd: float
    set: int = 0


class Experiment:
    """The subject, the yardstick and the seeds of a run with one solver.

    Args:
        subject: the models, with a scheduler, and the pictures that they make of seeds.
        yardstick: the Frechet distance to real images; or `Paired`, the distance to those of the
            full run.
        solver: its name for the rows.
        num_images: per point; set k has the seeds `seed + 100000 k`, and counting up.
        full_steps: Dash steps of the images that `rmse_to_full` and `agreement` of a row compare
            with; None: no such columns.
        num_compared: how many images are compared with them; default: all.
        judge: says how well pictures show their prompts: `prompt_score(images, prompts) -> [n]`,
            as zoo.miniature.judge does; None: no such column.
        dot_name: of the Dot, for the rows; those of another one in `partial` are left alone.
        about: of the rows, what their times depend on; default: `machine()`.
        partial: where finished rows are kept and taken from; None: nowhere.

    Attributes:
        speed: the latencies that costs follow from, once `measure` has found them.
        timed_at: the batch size that they are of; by default the one of sampling.

    Raises:
        Refused: fewer images than the Frechet distance needs, or no full run for `Paired`.
    """

    speed: Speed

    def __init__(
        self,
        subject: Subject,
        yardstick: Frechet | Paired,
        *,
        solver: str,
        num_images: int,
        batch_size: int = 100,
        seed: int = 0,
        full_steps: int | None = None,
        num_compared: int | None = None,
        judge: Any = None,
        dot_name: str = "",
        about: dict | None = None,
        partial: Partial | None = None,
    ):
        if num_images <= yardstick.num_features:
            raise Refused(
                f"{num_images} images: the {yardstick.unit} of {yardstick.num_features} features "
                f"needs at least {yardstick.num_features + 1}"
            )
        if isinstance(yardstick, Paired) and full_steps is None:
            raise Refused(f"the {yardstick.unit} needs full_steps=")
        self.subject, self.yardstick, self.judge, self.solver = subject, yardstick, judge, solver
        self.num_images, self.batch_size = num_images, min(batch_size, num_images)
        self.timed_at = self.batch_size
        self.seed, self.full_steps = seed, full_steps
        self._check_seeds(sets=1)
        self.num_compared = num_images if num_compared is None else num_compared
        self.about = machine() if about is None else about
        self.partial = partial
        self._full_images: dict[int, Tensor] = {}  # by the set of seeds
        self.dot_name = dot_name
        found = partial.rows() if partial is not None else []
        mine = {"solver": solver, "images": num_images}
        self._finished = {
            _key(row): row
            for row in found
            if mine.items() <= row.items() and row.get("dot", "") in ("", dot_name)
        }

    def measure(self, repeats: int = 20) -> Speed:
        """Measure a Dash and a Dot step at the batch size `timed_at`; costs follow from it."""
        self.speed = self.subject.measure(self.timed_at, repeats)
        return self.speed

    def points(
        self,
        steps: Sequence[int],
        budgets: Sequence[int],
        *,
        sets: int = 1,
        rivals: Sequence[str] = (RIVAL,),
        rivals_up_to: Mapping[str, float] | None = None,
    ) -> list[Point]:
        """What is to be done: in each set Dash alone, then Morse and free steps, then the others.

        Args:
            steps: of Dash alone; those of all steps come first, since rows are compared with them.
            budgets: of Morse and its rivals, in LSD; without a Dot of free steps alone.
            rivals: free steps; and extrapolation and reuse, which have the first set alone.
            rivals_up_to: by rival, its largest budget in LSD, where it has not all of them.
        """
        self._check_seeds(sets)
        speed = self.speed.dot_speed
        ordered = sorted(set(steps), key=lambda n: (n != self.full_steps, n))
        alone = [Point(DASH, Plan.spread(n, 0), n, n) for n in ordered]
        has_dot = speed is not None
        bought = [self.point(MORSE, b, speed) for b in sorted(set(budgets)) if has_dot]
        for variant in rivals:
            for budget in sorted(set(budgets)):
                if budget > (rivals_up_to or {}).get(variant, budget):
                    continue
                if variant == RIVAL:
                    bought.append(self.point(RIVAL, budget, None))
                else:
                    plan = Plan.spread(budget, budget * DOTS_OF_A_FUNCTION)
                    bought.append(Point(variant, plan, budget, budget))
        again = [
            replace(point, set=k)
            for k in range(1, sets)
            for point in alone + bought
            if point.variant not in (LINE, REUSE)
        ]
        return alone + bought + again

    def point(self, variant: str, budget: float, dot_speed: float | None) -> Point:
        """What a budget buys at N; without a Dot, where N is None."""
        plan, _ = choose(budget, self.subject.scheduler, dot_speed, **self.subject.known)
        cost = plan.num_dash if dot_speed is None else plan.lsd(dot_speed)
        return Point(variant, plan, budget, cost)

    def sample(
        self, point: Point, num_images: int, on_cost: Callable[[float], None] = lambda cost: None
    ) -> tuple[Tensor, float]:
        """The first images of a point, as they would be shown, and the seconds they took.

        Args:
            on_cost: called after each step of a batch with its cost, LSD x images.

        Returns:
            `[num_images, C, H, W]` float32 on the CPU, clamped to [-1, 1]; seconds.
        """
        dots = {LINE: extrapolate, REUSE: reuse}
        dot_cost = (point.cost_lsd - point.plan.num_dash) / max(1, point.plan.num_dot)
        costs = [{DASH_STEP: 1.0, DOT_STEP: dot_cost}.get(symbol, 0.0) for symbol in point.plan]
        began = time.perf_counter()
        x = self.subject.sample(
            point.plan,
            self._seeds(point, num_images),
            self.batch_size,
            dot=dots.get(point.variant),
            on_step=lambda i, size: on_cost(costs[i] * size),
        )
        seconds = time.perf_counter() - began  # a VAE takes the same after every plan
        return self.subject.pictures(x).clamp(-1, 1), seconds

    def _check_seeds(self, sets: int) -> None:
        if self.seed + SEEDS_A_SET * (sets - 1) + self.num_images - 1 > MOST_SEED:
            where = f" of set {sets - 1}" if sets > 1 else ""
            seeds = f"{self.num_images:,} seeds{where}"
            raise Refused(f"seed={self.seed}: the last of {seeds} is above {MOST_SEED}")

    def _seeds(self, point: Point, count: int) -> range:
        first = self.seed + SEEDS_A_SET * point.set
        return range(first, first + count)

    def row(self, point: Point, on_cost: Callable[[float], None] = lambda cost: None) -> dict:
        """The row of a point: of an earlier run where there is one, else evaluated and kept.

        What was measured is the plan's, so points with one plan are sampled once.
        """
        finished = self._finished.get(_key(vars(point)))
        if finished is not None:
            on_cost(point.cost_lsd * self.num_images)
            return finished | self.labels(point)
        row, _ = self.evaluate(point, on_cost)
        if self.partial is not None:
            self.partial.add(row)
        return row

    def evaluate(
        self, point: Point, on_cost: Callable[[float], None] = lambda cost: None
    ) -> tuple[dict, Tensor]:
        """The row of a point, as `figures.quality_plot` takes it, and its images `[n, C, H, W]`."""
        images, seconds = self.sample(point, self.num_images, on_cost)
        full = None if self.full_steps is None else self._full(point, images, self.full_steps)
        row: dict[str, Any] = {"bench": "quality", "model": self.subject.name}
        row |= {"solver": self.solver, **self.labels(point)}
        row |= {
            "set": point.set,
            "images": len(images),
            "unit": self.yardstick.unit,
            "value": self._distance(images, full),
        }
        if full is not None:
            row |= self._beside(images[: len(full)], full)
        if self.judge is not None:
            asked = self.subject.prompts(self._seeds(point, len(images)))
            row["prompt_score"] = float(self.judge.prompt_score(images, asked).mean())
        row |= {"ms_per_image": 1e3 * seconds / len(images), "sampled_in": self.batch_size}
        row["dot"] = self.dot_name if point.plan.num_dot else ""
        row |= {**self.about, "date": now()}
        self._finished[_key(row)] = row
        return row, images

    def _distance(self, images: Tensor, full: Tensor | None) -> float:
        if isinstance(self.yardstick, Frechet):
            return self.yardstick.distance(images)
        assert full is not None  # or it was refused
        return self.yardstick.distance(images[: len(full)], full)

    def _beside(self, images: Tensor, full: Tensor) -> dict:
        """The columns that compare images with those of the full run."""
        columns = {"rmse_to_full": rmse_to_full(images, full)}
        seen = [self.yardstick.features(pictures) for pictures in (images, full)]
        if seen[0] is not None and seen[1] is not None:
            columns["unlike"] = float(unlike(seen[0], seen[1]).mean())
        if isinstance(self.yardstick, Frechet):
            ours, theirs = self.yardstick.classes(images), self.yardstick.classes(full)
            if ours is not None and theirs is not None:
                columns["agreement"] = float((ours == theirs).float().mean())
        return columns

    def labels(self, point: Point) -> dict:
        """The part of a row that depends on what the latencies are, those of `speed`."""
        return {
            "variant": point.variant,
            "plan": str(point.plan),
            "budget_lsd": point.budget_lsd,
            "cost_lsd": point.cost_lsd,
            "batch_size": self.timed_at,
            "lsd_ms": self.speed.lsd_ms,
            "dot_ms": self.speed.dot_ms,
            "dot_speed": self.speed.dot_speed,
        }

    def _full(self, point: Point, images: Tensor, n: int) -> Tensor:
        """The images of n Dash steps from the seeds of a point, whose own images are given."""
        k = point.set
        full = Point(DASH, Plan.spread(n, 0), n, n, k)

        def make() -> Tensor:
            if point == full:
                return images[: self.num_compared]
            return self.sample(full, self.num_compared)[0]

        if k not in self._full_images:
            name = f"full-{self.solver}-{k}"
            kept = self.partial
            self._full_images[k] = make() if kept is None else kept.images(name, make)
        return self._full_images[k]


def _key(values: dict) -> tuple:
    """What a row and its point have in common, of what their images depend on."""
    function = values["variant"] if values["variant"] in (LINE, REUSE) else ""
    return function, str(values["plan"]), values["set"]
