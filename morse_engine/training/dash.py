"""Training of a Dash: the simple denoising loss."""

from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..dot.levels import PREDICTION_TYPES
from ..system.errors import Refused
from .batches import noisy_batch
from .fit import Fit, Recipe

Model = TypeVar("Model", bound=nn.Module)


def target(noise_scheduler: Any, x_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    """What Dash's output stands for, by the scheduler's `prediction_type`: `[B, C, H, W]`.

    Source: v-prediction: Salimans & Ho 2022 (arXiv 2202.00512), appendix D.
    """
    kind = noise_scheduler.config.prediction_type
    if kind == "v_prediction":
        return noise_scheduler.get_velocity(x_0, eps, t)
    return x_0 if kind == "sample" else eps


def train_dash(
    unet: Model,
    images: Tensor,
    noise_scheduler: Any,
    out_dir: str | Path,
    *,
    num_steps: int = 8000,
    batch_size: int = 128,
    lr: float = 1.5e-3,
    held_out: Tensor | None = None,
    **fit_options: Any,
) -> Model:
    """Train a Dash by the simple denoising loss `|| unet(x_t, t) - target ||^2`.

    Args:
        unet: a diffusers `UNet2DModel`.
        images: `[n, C, H, W]` float32 in [-1, 1].
        noise_scheduler: a diffusers scheduler with `add_noise`; `prediction_type` sets the target.
        out_dir: folder for checkpoint and log; an interrupted run continues from it.
        held_out: images for the validation loss, logged at each checkpoint.
        num_steps, batch_size, lr, fit_options: see `fit.Recipe`.

    Returns:
        the unet with averaged weights.

    Raises:
        Refused: another prediction type, a number out of range, or a folder of another run.

    Source: Ho et al. 2020 (arXiv 2006.11239), eq. 14.
    """
    kind = noise_scheduler.config.prediction_type
    if kind not in PREDICTION_TYPES:
        raise Refused(f"prediction_type={kind!r}: use one of {', '.join(PREDICTION_TYPES)}")
    recipe = Recipe(num_steps=num_steps, batch_size=batch_size, lr=lr, **fit_options)

    def loss(model: nn.Module, generator: torch.Generator, data: Tensor = images) -> Tensor:
        device = next(model.parameters()).device
        _, x_0, eps, x_t, t = noisy_batch(data, noise_scheduler, batch_size, generator, device)
        return nn.functional.mse_loss(model(x_t, t).sample, target(noise_scheduler, x_0, eps, t))

    @torch.no_grad()
    def validate(model: nn.Module) -> dict:
        if held_out is None:
            return {}
        generator = torch.Generator().manual_seed(0)
        return {"held_out_loss": float(loss(model, generator, held_out))}

    Fit(unet, loss, validate, out_dir, recipe).run()
    return unet
