"""How much sooner equally good images are there: `speedup`, of which 1.0 is no gain."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from ..system import checks
from ..system.errors import Refused

Curve = Sequence[tuple[float, float]]  # points (latency, Frechet distance)


@dataclass(frozen=True)
class SpeedUp:
    """How much sooner images of the same quality are there; 1.0 is no gain.

    `lower_bounds[i]`: the baseline never gets as good in the measured range, so the speed-up of
    budget i is only known to be at least this. `upper_bounds[i]`: the baseline is better already at
    its cheapest point, so the speed-up of budget i is at most this. `low`, `high`: 95 % confidence
    interval of the mean, None where there are fewer than three sets.
    """

    mean: float
    per_budget: list[float]
    lower_bounds: list[bool]
    upper_bounds: list[bool]
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        lower, upper = any(self.lower_bounds), any(self.upper_bounds)
        sign = "about " if lower and upper else ">= " if lower else "<= " if upper else ""
        band = "" if self.low is None else f" (95 %: {self.low:.2f} .. {self.high:.2f})"
        return f"{sign}{self.mean:.2f}x{band}"


def _checked(curve: Curve, name: str) -> list[tuple[float, float]]:
    if not checks.is_list(curve):
        raise Refused(f"{name} is {checks.kind(curve)}: give a list of points (latency, distance)")
    if not len(curve):
        raise Refused(f"{name} is empty: give at least one point (latency, distance)")
    for point in curve:
        if not checks.is_list(point) or len(point) != 2:
            raise Refused(f"{name} holds {checks.shown(point)}: give points (latency, distance)")
    return [
        (
            checks.positive(f"a latency of {name}", latency),
            checks.number(f"a distance of {name}", fd),
        )
        for latency, fd in curve
    ]


def _latency_to_reach(baseline: list[tuple[float, float]], fd: float) -> tuple[float, str]:
    """The least latency at which the falling curve `baseline` is at `fd`, and the kind of bound."""
    (last_latency, last_fd), *rest = baseline
    if fd > last_fd:
        return last_latency, "upper"
    if fd == last_fd:
        return last_latency, ""
    for latency, value in rest:
        if value <= fd:
            part = (last_fd - fd) / (last_fd - value)
            return last_latency + part * (latency - last_latency), ""
        last_latency, last_fd = latency, value
    return last_latency, "lower"


def speedup(baseline: Curve, morse: Curve) -> SpeedUp:
    """The average speed-up: for each Morse budget, the baseline latency that is as good, divided.

    `mean over (L, f) in morse of  latency_baseline(f) / L`, where latency_baseline runs along the
    straight lines between the measured points. The baseline's distance is first made to fall by a
    running minimum over the latency, because noise makes it wiggle; that favours the baseline.
    Straight lines lie above a curve that flattens out, which favours Morse where the points are far
    apart: measure the baseline densely. Nothing is extrapolated: see the bounds of `SpeedUp`.

    Args:
        baseline: points (latency, distance) of the plain sampler with n steps, in any order.
        morse: points (latency, distance), in the same units; `per_budget` keeps their order.

    Raises:
        Refused: a curve is empty or holds a number that is not finite, or a latency <= 0.

    Source: Morse (arXiv 2506.18251), the definition of its average speed-up.
    """
    falling: list[tuple[float, float]] = []
    for latency, fd in sorted(_checked(baseline, "baseline")):
        falling.append((latency, min(fd, falling[-1][1]) if falling else fd))
    ratios, kinds = [], []
    for latency, fd in _checked(morse, "morse"):
        reached, kind = _latency_to_reach(falling, fd)
        ratios.append(reached / latency)
        kinds.append(kind)
    return SpeedUp(
        mean=statistics.fmean(ratios),
        per_budget=ratios,
        lower_bounds=[kind == "lower" for kind in kinds],
        upper_bounds=[kind == "upper" for kind in kinds],
    )


def speedup_over_sets(baselines: Sequence[Curve], morses: Sequence[Curve]) -> SpeedUp:
    """The average speed-up over independent sets of seeds, with its 95 % confidence interval.

    Each set gives one `speedup` s; `mean` is theirs, and the interval is Student's of their
    logarithms, `exp(mean log s +- t_(0.975, k - 1) sd(log s) / sqrt(k))` over the k sets, as ratios
    are positive and skewed. A budget is marked as a bound if it is one in any set.

    Args:
        baselines, morses: one curve per set; all Morse curves have the same budgets in one order.

    Raises:
        Refused: no sets, or the numbers of sets or of budgets differ.
    """
    for name, curves in ("baselines", baselines), ("morses", morses):
        if not checks.is_list(curves):
            raise Refused(f"{name} is {checks.kind(curves)}: give a list with a curve for each set")
    if not len(baselines) or len(baselines) != len(morses):
        raise Refused(
            f"{len(baselines)} baselines and {len(morses)} Morse curves: give one of each per set"
        )
    sets = [speedup(b, m) for b, m in zip(baselines, morses, strict=True)]
    if len({len(one.per_budget) for one in sets}) != 1:
        counts = [len(one.per_budget) for one in sets]
        raise Refused(f"sets with {counts} budgets: give the same budgets")
    means, k = [s.mean for s in sets], len(sets)
    mean, low, high = statistics.fmean(means), None, None
    if k >= 3:
        from scipy.stats import t

        logs = [math.log(one) for one in means]
        half = float(t.ppf(0.975, k - 1)) * statistics.stdev(logs) / math.sqrt(k)
        low, high = (math.exp(statistics.fmean(logs) + way * half) for way in (-1, 1))
    return SpeedUp(
        mean=mean,
        per_budget=[statistics.fmean(r) for r in zip(*(s.per_budget for s in sets), strict=True)],
        lower_bounds=[any(b) for b in zip(*(s.lower_bounds for s in sets), strict=True)],
        upper_bounds=[any(b) for b in zip(*(s.upper_bounds for s in sets), strict=True)],
        low=low,
        high=high,
    )
