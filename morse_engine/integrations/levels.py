"""Noise levels that a host gives for its Dash steps, and those of the steps between."""

from collections.abc import Sequence
from math import isfinite
from typing import Any

import numpy as np

from ..sampling.plan import Plan
from ..system.checks import shown
from ..system.errors import Refused


def of_dash(sigmas: Any, num_dash: Any) -> tuple[list[float], list[float]]:
    """The levels of the Dash steps, and the last 0 where there is one: some schedulers take it.

    Args:
        num_dash: how many steps there have to be; None if the levels say it.

    Raises:
        Refused: no levels, one that is no finite number, or another number of them.
    """
    try:
        levels = [float(sigma) for sigma in sigmas]
    except (TypeError, ValueError):
        levels = []
    end = levels[-1:] if levels[-1:] == [0] else []
    levels = levels[: len(levels) - len(end)]
    if not levels or not all(isfinite(sigma) for sigma in levels):
        raise Refused(f"sigmas={shown(sigmas)}: give a noise level for each Dash step")
    if num_dash is not None and num_dash != len(levels):
        raise Refused(f"sigmas has {len(levels)} noise levels for {shown(num_dash)} Dash steps")
    return levels, end


def of_steps(levels: Sequence[float], plan: Plan) -> list[float]:
    """Of all steps of a plan: between two Dash steps on a line, behind the last one down to 0."""
    places = [*plan.dash_positions, len(plan)]
    return np.interp(range(len(plan)), places, [*levels, 0.0]).tolist()
