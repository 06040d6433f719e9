"""The demo: what Morse does to a bundled model that draws what it is asked, as one page."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from ..evaluation import beside, near_verdict, page
from ..evaluation.experiment import Experiment, Point
from ..evaluation.figures import plain
from ..evaluation.near_plot import near_plot
from ..evaluation.nearness import PROMPT, RMS, Near, chosen, speedup_rows
from ..evaluation.paired import Paired
from ..evaluation.verdict import DASH, MORSE, NAMES, RIVAL, short
from ..sampling.budget import choose
from ..sampling.plan import Plan
from ..system.errors import Refused
from ..system.files import output_folder, whole, write_rows
from ..system.lock import alone
from ..system.machine import device
from ..zoo.miniature import judge
from .demo_models import MODELS, Shown

if TYPE_CHECKING:
    from rich.console import Console

REPEATS = 10  # of each step, to measure N


def run_demo(
    out: str | Path,
    model: str = "miniature",
    *,
    seed: int = 0,
    images: int = 96,
    budgets: Sequence[int] = (3, 4, 5, 6),
    steps: Sequence[int] = (3, 4, 5, 6, 8, 10, 12),
    full_steps: int = 50,
    pictured: Sequence[int] = (0, 5, 13),
    pictured_budget: int | None = None,
    batch_size: int = 16,
    device_name: str = "auto",
    console: "Console | None" = None,
) -> Path:
    """Measure Morse against fewer steps and free steps, and write a page about it.

    Writes `side_by_side.png`, `nearness.png`, `rows.json` and `index.html` into `out`, each of them
    whole or not at all, and prints the table. With the defaults about 130 LSD x 96 pictures: some
    two minutes on two cores.

    Args:
        out: a folder, made if it is not there.
        model: one of `demo_models.MODELS`.
        seed: of the first picture; the others count up.
        images: pictures per point; 8 or more.
        budgets: of Morse and of free steps, in LSD.
        steps: of Dash alone, its curve.
        full_steps: Dash steps of the pictures that all others are compared with.
        pictured: places of the pictures that are shown, those below `images`; of the default
            seeds and prompts a face, an animal and a fruit.
        pictured_budget: the budget in LSD they are shown at; default: the model's.
        batch_size: of sampling; what Morse costs is said for it and for one picture alone.
        console: default: the terminal.

    Returns:
        the path of the page.

    Raises:
        NotADirectoryError, PermissionError: `out` cannot be written to; raised before any work.
        Refused: a number that does not fit, or a device that is not there.
        Unavailable: another process writes into `out`.
    """
    from rich.console import Console

    console, out, where = console or Console(), output_folder(out), device(device_name)
    places = [place for place in pictured if 0 <= place < images]
    if images < 8 or not places:
        raise Refused(f"images={images}, pictured={pictured}: 8 or more, of which some are shown")
    with alone(out):
        drawn = MODELS[model](where)
        pictured_budget = drawn.budget if pictured_budget is None else pictured_budget
        bench = _experiment(drawn, images, batch_size, seed, full_steps)
        found, shown = _measure(
            bench, sorted({*steps, pictured_budget}), sorted({*budgets, pictured_budget}),
            places, pictured_budget, console,
        )  # fmt: skip
        batches = tuple(dict.fromkeys((bench.batch_size, 1)))
        prompts = bench.subject.prompts([seed + place for place in places])
        _write(out, drawn, bench, found, prompts, shown, batches, pictured_budget)
    console.print(near_verdict.table(found))
    console.print(near_verdict.verdict(found, batches[0]), style="bold", highlight=False)
    for size in batches:
        console.print(near_verdict.in_short(found, size), highlight=False)
    console.print(f"The page: {out / 'index.html'}", highlight=False, soft_wrap=True)
    return out / "index.html"


def _experiment(
    shown: Shown, num_images: int, batch_size: int, seed: int, full_steps: int
) -> Experiment:
    """With DDIM, beside the full run."""
    told = judge.load()
    return Experiment(
        shown.subject, Paired(told), solver="ddim", num_images=num_images, batch_size=batch_size,
        seed=seed, full_steps=full_steps, judge=told,
    )  # fmt: skip


def _measure(
    bench: Experiment,
    steps: list[int],
    budgets: list[int],
    places: list[int],
    pictured_budget: int,
    console: "Console",
) -> tuple[list[Near], list[beside.Method]]:
    """All points beside the full run, and some pictures. Progress is in LSD x pictures."""
    from rich.progress import Progress, TimeElapsedColumn

    layout = *Progress.get_default_columns(), TimeElapsedColumn()
    with Progress(*layout, console=console) as bar:
        task = bar.add_task("latency of a Dash and of a Dot step", total=None)
        work = _points(bench, steps, budgets)
        assert bench.full_steps is not None  # of `Paired`
        n = bench.full_steps
        whole_run = Point(DASH, Plan.spread(n, 0), n, n)
        every = [whole_run, *(point for point, _ in work)]
        bar.update(task, total=bench.num_images * sum(point.cost_lsd for point in every))

        def on_cost(cost: float) -> None:
            bar.advance(task, cost)

        bar.update(task, description=f"all {n} steps")
        row, full = bench.evaluate(whole_run, on_cost)
        compare = _Compare(bench, full)
        shown = [_method(f"All {n} steps", compare(row, full), full, places)]
        found: list[Near] = []
        made: dict[Plan, Near] = {}  # what a plan's pictures are does not depend on what it costs
        for point, labels in work:
            bar.update(task, description=f"{NAMES[point.variant]}, {point.budget_lsd:g} LSD")
            if point.plan in made:
                found.append(made[point.plan].at(labels))
                on_cost(point.cost_lsd * bench.num_images)
            else:
                row, pictures = bench.evaluate(point, on_cost)
                found.append(compare(row, pictures).at(labels))
                made[point.plan] = found[-1]
                compare.kept[point.plan] = pictures
    for name, near in _picked(found, bench.batch_size, pictured_budget).items():
        shown.append(_method(name, near, compare.kept[Plan(near.row["plan"])], places))
    return found, shown


def _picked(found: list[Near], batch_size: int, budget: int) -> dict[str, Near]:
    """Dash alone, free steps and Morse at a budget, by headings; those with one plan once.

    The best plan that is known may have no Dot steps.
    """
    picked: dict[str, Near] = {}
    for variant in (DASH, RIVAL, MORSE):
        mine = chosen(found, variant, batch_size)
        near = next(near for near in mine if near.row["budget_lsd"] == budget)
        name = f"{budget} Dash steps" if variant == DASH else NAMES[variant].capitalize()
        plan = near.row["plan"]
        same = next((n for n, other in picked.items() if other.row["plan"] == plan), None)
        if same is not None:
            del picked[same]
            name = f"{same} = {name}"
        picked[name] = near
    return picked


class _Compare:
    """Compares pictures with those of all steps.

    Attributes:
        kept: all pictures, by plan.
    """

    def __init__(self, bench: Experiment, full: Tensor):
        assert isinstance(bench.yardstick, Paired)
        self._yardstick, self._judge, self._full = bench.yardstick, bench.judge, full
        self._prompts = bench.subject.prompts(range(bench.seed, bench.seed + len(full)))
        self.kept: dict[Plan, Tensor] = {}

    def __call__(self, row: dict, pictures: Tensor) -> Near:
        return Near.of(row, pictures, self._full, self._yardstick, self._judge, self._prompts)


def _points(bench: Experiment, steps: list[int], budgets: list[int]) -> list[tuple[Point, dict]]:
    """What is to be sampled with its labels: what it costs at its batch size; batch 1 at last."""
    together, work = bench.timed_at, []
    bench.timed_at = 1
    alone = bench.measure(REPEATS)
    points = [bench.point(MORSE, budget, alone.dot_speed) for budget in budgets]
    last = [(point, bench.labels(point)) for point in points] if together > 1 else []
    bench.timed_at = together
    bench.measure(REPEATS)
    work = [(point, bench.labels(point)) for point in bench.points(steps, budgets)]
    return work + last


def _method(name: str, near: Near, images: Tensor, places: list[int]) -> beside.Method:
    row, full = near.row, near.row["value"] == 0
    ms = row["cost_lsd"] * row["lsd_ms"] / row["batch_size"]
    cost = f"{row['cost_lsd']:.2g} LSD, {plain(ms)} ms a picture"
    numbers = []
    for k in places:
        far = "" if full else f"rms {float(near.values[RMS][k]):.3f}, "
        numbers.append(f"{far}prompt score {float(near.values[PROMPT][k]):.2f}")
    code = short(row["plan"], 22 if full else 36)  # the column of the full run is narrower
    return beside.Method(name, (code, cost), images[places], tuple(numbers))


def _write(
    out: Path,
    drawn: Shown,
    bench: Experiment,
    found: list[Near],
    prompts: list[str],
    shown: list[beside.Method],
    batches: tuple[int, ...],
    budget: int,
) -> None:
    with whole(out / "side_by_side.png") as path:
        title = f"The same seeds: all steps, and ways to spend the time of {budget} steps"
        beside.side_by_side(prompts, shown, path, title)
    with whole(out / "nearness.png") as path:
        near_plot(found, batches, path)
    write_rows(
        out / "rows.json", [*(near.as_row() for near in found), *speedup_rows(found, batches)]
    )
    text = page.render_prompted(
        title=drawn.title,
        verdict=near_verdict.verdict(found, batches[0]),
        basis=_basis(bench, budget),
        batches=[near_verdict.in_short(found, size) for size in batches],
        seeds=[
            {"prompt": prompt, "cells": beside.cells(shown, k)} for k, prompt in enumerate(prompts)
        ],
        at_budget=near_verdict.at_budget(found, budget, batches[0]),
        brightest=beside.BRIGHTEST,
        costs=drawn.costs,
        elsewhere=drawn.elsewhere,
        lines=drawn.lines,
        plot=(out / "nearness.png").read_bytes(),
        headings=near_verdict.headings(found),
        cells=near_verdict.cells(found),
        marked=NAMES[MORSE],
        caption=near_verdict.caption(found),
        machine=bench.about,
    )
    with whole(out / "index.html") as path:
        path.write_text(text, encoding="utf-8")


def _basis(bench: Experiment, budget: int) -> str:
    """What the verdict rests on."""
    subject, images = bench.subject, range(bench.seed, bench.seed + bench.num_images)
    scale = subject.guidance_scale
    guidance = "" if scale is None else f", guidance {scale:g}"
    why = choose(budget, subject.scheduler, bench.speed.dot_speed, **subject.known).why
    count = len(set(subject.prompts(images)))
    return (
        f"{bench.num_images:,} pictures a point of {count} prompts that stand for many pictures"
        f"{guidance}; in brackets the 95 % "
        f"interval of a bootstrap over the pictures, for this model alone. Morse's plans are "
        f'those of plan="auto": {why}.'
    )
