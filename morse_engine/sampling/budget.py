"""From a budget in LSD to a plan: the one place that says how a budget is spent.

A `Ranking` holds plans of one solver with their scores: how far their images are from those of the
full run. What a plan costs follows from N. A budget buys the plan of the best score within it; all
Dash and free steps are among the plans, so by the score it is never worse than they are.

There are two rankings. One comes from a search with the user's own models, `evaluation/search.py`,
and lies in a folder, by default that of the Dot. The other ships with the package: `plans.json`,
which benchmarks/plans.py makes from rows on the bundled digits.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from ..system import checks
from ..system.errors import Refused
from ..system.files import whole
from . import schedulers
from .plan import DASH, MOST_STEPS, Plan

DEFAULT_BUDGET = 10.0  # LSD, with a Dot
DEFAULT_DASH_STEPS = 50  # without one

AUTO = "auto"  # the plan that a budget buys, in the place of Morse code
FILE, FORMAT_VERSION = "plans.json", 1
TABLE = Path(__file__).parent  # the folder of the table that ships with the package
SHIPPED = "the table of the package"

#: Solvers that are another one in other coordinates, but for the rounding of times.
SAME = {"euler": "ddim", "euler-ancestral": "ddpm"}

#: Solvers that the table of the package has not ranked, and the one of it that they are nearest to:
#: what they are in other coordinates, or one of as high an order.
NEAREST = SAME | {"flow": "ddim"}
NEAREST |= dict.fromkeys(("dpm-single", "unipc", "deis", "heun", "pndm"), "dpm")

#: Solvers of the table that add noise. It has no Dot steps with them: on one model these were ahead
#: of Dash alone and on another far behind (docs/icons.md), though both Dots were trained with them.
NOISY = {"ddpm", "dpm-sde", "euler-ancestral"}

#: With classifier-free guidance and one of these, plans of the table with fewer Dash steps and free
#: steps between can be worse than Dash alone (docs/fidelity.md); it was made without guidance.
LEAST_GUIDED = 6


@dataclass(frozen=True)
class Ranking:
    """Plans of one solver and their scores.

    Attributes:
        scores: by plan; how far its images are from the full run's, so lower is better.
        budgets: the LSD that plans were looked for.
        speeds: the least and the most N; None if there was no Dot.
    """

    scores: dict[Plan, float]
    budgets: tuple[float, ...]
    speeds: tuple[float, float] | None

    def covers(self, lsd: float, dot_speed: float | None) -> bool:
        """Whether plans of such a budget were looked for, with a Dot if there is one.

        They leave less than a LSD of it unused. Scores hold at any N, which only says what plans
        cost; those of another model do not.
        """
        if not any(looked_for <= lsd < looked_for + 1 for looked_for in self.budgets):
            return False
        return dot_speed is None or self.speeds is not None

    def of_dash(self, steps: int) -> float:
        """The score of so many Dash steps, by the line between those ranked; inf for fewer."""
        ranked = sorted((len(p), s) for p, s in self.scores.items() if len(p) == p.num_dash)
        fewer = [(n, s) for n, s in ranked if n <= steps]
        more = [(n, s) for n, s in ranked if n > steps]
        if not fewer or not more:
            return fewer[-1][1] if fewer else math.inf
        (n, score), (m, better) = fewer[-1], more[0]
        return score + (better - score) * (steps - n) / (m - n)

    def best_first(self) -> list[Plan]:
        """By score; of equal ones that with fewer Dot, then free steps."""
        return sorted(self.scores, key=lambda p: (self.scores[p], p.num_dot, p.num_free))


class Choice(NamedTuple):
    """A plan, and why it is this one."""

    plan: Plan
    why: str


def choose(
    lsd: float,
    scheduler: Any,
    dot_speed: float | Callable[[], float] | None,
    *,
    clean_range: Any = None,
    folder: str | Path | None = None,
    guided: bool = False,
) -> Choice:
    """The plan that a budget of `lsd` latencies of a Dash step buys with a scheduler.

    Args:
        lsd: the budget, 1 or more.
        scheduler: the diffusers scheduler of the run.
        dot_speed: N, how many Dot steps take as long as one Dash step; or a function that measures
            it, called only if it matters; None if there is no Dot for this solver.
        clean_range: of the images, if it is known. Where neither this nor the scheduler knows it,
            there are no free steps: without bounds they can be worse than none.
        guided: whether the run has classifier-free guidance, as far as is known.
        folder: where a search may have left its `plans.json`, with this solver, or else with what
            it is in other coordinates. What is not there is bought by the table of the package.

    Raises:
        Refused: the budget is below 1 or not finite, N is not a positive finite number, or the
            folder holds a damaged plans.json.
    """
    check(lsd)
    name, table = schedulers.name_of(scheduler), _table()
    own = _searched(folder, schedulers.ranked_as(scheduler))
    shipped = table.get(name) or table.get(NEAREST.get(name, ""))
    speed = _speed(dot_speed, *own.values(), shipped)
    rankings = {whose: found for whose, found in own.items() if found.covers(lsd, speed)}
    if shipped is not None:
        rankings[SHIPPED] = shipped
    at = f"{lsd:g} LSD" if speed is None else f"{lsd:g} LSD at N = {speed:.2g}"
    for whose, ranking in rankings.items():
        for plan in ranking.best_first():
            if whose == SHIPPED and not _known_for(plan, name, guided):
                continue
            if fits(plan, lsd, speed) and possible(plan, scheduler, clean_range):
                plan, score = _beyond(ranking, plan, lsd, scheduler, clean_range)
                why = f"for {at} by {whose}, score {score:.3g}"
                if whose == SHIPPED and dot_speed is not None and not ranking.speeds:
                    why += f"; it has no Dot steps with {name}, for which a search is needed"
                return Choice(plan, why)
    return Choice(alone(lsd, scheduler), f"for {at}: no plans were compared")


def _searched(folder: str | Path | None, name: str) -> dict[str, Ranking]:
    """What searches in a folder have found for a solver, by whose it is; the nearer one first."""
    kept = {} if folder is None else read(folder)
    whose = {name: f"a search in {folder}"}
    if (same := SAME.get(name)) is not None:
        whose[same] = f"a search in {folder} with {same}"
    return {words: kept[solver] for solver, words in whose.items() if solver in kept}


def _known_for(plan: Plan, name: str, guided: bool) -> bool:
    """Whether the table of the package says something of a plan with this solver."""
    return not (name in NOISY and guided and plan.num_free and plan.num_dash < LEAST_GUIDED)


def _beyond(
    ranking: Ranking, plan: Plan, lsd: float, scheduler: Any, clean_range: Any
) -> tuple[Plan, float]:
    """The best plan of a ranking, or more of its kind where the budget has room, and its score.

    As many Dash steps as fit, where they are better; and beyond the budgets that were looked for
    as many with free steps behind each, whose score is then at most this.
    """
    dash, score = alone(lsd, scheduler), ranking.scores[plan]
    if len(plan) == plan.num_dash or ranking.of_dash(len(dash)) < score:
        return dash, min(score, ranking.of_dash(len(dash)))
    each = plan.num_free // plan.num_dash
    even = plan == Plan(DASH * plan.num_dash).with_free(each)
    if even and lsd >= max(ranking.budgets) + 1 and len(dash) * (1 + each) <= MOST_STEPS:
        more = dash.with_free(each)
        plan = more if possible(more, scheduler, clean_range) else plan
    return plan, score


def check(lsd: float) -> None:
    """Raise `Refused` for a budget that buys nothing, or more than a plan can have."""
    if not 1 <= lsd <= MOST_STEPS:
        raise Refused(
            f"budget={lsd:g}: a finite number, 1 (one Dash step) or more; a plan has at most "
            f"{MOST_STEPS} steps"
        )


def _speed(
    dot_speed: float | Callable[[], float] | None, *rankings: Ranking | None
) -> float | None:
    """N, measured only if some plan has Dot steps."""
    if callable(dot_speed):
        plans = [plan for ranking in rankings if ranking is not None for plan in ranking.scores]
        dot_speed = dot_speed() if any(plan.num_dot for plan in plans) else None
    if dot_speed is not None and not (math.isfinite(dot_speed) and dot_speed > 0):
        raise Refused(f"dot_speed={dot_speed}: has to be a positive finite number")
    return dot_speed


def fits(plan: Plan, lsd: float, dot_speed: float | None) -> bool:
    """Whether a plan costs at most `lsd` at N; without a Dot, where N is None, one with Dot steps
    does not."""
    if plan.num_dot and dot_speed is None:
        return False
    return (plan.num_dash if dot_speed is None else plan.lsd(dot_speed)) <= lsd


def possible(plan: Plan, scheduler: Any, clean_range: Any = None) -> bool:
    """Whether the solver makes that many calls, and free steps where the plan has them.

    Args:
        clean_range: as for `choose`.
    """
    from .free import NO_RANGE  # torch, which the command line's help does without
    from .probe import steps_for_calls
    from .solver import SolverTable

    try:
        steps_for_calls(scheduler, len(plan))
        if not plan.num_free:
            return True
        table = SolverTable.for_calls(scheduler, len(plan)).for_plan(plan)
    except Refused:
        return False
    return clean_range is not None or table.clean_range != NO_RANGE


def alone(lsd: float, scheduler: Any) -> Plan:
    """As many Dash steps as fit, or one or two less if the solver makes only that many calls.

    Where nothing is possible, as many as fit: who reads the scheduler's table says why.
    """
    plans = [Plan(DASH * n) for n in range(int(lsd), max(0, int(lsd) - 3), -1)]
    return next((plan for plan in plans if possible(plan, scheduler)), plans[0])


# -- the file ------------------------------------------------------------------------------------


def read(folder: str | Path) -> dict[str, Ranking]:
    """The rankings in a folder's plans.json, by the solver's name; none if there is no such file.

    Raises:
        Refused: the file is damaged, or of a newer version.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text("utf-8"))
        if (version := content["format_version"]) == FORMAT_VERSION:
            return {name: _ranking(found) for name, found in content["solvers"].items()}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise Refused(f"{path} is damaged ({error}): delete it, and search anew") from error
    raise Refused(f"{path} has version {version}, this release reads {FORMAT_VERSION}: search anew")


