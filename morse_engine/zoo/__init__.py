"""The models that ship with the package: of digits, of icons, and a miniature Stable Diffusion.

See `MODEL_CARD.md` in this folder for data, recipe and results; `python -m morse_engine.zoo.train`
makes all of it anew.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from ..dot.dot import Dot
from ..sampling import schedulers
from . import icons, miniature

if TYPE_CHECKING:
    from diffusers import SchedulerMixin, StableDiffusionPipeline, UNet2DModel

    from .classifier import DigitClassifier

WEIGHTS = Path(__file__).parent / "weights"


def digits_dash() -> "UNet2DModel":
    """The Dash: a `UNet2DModel` of 1.5 M parameters for images `[B, 1, 32, 32]` in [-1, 1].

    It is channels-last, as its Dot: on a CPU both are faster so, Dash 1.3 to 1.5 times.
    """
    from diffusers import UNet2DModel

    unet = UNet2DModel.from_pretrained(WEIGHTS / "dash", low_cpu_mem_usage=False).eval()
    return unet.to(memory_format=torch.channels_last)


def digits_dot(unet: nn.Module) -> Dot:
    """The Dot of `digits_dash()`."""
    dot = Dot.from_pretrained(WEIGHTS / "dot", unet)
    return dot.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # it is one


def digits_classifier() -> "DigitClassifier":
    """The classifier whose 64 features the Frechet distance of digits is taken in."""
    from .classifier import load_classifier

    return load_classifier(WEIGHTS / "classifier.safetensors")


def miniature_pipeline() -> "StableDiffusionPipeline":
    """The miniature Stable Diffusion: pictures `[B, 3, 64, 64]` of prompts.

    Its words are in `weights/miniature/MODEL_CARD.md`. The UNet, 3.0 M parameters for latents
    `[B, 4, 16, 16]`, is channels-last.
    """
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(miniature.WEIGHTS, safety_checker=None)
    pipe.unet.to(memory_format=torch.channels_last)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def miniature_dot(unet: nn.Module) -> Dot:
    """The guided Dot of the unet of `miniature_pipeline()`."""
    dot = Dot.from_pretrained(miniature.DOT, unet)
    return dot.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # it is one


def icons_dash(folder: Path = icons.DASH) -> "UNet2DModel":
    """A `UNet2DModel` of icons `[B, 3, 32, 32]` with classes, those of `icons.data.CLASSES`.

    Its noise schedule is in `icons_scheduler`; it is channels-last, as its Dot.
    """
    from diffusers import UNet2DModel

    unet = UNet2DModel.from_pretrained(folder, low_cpu_mem_usage=False).eval()
    return unet.to(memory_format=torch.channels_last)


def icons_dot(unet: nn.Module) -> Dot:
    """The Dot of `icons_dash()`."""
    dot = Dot.from_pretrained(icons.DOT, unet)
    return dot.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # it is one


def icons_scheduler(solver: str = "ddim") -> "SchedulerMixin":
    """The noise schedule of `icons_dash()` with a solver: a name of `schedulers.SOLVERS`.

    DDIM does not clip. In diffusers it goes on from the clipped image with the noise of the
    unclipped one, and what does not fit adds up: with this model more steps were then worse. Give
    `clean_range=(-1, 1)` with it, within which free steps stay.

    Raises:
        Refused: no such name, or a solver of another kind of noise schedule.
    """
    return schedulers.make(solver, schedulers.LINEAR_BETAS | {"clip_sample": solver != "ddim"})


def digits_scheduler(solver: str = "ddim") -> "SchedulerMixin":
    """The noise schedule of `digits_dash()` with a solver: a name of `schedulers.SOLVERS`.

    Raises:
        Refused: no such name, or a solver of another kind of noise schedule.
    """
    return schedulers.make(solver, schedulers.LINEAR_BETAS)
