"""The plans that budgets buy with the icons' Dot: `plans.json` beside it.

    python benchmarks/icons_plans.py [--solvers ddim dpm ddpm dpm-sde]

`evaluation.search.search` with the bundled models: 64 seeds, in the features of the bundled judge,
at slow and fast N. A run that was stopped goes on where it was.
"""

import argparse

from rich.progress import Progress

import morse_engine
from morse_engine import zoo
from morse_engine.evaluation.search import search
from morse_engine.zoo.icons import DOT, data
from morse_engine.zoo.miniature import judge

BUDGETS, SPEEDS, IMAGES = (3, 4, 5, 6, 8), (2.4, 9.0), 64
FULL_STEPS = {"ddim": 50, "dpm": 30, "ddpm": 50, "dpm-sde": 30}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--solvers", nargs="+", choices=FULL_STEPS, default=list(FULL_STEPS))
    options = parser.parse_args()
    unet, critic = zoo.icons_dash(), judge.load()
    dot = zoo.icons_dot(unet)
    for solver in options.solvers:
        sampler = morse_engine.compile(
            unet, dot, scheduler=zoo.icons_scheduler(solver), plan="-", clean_range=(-1, 1)
        )
        with Progress() as bar:
            task = bar.add_task(solver, total=1.0)
            search(
                sampler, BUDGETS, folder=DOT, dot_speed=SPEEDS, batch_size=IMAGES,
                num_images=IMAGES, full_steps=FULL_STEPS[solver],
                features=lambda x: critic.features(data.shown(x)),
                class_labels=data.labels_of(range(IMAGES)),
                on_plan=lambda plan, score, part, task=task: bar.update(task, completed=part),
            )  # fmt: skip


if __name__ == "__main__":
    main()
