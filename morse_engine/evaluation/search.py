"""Which plan is best within a budget: a search with the models at hand.

    sampler = morse_engine.compile(unet, dot, plan="-")
    search(sampler, [4, 6], folder="my-dot")
    best = morse_engine.compile(unet, dot, plan="auto", budget=4, plans="my-dot")

Candidates are scored by how near their images are to those of the full run of the same seeds
(`score.py`), at the upper end of the interval that these seeds leave. All Dash and free steps are
among them, so what is found is never worse than they are, by that number. From the best candidates
of each budget a climb (`climb.py`) goes on to plans that are not even; so does one without Dot. A
plan that is far behind after about a quarter of its images is dropped (`scores.py`), unless it is
one of those candidates.
"""

import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from ..sampling import budget as budgets_of
from ..sampling import schedulers
from ..sampling.budget import Ranking
from ..sampling.free import bounds
from ..sampling.plan import MOST_STEPS, Plan
from ..sampling.request import MOST_IMAGES
from ..system import checks
from ..system.errors import Refused
from ..system.files import output_folder
from ..system.lock import alone
from . import earlier
from .climb import best, climb
from .partial import Partial
from .score import Pyramid, upper_end

FREE_BEHIND = (0, 1, 2)  # free steps behind each call
MOST_DOTS = 6  # behind a Dash, among the candidates
TRIES = 30  # of a climb
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
        room = 0.0 if dot_speed is None else (lsd - dash) * dot_speed * (1 + 1e-9)
        most = math.floor(min(room, MOST_DOTS * dash))
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
    tries: int = TRIES,
    features: Callable[[Tensor], Tensor] | None = None,
    guidance_scale: float | None = None,
    on_plan: Callable[[Plan, float, float], None] = lambda plan, score, part: None,
    **cond: Any,
) -> Ranking:
    """Score the candidates of all budgets, and leave them in `folder` for `plan="auto"`.

    It takes `num_images` times the steps of all plans that are scored: at 4 and 6 LSD some minutes
    for a small model. A search that was stopped goes on where it was.

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
        tries: plans of the climb, for each budget with each N, and for each budget without Dot; 0:
            the candidates alone.
        features: `[B, C, H, W]` -> `[B, F]`, what images are compared by; default: `Pyramid`.
        guidance_scale, cond: as for a call of the sampler with `batch_size` images.
        on_plan: called with each plan (again where it is within another budget too), its score (inf
            of one that was dropped at the first look), and the part that is done, 0 to 1.

    Returns:
        the ranking that was written.

    Raises:
        Refused: a value out of range, images that batches do not divide, pictures that are not
            finite, or an earlier search in this folder with other settings.
        Unavailable: another process searches in the folder.
    """
    full_steps = checks.integer("full_steps", full_steps, 1, MOST_STEPS)
    lsds, speeds = _budgets(budgets, full_steps), _speeds(dot_speed)
    num_images, batch_size = _check(sampler, num_images, batch_size, features, on_plan)
    tries = checks.integer("tries", tries, 0)
    if guidance_scale is not None:
        guidance_scale = checks.number("guidance_scale", guidance_scale)
    folder = checks.path("folder", folder)
    models, scheduler = sampler.models, sampler.scheduler
    name, options = schedulers.ranked_as(scheduler), {"guidance_scale": guidance_scale, **cond}
    known, full = models.clean_range, budgets_of.alone(full_steps, scheduler)
    # What is refused is refused before a file is made.
    sampler.with_plan(full).start(batch_size=batch_size, **options)
    budgets_of.read(folder)
    output_folder(folder)
    see = Pyramid(sampler.shape[0]).to(models.device or "cpu") if features is None else features
    describe = partial(_describe, sampler, see, batch_size, options)
    same = {"num_images": num_images, "full_steps": full_steps, "score": upper_end.__name__}
    same |= {"guidance_scale": guidance_scale, "cond": tree_map(earlier.name, cond)}
    same |= {"features": earlier.name(features), "look": (look := _look(num_images, batch_size))}
    with alone(folder):
        kept = Partial(folder / f"plans-{name}.partial")
        kept.settings(earlier.about(sampler) | same, dict)
        if models.dot is None:
            speeds = [None]
        elif speeds == [None]:
            speeds = [earlier.speed(kept, sampler, batch_size, options)]
        earlier.check_same(kept, sampler, lambda plan: describe(plan, 0, look))
        reference = kept.images("full", lambda: _finite(describe(full, 0, num_images)))
        scores = earlier.scores(kept, describe, reference, look)

        @cache
        def possible(plan: Plan) -> bool:
            return plan != full and budgets_of.possible(plan, scheduler, known)

        rivals = partial(_alone, scheduler, possible)
        _survey(lsds, speeds, scores, possible, rivals, tries, on_plan)
        found = {**scores.values, full: 0.0}  # with those of an earlier search of other budgets
        ends: Any = None if speeds == [None] else (min(speeds), max(speeds))  # type: ignore[type-var]
        ranking = Ranking(found, tuple(sorted({*lsds})), ends)
        ranking = earlier.joined(ranking, budgets_of.read(folder).get(name))
        budgets_of.write(folder, {name: ranking})
    return ranking


