"""`compile(unet, dot)`: from two models, a scheduler and a plan to a `Sampler`."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from ..runtime import backends
from ..runtime.backends import BACKENDS, check_backend
from ..runtime.captures import Captures
from ..runtime.models import Models
from ..sampling.budget import DEFAULT_BUDGET, DEFAULT_DASH_STEPS, plan_of
from ..sampling.plan import DASH, Plan
from ..system import checks
from ..system.checks import shown
from ..system.errors import Refused
from .inputs import check_models
from .sampler import Sampler

MOST_SIZE = 1 << 16  # pixels along a side, or channels


def compile(
    unet: Callable[..., Tensor],
    dot: Callable[..., Tensor] | None = None,
    *,
    scheduler: Any = None,
    plan: "Plan | str | float | None" = None,
    backend: str = "auto",
    dot_speed: float | None = None,
    shape: Sequence[int] | None = None,
    clean_range: Any = None,
    merge_dot: bool = True,
    inductor: bool = False,
    graph_memory: int | None = None,
) -> Sampler:
    """Make a sampler that runs `plan` with Dash `unet` and the residual model `dot`.

    Args:
        unet: a diffusers `UNet2DModel` or `UNet2DConditionModel`, or any
            `eps(x, timestep, **cond) -> Tensor`.
        dot: a `Dot` of this unet, or any
            `eta(x, timestep, x_s, z_s, timestep_s, z_p, timestep_p, **cond) -> Tensor`.
        scheduler: a diffusers scheduler, with the noise levels of the Dot if that has any. Default:
            DDIM with trailing steps, at the Dot's levels, else on 1,000 linear betas; its clean
            image is clamped to [-1, 1] for models of 1 or 3 channels.
        plan: Morse code such as `"-.:.:-.:.:"` (`-` Dash, `.` Dot, `:` free step), a `Plan`, or a
            budget in LSD (latency of one Dash step). Default: a budget of 10 LSD with a Dot, 50
            Dash steps without.
        backend: "eager", the specification in plain PyTorch; "host", the same two steps with fused
            kernels over static memory, on a GPU each captured once as a CUDA graph and launched in
            the order of the plan (on a CPU the kernels' references run, nothing is captured);
            "device", one launch for the whole run. "auto" is eager on a CPU; on a GPU it measures
            host and device at the first run of each batch size and takes the faster one.
        dot_speed: N, Dot steps that fit in one LSD; only used to spend a budget. Default: measured
            here at batch 1, with this backend, which models with conditions cannot be.
        shape: `(C, H, W)` of one sample; default: from the unet's config.
        clean_range: (lowest, highest) of the images that the model was trained on, each a number or
            one for each channel: free steps stay within it. Default: the Dot's, if it knows; else
            that of the scheduler's `clip_sample`; else without bounds.
        merge_dot: add Dot's LoRA into a private copy of its trunk: faster, and the trunk's weights
            are in memory once more. The copy is made here: a Dot changed later needs a new compile.
        inductor: run both models through torch.compile (minutes at the first run of a shape).
        graph_memory: bytes that the captured graphs of all shapes may take on a GPU, least recently
            used dropped first. Default: a quarter of the GPU's memory.

    Returns:
        a `Sampler`.

    Raises:
        Refused: an argument out of range, or plan, scheduler, unet and dot do not fit each other;
            for instance a scheduler with other noise levels than the Dot was trained with.
        Unavailable: the backend is not available; the message says why.
    """
    if not isinstance(backend, str) or backend not in ("auto", *BACKENDS):
        raise Refused(f"backend={shown(backend)}: choose auto, {', '.join(BACKENDS)}")
    check_models(unet, dot)
    checks.flag("merge_dot", merge_dot)
    checks.flag("inductor", inductor)
    if graph_memory is not None:
        graph_memory = checks.integer("graph_memory", graph_memory, 0)
    if dot_speed is not None:
        dot_speed = checks.positive("dot_speed", dot_speed)
    given = None if plan is None else _plan_or_budget(plan)
    if scheduler is not None:
        checks.configured("scheduler", scheduler, "a diffusers scheduler, such as DDIMScheduler()")
    models = Models(unet, dot, clean_range, merge_dot=merge_dot, inductor=inductor)
    if backend != "auto":
        check_backend(backend, models.device)
    elif not backends.captures_by_itself(models.device):
        backend = "eager"
    if scheduler is None:
        scheduler = _default_scheduler(models)
    shape = models.shape if shape is None else checks.sizes("shape", shape, "(C, H, W)", MOST_SIZE)
    captures = Captures(models, graph_memory)
    made = partial(Sampler, models, scheduler, shape=shape, backend=backend, captures=captures)

    def measured() -> float:
        try:
            speed = made(Plan("-.-")).measure().dot_speed
        except Refused as error:
            raise Refused(
                f"a budget needs N, which cannot be measured here: {error}; give dot_speed=, "
                'which measure() of a sampler with plan="-." tells, or a plan such as "-..-.."'
            ) from error
        assert speed is not None  # of a plan with Dot steps
        return speed

    if given is None:
        given = DEFAULT_BUDGET if dot is not None else Plan(DASH * DEFAULT_DASH_STEPS)
    if isinstance(given, float):
        speed = measured if dot_speed is None else dot_speed
        given = plan_of(given, scheduler, None if dot is None else speed)
    return made(given)


def _plan_or_budget(plan: Any) -> Plan | float:
    """A plan, or a number of LSD."""
    if isinstance(plan, (Plan, str)):
        return Plan(plan) if isinstance(plan, str) else plan
    return checks.number("plan", plan, 'a Plan, Morse code such as "-..-..", or a number of LSD')


def _default_scheduler(models: Models) -> Any:
    """DDIM with trailing steps, at the noise levels of the Dot if it has any."""
    from diffusers import DDIMScheduler

    levels = None if models.helper is None else models.helper.levels
    config = {} if levels is None else levels.config
    # Pictures lie in [-1, 1], latents do not.
    channels = models.shape[0] if models.shape is not None else 1
    return DDIMScheduler(**config, timestep_spacing="trailing", clip_sample=channels in (1, 3))
