"""Quality at equal time on the bundled icons, pictures of classes at 32 x 32.

    python -m morse_engine.zoo.miniature.data --out runs/pictures
    python benchmarks/icons.py --data runs/pictures

As `quality.py`, whose options it has, with another model and yardstick: the Frechet distance to
icons varied as Dash was trained on them, in the features of the bundled judge.
"""

import argparse
from pathlib import Path

import quality
import torch
from torch import Tensor, nn

from morse_engine import zoo
from morse_engine.dot.fingerprint import fingerprint
from morse_engine.evaluation.frechet import Frechet
from morse_engine.evaluation.subject import Subject
from morse_engine.runtime.models import Models
from morse_engine.zoo.icons import data
from morse_engine.zoo.miniature import data as pictures
from morse_engine.zoo.miniature import judge

FULL_STEPS = {"ddim": 50, "dpm": 30}
SOLVERS = (*FULL_STEPS, "unipc")
REAL = 4000  # pictures that others are compared with
DEFAULTS = ("--out", "benchmarks/results/icons.json", "--images", "500", "--compared", "500")


class Icons(Subject):
    """Every seed has its class, as often as it was trained."""

    def told(self, seeds) -> dict:
        return {"class_labels": data.labels_of(seeds)}


class Eyes(nn.Module):
    """The judge, whose pictures have twice the size."""

    def __init__(self):
        super().__init__()
        self.judge = judge.load()
        self.num_features = self.judge.num_features

    def features(self, images: Tensor) -> Tensor:
        """`[B, 3, 32, 32]` -> `[B, num_features]`."""
        return self.judge.features(
            nn.functional.interpolate(images, size=pictures.SIZE, mode="bilinear")
        )


def bench(folder: Path) -> quality.Bench:
    """The bundled icons and their yardstick, from the rendered pictures in `folder`."""
    images, icons = pictures.load(folder)
    rows = torch.tensor(pictures.chosen(icons))
    generator = torch.Generator().manual_seed(2)
    rows = rows[torch.randint(len(rows), (REAL,), generator=generator)]
    real = torch.cat([data.varied(images[part], generator) for part in rows.split(250)])
    unet = zoo.icons_dash()
    dot, eyes = zoo.icons_dot(unet), Eyes()
    return quality.Bench(
        model="icons of a class 32 x 32",
        models=Models(unet, dot, clean_range=(-1, 1)),
        schedulers={name: zoo.digits_scheduler(name) for name in SOLVERS},
        frechet=Frechet(eyes, real),
        shape=tuple(real.shape[1:]),
        dash=f"{fingerprint(unet)[:12]}-{fingerprint(eyes)[:12]}",
        dot=fingerprint(dot)[:12],
        subject=Icons,
        full_steps=FULL_STEPS,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--data", type=Path, required=True, help="a folder of rendered pictures")
    options, rest = parser.parse_known_args()
    if "--solvers" not in rest:
        rest += ["--solvers", *SOLVERS]
    quality.main([*DEFAULTS, *rest], bench(options.data))


if __name__ == "__main__":
    main()
