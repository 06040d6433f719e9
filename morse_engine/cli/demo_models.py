"""The bundled models that the demo asks for pictures, by name."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import NamedTuple

import torch

from .. import zoo
from ..evaluation.labelled import Labelled
from ..evaluation.prompted import Prompted
from ..evaluation.subject import Subject
from ..integrations.latents import range_of
from ..runtime.models import Models
from ..sampling import schedulers
from ..system.errors import Unavailable
from ..zoo.icons import data as icons_data
from ..zoo.miniature import captions
from .prompted import MINIATURE_GUIDANCE, quiet

PIPELINE_LINES = """\
import morse_engine
from morse_engine import zoo

pipe = zoo.miniature_pipeline()  # a StableDiffusionPipeline of diffusers
dot = zoo.miniature_dot(pipe.unet)  # trained once for its UNet
morse_engine.accelerate(pipe, dot, budget=5)  # the time of 5 steps
picture = pipe("a noto smiling face", guidance_scale=3.0).images[0]
morse_engine.restore(pipe)
"""

ICON_LINES = """\
import morse_engine
import torch
from morse_engine import zoo

unet = zoo.icons_dash()  # Dash: a diffusers UNet2DModel with classes
dot = zoo.icons_dot(unet)  # Dot: trained once for this Dash
ddim = zoo.icons_scheduler("ddim")
plan = "-:.:-:.:-:"  # the time of four steps
sampler = morse_engine.compile(unet, dot, plan=plan, scheduler=ddim, clean_range=(-1, 1))
images = sampler(batch_size=2, seed=0, class_labels=torch.tensor([0, 1]))  # [2, 3, 32, 32]
"""


class Shown(NamedTuple):
    """A model of the demo.

    Attributes:
        costs: what the cost in LSD is that of.
        elsewhere: the command that shows another one.
        lines: of Python, the same in short.
        budget: in LSD, at which pictures are shown.
    """

    title: str
    subject: Subject
    costs: str
    elsewhere: str
    lines: str
    budget: int


def miniature(where: torch.device) -> Shown:
    """The miniature Stable Diffusion with its guided Dot, asked with coarse prompts."""
    _check_judge()
    quiet()
    pipe = zoo.miniature_pipeline().to(where)
    pipe.scheduler = schedulers.make("ddim", pipe.scheduler.config)
    subject = Prompted(
        *("miniature Stable Diffusion 64 x 64", pipe, zoo.miniature_dot(pipe.unet)),
        captions.coarse(),
        guidance_scale=MINIATURE_GUIDANCE,
        latents=range_of(pipe),
    )
    return Shown(
        "Morse on a miniature Stable Diffusion",
        subject,
        "The cost is that of the model with guidance: both branches at a Dash step, one pass at a "
        "step of this Dot, which corrects the guided estimate. Decoding by the VAE is not counted, "
        "it is the same for all.",
        "morse-engine demo --model icons",
        PIPELINE_LINES,
        5,
    )


def icons(where: torch.device) -> Shown:
    """The icons of classes with their Dot."""
    _check_judge()
    unet = zoo.icons_dash().to(where)
    subject = Labelled(
        "icons of classes 32 x 32",
        Models(unet, zoo.icons_dot(unet), clean_range=(-1, 1)),
        (3, icons_data.SIZE, icons_data.SIZE),
        zoo.icons_scheduler("ddim"),
        labels_of=icons_data.labels_of,
        words=icons_data.WORDS,
        scale=2,
    )
    return Shown(
        "Morse on icons of classes",
        subject,
        "The cost is that of the model, which has no guidance.",
        "morse-engine demo --model miniature",
        ICON_LINES,
        4,
    )


MODELS: dict[str, Callable[[torch.device], Shown]] = {"miniature": miniature, "icons": icons}


def _check_judge() -> None:
    if find_spec("transformers") is None:
        raise Unavailable(
            "the judge of the pictures needs the package transformers: "
            "pip install 'morse-engine[demo]', or take --model digits"
        )
