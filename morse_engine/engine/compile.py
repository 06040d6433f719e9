"""`compile(unet, dot)`: from two models, a scheduler and a plan to a `Sampler`."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..runtime import backends
from ..runtime.backends import BACKENDS, check_backend
from ..runtime.captures import Captures
from ..runtime.models import Models
from ..sampling.budget import AUTO, DEFAULT_BUDGET, DEFAULT_DASH_STEPS, choose, searched
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
    budget: float | None = None,
    plans: str | Path | None = None,
    backend: str = "auto",
    dot_speed: float | None = None,
    batch_size: int = 1,
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
        plan: Morse code such as `"-.:.:-.:.:"` (`-` Dash, `.` Dot, `:` free step), a `Plan`, or
            "auto": the best plan that is known within `budget`, which may be all Dash. A number is
            short for "auto" with that budget. Default: "auto" with a Dot or a budget, else 50 Dash
            steps.
        budget: in LSD, the latency of one Dash step; for "auto" alone, whose default is 10.
        plans: the folder in which a search has left its `plans.json` (`evaluation.search`); one
            without it is refused.
            Default: that which the Dot was loaded from. For what was not searched, a table that
            ships with the package decides, see `sampling.budget.choose`.
        backend: "eager", the specification in plain PyTorch; "host", the same two steps with fused
            kernels over static memory, on a GPU each captured once as a CUDA graph and launched in
            the order of the plan (on a CPU the kernels' references run, nothing is captured);
            "device", one launch for the whole run. "auto" is eager on a CPU; on a GPU it measures
            host and device at the first run of each batch size and takes the faster one.
        dot_speed: N, Dot steps that fit in one LSD; only used to spend a budget. Default: measured
            here, with this backend, which models with conditions cannot be.
        batch_size: at which N is measured; give that of your runs, N depends on it.
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
    batch_size = checks.integer("batch_size", batch_size, 1)
    plans = searched(plans)
    given = _plan_or_budget(plan, budget)
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

    if isinstance(given, Plan):
        return made(given)
    if given is None and dot is None:
        return made(Plan(DASH * DEFAULT_DASH_STEPS))
    budget = DEFAULT_BUDGET if given is None else given
    return _bought(made, models, scheduler, budget, dot_speed, batch_size, plans)


def _bought(
    made: Callable[..., Sampler],
    models: Models,
    scheduler: Any,
    budget: float,
    dot_speed: float | None,
    batch_size: int,
    plans: Path | None,
) -> Sampler:
    """The sampler of the plan that a budget buys."""
    embedding = getattr(models.unet, "class_embedding", None)
    any_class: dict[str, Any] = {}
    if isinstance(embedding, nn.Embedding):  # all classes take the same time
        labels = torch.zeros(batch_size, dtype=torch.int64, device=embedding.weight.device)
        any_class = {"class_labels": labels}

    def measured() -> float:
        try:
            speed = made(Plan("-.-")).measure(batch_size, **any_class).dot_speed
        except Refused as error:
            raise Refused(
                f"a budget needs N, which cannot be measured here: {error}; give dot_speed=, "
                'which measure() of a sampler with plan="-." tells, or a plan such as "-..-.."'
            ) from error
        assert speed is not None  # of a plan with Dot steps
        return speed

    speed = None if models.helper is None else measured if dot_speed is None else dot_speed
    known = models.known if plans is None else models.known | {"folder": plans}
    choice = choose(budget, scheduler, speed, **known)
    return made(choice.plan, why=choice.why)


def _plan_or_budget(plan: Any, budget: Any) -> Plan | float | None:
    """A plan, or a number of LSD; None if nothing is given."""
    auto = plan is None or (isinstance(plan, str) and plan == AUTO)
    if budget is not None:
        if not auto:
            raise Refused(f"plan={shown(plan)} and budget={shown(budget)}: give one of the two")
        return checks.number("budget", budget, "a number of LSD, 1 or more")
    if auto:
        return DEFAULT_BUDGET if plan == AUTO else None
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
