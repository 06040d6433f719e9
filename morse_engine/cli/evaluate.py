"""`morse-engine evaluate`: quality against cost of a Dash and its Dot."""

import shutil
from contextlib import nullcontext
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..sampling.budget import AUTO
from ..sampling.plan import Plan
from ..system.files import output_folder
from .options import (
    MOST_IMAGES,
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


PARTIAL = "partial"  # folder in --out for what is finished of a run
Out = Annotated[
    str | None,
    typer.Option(
        metavar="FOLDER",
        help="for rows.json and quality.png; a run that was stopped continues there  "
        "[default: print only]",
    ),
]
OfMorse = Annotated[
    str,
    typer.Option(
        metavar="CODE", help="of Morse: auto, the best known within each budget, or Morse code"
    ),
]


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
    plan: OfMorse = AUTO,
    steps: Annotated[str, listed("of Dash alone")] = "2,3,4,5,6,8,10,15,20,30,50",
    num_images: Annotated[int, count("per point", most=MOST_IMAGES)] = 1000,
    seed: Seed = 0,
    batch_size: BatchSize = 100,
    device: Device = "auto",
    out: Out = None,
) -> None:
    """Measure quality against cost of Morse and of Dash alone."""
    folders(unet=unet, dot=dot, data=None if data == "digits" else data)
    costs = numbers("--steps", steps), numbers("--budgets", budgets)
    given = None if plan.strip() == AUTO else Plan(plan.strip())

    from rich.console import Console

    from ..dot.fingerprint import fingerprint
    from ..engine import compile
    from ..evaluation.experiment import Experiment
    from ..evaluation.partial import Partial
    from ..evaluation.subject import Subject
    from ..system.lock import alone
    from ..system.machine import device as find_device
    from ..training.identity import digest
    from . import models

    where, folder = find_device(device), None if out is None else output_folder(out)
    dash, helper, scheduler = models.load(unet, dot, solver, where, with_dot=True)
    made = compile(dash, helper, scheduler=scheduler, plan="-")
    size, channels = models.shape(dash)
    real, console = _real(data, (size, channels)), Console()
    how: dict[str, Any] = {"num_images": num_images, "batch_size": batch_size, "seed": seed}
    how["solver"] = solver
    assert helper is not None  # with_dot
    wanted = how | {"device": str(where), "data": digest(real)}
    wanted |= {"dash": fingerprint(dash), "dot": fingerprint(helper)}
    with nullcontext() if folder is None else alone(folder):
        name = "handwritten digits 32 x 32" if unet is None else Path(unet).name
        bench = Experiment(
            Subject(name, made.models, (channels, size, size), scheduler),
            _frechet(data, real, where),
            partial=None if folder is None else Partial(folder / PARTIAL), **how,
        )  # fmt: skip
        rows = _measure(bench, *costs, given, wanted, console)
        _tell(rows, folder, console)


def _real(data: str, shape: tuple[int, int]) -> "torch.Tensor":
    """The real images."""
    from ..system import images
    from . import models

    return models.data(data, *shape)[0] if data == "digits" else images.load_folder(data, *shape)


def _frechet(data: str, real: "torch.Tensor", where: "torch.device") -> "Frechet":
    """The distance to the real images: in the classifier's features of digits, else Inception's."""
    from .. import zoo
    from ..evaluation.frechet import Frechet

    if data == "digits":
        return Frechet(zoo.digits_classifier().to(where), real)
    return Frechet("inception", real.to(where))


def _measure(
    bench: "Experiment",
    steps: list[int],
    budgets: list[int],
    plan: Plan | None,
    wanted: dict,
    console: "Console",
) -> list[dict]:
    """A row for each point, with a bar in LSD x images; a plan takes the place of the budgets.

    A run that continues takes the latencies of the first one, so that its plans are the same.
    """
    from rich.progress import Progress

    from ..evaluation.experiment import Point
    from ..evaluation.verdict import MORSE, NAMES, RIVAL
    from ..runtime.speed import Speed
    from ..sampling.probe import steps_for_calls

    for number in steps:
        steps_for_calls(bench.subject.scheduler, number)  # refused before anything is measured
    if bench.partial is None:
        bench.measure()
    else:
        found = bench.partial.settings(wanted, lambda: asdict(bench.measure()))
        bench.speed = Speed(**{field.name: found[field.name] for field in fields(Speed)})
    points = bench.points(steps, budgets if plan is None else [])
    if plan is not None:
        speed = bench.speed.dot_speed
        assert speed is not None  # there is a Dot
        cost = plan.lsd(speed)
        points += [Point(MORSE, plan, round(cost, 2), cost), bench.point(RIVAL, cost, None)]
    rows: list[dict] = []
    with Progress(console=console) as bar:
        total = bench.num_images * sum(point.cost_lsd for point in points)
        task = bar.add_task("sampling", total=total)
        for point in points:
            name = f"{NAMES[point.variant]}, {point.budget_lsd:g} LSD"
            bar.update(task, description=name)
            rows.append(bench.row(point, lambda cost: bar.advance(task, cost)))
    return rows


def _tell(rows: list[dict], folder: Path | None, console: "Console") -> None:
    """Print what the rows say, and write them."""
    from ..evaluation import figures, verdict
    from ..system.files import whole, write_rows

    console.print(verdict.table(rows))
    console.print(verdict.verdict(rows), style="bold", highlight=False)
    if folder is None:
        return
    write_rows(folder / "rows.json", rows + verdict.speedup_rows(rows))
    with whole(folder / "quality.png") as path:
        figures.quality_plot(rows, path)
    shutil.rmtree(folder / PARTIAL)
    print(f"rows.json and quality.png are in {folder}")
