"""The plans that budgets buy with the Dot of a bundled model: `plans.json` beside it.

    python benchmarks/model_plans.py --model digits [--solvers ddim dpm] [--tries 30]

`evaluation.search.search` with 64 seeds, 256 of solvers that add noise, at slow and fast N, in the
features of the bundled judge; of digits in those of their classifier. The icons are of the classes
of their seeds; the miniature is asked for its coarse prompts in turn, at guidance 3. A run that was
stopped goes on where it was.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from rich.progress import Progress
from torch import Tensor

import morse_engine
from morse_engine import zoo
from morse_engine.evaluation.prompted import Prompted
from morse_engine.evaluation.search import TRIES, search
from morse_engine.integrations.latents import range_of
from morse_engine.sampling import schedulers
from morse_engine.zoo.icons import DOT as ICONS_DOT
from morse_engine.zoo.icons import data
from morse_engine.zoo.miniature import DOT as MINIATURE_DOT
from morse_engine.zoo.miniature import captions, judge

BUDGETS, BATCH, GUIDANCE = (3, 4, 5, 6, 7, 8), 16, 3.0
FULL_STEPS = {"ddim": 50, "dpm": 30, "ddpm": 50, "dpm-sde": 30, "euler-ancestral": 50}


class Bundled(NamedTuple):
    """A model with its Dot, and what the search is told.

    Attributes:
        compile: the sampler of a solver.
        folder: of the Dot.
        speeds: N, a little below those of one thread of a CPU at batch 1 and at larger batches.
        told: features and conditions.
    """

    compile: Callable[[str], Any]
    folder: Path
    speeds: tuple[float, ...]
    told: dict[str, Any]


def digits() -> Bundled:
    unet = zoo.digits_dash()
    dot = zoo.digits_dot(unet)

    def compile(solver: str) -> Any:
        return morse_engine.compile(unet, dot, scheduler=zoo.digits_scheduler(solver), plan="-")

    told = {"features": zoo.digits_classifier().features}
    return Bundled(compile, zoo.WEIGHTS / "dot", (2.7, 4.2, 8.0), told)


def icons() -> Bundled:
    unet, critic = zoo.icons_dash(), judge.load()
    dot = zoo.icons_dot(unet)

    def compile(solver: str) -> Any:
        scheduler = zoo.icons_scheduler(solver)
        return morse_engine.compile(unet, dot, scheduler=scheduler, plan="-", clean_range=(-1, 1))

    def features(images: Tensor) -> Tensor:
        return critic.features(data.shown(images))

    told = {"features": features, "told": lambda seeds: {"class_labels": data.labels_of(seeds)}}
    return Bundled(compile, ICONS_DOT, (3.7, 9.0), told)


def miniature() -> Bundled:
    pipe, critic = zoo.miniature_pipeline(), judge.load()
    dot = zoo.miniature_dot(pipe.unet)
    subject = Prompted("miniature", pipe, dot, captions.coarse(), guidance_scale=GUIDANCE)

    def compile(solver: str) -> Any:
        scheduler = schedulers.make(solver, pipe.scheduler.config)
        return morse_engine.compile(
            pipe.unet, dot, scheduler=scheduler, plan="-", clean_range=range_of(pipe)
        )

    def features(latents: Tensor) -> Tensor:
        return critic.features(subject.pictures(latents).clamp(-1, 1))

    told = {"features": features, "guidance_scale": GUIDANCE, "told": subject.told}
    told |= {"clamp": False}
    return Bundled(compile, MINIATURE_DOT, (3.0, 6.3), told)


MODELS = {"digits": digits, "icons": icons, "miniature": miniature}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=MODELS, required=True)
    parser.add_argument("--solvers", nargs="+", choices=FULL_STEPS, default=["ddim", "dpm"])
    parser.add_argument("--budgets", type=float, nargs="+", default=BUDGETS, help="in LSD")
    parser.add_argument("--images", type=int, help="seeds of a plan")
    parser.add_argument("--tries", type=int, default=TRIES, help="of each climb")
    options = parser.parse_args()
    bundled = MODELS[options.model]()
    for solver in options.solvers:
        with Progress() as bar:
            task = bar.add_task(solver, total=1.0)
            search(
                bundled.compile(solver), options.budgets, folder=bundled.folder,
                dot_speed=bundled.speeds, batch_size=BATCH, num_images=options.images,
                full_steps=FULL_STEPS[solver], tries=options.tries,
                on_plan=lambda plan, score, part, task=task: bar.update(task, completed=part),
                **bundled.told,
            )  # fmt: skip


if __name__ == "__main__":
    main()
