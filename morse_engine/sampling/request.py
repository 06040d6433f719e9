"""What a call of a sampler asks for, checked before any work is done."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from ..system import checks
from ..system.checks import integer, shown
from ..system.errors import Refused

MOST_IMAGES = 1 << 16  # in a call
MOST_NUMBERS = 1 << 31  # in x: what kernels count to
MOST_SEED = (1 << 64) - 1
MOST_GUIDANCE = 1e6


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
        if noise is not None:
            _check_noise(noise, shape)
        seeds = _seeds(noise, batch_size, seed)
        if noise is not None:
            device = device or noise.device
            noise, shape = noise.to(device, torch.float32), tuple(noise.shape[1:])
        elif shape is None:
            raise Refused("pass noise=, or shape=(C, H, W) to compile(): the model has no config")
        if (numbers := len(seeds) * math.prod(shape)) > MOST_NUMBERS:
            raise Refused(
                f"{len(seeds)} images of {shape} are {numbers} numbers: at most 2^31 in a call, "
                "ask for fewer images and call again with the next seeds"
            )
        if guidance_scale is not None:
            guidance_scale = _guidance_scale(guidance_scale)
        _check_cond(cond, len(seeds), guided=guidance_scale is not None)
        device = device or torch.device("cpu")
        return cls(noise, seeds, (len(seeds), *shape), guidance_scale, cond, device)


def _seeds(noise: Tensor | None, batch_size: Any, seed: Any) -> list[int]:
    """One seed for each image, from the first seed or a list of them."""
    if isinstance(seed, Tensor) and seed.ndim == 1:
        seed = seed.tolist()  # at once: reading one by one would wait for a GPU as many times
    given = seed if checks.is_list(seed) else None
    is_scalar = getattr(seed, "ndim", None) == 0  # a tensor of one seed
    if given is None and isinstance(seed, Iterable) and not is_scalar:
        raise Refused(f"seed={shown(seed)}: has to be an integer, or a list of one for each image")
    counts = {
        "noise": None if noise is None else len(noise),
        "batch_size": None if batch_size is None else integer("batch_size", batch_size, 0),
        "seed": None if given is None else len(given),
    }
    known = {name: n for name, n in counts.items() if n is not None}
    if len(set(known.values())) > 1:
        said = ", ".join(f"{name}: {n}" for name, n in known.items())
        raise Refused(f"the number of images is not one number ({said})")
    name, count = next(iter(known.items()), ("", 1))
    if not 1 <= count <= MOST_IMAGES:  # before a list of as many seeds is made
        raise Refused(f"{name} asks for {count} images: 1 to {MOST_IMAGES} in a call")
    if given is None:
        first = integer("seed", seed, 0, MOST_SEED)
        given = range(first, first + count)
    return [integer("seed", one, 0, MOST_SEED) for one in given]


def _check_noise(noise: Any, shape: tuple[int, ...] | None) -> None:
    checks.tensor("noise", noise, "[B, C, H, W]")
    if shape is not None and tuple(noise.shape[1:]) != shape:
        raise Refused(
            f"noise has images of {tuple(noise.shape[1:])}, the model of {shape}: "
            "another size needs shape= in compile()"
        )
    if not torch.isfinite(noise).all():  # on a GPU the only wait of a start, before it has work
        raise Refused("noise holds NaN or infinite values")


def _guidance_scale(value: Any) -> float:
    scale = checks.number("guidance_scale", value, "a finite number, or None")
    if abs(scale) > MOST_GUIDANCE:
        raise Refused(f"guidance_scale={scale:g}: at most {MOST_GUIDANCE:g}, or None")
    return scale


def _check_cond(cond: dict, count: int, *, guided: bool) -> None:
    """Whether guidance has something to guide by, and the values are finite.

    On a GPU the values are not looked at, which would wait for it.
    """
    rows = {name: value for name, value in cond.items() if isinstance(value, Tensor) and value.ndim}
    for name, value in rows.items():
        if value.is_floating_point() and value.device.type == "cpu" and value.isnan().any():
            raise Refused(f"{name} holds NaN")
    if not guided:
        return
    if not any(isinstance(value, Tensor) for value in tree_leaves(cond)):
        raise Refused(
            "guidance_scale is given, but no condition to guide by: leave it out, or pass what "
            f"the model is conditioned on, {2 * count} rows, those without the condition first"
        )
    for name, value in rows.items():
        if len(value) != 2 * count:
            raise Refused(
                f"{name} has {len(value)} rows: with guidance {count} images need {2 * count}, "
                "those without the condition first"
            )