def _survey(
    lsds: Sequence[float],
    speeds: Sequence[float | None],
    score: Callable[[Plan, Sequence[Plan]], float | None],
    possible: Callable[[Plan], bool],
    alone_at: Callable[[float], list[Plan]],
    tries: int,
    on_plan: Callable[[Plan, float, float], None],
) -> None:
    """At each budget, without Dot and then at each N: score the candidates, climb from the best.

    Args:
        lsds: the budgets.
        speeds: all N; None where there is no Dot.
        score: of a plan, as `Scores` gives it.
        possible: whether the solver makes the plan's calls and has its free steps.
        alone_at: what the others of a budget may not be worse than.
        tries, on_plan: see `search`.
    """
    rounds = list(product(sorted(set(lsds)), dict.fromkeys((None, *speeds))))
    plans = {(lsd, n): [p for p in candidates(lsd, n) if possible(p)] for lsd, n in rounds}
    for lsd in lsds:
        plans[lsd, None] = list(dict.fromkeys([*alone_at(lsd), *plans[lsd, None]]))
    total = sum(map(len, plans.values())) + tries * len(rounds)
    done, found = 0, dict[Plan, float]()

    def told(plan: Plan, rivals: Sequence[Plan]) -> float | None:
        nonlocal done
        done += 1
        value = found[plan] if plan in found else score(plan, rivals)
        on_plan(plan, math.inf if value is None else value, done / total)
        return value

    for lsd, n in rounds:
        end = done + len(plans[lsd, n]) + tries

        def fits(plan: Plan, lsd: float = lsd, n: float | None = n) -> bool:
            return budgets_of.fits(plan, lsd, n) and possible(plan)

        for plan in plans[lsd, n]:
            # All Dash and free steps alone have a score in any case.
            value = told(plan, best(found, fits) if plan.num_dot else ())
            if value is not None:
                found[plan] = value
        found |= climb(found, told, fits, tries, plans[lsd, n])
        done = end  # a climb that found no way has left tries over


def _alone(scheduler: Any, possible: Callable[[Plan], bool], lsd: float) -> list[Plan]:
    """As many Dash steps as fit, and with free steps behind them; with Heun one less at the end."""
    found, dash = [], budgets_of.alone(lsd, scheduler)
    for each in FREE_BEHIND:
        plan = dash.with_free(each)
        shorter = Plan(str(plan)[:-1]) if len(plan) > 1 else plan
        found += [p for p in (plan, shorter) if p.num_dash == len(dash) and possible(p)][:1]
    return found


def _budgets(budgets: Any, most: int) -> list[float]:
    """The budgets, each less than the full run that its plans are compared with."""
    if not checks.is_list(budgets) or not len(budgets):
        raise Refused(f"budgets={checks.shown(budgets)}: give a list of LSD, such as [4, 6]")
    found = [checks.number("a budget", lsd) for lsd in budgets]
    for lsd in found:
        budgets_of.check(lsd)
        if lsd >= most:
            raise Refused(f"a budget of {lsd:g} LSD is no less than full_steps={most}: raise that")
    return found


def _speeds(dot_speed: Any) -> list[float | None]:
    """N, one or several; [None] where it is to be measured."""
    if dot_speed is None:
        return [None]
    several = dot_speed if checks.is_list(dot_speed) and len(dot_speed) else [dot_speed]
    return [checks.positive("dot_speed", speed) for speed in several]


def _check(
    sampler: Any, num_images: Any, batch_size: Any, features: Any, on_plan: Any
) -> tuple[int, int]:
    """The two numbers; refuse what cannot be searched with. A spread needs two images."""
    if getattr(sampler, "scheduler", None) is None or getattr(sampler, "shape", None) is None:
        raise Refused(
            f"sampler is {checks.kind(sampler)}: pass what compile() makes, with a scheduler, and "
            "with shape= where the model has no config"
        )
    num_images = checks.integer("num_images", num_images, 2, MOST_IMAGES)
    batch_size = checks.integer("batch_size", batch_size, 1)
    if num_images % batch_size:
        raise Refused(f"num_images={num_images}, batch_size={batch_size}: give whole batches")
    checks.function("on_plan", on_plan, "a function of plan, score and part", 3)
    if features is not None:
        checks.function("features", features, "a function of images [B, C, H, W]", 1)
    return num_images, batch_size


def _describe(
    sampler: Any, see: Callable, batch_size: int, options: dict, plan: Plan, start: int, stop: int
) -> Tensor:
    """`[stop - start, F]`, the features of these images of a plan; whole batches."""
    made, seen = sampler.with_plan(plan), []
    for first in range(SEED + start, SEED + stop, batch_size):
        x = made(batch_size=batch_size, seed=first, **options)
        with torch.no_grad():
            seen.append(_seen(see, x.clamp(*bounds(made.table.clean_range, x))))
    return torch.cat(seen)


def _seen(see: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The features of images, on the CPU; their scores would else be none."""
    found: Any = see(x)
    if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(x):
        was = tuple(found.shape) if isinstance(found, Tensor) else checks.kind(found)
        raise Refused(f"features made {was} of {len(x)} images: return [{len(x)}, F]")
    return found.cpu()


def _finite(features: Tensor) -> Tensor:
    """The features of the full run, if there is something to come near to."""
    if not features.isfinite().all():
        raise Refused(
            "the images of the full run or their features hold NaN or infinite values: the model, "
            "its dtype (half precision overflows) or its conditions are at fault"
        )
    return features


def _look(num_images: int, batch_size: int) -> int:
    """A quarter of the images, in whole batches; a spread needs two."""
    return max(num_images // 4 // batch_size * batch_size, batch_size, 2)
