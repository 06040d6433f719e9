"""Train the Dash of the icons, a `UNet2DModel` with classes.

    python -m morse_engine.zoo.icons.dash --out runs/icons

Needs npm and resvg-py for the pictures, or with `--data` a folder of those that
`zoo.miniature.data` has rendered elsewhere. Interrupt it at any time; the same command goes on.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...system.errors import one_line
from ...system.files import output_folder
from ...system.machine import device as find_device
from .. import icons_scheduler
from ..miniature import data as pictures
from ..miniature import judge
from ..miniature.stage import Stage
from ..miniature.unet import noise_loss
from . import data

BATCH = 32
STEPS = 9_000
RATE = 1.2e-3
SEEN, VARIATIONS = 1, 4  # seed and number of the pictures that `judge.to_real` compares with


class Denoiser(nn.Module):
    """A `UNet2DModel` as `noise_loss` calls it: z = unet(x, t, labels)."""

    def __init__(self, unet: nn.Module):
        super().__init__()
        self.unet = unet

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """The predicted noise `[B, 3, H, W]` of x at timesteps `[B]` for classes `[B]`."""
        return self.unet(x, t, labels).sample


def new_unet() -> Any:
    """The architecture with fresh weights: 2.6 M parameters, no attention."""
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=data.SIZE,
        in_channels=3,
        out_channels=3,
        block_out_channels=(32, 64, 96, 96),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownBlock2D",) * 4,
        up_block_types=("UpBlock2D",) * 4,
        add_attention=False,
        num_class_embeds=len(data.CLASSES),
    )
    return unet.to(memory_format=torch.channels_last)


def train_dash(
    images: Tensor,
    icons: list[pictures.Icon],
    file: Path,
    num_steps: int = STEPS,
    *,
    batch_size: int = BATCH,
    lr: float = RATE,
    device: str | torch.device = "cpu",
    bf16: bool = True,
) -> Stage[Denoiser]:
    """A stage that trains a `Denoiser` on uint8 pictures `[n, 3, 64, 64]` of n icons."""
    alphas = icons_scheduler("ddim").alphas_cumprod.to(device)
    labels = data.labels(icons)

    def loss(
        model: nn.Module, generator: torch.Generator, step: int
    ) -> tuple[Tensor, dict[str, float]]:
        batch = torch.randint(len(images), (batch_size,), generator=generator)
        x0 = data.varied(images[batch], generator).to(device)
        return noise_loss(model, x0, labels[batch].to(device), alphas, generator)

    return Stage(
        Denoiser(new_unet()),
        loss,
        file,
        num_steps=num_steps,
        batch_size=batch_size,
        lr=lr,
        ema=0.999,
        seed=3,
        device=device,
        bf16=bf16,
    )


@one_line
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/icons"))
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--minutes", type=float, help="train for so long, then export")
    parser.add_argument("--data", type=Path, help="a folder of rendered pictures [OUT/data]")
    parser.add_argument("--batch-size", type=int, default=BATCH)
    parser.add_argument("--lr", type=float, default=RATE, help="highest rate")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 ..., or auto")
    options = parser.parse_args()
    where = find_device(options.device)
    out = output_folder(options.out)
    images, icons = pictures.load(options.data or out / "data")
    rows = pictures.chosen(icons)
    stage = train_dash(
        images[rows],
        [icons[row] for row in rows],
        out / "dash" / "state.pt",
        options.steps,
        batch_size=options.batch_size,
        lr=options.lr,
        device=where,
    )
    stage.run(options.minutes and 60 * options.minutes)
    unet: Any = stage.averaged().unet
    unet.half().save_pretrained(out / "dash" / "weights")
    generator = torch.Generator().manual_seed(SEEN)
    learnt = [data.varied(images[rows], generator) for _ in range(VARIATIONS)]
    judge.keep_real(judge.load(), data.shown(torch.cat(learnt)), out / "dash" / "weights")
    print(f"the Dash is in {out / 'dash' / 'weights'}")


if __name__ == "__main__":
    main()
