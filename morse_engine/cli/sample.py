"""`morse-engine sample`: a set of images in a folder, alone or as one of several processes."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ..sampling import budget as budgets
from ..sampling.plan import Plan
from ..sampling.schedulers import check_name
from ..system.checks import shown
from ..system.errors import Refused
from ..system.files import output_folder
from .classes import Classes, chosen, told
from .options import (
    MOST_IMAGES,
    MOST_SEED,
    Device,
    DotFolder,
    PlansFolder,
    Seed,
    SolverOrOwn,
    Unet,
    count,
    folders,
)
from .prompts import Guidance, Lora, Model, Negative, PromptFile, PromptText, check, given

if TYPE_CHECKING:
    from accelerate import PartialState

    from ..engine import Sampler
    from .sets import Pngs, Set, Tensors

IN_GRID = 100  # images in grid.png at most


PlanCode = Annotated[
    str | None,
    typer.Option(
        metavar="CODE",
        help="the steps in Morse code, e.g. -.:.:-.:.:, or auto: the best plan that is known "
        "within the budget",
    ),
]
Budget = Annotated[
    float | None,
    typer.Option(
        metavar="LSD",
        help="the time to spend, in Dash steps; the plan follows from it, and from the measured "
        "speed of Dot if there is one  "
        f"[default with a Dot: {budgets.DEFAULT_BUDGET:g}]",
    ),
]
DashSteps = Annotated[
    int | None,
    count(f"Dash alone with N steps  [default without a Dot: {budgets.DEFAULT_DASH_STEPS}]"),
]
Form = Annotated[
    Literal["png", "safetensors"],
    typer.Option(
        "--format",
        help="one PNG an image, seed-0000000.png ..., or the sampler's float32 tensors, a file a "
        "batch, and index.json",
    ),
]
Out = Annotated[
    str,
    typer.Option(
        metavar="FOLDER",
        help="for the images, settings.json and grid.png; a run that was stopped continues there",
    ),
]


def sample(
    unet: Unet = None,
    classes: Classes = None,
    model: Model = None,
    prompt: PromptText = None,
    prompts: PromptFile = None,
    negative: Negative = None,
    guidance: Guidance = None,
    lora: Lora = None,
    dot: DotFolder = None,
    plan: PlanCode = None,
    plans: PlansFolder = None,
    budget: Budget = None,
    steps: DashSteps = None,
    solver: SolverOrOwn = None,
    num_images: Annotated[int, count("how many, of each prompt", most=MOST_IMAGES)] = 16,
    seed: Seed = 0,
    batch_size: Annotated[
        int | None, count("images at once  [default: 100, with prompts 4]")
    ] = None,
    device: Device = "auto",
    form: Form = "png",
    out: Out = "out/samples",
) -> None:
    """Sample images with a Dash, with or without its Dot; or prompts with a pipeline."""
    folders(unet=unet, dot=dot, plans=plans)
    check_name(solver or "ddim")
    if seed + num_images - 1 > MOST_SEED:
        raise Refused(f"--seed {seed}: the last of {num_images:,} seeds is above {MOST_SEED}")
    texts = given(prompt, prompts)
    check(texts, unet, model, negative, guidance, lora, form, classes)
    has_dot = dot is not None or (unet is None and texts is None)
    wanted = settle(plan, budget, steps, has_dot=has_dot)
    if plans is not None and isinstance(wanted, Plan):
        raise Refused(f"--plans {plans}: plans are for a budget, give one with --budget")

    from . import sets

    process, folder = sets.join(device), output_folder(out)
    seeds: Sequence[int] = range(seed, seed + num_images)
    if texts is None:
        batch_size = 100 if batch_size is None else batch_size
        with_dot = wanted.num_dot > 0 if isinstance(wanted, Plan) else has_dot
        made = _of_models(
            *(unet, dot, solver or "ddim", wanted, form, seeds, batch_size, process, with_dot),
            *(folder, plans, classes),
        )
    else:
        from . import prompted

        batch_size, seeds = batch_size or 4, range(len(texts) * num_images)
        files = prompted.Drawn(folder, len(texts), seed, num_images)
        asked = prompted.Asked(texts, model, negative, guidance, lora)
        made = prompted.pictures(asked, dot, solver, wanted, files, process.device, plans)
    agreed = sets.agree(made.files, made.settings, process, made.new_plan)
    _fill(made, agreed, seeds, batch_size, process)
    if process.is_main_process:
        _show(made.files, sets.cut(seeds, batch_size))
    process.destroy_process_group()


def _of_models(
    unet: str | None,
    dot: str | None,
    solver: str,
    wanted: Plan | float,
    form: str,
    seeds: Sequence[int],
    batch_size: int,
    process: "PartialState",
    with_dot: bool,
    folder: Path,
    plans: str | None,
    classes: str | None,
) -> "Set":
    """Of a Dash in a folder, or of the digits."""
    from ..engine import compile
    from ..sampling.solver import SolverTable
    from . import models, sets

    dash, helper, scheduler = models.load(unet, dot, solver, process.device, with_dot)
    files = sets.FORMS[form](folder)
    files.check(channels=models.shape(dash)[1])
    settings = sets.settings(wanted, form, dash, helper, scheduler)
    labels = chosen(dash, classes)
    if labels is not None:
        settings["classes"] = labels
    if form != "png":  # which images a file holds follows from these
        settings |= {"seed": seeds[0], "num_images": len(seeds), "batch_size": batch_size}

    def new_plan() -> Plan:
        if isinstance(wanted, Plan):
            SolverTable.for_calls(scheduler, len(wanted))  # refused before a file is written
            return wanted
        # N depends on the batch size, so it is measured at the one in use.
        bought = compile(
            *(dash, helper), scheduler=scheduler, budget=wanted, plans=plans,
            batch_size=min(batch_size, len(seeds)),
        )  # fmt: skip
        print(f"budget  {bought.plan} {bought.why}")
        return bought.plan

    def sampler(plan: Plan) -> "Sampler":
        return compile(dash, helper, scheduler=scheduler, plan=plan)

    return sets.Set(files, settings, new_plan, sampler, told(dash, labels))


def settle(
    plan: str | None, budget: float | None, steps: int | None, *, has_dot: bool
) -> Plan | float:
    """What is asked for: a plan, or a budget in LSD that a plan is bought with.

    Raises:
        Refused: more than one of the three, no plan, or one with Dot steps where there is no Dot.
    """
    plan = None if plan is None else plan.strip()
    auto = plan == budgets.AUTO
    words = {"--plan": plan, "--budget": None if auto else budget, "--steps": steps}
    if len(given := [word for word, value in words.items() if value is not None]) > 1:
        raise Refused(f"{' and '.join(given)} exclude each other: give one of them")
    if plan is not None and not auto:
        found = Plan(plan)
        if found.num_dot and not has_dot:
            raise Refused(f"--plan {shown(plan)} has Dot steps: name a Dot with --dot")
        return found
    if steps is not None:
        return Plan.spread(steps, 0)
    if budget is not None:
        budgets.check(budget)
        return budget
    if auto or has_dot:
        return budgets.DEFAULT_BUDGET
    return Plan.spread(budgets.DEFAULT_DASH_STEPS, 0)


def _fill(
    made: "Set",
    plan: Plan,
    seeds: Sequence[int],
    batch_size: int,
    process: "PartialState",
) -> None:
    """Sample what is missing, this process its share, with a bar."""
    from rich.progress import Progress

    from . import sets

    if process.is_main_process:
        print(f"plan    {plan}  ({plan.counts})")
        print(f"solver  {made.settings['solver']} on {process.device}")
        if process.num_processes > 1:
            print(f"{process.num_processes} processes; the bar shows the share of the first")
    mine = sets.share(sets.cut(seeds, batch_size), process)
    with Progress(disable=not process.is_main_process) as bar:
        task = bar.add_task("sampling", total=sum(map(len, mine)) * len(plan))
        sets.fill(
            made.sampler(plan),
            made.files,
            seeds,
            batch_size=batch_size,
            process=process,
            on_step=lambda count: bar.advance(task, count),
            told=made.told,
        )


def _show(files: "Pngs | Tensors", chunks: list[Sequence[int]]) -> None:
    """Write grid.png of the first images, where they are pictures, and say what is where."""
    import torch

    from ..system import images

    num_images, first = sum(map(len, chunks)), chunks[0][0]
    covering = [chunk for chunk in chunks if chunk[0] < first + IN_GRID]
    shown, grid = torch.cat([files.read(chunk) for chunk in covering])[:IN_GRID], ""
    if shown.shape[1] in images.MODES:
        for left in files.folder.glob(".grid.*.partial.png"):  # by a process that was killed
            left.unlink(missing_ok=True)
        sheet = images.grid(shown)
        images.save_png(sheet, files.folder / "grid.png", scale=max(1, 96 // shown.shape[-1]))
        grid = " and grid.png" + (f" (the first {IN_GRID})" if num_images > IN_GRID else "")
    print(f"{num_images} images{grid} are in {files.folder}")
