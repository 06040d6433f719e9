"""Training of a Dash: the simple denoising loss."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..dot.levels import PREDICTION_TYPES
from ..sampling import noise
from ..sampling.loop import sample
from ..sampling.plan import Plan
from ..sampling.solver import SolverTable
from ..system.errors import Refused
from ..system.images import MODES
from . import identity
from .batches import noisy_batch
from .checks import check_images, check_model, check_noise, check_unet
from .fit import Fit
from .recipe import Recipe, check_names

Model = TypeVar("Model", bound=nn.Module)


def target(noise_scheduler: Any, x_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    """What Dash's output stands for, by the scheduler's `prediction_type`: `[B, C, H, W]`.

    Source: v-prediction: Salimans & Ho 2022 (arXiv 2202.00512), appendix D.
    """
    kind = noise_scheduler.config.prediction_type
    if kind == "v_prediction":
        return noise_scheduler.get_velocity(x_0, eps, t)
    return x_0 if kind == "sample" else eps


PREVIEW_STEPS, PREVIEWED = 20, 16  # of DDIM; images


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
        unet: a diffusers `UNet2DModel`, float32.
        images: `[n, C, H, W]` float32 in [-1, 1].
        noise_scheduler: a diffusers scheduler with `add_noise`; `prediction_type` sets the target.
        out_dir: folder for checkpoint, log and preview; an interrupted run continues from it.
        held_out: images for the validation loss, logged at each checkpoint beside that of the
            estimate 0, which knows nothing.
        num_steps, batch_size, lr, fit_options: see `recipe.Recipe`.

    Returns:
        the unet with averaged weights.

    Raises:
        Refused: images that do not fit the model or are not in [-1, 1], another prediction type, a
            number out of range, a folder of another run, or a loss that is not finite.
        Unavailable: another process trains in the folder.

    Source: Ho et al. 2020 (arXiv 2006.11239), eq. 14.
    """
    check_unet(unet)
    check_noise(noise_scheduler)
    kind = getattr(noise_scheduler.config, "prediction_type", None)
    if kind not in PREDICTION_TYPES:
        raise Refused(f"prediction_type={kind!r}: use one of {', '.join(PREDICTION_TYPES)}")
    check_names(Recipe, fit_options)
    recipe = Recipe(num_steps=num_steps, batch_size=batch_size, lr=lr, **fit_options)
    check_model(unet, "the model")
    check_images(images, unet)
    if held_out is not None:
        check_images(held_out, unet, "held_out")

    def loss(model: nn.Module, generator: torch.Generator, data: Tensor = images) -> Tensor:
        device = next(model.parameters()).device
        _, x_0, eps, x_t, t = noisy_batch(data, noise_scheduler, batch_size, generator, device)
        return nn.functional.mse_loss(model(x_t, t).sample, target(noise_scheduler, x_0, eps, t))

    @torch.no_grad()
    def validate(model: nn.Module) -> dict:
        if held_out is None:
            return {}
        device = next(model.parameters()).device
        generator = torch.Generator().manual_seed(0)
        batch = noisy_batch(held_out, noise_scheduler, batch_size, generator, device)
        wanted = target(noise_scheduler, *batch[1:3], batch[4])
        ours = nn.functional.mse_loss(model(*batch[3:]).sample, wanted)
        return {"held_out_loss": float(ours), "zero_estimate": float(wanted.square().mean())}

    def preview(model: nn.Module) -> Tensor | None:
        return sampled(model, noise_scheduler, images.shape[1:])

    about = identity.of_data(images, noise_scheduler)
    Fit(unet, loss, validate, out_dir, recipe, about=about, preview=preview).run()
    return unet


def sampled(unet: nn.Module, noise_scheduler: Any, shape: Sequence[int]) -> Tensor | None:
    """Some images of a Dash, `[n, C, H, W]` on the CPU; None where they are no pictures."""
    from diffusers import DDIMScheduler

    if shape[0] not in MODES:
        return None
    device = next(unet.parameters()).device
    solver = DDIMScheduler.from_config(noise_scheduler.config)
    try:
        table = SolverTable.from_scheduler(solver, PREVIEW_STEPS)
    except Refused:  # a schedule that only other solvers take; the training itself can do with it
        return None
    seeds = range(PREVIEWED)
    start = noise.normal(seeds, noise.INITIAL, shape, device=device)

    def dash(x: Tensor, t: Tensor) -> Tensor:
        return unet(x, t).sample.float()

    return sample(dash, None, Plan.spread(PREVIEW_STEPS, 0), table, start, seeds).cpu()
