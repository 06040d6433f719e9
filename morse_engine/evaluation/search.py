"""Which plan is best within a budget: a search with the models at hand.

    sampler = morse_engine.compile(unet, dot, plan="-")
    search(sampler, [4, 6], folder="my-dot")
    best = morse_engine.compile(unet, dot, plan="auto", budget=4, plans="my-dot")

Candidates are scored by how near their images are to those of the full run of the same seeds
(`score.py`), at the upper end of the interval that these seeds leave. All Dash and free steps are
among them, so what is found is never worse than they are, by that number. From the best candidates
of each budget a climb (`climb.py`) goes on to plans that are not even; so does one without Dot. A
plan that is far behind after about a quarter of its images is dropped (`scores.py`), unless it is
one of those candidates. What would be chosen is looked at again, by other images (`confirm.py`).
"""

from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from ..sampling import budget as budgets_of
from ..sampling import schedulers
from ..sampling.budget import Ranking
from ..sampling.free import bounds
from ..sampling.plan import MOST_STEPS, Plan
from ..sampling.request import MOST_IMAGES
from ..sampling.solver import SolverTable
from ..system import checks
from ..system.errors import Refused
from ..system.files import output_folder
from ..system.lock import alone
from . import earlier
from .confirm import FIRST, Second, confirm
from .partial import Partial
from .score import Pyramid, upper_end
from .survey import alone as alone_at
from .survey import survey

TRIES = 30  # of a climb
IMAGES, NOISY_IMAGES = 64, 256  # of a plan; solvers that add noise draw other noise in each
SEED = 500_000  # of the first image; those of the experiments are others


def _nothing(seeds: Sequence[int]) -> dict:
    """What models are told of seeds where all images have the same conditions."""
    return {}


def _quiet(plan: Plan, score: float, part: float) -> None:
    """Nobody is told of plans."""


class Asked(NamedTuple):
    """What a search is asked for, once it is checked: see `search`.

    Attributes:
        noisy: whether the solver adds noise.
    """

    budgets: list[float]
    speeds: list[float | None]
    num_images: int
    batch_size: int
    full_steps: int
    tries: int
    noisy: bool


