"""Train the Dot of the icons.

    python -m morse_engine.zoo.icons.dot --out runs/icons

Dash is that of `OUT/dash/weights`, the bundled one if none is there. Interrupt it at any time; the
same command goes on.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...dot.dot import Dot
from ...system.errors import one_line
from ...system.files import output_folder
from ...training.captioned import Captioned
from ...training.dot import train_dot
from .. import icons_dash, icons_scheduler
from ..miniature import data as pictures
from ..train import Stage
from . import DASH, data

SAMPLES, HELD_OUT = 8192, 512  # variations of the pictures that Dot is trained and judged on
# Of Dash's levels the innermost alone: it learns as fast as with two, for half the time of a step.
SHAPE: dict[str, Any] = {"widths": (16, 32, 32), "cut": 3}
NOISY = ("ddpm", "dpm-sde", "euler-ancestral")

STAGES = (
    Stage(2000, 3e-3, 0.08, ("ddim", "dpm") * 2 + NOISY),
    Stage(5000, 1.5e-3, 0.0, ("ddim", "dpm") * 3 + NOISY, (4, 24)),
)


def varied(images: Tensor, icons: list[pictures.Icon], count: int, seed: int) -> Captioned:
    """Pictures as Dash was trained on, with their classes."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(len(images), (count,), generator=generator)
    drawn = [data.varied(images[part], generator) for part in rows.split(256)]
    return Captioned(torch.cat(drawn), {"class_labels": data.labels(icons)[rows]})


def train(out: Path, folder: Path, stages: Sequence[Stage] = STAGES) -> Path:
    """Train the Dot of the Dash in `out` on rendered pictures; returns its folder."""
    images, icons = pictures.load(folder)
    rows = pictures.chosen(icons)
    images, icons = images[rows], [icons[row] for row in rows]
    trained = out / "dash" / "weights"
    unet = icons_dash(trained if trained.exists() else DASH)
    torch.manual_seed(0)
    dot = Dot(unet, icons_scheduler("ddim"), **SHAPE)
    held_out = varied(images, icons, HELD_OUT, 1)
    for number, stage in enumerate(stages):
        dot = train_dot(
            dot,
            unet,
            varied(images, icons, SAMPLES, 2 * number),
            icons_scheduler("ddpm"),
            out / f"dot-{number}",
            schedulers=[icons_scheduler(name) for name in stage.solvers],
            num_steps=stage.num_steps,
            lr=stage.lr,
            own_way_from=stage.own_way_from,
            run_steps=stage.run_steps,
            seed=number,
            checkpoint_every=200,
            held_out=held_out,
        )
    dot.save_pretrained(out / "dot")
    return out / "dot"


@one_line
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/icons"))
    parser.add_argument("--data", type=Path, help="a folder of rendered pictures [OUT/data]")
    options = parser.parse_args()
    out = output_folder(options.out)
    folder = train(out, options.data or out / "data")
    print(f"the Dot is in {folder}")


if __name__ == "__main__":
    main()
