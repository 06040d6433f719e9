"""Plans that are not even: a climb from the best plans of a budget by small changes.

Even plans are easy to name, and not the best: early steps, where the image is open, and late ones,
where it is nearly finished, want other helpers than those between (docs/icons.md has numbers).
There are far too many plans to try them all, so what is tried is near the best ones so far.
"""

from collections.abc import Callable, Iterable, Mapping
from random import Random

from ..sampling.plan import DASH, DOT, FREE, Plan

STEPS = (DASH, DOT, FREE)
KEPT = 3  # the best plans of a budget, one of which is changed
ATTEMPTS = 200  # at a change that is new and fits, before a climb ends


def climb(
    known: Mapping[Plan, float],
    score: Callable[[Plan, list[Plan]], float | None],
    fits: Callable[[Plan], bool],
    tries: int,
    seen: Iterable[Plan] = (),
) -> dict[Plan, float]:
    """Change the best plans that fit, score what comes of it, and go on from there.

    The same calls in the same order for the same scores, so one that was stopped can be repeated.

    Args:
        known: plans with their scores, lower is better; those that fit are where it begins.
        score: of a plan that is not known, beside the best so far; None if it is far behind them.
        fits: whether a plan is within the budget, and possible.
        tries: how many plans are changed.
        seen: plans that are not to be tried, beside those known.

    Returns:
        the scores of the plans that had one; none if nothing fits.
    """
    random, found = Random(0), {}
    pool = {plan: value for plan, value in known.items() if fits(plan)}
    seen = {*pool, *seen}
    for _ in range(tries if pool else 0):
        ahead = best(pool)
        new = _new(ahead, lambda plan: plan not in seen and fits(plan), random)
        if new is None:
            break
        seen.add(new)
        value = score(new, ahead)
        if value is not None:
            pool[new] = found[new] = value
    return found


def best(
    scores: Mapping[Plan, float], fits: Callable[[Plan], bool] = lambda plan: True
) -> list[Plan]:
    """The `KEPT` best of the plans that fit."""
    return sorted(filter(fits, scores), key=lambda plan: (scores[plan], str(plan)))[:KEPT]


def _new(ahead: list[Plan], wanted: Callable[[Plan], bool], random: Random) -> Plan | None:
    """A plan that is one or two changes from one of the best."""
    for _ in range(ATTEMPTS):
        plan = random.choice(ahead)
        for _ in range(random.choice((1, 1, 2))):
            plan = changed(plan, random)
        if wanted(plan):
            return plan
    return None


def changed(plan: Plan, random: Random) -> Plan:
    """The plan with a step left out, moved, or exchanged for one to three of a kind, or such a run
    put in; the first stays a Dash.

    A Dash costs several Dot steps, so one of them in its place would leave time unused.
    """
    steps = list(str(plan))
    at = random.randrange(1, len(steps)) if len(steps) > 1 else None
    new = [random.choice(STEPS)] * random.choice((1, 1, 2, 3))
    change = random.choice(("put in", "leave out", "exchange", "move"))
    if change == "put in" or at is None:
        at = random.randint(1, len(steps))
        steps[at:at] = new
    elif change == "exchange":
        steps[at : at + 1] = new
    else:
        step = steps.pop(at)
        if change == "move":
            steps.insert(random.randint(1, len(steps)), step)
    return Plan("".join(steps))
