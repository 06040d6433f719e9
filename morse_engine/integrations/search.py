"""The best plans of a text-to-image pipeline, found with its own prompts.

    search(pipe, [4, 6], prompts=prompts, folder="my-plans")
    accelerate(pipe, budget=4, plans="my-plans")

Latents have no range by nature, and a budget buys free steps only where one is known. So where none
is, it is measured here, and left beside the plans.
"""

import inspect
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..engine import Sampler, compile
from ..evaluation import search as plans
from ..evaluation.prompted import Prompted
from ..evaluation.score import Pyramid
from ..sampling import budget
from ..sampling.budget import Ranking
from ..sampling.free import NO_RANGE
from ..system import checks
from ..system.errors import Refused
from ..system.files import output_folder, whole
from . import latents
from .pipelines import check_pipeline

RANGE_STEPS = 30  # Dash steps of the latents that a range is measured from
QUANTILES = 0.001, 0.999


def search(
    pipe: Any,
    budgets: Sequence[float],
    *,
    prompts: Sequence[str],
    folder: str | Path,
    dot: Any = None,
    guidance_scale: float | None = None,
    features: Callable[[Tensor], Tensor] | None = None,
    backend: str = "auto",
    batch_size: int = 16,
    **options: Any,
) -> Ranking:
    """Score the plans of all budgets with a pipeline, and leave them in `folder` for `accelerate`.

    As `evaluation.search.search`, which see: image s is of prompt s mod n, and what is compared are
    pictures. The scheduler is the pipeline's own: for another one, give it that first. Without a
    Dot, plans are of Dash and free steps. Where neither the Dot nor the scheduler nor the files of
    the VAE know the range of the latents, `folder` gets a `latents.json`: by channel, the 0.1 % and
    99.9 % quantiles of one batch after 30 Dash steps.

    Args:
        pipe: a text-to-image pipeline of Stable Diffusion, SDXL or LCM, not accelerated, on its
            device; it is left as it was.
        budgets: in LSD.
        prompts: what pictures are asked of it; as different as those it will be used with.
        folder: for `plans.json`, which `accelerate(plans=)` and `--plans` name.
        dot: as for `accelerate`.
        guidance_scale: as in a call of the pipeline; default: the pipeline's own.
        features: pictures `[B, 3, H, W]` in [-1, 1] -> `[B, F]`, what they are compared by;
            default: `evaluation.score.Pyramid`.
        backend: as in `compile`.
        batch_size: pictures at once.
        options: `dot_speed`, `num_images`, `full_steps`, `tries`, `on_plan` of that function.

    Returns:
        the ranking that was written.

    Raises:
        Refused: a pipeline that is no such, no prompts, or as that function.
        Unavailable: another process searches in the folder, or the pipeline's models are offloaded.
    """
    check_text_to_image(pipe)
    prompts, folder = _texts(prompts), checks.path("folder", folder)
    scale = own_guidance(pipe) if guidance_scale is None else guidance_scale
    scale = checks.number("guidance_scale", scale)
    dtype = pipe.vae.dtype
    try:  # pictures are decoded in float32
        subject = Prompted(type(pipe).__name__, pipe, dot, prompts, guidance_scale=scale)
        see = Pyramid(3).to(subject.device) if features is None else features

        def seen(x: Tensor) -> Tensor:
            return see(subject.pictures(x).clamp(-1, 1).to(subject.device))

        sampler = _sampler(pipe, dot, backend)
        plans.check(sampler, budgets, batch_size=batch_size, features=features, **options)
        return plans.search(
            _bounded(sampler, pipe, dot, folder, subject, batch_size),
            *(budgets,), folder=folder, features=seen, clamp=False, told=subject.told,
            batch_size=batch_size, guidance_scale=subject.guidance_scale, **options,
        )  # fmt: skip
    finally:
        if pipe.vae.dtype != dtype:
            pipe.vae.to(dtype)


def check_text_to_image(pipe: Any) -> None:
    """Raise `Refused` for a pipeline that cannot be accelerated or needs more than prompts."""
    check_pipeline(pipe)
    asked = inspect.signature(type(pipe).__call__).parameters
    if "prompt" not in asked or {"image", "control_image"} & {*asked}:
        raise Refused(
            f"this is a {type(pipe).__name__}: a text-to-image one is needed. Plans that are "
            "searched with one of the same unet can be used with this"
        )


def own_guidance(pipe: Any) -> float:
    """The guidance scale of a call that names none."""
    return inspect.signature(type(pipe).__call__).parameters["guidance_scale"].default


def _texts(prompts: Any) -> list[str]:
    if not checks.is_list(prompts) or not len(prompts):
        raise Refused(f"prompts={checks.shown(prompts)}: give a list of texts")
    for text in prompts:
        if not isinstance(text, str):
            raise Refused(f"prompts holds {checks.shown(text)}: give a list of texts")
    return list(prompts)


def _sampler(pipe: Any, dot: Any, backend: str, clean_range: Any = None) -> Sampler:
    plan = budget.alone(3, pipe.scheduler)
    return compile(
        *(pipe.unet, dot), scheduler=pipe.scheduler, plan=plan, backend=backend,
        clean_range=clean_range,
    )  # fmt: skip


def _bounded(
    sampler: Sampler, pipe: Any, dot: Any, folder: Path, subject: Prompted, batch_size: int
) -> Sampler:
    """The sampler with free steps within the range that `accelerate` will find."""
    if sampler.models.clean_range is not None or sampler.table.clean_range != NO_RANGE:
        return sampler
    if latents.range_of(pipe, folder) == NO_RANGE:
        full = sampler.with_plan(budget.alone(RANGE_STEPS, sampler.scheduler))
        seeds = range(plans.SEED, plans.SEED + batch_size)
        x = full(
            batch_size=batch_size, seed=seeds[0], guidance_scale=subject.guidance_scale,
            **subject.told(seeds),
        )  # fmt: skip
        _write_range(x, output_folder(folder))
    return _sampler(pipe, dot, sampler.backend, latents.range_of(pipe, folder))


def _write_range(x: Tensor, folder: Path) -> None:
    """`latents.json` of clean latents `[B, C, H, W]`."""
    if not x.isfinite().all():
        raise Refused(
            "the latents of the full run hold NaN or infinite values: the model, its dtype (half "
            "precision overflows) or its prompts are at fault"
        )
    by_channel = x.double().cpu().transpose(0, 1).flatten(1)
    low, high = torch.quantile(by_channel, torch.tensor(QUANTILES).double(), dim=1).tolist()
    with whole(folder / latents.FILE) as path:
        path.write_text(json.dumps({"low": low, "high": high}))
