"""Train the bundled models from nothing: `python -m morse_engine.zoo.train --out runs/zoo`.

Interrupt it at any time; the same command continues (the classifier, a minute, begins anew). The
finished models are written to `OUT/weights`, and with `--install` over those that ship with the
package.
"""

import argparse
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from ..system.errors import one_line
from ..system.files import output_folder
from . import WEIGHTS, digits, digits_scheduler
from .classifier import save_classifier, train_classifier

if TYPE_CHECKING:
    from diffusers import UNet2DModel

DASH_STEPS = 4200
DATA_SHARE = 1 / 16  # of Dot's points; the others are those of walks


class Stage(NamedTuple):
    """One cosine of Dot's training.

    Attributes:
        num_steps, lr: its length and highest rate.
        own_way_from: the part after which Dot leads the walks; until then Dash leads them, where
            Dot does not know the solvers yet.
        solvers: whose ways are walked, the more often the more often they are named.
        run_steps: the least and the most steps of a walk.
    """

    num_steps: int
    lr: float
    own_way_from: float
    solvers: tuple[str, ...]
    run_steps: tuple[int, int] = (4, 32)


DOT_STAGES = (
    Stage(3000, 3e-3, 0.08, ("ddim", "dpm")),
    Stage(1700, 1.5e-3, 0.0, ("ddim", "dpm")),
    Stage(2600, 1.5e-3, 0.1, ("ddim", "dpm", "ddpm", "dpm-sde", "euler-ancestral")),
    Stage(1300, 1e-3, 0.0, ("ddim", "dpm", "ddim", "dpm", "ddpm", "dpm-sde", "euler-ancestral")),
)


def new_dash() -> "UNet2DModel":
    """The architecture of the digits Dash with fresh weights (seed 0)."""
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=digits.SIZE,
        in_channels=1,
        out_channels=1,
        block_out_channels=(32, 64, 64, 64),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownBlock2D",) * 4,
        up_block_types=("UpBlock2D",) * 4,
        add_attention=False,
    )


def train(out: Path) -> Path:
    """Train classifier, Dash and Dot into `out`; returns the folder with the three of them."""
    from diffusers import DDPMScheduler, UNet2DModel

    from ..dot.dot import Dot
    from ..training.dash import train_dash
    from ..training.dot import train_dot

    weights = out / "weights"
    images, labels = digits.images("train")
    held_out, _ = digits.images("held-out")
    noise_scheduler = DDPMScheduler()

    if not (weights / "classifier.safetensors").exists():
        save_classifier(train_classifier(images, labels), weights / "classifier.safetensors")
    if not (weights / "dash" / "diffusion_pytorch_model.safetensors").exists():
        unet: UNet2DModel = train_dash(
            new_dash(),
            images,
            noise_scheduler,
            out / "dash",
            num_steps=DASH_STEPS,
            batch_size=64,
            lr=2e-3,
            mixed_precision="bf16",
            checkpoint_every=200,
            held_out=held_out,
        )
        unet.save_pretrained(weights / "dash")
    unet = UNet2DModel.from_pretrained(weights / "dash", low_cpu_mem_usage=False).eval()
    unet.to(memory_format=torch.channels_last)
    torch.manual_seed(0)
    dot = Dot(unet)
    for number, stage in enumerate(DOT_STAGES):
        dot = train_dot(
            dot,
            unet,
            images,
            noise_scheduler,
            out / f"dot-{number}",
            schedulers=[digits_scheduler(name) for name in stage.solvers],
            num_steps=stage.num_steps,
            lr=stage.lr,
            own_way_from=stage.own_way_from,
            run_steps=stage.run_steps,
            data_share=DATA_SHARE,
            seed=number,
            checkpoint_every=200,
            held_out=held_out,
        )
    dot.save_pretrained(weights / "dot")
    return weights


@one_line
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m morse_engine.zoo.train", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/zoo"), help="default: runs/zoo")
    parser.add_argument("--install", action="store_true", help="replace the bundled weights")
    options = parser.parse_args()
    weights = train(output_folder(options.out))
    if options.install:
        shutil.copytree(weights, WEIGHTS, dirs_exist_ok=True)
    print(f"trained models: {WEIGHTS if options.install else weights}")


if __name__ == "__main__":
    main()
