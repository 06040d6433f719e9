"""`morse-engine search`: the best plans of a model, found with the model itself."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..sampling.schedulers import check_name
from ..system.errors import Refused
from ..system.files import output_folder
from .classes import Classes, chosen, told
from .options import Device, DotFolder, SolverOrOwn, Unet, count, folders, listed, numbers
from .prompts import Guidance, Lora, Model, PromptFile, PromptText, check, given, or_coarse

if TYPE_CHECKING:
    import torch

    from ..sampling.budget import Ranking
    from ..sampling.plan import Plan

NumImages = Annotated[
    int | None,
    count(
        "that a plan is judged by, in whole batches  [default: 64, or 256 if the solver adds noise]"
    ),
]
Out = Annotated[
    str | None,
    typer.Option(
        metavar="FOLDER",
        help="for plans.json; a search that was stopped continues there  [default: --dot]",
    ),
]


def search(
    unet: Unet = None,
    classes: Classes = None,
    model: Model = None,
    prompt: PromptText = None,
    prompts: PromptFile = None,
    guidance: Guidance = None,
    lora: Lora = None,
    dot: DotFolder = None,
    solver: SolverOrOwn = None,
    budgets: Annotated[str, listed("to spend", "LSD,LSD,...")] = "4,6",
    num_images: NumImages = None,
    batch_size: Annotated[int, count("images at once; N is measured at it, and at 1")] = 16,
    full_steps: Annotated[int, count("Dash steps of the images to come near to")] = 50,
    tries: Annotated[int, count("plans of the climb from the best of each budget", 0)] = 30,
    device: Device = "auto",
    out: Out = None,
) -> None:
    """Find the best plans within budgets, for `--plan auto` and `plan="auto"`."""
    folders(unet=unet, dot=dot)
    check_name(solver or "ddim")
    wanted = numbers("--budgets", budgets, float)
    texts = or_coarse(given(prompt, prompts), model)
    check(texts, unet, model, None, guidance, lora, "png", classes)
    if out is None and dot is None:
        raise Refused("the search needs a folder for its plans: name --out, or a Dot with --dot")
    folder = output_folder(out or dot or "")

    from rich.progress import Progress

    from ..system.machine import device as find_device

    where = find_device(device)
    options: dict[str, Any] = {"folder": folder, "batch_size": batch_size, "tries": tries}
    options |= {"num_images": num_images, "full_steps": full_steps}
    if texts is None:
        rank = _of_pixels(unet, classes, dot, solver or "ddim", where)
    else:
        from .prompted import Asked

        rank = _of_prompts(Asked(texts, model, None, guidance, lora), dot, solver, where)
    with Progress() as bar:
        task = bar.add_task("searching", total=1.0)

        def tell(plan: "Plan", score: float, part: float) -> None:
            bar.update(task, completed=part, description=f"{plan} {score:.3g}")

        ranking = rank(wanted, on_plan=tell, **options)
    _tell(ranking, wanted)
    print(f"plans.json is in {folder}: --plans {folder}, or plans= in Python, takes it from there")


def _of_pixels(
    unet: str | None, classes: str | None, dot: str | None, solver: str, where: "torch.device"
) -> Callable[..., "Ranking"]:
    """The search with a Dash of a folder or of the digits."""
    from ..engine import compile
    from ..evaluation.search import search as rank
    from . import models

    has_dot = dot is not None or unet is None
    dash, helper, scheduler = models.load(unet, dot, solver, where, has_dot)
    labels = chosen(dash, classes)
    words: dict[str, Any] = {} if labels is None else {"told": told(dash, labels)}
    return partial(rank, compile(dash, helper, scheduler=scheduler, plan="-"), **words)


def _of_prompts(
    asked: Any, dot: str | None, solver: str | None, where: "torch.device"
) -> Callable[..., "Ranking"]:
    """The search with a pipeline; of the bundled one with its Dot, and by its judge."""
    from .. import zoo
    from ..integrations.search import search as rank
    from ..zoo.miniature import judge
    from .prompted import load

    pipe, helper = load(asked, dot, solver, where)
    told = {"prompts": asked.prompts, "guidance_scale": asked.scale}
    if asked.bundled:
        helper = zoo.miniature_dot(pipe.unet) if helper is None else helper
        told["features"] = judge.load().to(where).features
    return partial(rank, pipe, dot=helper, **told)


def _tell(ranking: "Ranking", budgets: list[float]) -> None:
    """Print the best plan of each budget, and what as many Dash steps alone have."""
    from ..sampling.budget import fits

    for lsd in budgets:
        print(f"{lsd:g} LSD  score {ranking.of_dash(int(lsd)):.3g} of Dash alone")
        for speed in sorted({*(ranking.speeds or [None])}):
            plan = next(p for p in ranking.best_first() if fits(p, lsd, speed))
            at = "" if speed is None else f" at N = {speed:.2g}"
            print(f"       score {ranking.scores[plan]:.3g}{at}: {plan}  ({plan.counts})")