def _ranking(found: dict) -> Ranking:
    scores = {Plan(morse): float(score) for morse, score in found["plans"].items()}
    speeds = found["dot_speeds"]
    return Ranking(scores, tuple(found["budgets"]), None if speeds is None else tuple(speeds))


def searched(plans: Any) -> Path | None:
    """The folder that a user has named as that of a search; None if none was.

    Raises:
        Refused: there is no plans.json in it, so that the table of the package would decide.
    """
    if plans is None:
        return None
    folder = checks.path("plans", plans)
    if not (folder / FILE).is_file():
        raise Refused(f"plans={str(plans)!r}: no {FILE} is there; name the folder of a search")
    return folder


def write(folder: str | Path, rankings: dict[str, Ranking]) -> Path:
    """Write rankings into a folder's plans.json, beside those of other solvers that are there."""
    solvers = {
        name: {
            "budgets": list(found.budgets),
            "dot_speeds": None if found.speeds is None else list(found.speeds),
            "plans": {str(plan): found.scores[plan] for plan in found.best_first()},
        }
        for name, found in sorted((read(folder) | rankings).items())
    }
    path = Path(folder) / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as new:
        new.write_text(
            json.dumps({"format_version": FORMAT_VERSION, "solvers": solvers}, indent=1) + "\n"
        )
    return path


@cache
def _table() -> dict[str, Ranking]:
    """The rankings that ship with the package."""
    return read(TABLE)