def check(
    sampler: Any,
    budgets: Any,
    *,
    dot_speed: Any = None,
    batch_size: Any = 16,
    num_images: Any = None,
    full_steps: Any = 50,
    tries: Any = TRIES,
    features: Any = None,
    told: Any = _nothing,
    on_plan: Any = _quiet,
) -> Asked:
    """Refuse what cannot be searched with. Parameters are those of `search`."""
    if getattr(sampler, "scheduler", None) is None or getattr(sampler, "shape", None) is None:
        raise Refused(
            f"sampler is {checks.kind(sampler)}: pass what compile() makes, with a scheduler, and "
            "with shape= where the model has no config"
        )
    full_steps = checks.integer("full_steps", full_steps, 1, MOST_STEPS)
    batch_size = checks.integer("batch_size", batch_size, 1)
    full = budgets_of.alone(full_steps, sampler.scheduler)
    noisy = SolverTable.for_calls(sampler.scheduler, len(full)).uses_noise
    if num_images is None:
        num_images = -(-(NOISY_IMAGES if noisy else IMAGES) // batch_size) * batch_size
    num_images = checks.integer("num_images", num_images, 2, MOST_IMAGES)  # a spread needs two
    if num_images % batch_size:
        raise Refused(f"num_images={num_images}, batch_size={batch_size}: give whole batches")
    checks.function("on_plan", on_plan, "a function of plan, score and part", 3)
    checks.function("told", told, "a function of seeds", 1)
    if features is not None:
        checks.function("features", features, "a function of images [B, C, H, W]", 1)
    tries = checks.integer("tries", tries, 0)
    lsds, speeds = _budgets(budgets, full_steps), _speeds(dot_speed)
    return Asked(lsds, speeds, num_images, batch_size, full_steps, tries, noisy)


def search(
    sampler: Any,
    budgets: Sequence[float],
    *,
    folder: str | Path,
    dot_speed: float | Sequence[float] | None = None,
    batch_size: int = 16,
    num_images: int | None = None,
    full_steps: int = 50,
    tries: int = TRIES,
    features: Callable[[Tensor], Tensor] | None = None,
    clamp: bool = True,
    guidance_scale: float | None = None,
    told: Callable[[Sequence[int]], dict] = _nothing,
    on_plan: Callable[[Plan, float, float], None] = _quiet,
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
        dot_speed: N at which the budgets are spent, or several. Default: measured here, of one
            image and of `batch_size`; with `cond` of `batch_size` alone.
        batch_size: images at once.
        num_images: more rank better; their seeds are others than those of the experiments. Default:
            64, or 256 with a solver that adds noise, in whole batches.
        full_steps: Dash steps of the full run.
        tries: plans of the climb, for each budget with each N, and for each budget without Dot; 0:
            the candidates alone.
        features: `[B, C, H, W]` -> `[B, F]`, what images are compared by; default: `Pyramid`.
        clamp: whether images are clamped to the range of free steps before that; not for latents,
            which a VAE decodes as they are.
        guidance_scale, cond: as for a call of the sampler with `batch_size` images.
        told: seeds -> what both models are given by keyword for the images of these, beside `cond`:
            conditions that differ from batch to batch. `Subject.told` is one.
        on_plan: called with each plan (again where it is within another budget too), its score (inf
            of one that was dropped at the first look), and the part that is done, 0 to 1.

    Returns:
        the ranking that was written.

    Raises:
        Refused: a value out of range, images that batches do not divide, pictures that are not
            finite, or an earlier search in this folder with other settings.
        Unavailable: another process searches in the folder.
    """
    asked = check(
        sampler, budgets, dot_speed=dot_speed, batch_size=batch_size, num_images=num_images,
        full_steps=full_steps, tries=tries, features=features, told=told, on_plan=on_plan,
    )  # fmt: skip
    num_images, batch_size = asked.num_images, asked.batch_size
    clamp, folder = checks.flag("clamp", clamp), checks.path("folder", folder)
    if guidance_scale is not None:
        guidance_scale = checks.number("guidance_scale", guidance_scale)
    models, scheduler = sampler.models, sampler.scheduler
    name, known = schedulers.ranked_as(scheduler), models.clean_range
    full, look = budgets_of.alone(asked.full_steps, scheduler), _look(num_images, batch_size)
    given = partial(_given, {"guidance_scale": guidance_scale, **cond}, told)
    # What is refused is refused before a file is made.
    first = given(range(SEED, SEED + batch_size))
    sampler.with_plan(full).start(batch_size=batch_size, **first)
    budgets_of.read(output_folder(folder))
    see = Pyramid(sampler.shape[0]).to(models.device or "cpu") if features is None else features
    describe = partial(_describe, sampler, see, clamp, batch_size, given)
    same = _settings(asked, cond | {"guidance_scale": guidance_scale}, told)
    same |= {"features": earlier.name(features), "clamp": clamp, "look": look}
    with alone(folder):
        kept = Partial(folder / f"plans-{name}.partial")
        kept.settings(earlier.about(sampler) | same, dict)
        sizes = {batch_size} if cond else {1, batch_size}
        speeds = _known(asked.speeds, kept, sampler, given, sizes)
        earlier.check_same(kept, sampler, lambda plan: describe(plan, 0, look))
        nearest = kept.images("full", lambda: _finite(describe(full, 0, num_images)))
        scores = earlier.scores(kept, describe, nearest, look)

        @cache
        def possible(plan: Plan) -> bool:
            return plan != full and budgets_of.possible(plan, scheduler, known)

        rivals = partial(alone_at, scheduler, possible)
        survey(asked.budgets, speeds, scores, possible, rivals, asked.tries, _first(on_plan))
        again = Second(describe, num_images, full, kept)
        lsds, at = earlier.asked(kept, asked.budgets, speeds)
        found = confirm({**scores.values, full: 0.0}, lsds, at, rivals, again, on_plan)
        ranking = Ranking(found, tuple(lsds), (at[0], at[-1]) if at else None)
        budgets_of.write(folder, {name: ranking})
        earlier.ended(kept, ranking)
    return ranking


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


def _given(options: dict, told: Callable[[Sequence[int]], dict], seeds: range) -> dict:
    """All that a call of the sampler is given for the images of these seeds."""
    about = told(seeds)
    if not isinstance(about, dict):
        raise Refused(f"told made {checks.kind(about)} of {len(seeds)} seeds: return keywords")
    return options | about


def _first(on_plan: Callable[[Plan, float, float], None]) -> Callable[[Plan, float, float], None]:
    """What is told of the first look, which is most of the work."""
    return lambda plan, score, part: on_plan(plan, score, FIRST * part)


def _known(
    speeds: list[float | None],
    kept: Partial,
    sampler: Any,
    given: Callable[[range], dict],
    sizes: set[int],
) -> list[float | None]:
    """N: what was asked for; else at these batch sizes, as the first of these searches measured it.

    Most run one image at a time; conditions that are given are of a whole batch.
    """
    if sampler.models.dot is None:
        return [None]
    if speeds != [None]:
        return speeds
    return [earlier.speed(kept, sampler, n, given(range(SEED, SEED + n))) for n in sorted(sizes)]


def _settings(asked: Asked, cond: dict, told: Callable[[range], dict]) -> dict[str, Any]:
    """What scores depend on beside models and features: images, and their conditions."""
    named: dict[str, Any] = {"num_images": asked.num_images, "full_steps": asked.full_steps}
    named |= {"score": upper_end.__name__, "guidance_scale": cond.pop("guidance_scale")}
    named["cond"] = tree_map(earlier.name, cond)
    named["free_steps"] = "no first line" if asked.noisy else "corrected"  # not so in earlier ones
    if told is not _nothing:
        named["told"] = tree_map(earlier.name, told(range(SEED, SEED + asked.num_images)))
    return named


def _describe(
    sampler: Any, see: Callable, clamp: bool, batch_size: int, given: Callable[[range], dict],
    plan: Plan, start: int, stop: int,
) -> Tensor:  # fmt: skip
    """`[stop - start, F]`, the features of these images of a plan; whole batches."""
    made, seen = sampler.with_plan(plan), []
    for first in range(SEED + start, SEED + stop, batch_size):
        seeds = range(first, first + batch_size)
        x = made(batch_size=batch_size, seed=first, **given(seeds))
        with torch.no_grad():
            shown = x.clamp(*bounds(made.table.clean_range, x)) if clamp else x
            seen.append(_seen(see, shown))
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
