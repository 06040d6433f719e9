"""Quality at equal time on the bundled icons, pictures of classes at 32 x 32.

    python -m morse_engine.zoo.miniature.data --out runs/pictures
    python benchmarks/icons.py --data runs/pictures --search
    python benchmarks/icons.py --data runs/pictures

As `quality.py`, whose options it has, with another model and yardstick: the Frechet distance to
icons varied as Dash was trained on them, in the features of the bundled judge. `--search` scores
plans by how near their pictures are to those of all steps, other seeds and the same features, and
leaves them beside the Dot (`evaluation/search.py`).
"""

import argparse
from functools import partial
from pathlib import Path

import quality
import torch
from rich.progress import Progress
from torch import Tensor, nn

import morse_engine
from morse_engine import zoo
from morse_engine.dot.fingerprint import fingerprint
from morse_engine.evaluation.frechet import Frechet
from morse_engine.evaluation.labelled import Labelled
from morse_engine.evaluation.search import search
from morse_engine.runtime.models import Models
from morse_engine.zoo.icons import DOT, data
from morse_engine.zoo.miniature import data as pictures
from morse_engine.zoo.miniature import judge

FULL_STEPS = {"ddim": 50, "dpm": 30}
SOLVERS = (*FULL_STEPS, "unipc")
REAL = 4000  # pictures that others are compared with
SCALE = pictures.SIZE // data.SIZE
BUDGETS = 3, 4, 5, 6, 8
DEFAULTS = (
    *("--out", "benchmarks/results/icons.json", "--images", "500", "--compared", "500"),
    *("--sets", "1", "--budgets", *map(str, BUDGETS)),
)
SPEEDS, SEARCHED = (2.4, 9.0), 64  # of the search: N, and pictures


def bench(folder: Path) -> quality.Bench:
    """The bundled icons and their yardstick, from the rendered pictures in `folder`."""
    images, icons = pictures.load(folder)
    rows = torch.tensor(pictures.chosen(icons))
    generator = torch.Generator().manual_seed(2)
    rows = rows[torch.randint(len(rows), (REAL,), generator=generator)]
    real = torch.cat([data.varied(images[part], generator) for part in rows.split(250)])
    unet, critic = zoo.icons_dash(), judge.load()
    dot = zoo.icons_dot(unet)
    return quality.Bench(
        model="icons of classes 32 x 32",
        models=Models(unet, dot, clean_range=(-1, 1)),
        schedulers={name: zoo.digits_scheduler(name) for name in SOLVERS},
        frechet=Frechet(critic, enlarged(real)),
        shape=tuple(real.shape[1:]),
        dash=f"{fingerprint(unet)[:12]}-{fingerprint(critic)[:12]}",
        dot=fingerprint(dot)[:12],
        subject=partial(Labelled, labels_of=data.labels_of, words=data.WORDS, scale=SCALE),
        full_steps=FULL_STEPS,
    )


def enlarged(images: Tensor) -> Tensor:
    """As the judge sees them."""
    return nn.functional.interpolate(images, scale_factor=SCALE)


def search_plans(solvers: list[str]) -> None:
    """`plans.json` beside the Dot."""
    unet, critic = zoo.icons_dash(), judge.load()
    dot = zoo.icons_dot(unet)
    for solver in solvers:
        sampler = morse_engine.compile(
            unet, dot, scheduler=zoo.digits_scheduler(solver), plan="-", clean_range=(-1, 1)
        )
        with Progress() as bar:
            task = bar.add_task(solver, total=1.0)
            search(
                sampler, BUDGETS, folder=DOT, dot_speed=SPEEDS, batch_size=SEARCHED,
                num_images=SEARCHED, full_steps=FULL_STEPS[solver],
                features=lambda x: critic.features(enlarged(x)),
                class_labels=data.labels_of(range(SEARCHED)),
                on_plan=lambda plan, score, part, task=task: bar.update(task, completed=part),
            )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--data", type=Path, required=True, help="a folder of rendered pictures")
    parser.add_argument("--search", action="store_true", help="find plans, and nothing else")
    parser.add_argument("--searched", nargs="+", choices=FULL_STEPS, default=list(FULL_STEPS))
    options, rest = parser.parse_known_args()
    if options.search:
        search_plans(options.searched)
        return
    if "--solvers" not in rest:
        rest += ["--solvers", *SOLVERS]
    quality.main([*DEFAULTS, *rest], bench(options.data))


if __name__ == "__main__":
    main()
