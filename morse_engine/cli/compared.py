"""What `evaluate` compares plans of: a Dash of pixels, or a pipeline with prompts."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import zoo
from ..dot.fingerprint import fingerprint
from ..engine import compile
from ..evaluation.frechet import Frechet
from ..evaluation.labelled import Labelled
from ..evaluation.paired import Paired
from ..evaluation.prompted import Prompted
from ..evaluation.score import Pyramid
from ..evaluation.subject import Subject
from ..integrations.latents import range_of
from ..sampling import schedulers
from ..sampling.solver import SolverTable
from ..system import images
from ..system.errors import Refused
from ..training.identity import digest
from ..zoo.miniature import judge
from . import models
from .classes import chosen, labels_of
from .prompted import OTHERS, Asked, load

FULL_STEPS = 50  # Dash steps of the pictures that those of prompts are compared with


@dataclass(frozen=True)
class Compared:
    """The subject of an experiment, and what its pictures are measured with.

    Attributes:
        solver: its name for the rows.
        settings: what a run that continues must have in common with the first one.
        options: of the `Experiment` beside that.
    """

    subject: Subject
    yardstick: Frechet | Paired
    solver: str
    settings: dict[str, Any]
    options: dict[str, Any] = field(default_factory=dict)


def of_pixels(
    unet: str | None,
    classes: str | None,
    dot: str | None,
    data: str | None,
    solver: str,
    where: torch.device,
) -> Compared:
    """A Dash of a folder or of the digits, with a Dot or not, beside real images; None: digits."""
    has_dot = dot is not None or unet is None
    dash, helper, scheduler = models.load(unet, dot, solver, where, has_dot)
    made = compile(dash, helper, scheduler=scheduler, plan="-")
    size, channels = models.shape(dash)
    yardstick: Frechet
    if data is None:
        real = models.data("digits", size, channels)[0]
        yardstick = Frechet(zoo.digits_classifier().to(where), real)
    else:
        real = images.load_folder(data, size, channels)
        yardstick = Frechet("inception", real.to(where))
    name = "handwritten digits 32 x 32" if unet is None else Path(unet).name
    subject = Subject(name, made.models, (channels, size, size), scheduler)
    settings: dict[str, Any] = {"data": digest(real), **_of_models(dash, helper)}
    if (labels := chosen(dash, classes)) is not None:
        settings["classes"] = labels
        subject = Labelled(
            *(name, made.models, subject.shape, scheduler),
            labels_of=partial(labels_of, labels),
            words=[str(label) for label in range(dash.class_embedding.num_embeddings)],
        )
    return Compared(subject, yardstick, solver, settings)


def of_prompts(
    asked: Asked,
    dot: str | None,
    data: str | None,
    solver: str | None,
    plans: str | None,
    where: torch.device,
) -> Compared:
    """A pipeline with a Dot or not, beside the full run of the same seeds or beside real pictures.

    Raises:
        Refused: as `prompted.load`; or a solver that adds noise, without real pictures.
    """
    pipe, helper = load(asked, dot, solver, where)
    told = judge.load() if asked.bundled else None
    if helper is None and asked.bundled:
        helper = zoo.miniature_dot(pipe.unet)
    noisy = SolverTable.for_calls(pipe.scheduler, 4).uses_noise
    solver = schedulers.name_of(pipe.scheduler)
    if noisy and data is None:
        raise Refused(
            f"{solver} adds noise, other noise in another number of steps, so its pictures cannot "
            "be compared with those of all steps: name real ones with --data, or another --solver"
        )
    subject = Prompted(
        "miniature Stable Diffusion 64 x 64" if asked.bundled else Path(str(asked.model)).name,
        *(pipe, helper, asked.prompts),
        guidance_scale=asked.scale_of(pipe),
        latents=(known := range_of(pipe, plans or (None if helper is None else helper.folder))),
    )
    settings: dict[str, Any] = {
        "data": None,
        "prompts": asked.prompts,
        "guidance": asked.scale_of(pipe),
        "latents": str(known),
    }
    settings |= {"scheduler": {k: str(v) for k, v in sorted(pipe.scheduler.config.items())}}
    settings |= _of_models(pipe.unet, helper)
    settings |= {name: fingerprint(getattr(pipe, name)) for name in OTHERS if hasattr(pipe, name)}
    yardstick: Frechet | Paired = Paired(Pyramid(3) if told is None else told)
    if data is not None:
        real = _real(data, subject)
        settings["data"] = digest(real)
        yardstick = Frechet("inception" if told is None else told, real.to(where))
    options = {"full_steps": None if noisy else FULL_STEPS, "judge": told}
    return Compared(subject, yardstick, solver, settings, options)


def _real(data: str, subject: Prompted) -> Tensor:
    """Real pictures of the size of those of the pipeline."""
    size = subject.shape[-1] * 2 ** (len(subject.pipe.vae.config.block_out_channels) - 1)
    return images.load_folder(data, size, 3)


def _of_models(dash: Any, helper: Any) -> dict[str, str]:
    return {"dash": fingerprint(dash), "dot": "" if helper is None else fingerprint(helper)}
