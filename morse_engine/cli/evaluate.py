"""`morse-engine evaluate`: quality against cost of a Dash and its Dot."""

import shutil
from contextlib import nullcontext
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..sampling.budget import AUTO, searched
from ..sampling.plan import Plan
from ..sampling.schedulers import check_name
from ..system.errors import Refused
from ..system.files import output_folder
from .classes import Classes
from .options import (
    MOST_IMAGES,
    Device,
    DotFolder,
    PlansFolder,
    Seed,
    SolverOrOwn,
    Unet,
    count,
    folders,
    listed,
    numbers,
)
from .prompts import Guidance, Model, PromptFile, PromptText, check, given, or_coarse

if TYPE_CHECKING:
    from rich.console import Console

    from ..evaluation.experiment import Experiment


PARTIAL = "partial"  # folder in --out for what is finished of a run
Out = Annotated[
    str | None,
    typer.Option(
        metavar="FOLDER",
        help="for rows.json and quality.png; a run that was stopped continues there  "
        "[default: print only]",
    ),
]
RealImages = Annotated[
    str | None,
    typer.Option(
        metavar="FOLDER",
        help="real images to compare with. Other images than those of bundled models are "
        "compared by Inception features, which needs torch-fidelity and 2,049 images  "
        "[default: digits; with prompts the pictures of all steps from the same seeds]",
    ),
]
NumImages = Annotated[
    int | None, count("per point  [default: 1000, with prompts 64]", most=MOST_IMAGES)
]
AtOnce = Annotated[int | None, count("images at once  [default: 100, with prompts 16]")]
OfMorse = Annotated[
    str,
    typer.Option(
        metavar="CODE", help="of Morse: auto, the best known within each budget, or Morse code"
    ),
]


def evaluate(
    unet: Unet = None,
    classes: Classes = None,
    model: Model = None,
    prompt: PromptText = None,
    prompts: PromptFile = None,
    guidance: Guidance = None,
    dot: DotFolder = None,
    data: RealImages = None,
    solver: SolverOrOwn = None,
    budgets: Annotated[str, listed("of Morse", "LSD,LSD,...")] = "4,5,6,8,10",
    plan: OfMorse = AUTO,
    plans: PlansFolder = None,
    steps: Annotated[str, listed("of Dash alone")] = "2,3,4,5,6,8,10,15,20,30,50",
    num_images: NumImages = None,
    seed: Seed = 0,
    batch_size: AtOnce = None,
    device: Device = "auto",
    out: Out = None,
) -> None:
    """Measure quality against cost of Morse and of Dash alone, of pixels or of prompts.

    Of a model without a Dot what free steps bring.
    """
    digits = data == "digits"
    folders(unet=unet, dot=dot, plans=plans, data=None if digits else data)
    check_name(solver or "ddim")
    costs = numbers("--steps", steps), numbers("--budgets", budgets)
    morse = None if plan.strip() == AUTO else Plan(plan.strip())
    texts = or_coarse(given(prompt, prompts), model)
    check(texts, unet, model, None, guidance, None, "png", classes)
    if texts is not None and digits:
        raise Refused("--data digits: pictures of prompts are compared with a folder of pictures")

    from rich.console import Console

    from ..evaluation.experiment import Experiment
    from ..evaluation.partial import Partial
    from ..system.lock import alone
    from ..system.machine import device as find_device

    where, folder = find_device(device), None if out is None else output_folder(out)
    from . import compared

    if texts is None:
        real = None if digits else data
        found = compared.of_pixels(unet, classes, dot, real, solver or "ddim", where)
    else:
        from .prompted import Asked

        asked = Asked(texts, model, guidance=guidance)
        found = compared.of_prompts(asked, dot, data, solver, plans, where)
    found.subject.plans = searched(plans)
    how: dict[str, Any] = {"num_images": num_images or (1000 if texts is None else 64)}
    how |= {"batch_size": batch_size or (100 if texts is None else 16), "seed": seed}
    how |= {"solver": found.solver}
    wanted = how | {"device": str(where)} | found.settings
    with nullcontext() if folder is None else alone(folder):
        bench = Experiment(
            found.subject, found.yardstick,
            partial=None if folder is None else Partial(folder / PARTIAL), **how, **found.options,
        )  # fmt: skip
        rows = _measure(bench, *costs, morse, wanted, Console())
        _tell(rows, folder, Console())


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
    from ..sampling.budget import alone
    from ..sampling.probe import steps_for_calls

    # What cannot be made is refused before anything is measured.
    if plan is not None and plan.num_dot and bench.subject.models.dot is None:
        raise Refused(f"--plan {plan} has Dot steps: name a Dot with --dot")
    scheduler = bench.subject.scheduler
    bought = [len(alone(budget, scheduler)) for budget in budgets if plan is None]
    for number in (*steps, *bought, *([len(plan)] if plan is not None else [])):
        steps_for_calls(scheduler, number)
    if bench.partial is None:
        bench.measure()
    else:
        found = bench.partial.settings(wanted, lambda: asdict(bench.measure()))
        bench.speed = Speed(**{field.name: found[field.name] for field in fields(Speed)})
    points = bench.points(steps, budgets if plan is None else [])
    if plan is not None:
        speed = bench.speed.dot_speed
        if speed is None:
            points.append(Point(RIVAL, plan, plan.num_dash, plan.num_dash))
        else:
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
