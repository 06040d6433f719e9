"""The VAE of the miniature: pictures of 64 x 64 pixels as latents of 4 x 16 x 16, and back.

A VAE of 0.6 million parameters that is trained on icons for minutes loses hue before anything else:
its pictures look sharp, and green and red are one brown. Four things keep the hues apart:

- Few groups in the normalisation. With one channel a group every channel is divided by its own
  deviation, and the balance between the channels, which is the colour, is gone.
- A hint for the first three channels of the latents: they start as the mean colour of each 4 x 4
  block. Its weight falls to a small one once the decoder has learnt to read colours from there.
- Half of the pictures have their colour channels exchanged, so that every hue is as frequent.
- The loss looks at the differences between the channels and at means over blocks, too.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...system.files import whole
from . import data
from .stage import Stage

BATCH = 8
STEPS = 1200
HINTED = 300, 1200  # steps: before the first the hint has its full weight, then less and less
KL = 1e-6


def new_vae(widths: tuple[int, ...] = (16, 32, 64), seed: int = 0) -> Any:
    """`AutoencoderKL` with fresh weights: each width after the first halves height and width."""
    from diffusers import AutoencoderKL

    torch.manual_seed(seed)
    return AutoencoderKL(
        sample_size=data.SIZE,
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        block_out_channels=widths,
        latent_channels=4,
        norm_num_groups=2,
        mid_block_add_attention=False,
    ).to(memory_format=torch.channels_last)


def train_vae(
    images: Tensor,
    favoured: list[int],
    folder: Path,
    num_steps: int = STEPS,
    *,
    device: str | torch.device = "cpu",
    bf16: bool = False,
) -> Stage:
    """A stage that trains a VAE on uint8 images `[n, 3, H, W]`, half of them from `favoured`."""
    weights = _colourful(images)
    half = torch.zeros_like(weights)
    half[favoured] = weights[favoured]
    weights = weights / weights.sum() + half / half.sum()

    def loss(
        vae: nn.Module, generator: torch.Generator, step: int
    ) -> tuple[Tensor, dict[str, float]]:
        rows = weights.multinomial(BATCH, replacement=True, generator=generator)
        x = data.to_float(_varied(images[rows], generator)).to(device)
        return vae_loss(vae, x, generator, _hint(step))

    vae = new_vae()
    return Stage(
        vae,
        loss,
        folder / "state.pt",
        num_steps=num_steps,
        batch_size=BATCH,
        lr=2e-3,
        ema=0.995,
        device=device,
        bf16=bf16,
    )


def vae_loss(
    vae: Any, x: Tensor, generator: torch.Generator, hint: float
) -> tuple[Tensor, dict[str, float]]:
    """L1 of pixels, of differences between colours, of edges and of block means, with KL and hint.

    Args:
        x: `[B, 3, H, W]` in [-1, 1].
        hint: weight of the squared distance of the first three channels to `block_colours`.
    """
    posterior = vae.encode(x).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=generator).to(x.device)
    y = vae.decode(posterior.mean + posterior.std * noise).sample
    error = y - x
    pixel = error.abs().mean()
    chroma = (error - error.roll(1, 1)).abs().mean()  # R - G, G - B, B - R
    edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    blocks = sum(F.avg_pool2d(error, side).abs().mean() for side in (4, 8))
    colours = F.mse_loss(posterior.mean[:, :3], block_colours(x))
    loss = pixel + 0.5 * chroma + 0.5 * edges + blocks + KL * posterior.kl().mean() + hint * colours
    psnr = 6.02 - 10 * torch.log10(error.square().mean())  # dB, of a range of 2
    return loss, {"psnr": psnr.item(), "hint": colours.item()}


def block_colours(x: Tensor) -> Tensor:
    """Brightness, red - green, blue - yellow of each 4 x 4 block, each of about unit variance."""
    r, g, b = F.avg_pool2d(x, 4).unbind(1)
    return torch.stack([(r + g + b) / 1.5 - 1, (r - g) * 2, (b - (r + g) / 2) * 1.5], 1)


@torch.no_grad()
def encode(vae: Any, images: Tensor, batch_size: int = 64) -> Tensor:
    """The mean latents `[n, 4, H / 4, W / 4]` of uint8 images, not scaled, with a bar."""
    from rich.progress import track

    parts = track(images.split(batch_size), "latents")
    return torch.cat([vae.encode(data.to_float(part)).latent_dist.mean for part in parts])


@torch.no_grad()
def decode(vae: Any, latents: Tensor, batch_size: int = 64) -> Tensor:
    """Unscaled latents as uint8 images `[n, 3, H, W]`."""
    parts = [vae.decode(part).sample for part in latents.split(batch_size)]
    return torch.cat(parts).add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)


@torch.no_grad()
def standardise(vae: Any, latents: Tensor) -> None:
    """Give each channel of the latents mean 0 and variance 1 over `latents` `[n, 4, h, w]`.

    The 1 x 1 convolutions between encoder, latents and decoder take the change up, so that pictures
    come back as before, and `scaling_factor`, one over the deviation, is 1.
    """
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    into, out = vae.quant_conv, vae.post_quant_conv
    into.weight[: len(std)] /= std.view(-1, 1, 1, 1)
    into.bias[: len(std)] -= mean
    into.bias[: len(std)] /= std
    into.bias[len(std) :] -= 2 * std.log()  # the other half are logarithms of variances
    out.bias += out.weight[:, :, 0, 0] @ mean
    out.weight *= std.view(1, -1, 1, 1)
    vae.register_to_config(scaling_factor=1.0)


def save(vae: Any, latents: Tensor, folder: Path) -> None:
    """The VAE as diffusers reads it, and `latents.json`: the range that latents lack.

    "low" and "high" are the 0.1 % and 99.9 % quantiles of each channel of `latents`, times
    `scaling_factor`, as the UNet sees them.
    """
    vae.save_pretrained(folder)
    scaled = latents.transpose(0, 1).flatten(1) * vae.config.scaling_factor
    n = scaled.shape[1]
    numbers = {
        "low": scaled.kthvalue(max(1, round(0.001 * n)), 1).values,
        "high": scaled.kthvalue(max(1, round(0.999 * n)), 1).values,
        "mean": scaled.mean(1),
        "std": scaled.std(1),
    }
    rounded = {name: [round(v, 4) for v in row.tolist()] for name, row in numbers.items()}
    with whole(folder / "latents.json") as path:
        path.write_text(json.dumps(rounded, indent=2) + "\n")


def _hint(step: int) -> float:
    """The weight of the hint: 1, then a straight line to 0.02."""
    first, last = HINTED
    return min(1.0, max(0.02, 1 - 0.98 * (step - first) / (last - first)))


def _colourful(images: Tensor) -> Tensor:
    """How often a picture is drawn, `[n]`: from 1 for grey to about 4 for a saturated one."""
    small = F.avg_pool2d(images.float() / 255, 8)
    return 1 + 8 * (small.amax(1) - small.amin(1)).mean((1, 2))


def _varied(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirrored with probability 1/2, and with their colour channels in any order with 1/2."""
    out = []
    for image in images:
        mirror, exchange = torch.rand(2, generator=generator).tolist()
        if mirror < 0.5:
            image = image.flip(-1)
        if exchange < 0.5:
            image = image[torch.randperm(3, generator=generator)]
        out.append(image)
    return torch.stack(out)
