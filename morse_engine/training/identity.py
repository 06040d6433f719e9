"""What a training follows from, as plain values that two runs can be compared by."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from ..dot.dot import Dot
from ..dot.levels import NoiseLevels
from .captioned import Captioned
from .recipe import Recipe

HOW_IT_IS_WATCHED = ("checkpoint_every", "progress", "report_to")  # not what is learned


def of_recipe(recipe: Recipe) -> dict:
    """The numbers of a run, without those that only say how it is watched."""
    numbers = {k: v for k, v in asdict(recipe).items() if k not in HOW_IT_IS_WATCHED}
    return json.loads(json.dumps(numbers))


def of_data(images: Tensor | Captioned, noise_scheduler: Any) -> dict:
    """How many images, their hash, and the noise levels: `{name: value}`."""
    levels = NoiseLevels.from_scheduler(noise_scheduler).config
    return {
        "images": len(images),
        "image_hash": digest(images),
        **{f"noise.{name}": value for name, value in levels.items()},
    }


def of_training(dot: Dot, images: Any, noise_scheduler: Any, schedulers: Sequence) -> dict:
    """What the training of a Dot follows from: its Dash, its shape, the data, the solvers."""
    found = {
        "dash": dot.dash_fingerprint,
        "widths": list(dot.widths),
        "cut": dot.cut,
        "lora_rank": dot.lora_rank,
        "guided": dot.guided,
        **of_data(images, noise_scheduler),
        "solvers": [type(scheduler).__name__ for scheduler in schedulers],
    }
    for number, scheduler in enumerate(schedulers, 1):
        options = {k: v for k, v in scheduler.config.items() if not k.startswith("_")}
        for name, value in json.loads(json.dumps(options, default=str)).items():
            found[f"solver {number}.{name}"] = value
    return found


def digest(data: Any) -> str:
    """A name for images and their conditions: 16 digits of SHA-256 over shapes, types and bytes.

    What lies in files is named by what it was made from (`latents.Stored.digest`); it is not read.
    """
    found = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, Captioned):
            value = {"images": value.images, "cond": value.cond, "empty": value.empty}
        if isinstance(value, dict):
            for name, inner in sorted(value.items()):
                found.update(name.encode())
                add(inner)
        elif isinstance(value, Tensor):
            found.update(f"{tuple(value.shape)}{value.dtype}".encode())
            for rows in torch.atleast_1d(value.detach()).split(1024):
                found.update(rows.cpu().contiguous().view(torch.uint8).numpy())
        elif value is not None:
            found.update(value.digest().encode())

    add(data)
    return found.hexdigest()[:16]
