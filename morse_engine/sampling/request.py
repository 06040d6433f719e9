"""What a call of a sampler asks for, checked before any work is done."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..system.errors import Refused


class Request(NamedTuple):
    """One batch.

    Attributes:
        noise: `[B, C, H, W]` float32 of unit variance; None for that of the seeds.
        seeds: one int for each image, 0 to 2^64 - 1.
        shape: `(B, C, H, W)`.
        guidance_scale: None for no guidance.
        cond: what both models are given by keyword.
        device: where the run is.
    """

    noise: Tensor | None
    seeds: list[int]
    shape: tuple[int, ...]
    guidance_scale: float | None
    cond: dict
    device: torch.device

    @classmethod
    def make(
        cls,
        noise: Tensor | None,
        batch_size: int | None,
        seed: int | Sequence[int],
        guidance_scale: float | None,
        cond: dict,
        *,
        shape: tuple[int, ...] | None,
        device: torch.device | None,
    ) -> "Request":
        """Put the arguments of a call together.

        Args:
            shape: `(C, H, W)` of the sampler; None if it takes any.
            device: of the models; None if they are plain functions.

        Raises:
            Refused: they do not agree, or a value is out of range.
        """
        seeds = _seeds(noise, batch_size, seed)
        if noise is not None:
            _check_noise(noise, shape)
            device = device or noise.device
            noise, shape = noise.to(device, torch.float32), tuple(noise.shape[1:])
        elif shape is None:
            raise Refused("pass noise=, or shape=(C, H, W) to compile(): the model has no config")
        if guidance_scale is not None and not -1e6 < guidance_scale < 1e6:
            raise Refused(f"guidance_scale={guidance_scale}: a finite number, or None")
        device = device or torch.device("cpu")
        return cls(noise, seeds, (len(seeds), *shape), guidance_scale, cond, device)


def _seeds(noise: Tensor | None, batch_size: int | None, seed: int | Sequence[int]) -> list[int]:
    given = [] if isinstance(seed, int) else [int(s) for s in seed]
    if noise is not None and not isinstance(noise, Tensor):
        raise Refused(f"noise is a {type(noise).__name__}: pass a tensor [B, C, H, W]")
    counts = {
        "noise": None if noise is None else noise.shape[0] if noise.ndim else 0,
        "batch_size": batch_size,
        "seed": None if isinstance(seed, int) else len(given),
    }
    known = {name: n for name, n in counts.items() if n is not None}
    if len(set(known.values())) > 1:
        said = ", ".join(f"{name}: {n}" for name, n in known.items())
        raise Refused(f"the number of images is not one number ({said})")
    count = next(iter(known.values()), 1)
    if count < 1:
        raise Refused(f"{next(iter(known))} asks for {count} images: at least 1")
    seeds = [seed + i for i in range(count)] if isinstance(seed, int) else given
    if wrong := [s for s in seeds if not 0 <= s < 1 << 64]:
        raise Refused(f"seed {wrong[0]}: an int from 0 to 2^64 - 1")
    return seeds


def _check_noise(noise: Tensor, shape: tuple[int, ...] | None) -> None:
    if noise.ndim != 4 or not noise.is_floating_point():
        raise Refused(f"noise is {tuple(noise.shape)} {noise.dtype}: pass floats [B, C, H, W]")
    if shape is not None and tuple(noise.shape[1:]) != shape:
        raise Refused(
            f"noise has images of {tuple(noise.shape[1:])}, the model of {shape}: "
            "another size needs shape= in compile()"
        )
    if not torch.isfinite(noise).all():
        raise Refused("noise holds NaN or infinite values")
