"""The demo of digits: what Morse does to them, measured on this machine, as one page."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .. import engine, zoo
from ..evaluation import figures, page, verdict
from ..evaluation.experiment import Experiment, Point
from ..evaluation.frechet import Frechet
from ..evaluation.subject import Subject
from ..evaluation.verdict import DASH, MORSE, NAMES, RIVAL
from ..runtime.speed import Speed
from ..sampling.plan import Plan
from ..system.errors import Refused
from ..system.files import output_folder, whole, write_rows
from ..system.images import grid, png
from ..system.lock import alone
from ..system.machine import device
from ..zoo import digits

if TYPE_CHECKING:
    from rich.console import Console

TITLE = "Morse on handwritten digits"
AT_ONE = "quality, Morse at batch 1"


def run_demo(
    out: str | Path,
    *,
    seed: int = 0,
    images: int = 200,
    budgets: Sequence[int] = (4, 5, 8),
    steps: Sequence[int] = (3, 4, 5, 6, 8, 12, 16),
    full_steps: int = 100,
    pictured: int = 25,
    pictured_budget: int = 5,
    batch_size: int = 100,
    device_name: str = "auto",
    console: "Console | None" = None,
) -> Path:
    """Measure Morse against fewer steps of the same sampler, and write a page about it.

    Writes `side_by_side.png`, `quality.png`, `rows.json` and `index.html` into `out`, each of them
    whole or not at all, and prints the table. With the defaults about 90 LSD x 200 images: some
    two minutes on two cores.

    Args:
        out: a folder, made if it is not there.
        seed: of the first image; the others count up.
        images: per point of the curves; 65 or more.
        budgets: of Morse and of free steps, in LSD.
        steps: of Dash alone, its curve.
        full_steps: Dash steps of the reference pictures.
        pictured: how many images of each method are shown, at most `images`.
        pictured_budget: the budget in LSD they are shown at.
        console: default: the terminal.

    Returns:
        the path of the page.

    Raises:
        NotADirectoryError, PermissionError: `out` cannot be written to; raised before any work.
        Refused: too few images, or a device that is not there.
        Unavailable: another process writes into `out`.
    """
    from rich.console import Console

    console, out, where = console or Console(), output_folder(out), device(device_name)
    if not 1 <= pictured <= images:
        raise Refused(f"pictured={pictured}: show 1 to {images} images, as many as are sampled")
    with alone(out):
        bench = _experiment(where, images, batch_size, seed)
        rows, at_one, columns = _measure(
            bench,
            sorted({*steps, pictured_budget}),
            sorted({*budgets, pictured_budget}),
            Point("full", Plan.spread(full_steps, 0), full_steps, full_steps),
            pictured,
            pictured_budget,
            console,
        )
        _write(out, rows, at_one, columns, bench.about)
    console.print(verdict.table(rows))
    console.print(verdict.verdict(rows), style="bold", highlight=False)
    console.print(verdict.in_short(verdict.at_batch(rows + at_one, 1)), highlight=False)
    console.print(f"The page: {out / 'index.html'}", highlight=False, soft_wrap=True)
    return out / "index.html"


def _experiment(where: torch.device, num_images: int, batch_size: int, seed: int) -> Experiment:
    """Of the bundled digits models, with DDIM."""
    real, _ = digits.images("train")
    unet = zoo.digits_dash().to(where)
    scheduler = zoo.digits_scheduler("ddim")
    made = engine.compile(unet, zoo.digits_dot(unet), scheduler=scheduler, plan="-")
    name = f"handwritten digits {digits.SIZE} x {digits.SIZE}"
    return Experiment(
        Subject(name, made.models, (1, digits.SIZE, digits.SIZE), scheduler),
        Frechet(zoo.digits_classifier().to(where), real),
        solver="ddim",
        num_images=num_images,
        batch_size=batch_size,
        seed=seed,
    )


def _measure(
    bench: Experiment,
    steps: list[int],
    budgets: list[int],
    full: Point,
    pictured: int,
    pictured_budget: int,
    console: "Console",
) -> tuple[list[dict], list[dict], dict[str, Tensor]]:
    """All rows, those of Morse at batch 1, and the pictures under their headings.

    Progress is in LSD x images.
    """
    from rich.progress import Progress, TaskID, TimeElapsedColumn

    layout = *Progress.get_default_columns(), TimeElapsedColumn()
    with Progress(*layout, console=console) as bar:
        overall = bar.add_task("[bold]demo", total=None)
        stage = bar.add_task("latency of a Dash and of a Dot step", total=None)
        work = {f"pictures, {len(full.plan)} Dash steps": [(full, pictured)]}
        points, at_one = _points(bench, steps, budgets)
        work |= points
        bar.update(stage, total=1, completed=1)
        totals = {name: sum(p.cost_lsd * n for p, n in todo) for name, todo in work.items()}
        stages = {name: bar.add_task(name, total=total) for name, total in totals.items()}
        bar.update(overall, total=sum(totals.values()))

        rows: list[dict] = []
        alone: list[dict] = []
        shown: dict[str, Tensor] = {}
        for name, todo in work.items():

            def on_cost(cost: float, stage: TaskID = stages[name]) -> None:
                bar.advance(stage, cost)
                bar.advance(overall, cost)

            if name == AT_ONE:
                bench.timed_at, bench.speed = 1, at_one
            for point, count in todo:
                if name == AT_ONE:
                    alone.append(bench.row(point, on_cost))
                    continue
                if point is full:
                    shown[f"{point.plan.num_dash} Dash steps\nall steps"], _ = bench.sample(
                        point, count, on_cost
                    )
                    continue
                row, images = bench.evaluate(point, on_cost)
                rows.append(row)
                if point.budget_lsd == pictured_budget and point.variant != RIVAL:
                    shown[_heading(point, row)] = images[:pictured]
            bar.update(stages[name], completed=totals[name])
        bar.update(overall, completed=sum(totals.values()))
    return rows, alone, shown


def _points(
    bench: Experiment, steps: list[int], budgets: list[int]
) -> tuple[dict[str, list[tuple[Point, int]]], Speed]:
    """What is to be sampled, under names, Morse at batch 1 at last; and the latencies there."""
    together, bench.timed_at = bench.timed_at, 1
    at_one = bench.measure(repeats=10)
    alone = [bench.point(MORSE, budget, at_one.dot_speed) for budget in budgets]
    bench.timed_at = together
    bench.measure(repeats=10)
    points = bench.points(steps, budgets)
    work = {
        f"quality, {NAMES[variant]}": [p for p in points if p.variant == variant]
        for variant in (DASH, MORSE, RIVAL)
    } | {AT_ONE: alone}
    return {name: [(p, bench.num_images) for p in todo] for name, todo in work.items()}, at_one


def _heading(point: Point, row: dict) -> str:
    if point.variant == DASH:
        name = f"{point.plan.num_dash} Dash steps"
    else:
        name = f"Morse, {point.cost_lsd:.2f} LSD"
    return f"{name}\n{point.plan}\n{row['ms_per_image']:.1f} ms per image"


def _write(
    out: Path, rows: list[dict], alone: list[dict], columns: dict[str, Tensor], about: dict
) -> None:
    title = "The same seeds: all steps, few steps, and few steps with Dot in between"
    with whole(out / "side_by_side.png") as path:
        figures.picture_grid(columns, path, title=title)
    with whole(out / "quality.png") as path:
        figures.quality_plot(rows, path)
    write_rows(out / "rows.json", [*rows, *alone, *verdict.speedup_rows(rows + alone)])
    text = page.render(
        title=TITLE,
        verdict=verdict.verdict(rows),
        basis=page.basis(rows),
        alone=verdict.in_short(verdict.at_batch(rows + alone, 1)),
        pictures={name: _block(shown) for name, shown in columns.items()},
        plot=(out / "quality.png").read_bytes(),
        headings=verdict.headings(rows),
        cells=verdict.cells(rows),
        marked=NAMES[MORSE],
        caption=verdict.caption(rows),
        machine=about,
    )
    with whole(out / "index.html") as path:
        path.write_text(text, encoding="utf-8")


def _block(shown: Tensor) -> bytes:
    """The pictures of a method as a PNG file that fits a light and a dark page."""
    return png(grid(shown, gap=1, between=-0.4), scale=3)
