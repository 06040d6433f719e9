"""From a budget in LSD to a plan: the one place that says how a budget is spent.

The arithmetic is `Plan.from_budget`. What it leaves open is how many Dot steps follow each Dash
step. That depends on the solver, one of higher order bears fewer in a row, and on the budget: where
Dash alone is nearly at its best, more of its steps are worth more than many of Dot's. The table was
chosen on 200 images of the bundled digits at N = 7.5 (benchmarks/results/plan-choice.json).
"""

import math
from collections.abc import Callable
from typing import Any

from ..system.errors import Refused
from .plan import DASH, Plan

DEFAULT_BUDGET = 10.0  # LSD, with a Dot
DEFAULT_DASH_STEPS = 50  # without one

#: Dot steps for each Dash step: by the scheduler's class, from a budget in LSD on.
DOTS_PER_DASH = {
    "DDIMScheduler": {1: 2.5, 6: 4.0, 8: 7.5, 10: 1.5, 20: 0.75},
    "DPMSolverMultistepScheduler": {1: 1.0},
}
OTHERS = {1: 2.0}  # schedulers that nothing was measured for


def plan_of(lsd: float, scheduler: Any, dot_speed: float | Callable[[], float] | None) -> Plan:
    """The plan that a budget of `lsd` latencies of a Dash step buys with a scheduler.

    Where a Dot is slow, the ratio of the table is cut to `dot_speed`: at least half of the time is
    Dash's.

    Args:
        lsd: the budget, 1 or more.
        scheduler: the diffusers scheduler of the run.
        dot_speed: N, how many Dot steps take as long as one Dash step; or a function that measures
            it; None if there is no Dot: as many Dash steps as fit.

    Raises:
        Refused: the budget is below 1 or not finite, or N is not a positive finite number.
    """
    check(lsd)
    if dot_speed is None:
        return _possible(Plan(DASH * int(lsd)), scheduler)
    speed = dot_speed() if callable(dot_speed) else dot_speed
    rows = DOTS_PER_DASH.get(type(scheduler).__name__, OTHERS)
    ratio = rows[max(start for start in rows if start <= lsd)]
    # min() keeps a speed that is no number out of the ratio; from_budget refuses it by name.
    ratio = min(ratio, speed) if speed > 0 else ratio
    return _possible(Plan.from_budget(lsd, speed, dots_per_dash=ratio), scheduler)


def check(lsd: float) -> None:
    """Raise `Refused` for a budget that buys nothing."""
    if not (math.isfinite(lsd) and lsd >= 1):
        raise Refused(f"budget={lsd}: a finite number, 1 (one Dash step) or more")


def _possible(plan: Plan, scheduler: Any) -> Plan:
    """The plan, or one with a step or two less, if only that many calls can be made.

    Heun makes odd numbers of calls alone. Where nothing fits, the plan itself: who reads the
    scheduler's table says why.
    """
    from .probe import steps_for_calls  # torch, which the command line's help does without

    for fewer in range(min(3, len(plan))):
        dots = max(0, plan.num_dot - fewer)
        shorter = Plan.spread(len(plan) - fewer - dots, dots)
        try:
            steps_for_calls(scheduler, len(shorter))
            return shorter if fewer else plan
        except Refused:
            pass
    return plan
