"""`accelerate(pipe, dot)`: a diffusers pipeline whose loop is run by a sampler.

    morse_engine.accelerate(pipe, dot, plan="-..-..-..")
    images = pipe("a lighthouse", generator=generator).images
    morse_engine.restore(pipe)

The pipeline keeps its signature, its outputs and its own code; `call.py` says what happens within a
call. Between calls nothing of it is changed but its class, which is a subclass that runs its
`__call__`. How its calls are served:

    whole loop     text to image, image to image, inpainting with a unet of 9 channels, ControlNet,
                   T2I-adapter, depth, upscaling, variations of an image
    step by step   with `callback_on_step_end` or `callback`, with `guidance_rescale`, inpainting
                   with a unet of 4 channels (the pipeline mixes the image in after each step),
                   perturbed attention (PAG) and InstructPix2Pix, which guide by three estimates,
                   ControlNet with `guess_mode`, this or an adapter for a part of the run,
                   schedulers without a solver's table

What a call asks for and how that meets the plan:

- The plan says how many steps there are, so `num_inference_steps` can be left out; another number
  than the plan's is an error. Without plan, budget and Dot, the call says it, and all are Dash's.
- `strength`, `denoising_start` and `denoising_end` make a part of the plan. It begins with a Dash.
- ControlNet and T2I-adapter are for Dash steps only. A Dot step corrects Dash's last estimate,
  which has seen their residuals; Dot itself is not given them.
- Free steps (`:` in a plan) ask neither; they go on with what the last two calls, as guided, have
  said of the image. Without a Dot, `plan="-::-::-::"` has them behind each of three Dash steps.
- A Dot is given the keywords that the unet is given, without those that are None.

Noise: see `call.py`. The scheduler of the pipeline is read, never stepped.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..dot.dot import Dot
from ..engine import Sampler, compile
from ..sampling import probe
from ..sampling.budget import DEFAULT_BUDGET, choose, searched
from ..sampling.free import NO_RANGE
from ..sampling.plan import DASH, Plan
from ..system.checks import number, positive, shown
from ..system.errors import Refused
from .accelerated import Accelerated, check_not_offloaded
from .example import example, has_guidance
from .latents import range_of
from .proxies import Dash

_PLAIN = ("", "Img2Img", "Inpaint")
SUPPORTED = (
    "DDPMPipeline",
    "DDIMPipeline",
    *(f"StableDiffusion{xl}{kind}Pipeline" for xl in ("", "XL") for kind in _PLAIN),
    "LatentConsistencyModelPipeline",
    "LatentConsistencyModelImg2ImgPipeline",
    *(f"StableDiffusion{xl}ControlNet{kind}Pipeline" for xl in ("", "XL") for kind in _PLAIN),
    *(f"StableDiffusionXLControlNetUnion{kind}Pipeline" for kind in _PLAIN),
    *(f"StableDiffusion{xl}PAG{kind}Pipeline" for xl in ("", "XL") for kind in _PLAIN),
    *(f"StableDiffusion{kind}Pipeline" for kind in ("ControlNetPAG", "ControlNetPAGInpaint")),
    *(f"StableDiffusionXL{kind}Pipeline" for kind in ("ControlNetPAG", "ControlNetPAGImg2Img")),
    *(
        f"StableDiffusion{xl}{kind}Pipeline"
        for xl in ("", "XL")
        for kind in ("Adapter", "InstructPix2Pix")
    ),
    *(f"StableDiffusion{kind}Pipeline" for kind in ("Depth2Img", "Upscale", "ImageVariation")),
)


def accelerate(
    pipe: Any,
    dot: Dot | Callable[..., Tensor] | None = None,
    *,
    plan: Plan | str | None = None,
    budget: float | None = None,
    plans: str | Path | None = None,
    dot_speed: float | None = None,
    clean_range: Any = None,
    backend: str = "auto",
) -> Accelerated:
    """Run the loop of a diffusers pipeline by Morse, with the pipeline's own call.

    Args:
        pipe: a pipeline of `SUPPORTED`, on its device and in its dtype; it is changed in place,
            and used as before.
        dot: the `Dot` of `pipe.unet`, or a callable as in `compile`; None for Dash steps only.
        plan: Morse code or a `Plan`, the steps of a whole run. Default: a budget of 10 LSD with a
            Dot; as many Dash steps as each call asks for without, so that the images are those of
            the pipeline. Free steps are made only where a plan has them.
        budget: in LSD, in the place of a plan.
        plans: as in `compile`.
        dot_speed: N, to spend a budget. Default: measured here, one image, with guidance where the
            pipeline has it.
        clean_range: (lowest, highest) of the clean images or latents as the unet sees them, each a
            number or one for each channel: free steps stay within it. Default: the Dot's, if it
            knows; else that of the scheduler's `clip_sample`; else of `latents.json` beside the
            weights of the pipeline's VAE, or in the folder of plans (`integrations/latents.py`);
            else without bounds.
        backend: as in `compile`. "host" and "device" refuse calls that have to go step by step.

    Returns:
        an `Accelerated`, whose `report()` says what the last call has run and why.

    Raises:
        Refused: a pipeline, a Dot, its noise levels or a plan that does not fit, or a pipeline
            that is accelerated already.
        Unavailable: the backend is not available; or the pipeline's models are offloaded.
    """
    check_pipeline(pipe)
    if plan is not None and budget is not None:
        raise Refused(f"plan={shown(plan)} and budget={shown(budget)}: give one of the two")
    budget = None if budget is None else number("budget", budget, "a number of LSD, 1 or more")
    plans = searched(plans)
    dot_speed = None if dot_speed is None else positive("dot_speed", dot_speed)
    plan = Plan(plan) if isinstance(plan, str) else plan
    if plan is not None and not isinstance(plan, Plan):
        raise Refused(f"plan={shown(plan)}: a Plan or Morse code; a number of LSD is a budget=")
    dash = Dash(pipe.unet, getattr(pipe, "controlnet", None))
    options: dict[str, Any] = {"clean_range": clean_range, "backend": backend}
    sampler = compile(dash, dot, plan=DASH, shape=_shape(pipe.unet), **options)
    if (helper := sampler.models.helper) is not None and helper.levels is not None:
        helper.levels.check(pipe.scheduler)
    known = sampler.models.known | ({} if plans is None else {"folder": plans})
    latents = range_of(pipe, known.get("folder"))
    if plan is None and (budget is not None or dot is not None):
        budget = DEFAULT_BUDGET if budget is None else budget
        measured = dot_speed if dot_speed is not None else lambda: _measured(pipe, sampler)
        speed = None if dot is None else measured
        known["guided"] = has_guidance(pipe)
        if known["clean_range"] is None and latents != NO_RANGE:
            known["clean_range"] = latents
        plan = choose(budget, pipe.scheduler, speed, **known).plan
    if plan is not None:
        if plan.num_dot and dot is None:
            raise Refused(f"{shown(plan)} has {plan.num_dot} Dot steps, but there is no dot")
        probe.steps_for_calls(pipe.scheduler, len(plan))
    accelerated = Accelerated(pipe, sampler, plan, latents, backend)
    pipe.__class__ = accelerated.pipeline_class
    return accelerated


def restore(pipe: Any) -> None:
    """Undo `accelerate`: the pipeline is as it was before.

    Raises:
        Refused: it is not accelerated.
    """
    accelerated = _accelerated(pipe)
    if accelerated is None:
        raise Refused(f"this {type(pipe).__name__} is not accelerated: nothing to restore")
    pipe.__class__ = accelerated.original_class
    if pipe is accelerated.pipe:
        accelerated.sampler.free()


def _shape(unet: Any) -> tuple[int, ...] | None:
    """(C, H, W) of what the unet makes; None where its config has no size."""
    size = unet.config.sample_size
    if size is None:
        return None
    return (unet.config.out_channels, *((size, size) if isinstance(size, int) else size))


def _measured(pipe: Any, sampler: Sampler) -> float:
    """N, measured on one image of the real size."""
    if sampler.shape is None:
        raise Refused("a budget needs dot_speed=: the unet's config has no sample_size")
    guidance_scale, cond = example(pipe, sampler.shape)
    speed = sampler.with_plan("-.").measure(guidance_scale=guidance_scale, **cond).dot_speed
    assert speed is not None  # there is a Dot
    return speed


def _accelerated(pipe: Any) -> Accelerated | None:
    return getattr(type(pipe), "_morse", None)


def check_pipeline(pipe: Any) -> None:
    """Raise `Refused` or `Unavailable` for what cannot be accelerated."""
    if _accelerated(pipe) is not None:
        raise Refused("this pipeline is accelerated already: call morse_engine.restore(pipe) first")
    owner = next((c for c in type(pipe).__mro__ if "__call__" in vars(c)), object)
    unet = getattr(pipe, "unet", None)
    if owner.__name__ not in SUPPORTED or not owner.__module__.startswith("diffusers."):
        why = "it has no unet" if unet is None else "its loop is not known here"
        if unet is not None:
            why += "; morse_engine.compile(unet, dot) runs any other"
        elif hasattr(pipe, "scheduler"):
            why += '; pipe.scheduler = MorseScheduler(pipe.scheduler, "-:") gives it free steps'
        raise Refused(
            f"{type(pipe).__name__} cannot be accelerated: {why}. Supported are "
            f"{', '.join(SUPPORTED)}"
        )
    if not isinstance(unet, nn.Module) or getattr(pipe, "scheduler", None) is None:
        raise Refused(
            f"this {type(pipe).__name__} has no {'scheduler' if unet is not None else 'unet'}: "
            "load it with all of its models"
        )
    config = pipe.unet.config
    if config.out_channels > config.in_channels:
        raise Refused(
            f"the unet has {config.in_channels} input and {config.out_channels} output channels: "
            "models that also predict a variance are not supported"
        )
    check_not_offloaded(pipe)
