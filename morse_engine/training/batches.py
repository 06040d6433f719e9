"""Batches of noised images, their times spread over the whole schedule."""

from typing import Any

import torch
from torch import Tensor

from .captioned import Captioned


def stratified(batch_size: int, generator: torch.Generator) -> Tensor:
    """One uniform number in each of `batch_size` equal parts of [0, 1), in random order: `[B]`.

    Time steps drawn this way cover the schedule in every batch, which lowers the variance of the
    gradient at no cost.
    """
    u = torch.rand(batch_size, generator=generator, dtype=torch.float32)
    return (torch.randperm(batch_size, generator=generator) + u) / batch_size


def noisy_batch(
    images: Tensor | Captioned,
    noise_scheduler: Any,
    batch_size: int,
    generator: torch.Generator,
    device: torch.device,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Data, time and noise of one batch: `x_t = alpha_t x_0 + sigma_t eps`, t stratified.

    Args:
        images: `[n, C, H, W]`.
        noise_scheduler: a diffusers scheduler with `add_noise`.
        generator: of the CPU, so that a batch is the same on each device.

    Returns:
        `(rows, x_0, eps, x_t, t)`: which images, `[B]` int64 on the CPU; images `[B, C, H, W]`
        float32 and t `[B]` int64, on `device`.
    """
    rows = torch.randint(len(images), (batch_size,), generator=generator)
    x_0 = images[rows].float()  # latents are kept in half precision
    eps = torch.randn(x_0.shape, generator=generator, dtype=torch.float32)
    t = (stratified(batch_size, generator) * noise_scheduler.config.num_train_timesteps).long()
    x_t = noise_scheduler.add_noise(x_0, eps, t)
    return rows, x_0.to(device), eps.to(device), x_t.to(device), t.to(device)
