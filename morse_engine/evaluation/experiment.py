"""The quality experiment: Morse against the same sampler with fewer steps, at equal time.

Each point is one plan, sampled from the same seeds, with its cost (by measured latencies and by the
clock) and its Frechet distance to real images. Extrapolation, which needs no training, is the free
rival: its Dot steps cost nothing, so it gets all of the budget as Dash steps.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone

import torch
from torch import Tensor

from ..dot.free import extrapolate
from ..engine.sampler import Sampler
from ..runtime.speed import Speed, measure_speed
from ..sampling import noise
from ..sampling.loop import sample
from ..sampling.plan import Plan
from ..sampling.solver import SolverTable
from ..system.errors import Refused
from ..system.machine import machine
from .speedup import Frechet, SpeedUp, speedup

DASH, MORSE, RIVAL = "dash only", "morse", "extrapolation"
NAMES = {DASH: "Dash only", MORSE: "Morse", RIVAL: "extrapolation"}

#: How a budget is spent with each solver; one of higher order bears fewer Dot steps in a row.
DOTS_PER_DASH = {"ddim": 4.0, "dpm": 1.0}


@dataclass(frozen=True)
class Point:
    """One plan of one variant: what it may cost, and what it costs by the measured latencies."""

    variant: str
    plan: Plan
    budget_lsd: float
    cost_lsd: float


class Experiment:
    """The models, the yardstick and the seeds of a run.

    Args:
        sampler: of Dash and Dot, made by `compile`; its plan is not used.
        scheduler: the diffusers scheduler whose step counts are compared.
        frechet: the distance to real images.
        solver, model: names for the rows.
        num_images: per point; each point has the seeds `seed`, `seed + 1`, ...
        dots_per_dash: how budgets are spent, see `Plan.from_budget`.

    Raises:
        Refused: fewer images than the Frechet distance needs.
    """

    def __init__(
        self,
        sampler: Sampler,
        scheduler,
        frechet: Frechet,
        *,
        solver: str,
        model: str,
        num_images: int,
        batch_size: int = 100,
        seed: int = 0,
        dots_per_dash: float = 2.0,
    ):
        if num_images <= frechet.num_features:
            raise Refused(
                f"{num_images} images: the Frechet distance of {frechet.num_features} features "
                f"needs at least {frechet.num_features + 1}"
            )
        self.models, self.shape = sampler.models, sampler.shape
        self.scheduler, self.frechet, self.solver, self.model = scheduler, frechet, solver, model
        self.seeds, self.batch_size = range(seed, seed + num_images), min(batch_size, num_images)
        self.dots_per_dash = dots_per_dash
        self.speed: Speed | None = None
        self.about = machine()

    def measure(self, repeats: int = 10) -> Speed:
        """Measure a Dash and a Dot step at the batch size in use; the costs follow from it."""
        dash, dot, device = self.models.dash, self.models.dot, self.models.device
        self.speed = measure_speed(
            dash, dot, self.shape, batch_size=self.batch_size, repeats=repeats, device=device
        )
        return self.speed

    def points(self, steps: Sequence[int], budgets: Sequence[int]) -> list[Point]:
        """Dash alone with each number of steps, then Morse and its rival at each budget in LSD."""
        dot_speed = self.speed.dot_speed
        points = [Point(DASH, Plan.spread(n, 0), n, n) for n in sorted(set(steps))]
        for budget in sorted(set(budgets)):
            plan = Plan.from_budget(budget, dot_speed, dots_per_dash=self.dots_per_dash)
            points.append(Point(MORSE, plan, budget, plan.lsd(dot_speed)))
        for morse in [p for p in points if p.variant == MORSE]:
            num_dash = int(morse.budget_lsd)
            free = Plan.spread(num_dash, round(num_dash * morse.plan.num_dot / morse.plan.num_dash))
            points.append(replace(morse, variant=RIVAL, plan=free, cost_lsd=num_dash))
        return points

    def sample(
        self, point: Point, num_images: int, on_cost: Callable[[float], None] = lambda cost: None
    ) -> tuple[Tensor, float]:
        """The first images of a point and the seconds they took; `on_cost` gets LSD x images."""
        dash = self.models.dash
        dot = extrapolate if point.variant == RIVAL else self.models.dot
        table = SolverTable.for_calls(self.scheduler, len(point.plan))
        dot_cost = (point.cost_lsd - point.plan.num_dash) / max(1, point.plan.num_dot)
        costs = [1.0 if symbol == "-" else dot_cost for symbol in point.plan]
        images, seconds = [], 0.0
        for first in range(0, num_images, self.batch_size):
            seeds = self.seeds[first : min(first + self.batch_size, num_images)]

            def on_step(i: int, n: int, size: int = len(seeds)) -> None:
                on_cost(costs[i] * size)

            began = time.perf_counter()
            start = noise.normal(seeds, noise.INITIAL, self.shape, device=self.models.device)
            x = sample(dash, dot, point.plan, table, start, seeds, on_step=on_step)
            images.append(x.cpu())  # waits for the GPU
            seconds += time.perf_counter() - began
        return torch.cat(images), seconds

    def evaluate(
        self, point: Point, on_cost: Callable[[float], None] = lambda cost: None
    ) -> tuple[dict, Tensor]:
        """The row of a point, as `figures.quality_plot` takes it, and its images `[n, C, H, W]`."""
        images, seconds = self.sample(point, len(self.seeds), on_cost)
        row = {
            "bench": "quality",
            "model": self.model,
            "solver": self.solver,
            "variant": point.variant,
            "plan": str(point.plan),
            "budget_lsd": point.budget_lsd,
            "cost_lsd": point.cost_lsd,
            "set": 0,
            "images": len(images),
            "unit": "Frechet distance",
            "value": self.frechet.distance(images),
            "ms_per_image": 1e3 * seconds / len(images),
            "batch_size": self.batch_size,
            "lsd_ms": self.speed.lsd_ms,
            "dot_ms": self.speed.dot_ms,
            "dot_speed": self.speed.dot_speed,
            **self.about,
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }
        return row, images


# -- what the rows say -------------------------------------------------------------------------


def gain(rows: list[dict], variant: str, cost: str = "cost_lsd") -> SpeedUp:
    """The speed-up of a variant over Dash alone at equal Frechet distance.

    Args:
        cost: "cost_lsd", by the latencies measured in turns, or "ms_per_image", by the clock.
    """

    def curve(name: str) -> list[tuple[float, float]]:
        return [(row[cost], row["value"]) for row in rows if row["variant"] == name]

    return speedup(curve(DASH), curve(variant))


STEADY = 1.25  # equal work that differs by less in time: nothing else kept the machine busy


def unsteady(rows: list[dict]) -> float:
    """How much the time of one Dash step differs between the points of Dash alone; 1 is steady."""
    times = [row["ms_per_image"] / row["cost_lsd"] for row in rows if row["variant"] == DASH]
    return max(times) / min(times)


def verdict(rows: list[dict]) -> str:
    """One sentence: the measured speed-up of Morse, also where it is none, and of its rival."""
    morse, rival = gain(rows, MORSE), gain(rows, RIVAL)
    budgets = [row["budget_lsd"] for row in rows if row["variant"] == MORSE]
    where = f"on average over budgets of {_listed(budgets)} LSD"
    if unsteady(rows) <= STEADY:
        where += f", {gain(rows, MORSE, 'ms_per_image')} by the clock"
    if morse.mean > 1:
        text = f"At equal Frechet distance Morse is {morse} as fast as Dash alone ({where})"
        lost = [b for b, ratio in zip(budgets, morse.per_budget, strict=True) if ratio <= 1]
        if lost:
            text += f", with no gain at {_listed(lost)} LSD"
    else:
        text = f"Morse brings no gain here: {morse} at equal Frechet distance ({where})"
    text += f"; extrapolation, which needs no training, reaches {rival}"
    return text + (", more than Morse." if rival.mean > morse.mean else ".")


def _listed(numbers: Sequence[float]) -> str:
    words = [f"{number:g}" for number in numbers]
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def short(plan: str, limit: int = 40) -> str:
    """A plan for a table: whole up to `limit` steps, else its beginning and a count."""
    head = limit - 12
    return plan if len(plan) <= limit else f"{plan[:head]} and {len(plan) - head} more"


HEADINGS = ("method", "budget, LSD", "plan", "ms / image", "Frechet distance")


def cells(rows: list[dict]) -> list[tuple[str, ...]]:
    """The rows as text under `HEADINGS`, by budget."""
    order = list(NAMES)
    return [
        (
            NAMES[row["variant"]],
            f"{row['budget_lsd']:g}",
            short(row["plan"]),
            f"{row['ms_per_image']:.2f}",
            f"{row['value']:.3f}",
        )
        for row in sorted(rows, key=lambda row: (row["budget_lsd"], order.index(row["variant"])))
    ]


def caption(rows: list[dict]) -> str:
    """Under which conditions the rows were measured."""
    row, factor = rows[0], unsteady(rows)
    busy = (
        f". This machine was busy with other work: by the clock, equal work differs "
        f"{factor:.1f}-fold; the latencies behind LSD are measured in turns and suffer less"
    )
    return (
        f"{row['model']}, {row['solver'].upper()}, {row['images']:,} images a point (one set of "
        f"seeds), batch {row['batch_size']}; 1 LSD = {row['lsd_ms']:.3g} ms a batch, "
        f"a Dot step {row['dot_ms']:.3g} ms: N = {row['dot_speed']:.1f}"
        f"{busy if factor > STEADY else ''}"
    )


def table(rows: list[dict]):
    """The rows as a rich table."""
    from rich.table import Table

    table = Table(title="Quality at equal time (a lower Frechet distance is better)")
    table.caption = caption(rows)
    for name in HEADINGS:
        left = name in ("method", "plan")
        table.add_column(name, justify="left" if left else "right", overflow="fold")
    for texts in cells(rows):
        table.add_row(*texts, style="bold" if texts[0] == NAMES[MORSE] else None)
    return table


def speedup_rows(rows: list[dict]) -> list[dict]:
    """The speed-ups of Morse and of its rival as rows, beside those of the points."""
    budgets = [row["budget_lsd"] for row in rows if row["variant"] == MORSE]
    result = []
    for variant in (MORSE, RIVAL):
        found = gain(rows, variant)
        row = {name: rows[0][name] for name in ("model", "solver", "images", "dot_speed")}
        row |= {"bench": "quality speed-up", "variant": variant, "budgets": budgets, "unit": "x"}
        row |= {"value": found.mean, **asdict(found)}
        result.append(row | {"value_by_clock": gain(rows, variant, "ms_per_image").mean})
    return result
