"""Which plans a search looks at: the candidates of each budget, and a climb from the best."""

import math
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

from ..sampling import budget as budgets_of
from ..sampling.plan import Plan
from .climb import best, climb

FREE_BEHIND = (0, 1, 2)  # free steps behind each call
MOST_DOTS = 6  # behind a Dash, among the candidates


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


def survey(
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


def alone(scheduler: Any, possible: Callable[[Plan], bool], lsd: float) -> list[Plan]:
    """As many Dash steps as fit, and with free steps behind them; with Heun one less at the end."""
    found, dash = [], budgets_of.alone(lsd, scheduler)
    for each in FREE_BEHIND:
        plan = dash.with_free(each)
        shorter = Plan(str(plan)[:-1]) if len(plan) > 1 else plan
        found += [p for p in (plan, shorter) if p.num_dash == len(dash) and possible(p)][:1]
    return found
