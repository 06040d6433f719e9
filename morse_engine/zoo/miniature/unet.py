"""The UNet of the miniature, trained together with its text encoder on the latents of icons."""

import zlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import captions
from .data import Icon
from .stage import Stage
from .text import new_text_encoder, tokens

BATCH = 16
STEPS = 30_000
RATE = 1e-3
MIN_SNR = 5.0
# Stable Diffusion's own noise schedule, as its scheduler_config.json has it.
SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


class Denoiser(nn.Module):
    """UNet and text encoder as one module: z = unet(x, t, text_encoder(tokens))."""

    def __init__(self, unet: nn.Module, text_encoder: nn.Module):
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder

    def forward(self, x: Tensor, t: Tensor, prompts: Tensor) -> Tensor:
        """The predicted noise `[B, 4, H, W]` of x at timesteps `[B]` for tokens `[B, LENGTH]`."""
        return self.unet(x, t, self.text_encoder(prompts).last_hidden_state).sample


def new_unet(widths: tuple[int, ...] = (48, 64, 96), cross: int = 96, size: int = 16) -> Any:
    """`UNet2DConditionModel` with fresh weights; attention everywhere but at the full size.

    Its attention is the plain one of two products (`AttnProcessor`): for so small heads torch's own
    is slower on a CPU.
    """
    from diffusers import UNet2DConditionModel
    from diffusers.models.attention_processor import AttnProcessor

    torch.manual_seed(0)
    inner = len(widths) - 1
    unet = UNet2DConditionModel(
        sample_size=size,
        layers_per_block=1,
        block_out_channels=widths,
        down_block_types=("DownBlock2D", *("CrossAttnDownBlock2D",) * inner),
        up_block_types=(*("CrossAttnUpBlock2D",) * inner, "UpBlock2D"),
        cross_attention_dim=cross,
        attention_head_dim=2,  # diffusers' name for the number of heads
        norm_num_groups=8,
    )
    unet.set_attn_processor(AttnProcessor())
    return unet.to(memory_format=torch.channels_last)


def held_out(icon: Icon) -> bool:
    """True for 3 % of the (style, name) pairs, which are never trained: the other styles may be."""
    return zlib.crc32(f"{icon.style}/{icon.name}".encode()) % 100 < 3


def load(model: Denoiser, folder: Path) -> None:
    """Give a `Denoiser` the weights of the pipeline in `folder`, in its own dtype."""
    from safetensors.torch import load_file

    model.unet.load_state_dict(load_file(folder / "unet" / "diffusion_pytorch_model.safetensors"))
    model.text_encoder.load_state_dict(load_file(folder / "text_encoder" / "model.safetensors"))


def train_unet(
    latents: Tensor,
    icons: list[Icon],
    tokenizer: Any,
    file: Path,
    num_steps: int = STEPS,
    start: Path | None = None,
    *,
    batch_size: int = BATCH,
    lr: float = RATE,
    device: str | torch.device = "cpu",
    bf16: bool = False,
) -> Stage[Denoiser]:
    """A stage that trains a `Denoiser` on latents `[n, 4, H, W]`, scaled, of n icons.

    Pictures that are `held_out` are left out. Every visit draws a caption of the picture's ladder,
    a timestep and noise. Where there is no checkpoint yet it starts from the pipeline in `start`.
    """
    rows = torch.tensor([row for row, icon in enumerate(icons) if not held_out(icon)])
    text_encoder = new_text_encoder(tokenizer)
    model = Denoiser(
        new_unet(cross=text_encoder.config.hidden_size, size=latents.shape[-1]), text_encoder
    )
    if start is not None:
        load(model, start)
    alphas, known = alphas_cumprod().to(device), latents.to(device)

    def loss(
        model: nn.Module, generator: torch.Generator, step: int
    ) -> tuple[Tensor, dict[str, float]]:
        batch = rows[torch.randint(len(rows), (batch_size,), generator=generator)]
        prompts = tokens(tokenizer, [captions.draw(icons[row], generator) for row in batch])
        x0 = known[batch.to(known.device)]
        return noise_loss(model, x0, prompts.to(x0.device), alphas, generator)

    return Stage(
        model,
        loss,
        file,
        num_steps=num_steps,
        batch_size=batch_size,
        lr=lr,
        ema=0.999,
        seed=1,
        device=device,
        bf16=bf16,
    )


def noise_loss(
    model: nn.Module, x0: Tensor, prompts: Tensor, alphas: Tensor, generator: torch.Generator
) -> tuple[Tensor, dict[str, float]]:
    """The squared error of the noise, weighted as min-SNR-5 does for noise prediction.

        x = sqrt(a_t) x0 + sqrt(1 - a_t) e,   weight = min(snr, 5) / snr,   snr = a_t / (1 - a_t)

    Source: Hang et al., "Efficient Diffusion Training via Min-SNR Weighting Strategy", 2023.
    """
    # One timestep from each of B equal parts: less noise in the gradient than B free draws.
    parts = (torch.arange(len(x0)) + torch.rand(len(x0), generator=generator)) / len(x0)
    t = (parts * len(alphas)).long().to(x0.device)
    noise = torch.randn(x0.shape, generator=generator).to(x0.device)
    a = alphas[t].view(-1, 1, 1, 1)
    x = (a.sqrt() * x0 + (1 - a).sqrt() * noise).contiguous(memory_format=torch.channels_last)
    error = (model(x, t, prompts) - noise).square().mean((1, 2, 3))
    snr = (a / (1 - a)).flatten()
    return (error * snr.clamp(max=MIN_SNR) / snr).mean(), {"error": error.mean().item()}


def alphas_cumprod() -> Tensor:
    """a_t of `SCHEDULE`, `[1000]`."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(**SCHEDULE).alphas_cumprod


@torch.no_grad()
def validation(
    model: Denoiser, latents: Tensor, icons: list[Icon], tokenizer: Any, most: int = 96
) -> dict[str, float]:
    """The unweighted squared error of the noise with full names, the same noise at every call.

    "trained" is over about `most` of the pictures that were trained, spread evenly, "held out" over
    those that are `held_out`, if there are any.
    """
    trained = [row for row, icon in enumerate(icons) if not held_out(icon)]
    left_out = [row for row, icon in enumerate(icons) if held_out(icon)]
    errors = {}
    for name, rows in ("trained", trained[:: len(trained) // most + 1]), ("held out", left_out):
        generator = torch.Generator().manual_seed(7)
        total = 0.0
        for first in range(0, len(rows), BATCH):
            part = rows[first : first + BATCH]
            texts = [captions.ladder(icons[row], icons[row].name)[-2] for row in part]
            x0, prompts = latents[part], tokens(tokenizer, texts)
            numbers = noise_loss(model, x0, prompts, alphas_cumprod(), generator)[1]
            total += numbers["error"] * len(part)
        if rows:
            errors[name] = total / len(rows)
    return errors
