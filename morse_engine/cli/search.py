"""`morse-engine search`: the best plans of a model, found with the model itself."""

from typing import Annotated

import typer

from ..sampling.schedulers import check_name
from ..system.errors import Refused
from ..system.files import output_folder
from .options import Device, DotFolder, Solver, Unet, count, folders, listed, numbers


def search(
    unet: Unet = None,
    dot: DotFolder = None,
    solver: Solver = "ddim",
    budgets: Annotated[str, listed("to spend", "LSD,LSD,...")] = "4,6",
    num_images: Annotated[int, count("that a plan is judged by, in whole batches")] = 64,
    batch_size: Annotated[int, count("images at once; N is measured at it")] = 16,
    full_steps: Annotated[int, count("Dash steps of the images to come near to")] = 50,
    tries: Annotated[int, count("plans of the climb from the best of each budget", 0)] = 30,
    device: Device = "auto",
    out: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="for plans.json; a search that was stopped continues there  [default: --dot]",
        ),
    ] = None,
) -> None:
    """Find the best plans within budgets, for `--plan auto` and `plan="auto"`."""
    folders(unet=unet, dot=dot)
    check_name(solver)
    wanted = numbers("--budgets", budgets, float)
    if out is None and dot is None:
        raise Refused("the search needs a folder for its plans: name --out, or a Dot with --dot")
    folder = output_folder(out or dot or "")

    from rich.progress import Progress

    from ..engine import compile
    from ..evaluation.search import search as rank
    from ..sampling.budget import fits
    from ..sampling.plan import Plan
    from ..system.machine import device as find_device
    from . import models

    where, has_dot = find_device(device), dot is not None or unet is None
    dash, helper, scheduler = models.load(unet, dot, solver, where, has_dot)
    sampler = compile(dash, helper, scheduler=scheduler, plan="-")
    with Progress() as bar:
        task = bar.add_task("searching", total=1.0)

        def tell(plan: Plan, score: float, part: float) -> None:
            bar.update(task, completed=part, description=f"{plan} {score:.3g}")

        ranking = rank(
            *(sampler, wanted), folder=folder, batch_size=batch_size, num_images=num_images,
            full_steps=full_steps, tries=tries, on_plan=tell,
        )  # fmt: skip
    speed = None if ranking.speeds is None else ranking.speeds[0]
    for lsd in wanted:
        for plan in [p for p in ranking.best_first() if fits(p, lsd, speed)][:1]:
            print(f"{lsd:g} LSD  {plan}  ({plan.counts}), score {ranking.scores[plan]:.3g}")
    print(f"plans.json is in {folder}: --plans {folder}, or compile(plans=), takes it from there")
