"""What an earlier search in a folder has left, and whether this one is the same.

Scores are kept by plan. They are of one model, one solver, one set of features and one condition;
another of them in the same folder is refused.
"""

import json
from collections.abc import Callable, Collection
from typing import Any

from torch import Tensor, nn

from ..dot.fingerprint import fingerprint
from ..sampling.budget import Ranking, alone
from ..sampling.plan import DOT, Plan
from ..system import checks
from ..system.errors import Refused
from ..system.files import whole
from ..training.identity import digest
from .partial import Partial
from .scores import Scores

ASKED = "asked.json"  # budgets and N, beside the scores
SAME = 0.01  # of the features; other hardware makes other last bits


def scores(
    partial: Partial, describe: Callable[[Plan, int, int], Tensor], full: Tensor, look: int
) -> Scores:
    """The scores, with those of an earlier search."""
    try:
        return Scores(describe, full, look, partial.rows(), partial.add)
    except (KeyError, TypeError, ValueError) as error:
        raise Refused(
            f"{partial.folder} is damaged ({error}): delete it, and search anew"
        ) from error


def name(value: Any) -> Any:
    """What tells a model, a function or a condition from another, as JSON has it."""
    if isinstance(value, nn.Module):
        return fingerprint(value)
    if isinstance(value, Tensor):
        return digest(value)
    if callable(value):
        return getattr(value, "__qualname__", type(value).__qualname__)  # see `check_same`
    return checks.shown(value)


def speed(partial: Partial, sampler: Any, batch_size: int, options: dict) -> float:
    """N at this batch size, here: what the first run measured.

    A search that goes on may not measure another one, or its candidates would be others.
    """
    device = str(sampler.models.device or "cpu").replace(":", "-")
    # Beside the scores, not in their folder: `lock.alone` clears one level below its own.
    here = f"{partial.folder.stem}-{batch_size}-{device}-{sampler.backend}.partial"
    kept = Partial(partial.folder.with_name(here))

    def measure() -> dict:
        return {"dot_speed": sampler.with_plan("-.-").measure(batch_size, **options).dot_speed}

    return float(kept.settings({}, measure)["dot_speed"])


def check_same(partial: Partial, sampler: Any, describe: Callable[[Plan], Tensor]) -> None:
    """Refuse to go on with another model or other features: functions are known by name alone.

    Args:
        describe: the features of some images of a plan.
    """
    plan = alone(3, sampler.scheduler)
    if sampler.models.dot is not None and len(plan) > 1:
        plan = Plan(str(plan)[:-1] + DOT)
    new = describe(plan)
    kept, new = partial.images("first", lambda: new).nan_to_num(), new.nan_to_num()
    if kept.shape != new.shape or (kept - new).norm() > SAME * kept.norm():
        raise Refused(
            f"{partial.folder} was made with another model, features or conditions: the same seeds "
            "have other features now; delete the folder or choose another"
        )


def about(sampler: Any) -> dict:
    """What scores depend on: the models and the solver, as JSON has them."""
    models, config = sampler.models, sampler.scheduler.config
    named = {
        "dash": name(models.unet),
        "dot": name(getattr(models.helper, "function", models.helper)),
        "scheduler": {k: v for k, v in config.items() if not k.startswith("_")},
        "clean_range": models.clean_range,
        "shape": sampler.shape,
    }
    return json.loads(json.dumps(named, default=str))


def asked(
    partial: Partial, budgets: Collection[float], speeds: Collection[float | None]
) -> tuple[list[float], list[float]]:
    """Budgets and N of this search and of those that have ended in this folder before.

    Raises:
        Refused: what is known of those is damaged.
    """
    path = partial.folder / ASKED
    new = (speed for speed in speeds if speed is not None)
    try:
        known = json.loads(path.read_text()) if path.exists() else {"budgets": [], "speeds": []}
        return sorted({*known["budgets"], *budgets}), sorted({*known["speeds"], *new})
    except (KeyError, TypeError, ValueError) as error:
        raise Refused(f"{path} is damaged ({error}): delete it, and search anew") from error


def ended(partial: Partial, ranking: Ranking) -> None:
    """Keep what was asked for the next search."""
    about = {"budgets": ranking.budgets, "speeds": ranking.speeds or ()}
    with whole(partial.folder / ASKED) as path:
        path.write_text(json.dumps(about))
