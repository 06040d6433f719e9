"""`morse-engine evaluate`: quality against cost of a Dash and its Dot."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..system.files import output_folder
from .options import (
    BatchSize,
    Device,
    DotFolder,
    Seed,
    Solver,
    Unet,
    count,
    folders,
    listed,
    numbers,
)

if TYPE_CHECKING:
    import torch
    from rich.console import Console

    from ..evaluation.experiment import Experiment
    from ..evaluation.frechet import Frechet


def evaluate(
    unet: Unet = None,
    dot: DotFolder = None,
    data: Annotated[
        str,
        typer.Option(
            metavar="FOLDER",
            help="real images to compare with; other images than digits are compared by Inception "
            "features, which needs torch-fidelity and 2,049 images",
        ),
    ] = "digits",
    solver: Solver = "ddim",
    budgets: Annotated[str, listed("of Morse", "LSD,LSD,...")] = "4,5,6,8,10",
    steps: Annotated[str, listed("of Dash alone")] = "2,3,4,5,6,8,10,15,20,30,50",
    num_images: Annotated[int, count("per point")] = 1000,
    seed: Seed = 0,
    batch_size: BatchSize = 100,
    device: Device = "auto",
    out: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="for rows.json and quality.png  [default: print only]"),
    ] = None,
) -> None:
    """Measure quality against cost of Morse and of Dash alone."""
    folders(unet=unet, dot=dot, data=None if data == "digits" else data)
    costs = numbers("--steps", steps), numbers("--budgets", budgets)

    from rich.console import Console

    from ..engine import compile
    from ..evaluation import verdict
    from ..evaluation.experiment import Experiment
    from ..system.machine import device as find_device
    from . import models

    where, folder = find_device(device), None if out is None else output_folder(out)
    dash, helper, scheduler = models.load(unet, dot, solver, where, with_dot=True)
    made = compile(dash, helper, scheduler=scheduler, plan="-")
    size, channels = models.shape(dash)
    bench = Experiment(
        made.models,
        (channels, size, size),
        scheduler,
        _frechet(data, (size, channels), where),
        solver=solver,
        model="handwritten digits 32 x 32" if unet is None else Path(unet).name,
        num_images=num_images,
        batch_size=batch_size,
        seed=seed,
    )
    console = Console()
    rows = _measure(bench, *costs, console)
    console.print(verdict.table(rows))
    console.print(verdict.verdict(rows), style="bold", highlight=False)
    if folder is not None:
        _write(folder, rows)


def _frechet(data: str, shape: tuple[int, int], where: "torch.device") -> "Frechet":
    """The distance to the real images: in the classifier's features of digits, else Inception's."""
    from .. import zoo
    from ..evaluation.frechet import Frechet
    from ..system import images
    from . import models

    if data == "digits":
        return Frechet(zoo.digits_classifier().to(where), models.data(data, *shape)[0])
    return Frechet("inception", images.load_folder(data, *shape).to(where))


def _measure(
    bench: "Experiment", steps: list[int], budgets: list[int], console: "Console"
) -> list[dict]:
    """A row for each point, with a bar in LSD x images."""
    from rich.progress import Progress

    from ..evaluation.verdict import NAMES
    from ..sampling.probe import steps_for_calls

    for number in steps:
        steps_for_calls(bench.scheduler, number)  # refused before anything is measured
    bench.measure()
    points = bench.points(steps, budgets)
    rows: list[dict] = []
    with Progress(console=console) as bar:
        total = bench.num_images * sum(point.cost_lsd for point in points)
        task = bar.add_task("sampling", total=total)
        for point in points:
            name = f"{NAMES[point.variant]}, {point.budget_lsd:g} LSD"
            bar.update(task, description=name)
            rows.append(bench.row(point, lambda cost: bar.advance(task, cost)))
    return rows


def _write(folder: Path, rows: list[dict]) -> None:
    from ..evaluation import figures, verdict
    from ..system.files import whole, write_rows

    write_rows(folder / "rows.json", rows + verdict.speedup_rows(rows))
    with whole(folder / "quality.png") as path:
        figures.quality_plot(rows, path)
    print(f"rows.json and quality.png are in {folder}")
