"""Which plan is best within a budget: a search with the models at hand.

    sampler = morse_engine.compile(unet, dot, plan="-")
    search(sampler, [4, 6], folder="my-dot")
    best = morse_engine.compile(unet, dot, plan="auto", budget=4, plans="my-dot")

Candidates are scored by how near their images are to those of the full run of the same seeds
(`score.py`). All Dash and free steps are among them, so what is found is never worse than they are,
by that score.
"""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..dot.fingerprint import fingerprint
from ..sampling import budget as budgets_of
from ..sampling import schedulers
from ..sampling.budget import Ranking
from ..sampling.free import bounds
from ..sampling.plan import Plan
from ..system.errors import Refused
from .partial import Partial
from .score import Pyramid, score

FREE_BEHIND = (0, 1, 2)  # free steps behind each call
MOST_DOTS = 6  # behind a Dash
SEED = 500_000  # of the first image; those of the experiments are others


def candidates(lsd: float, dot_speed: float | None) -> list[Plan]:
    """The plans that are worth a look within a budget.

    Each number of Dash steps, with as many Dot steps as there is time for, and with the same number
    behind each Dash; both with 0 to 2 free steps behind every call. At most 6 Dots follow a Dash,
    at least two are Dash's where three fit, and what leaves a whole LSD unused is left out.

    Args:
        dot_speed: N; None if there is no Dot.

    Returns:
        each once; those with fewer Dash steps first.
    """
    found: dict[Plan, None] = {}
    for dash in range(1 if lsd < 3 else 2, math.floor(lsd) + 1):
        most = 0 if dot_speed is None else math.floor((lsd - dash) * dot_speed * (1 + 1e-9))
        most = min(most, MOST_DOTS * dash)
        even = most // dash * dash
        for dots in (most, even):
            calls = Plan.spread(dash, dots)
            if lsd - 1 < (dash if dot_speed is None else calls.lsd(dot_speed)) <= lsd:
                found |= dict.fromkeys(calls.with_free(each) for each in FREE_BEHIND)
    return list(found)


def search(
    sampler: Any,
    budgets: Sequence[float],
    *,
    folder: str | Path,
    dot_speed: float | Sequence[float] | None = None,
    batch_size: int = 16,
    num_images: int = 64,
    full_steps: int = 50,
    features: Callable[[Tensor], Tensor] | None = None,
    guidance_scale: float | None = None,
    on_plan: Callable[[Plan, float, float], None] = lambda plan, score, part: None,
    **cond: Any,
) -> Ranking:
    """Score the candidates of all budgets, and leave them in `folder` for `plan="auto"`.

    It takes `num_images` times the steps of all candidates: at 4 and 6 LSD some minutes for a small
    model. A search that was stopped goes on where it was.

    Args:
        sampler: as `compile` makes it, of any plan; its scheduler and backend are used.
        budgets: in LSD.
        folder: for `plans.json`, beside the plans of other solvers that are there; that of the Dot,
            where the next `compile` looks by itself, or any other, for `compile(plans=)`.
        dot_speed: N at which the budgets are spent, or several. Default: measured here at
            `batch_size`.
        batch_size: images at once.
        num_images: more rank better; their seeds are others than those of the experiments.
        full_steps: Dash steps of the full run.
        features: `[B, C, H, W]` -> `[B, F]`, what images are compared by; default: `Pyramid`.
        guidance_scale, cond: as for a call of the sampler with `batch_size` images.
        on_plan: called with each plan, its score, and the part of all plans that is done, 0 to 1.

    Returns:
        the ranking that was written.

    Raises:
        Refused: no budget, images that batches do not divide, or an earlier search in this folder
            with other settings.
    """
    if not budgets or num_images % batch_size:
        raise Refused(
            f"budgets={list(budgets)}, num_images={num_images}, batch_size={batch_size}: give a "
            "budget or more, and images in whole batches"
        )
    for lsd in budgets:
        budgets_of.check(lsd)
    models, scheduler = sampler.models, sampler.scheduler
    name, options = schedulers.ranked_as(scheduler), {"guidance_scale": guidance_scale, **cond}
    speeds: list[float | None] = list(dot_speed) if isinstance(dot_speed, Sequence) else [dot_speed]
    if models.dot is None:
        speeds = [None]
    elif speeds == [None]:
        speeds = [sampler.with_plan("-.-").measure(batch_size, **options).dot_speed]
    partial = Partial(Path(folder) / f"plans-{name}.partial")
    same: dict[str, Any] = {
        "num_images": num_images,
        "full_steps": full_steps,
        "guidance_scale": guidance_scale,
    }
    same |= {"features": "pyramid" if features is None else "given"}
    partial.settings(_about(sampler) | same, dict)
    see = Pyramid(sampler.shape[0]).to(models.device or "cpu") if features is None else features

    def describe(plan: Plan) -> Tensor:
        made, seen = sampler.with_plan(plan), []
        for first in range(SEED, SEED + num_images, batch_size):
            x = made(batch_size=batch_size, seed=first, **options)
            with torch.no_grad():
                seen.append(see(x.clamp(*bounds(made.table.clean_range, x))).cpu())
        return torch.cat(seen)

    every = (plan for lsd in budgets for n in speeds for plan in candidates(lsd, n))
    known, full = models.clean_range, budgets_of.alone(full_steps, scheduler)
    plans = [p for p in dict.fromkeys(every) if budgets_of.possible(p, scheduler, known)]
    reference = partial.images("full", lambda: describe(full))
    scores = {Plan(row["plan"]): row["score"] for row in partial.rows()} | {full: 0.0}
    for i, plan in enumerate(plans, 1):
        if plan not in scores:
            scores[plan] = float(f"{score(describe(plan), reference):.4g}")
            partial.add({"plan": str(plan), "score": scores[plan]})
        on_plan(plan, scores[plan], i / len(plans))
    found: Any = None if speeds == [None] else (min(speeds), max(speeds))  # type: ignore[type-var]
    ranking = Ranking(scores, (min(budgets), max(budgets)), found)
    budgets_of.write(folder, {name: ranking})
    return ranking


def _about(sampler: Any) -> dict:
    """What scores depend on: the models and the solver, as JSON has them."""
    models, config = sampler.models, sampler.scheduler.config
    named = {
        "dash": fingerprint(models.unet) if isinstance(models.unet, nn.Module) else None,
        "dot": None if models.helper is None else fingerprint(models.helper),
        "scheduler": {k: v for k, v in config.items() if not k.startswith("_")},
    }
    return json.loads(json.dumps(named, default=str))
