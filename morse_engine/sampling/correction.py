"""What a Dash step says of the free steps before it: their clean images come out a little wrong.

A free step goes on on a line (`free.py`). The Dash step i behind it shows how far off that was,

    e = m_i - (m_1 + r (m_1 - m_2))        m_k: the solver's estimate k steps ago, on the line
    r = (p_i - p_1) / (p_1 - p_2)          p: their places on it

If the clean image went straight from the call a before them to this one instead, that of a free
step j between would be further by w_j e, w_j = (p_j - p_a) / (p_i - p_a). The rows are linear, so
x_i would be

    x_i + K e                              K = sum over j of w_j dx_i/dm_j

and the solver goes on from there, with the clean image that Dash has named at x_i. So x_next gains
(A - B U / V) K e, which is three numbers in the row's C0, C1 and C2: at most two terms more in this
step, and nothing that a backend has to know of. It is what the corrector of UniPC does for a step,
done for the free steps alone (Zhao et al. 2023, arXiv 2302.04867). Dot steps are left as they are:
a Dot's estimate is not sure enough to be corrected by, and its own was not on the line.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .free import difference, slope
from .plan import DASH, FREE, Plan
from .probe import HISTORY, Column

#: Of K behind the first call of a run, where no line has foretold anything yet and e is much of the
#: image; measured beside 0 and 1 (docs/architecture.md).
FIRST = 0.5

_CLEAN = ((Column.P, Column.U), (Column.Q, Column.V))  # equal where m is the clean image


class Correction(NamedTuple):
    """Of x at a Dash step behind free steps: by `k` (m - (m_1 + r (m_1 - m_2)))."""

    k: float
    r: float


def corrections(rows: Tensor, places: Tensor, plan: Plan) -> dict[int, Correction]:
    """What Dash steps correct, by their index in the plan.

    None where the solver keeps another estimate than the clean image, or adds noise: there it
    changes nothing that can be measured.

    Args:
        rows: float64 `[len(plan), 17]`, of a solver's table.
        places: float64 `[len(plan)]`.
    """
    clean = all(torch.allclose(rows[:, a], rows[:, b], rtol=1e-4) for a, b in _CLEAN)
    if not clean or rows[:, Column.D].any():
        return {}
    found, a, calls = {}, 0, 1
    for i in range(1, len(plan)):
        if plan.morse[i] == FREE:
            continue
        if plan.morse[i] == DASH and plan.morse[i - 1] == FREE:
            k = _gain(rows, places, a, i) * (FIRST if calls == 1 else 1.0)
            r = slope(places[i], places[i - 1], places[i - 2], difference)
            found[i] = Correction(k, float(r))
        a, calls = i, calls + 1
    return found


def corrected(rows: Tensor, found: dict[int, Correction]) -> Tensor:
    """The rows with their corrections."""
    rows = rows.clone()
    for i, (k, r) in found.items():
        gain = k * _of_x(rows[i])
        rows[i, Column.C0] += gain
        rows[i, HISTORY[0]] -= gain * (1 + r)
        rows[i, HISTORY[1]] += gain * r
    return rows


def _of_x(row: Tensor) -> float:
    """dx_next/dx of a row where the clean image is given, and z is what says so at x."""
    return float(row[Column.A] - row[Column.B] * row[Column.U] / row[Column.V])


def _gain(rows: Tensor, places: Tensor, a: int, i: int) -> float:
    """K of call i with free steps behind call a, up to it."""
    after = [0.0] * (i + 1)  # dx_i/dx_k
    after[i] = 1.0
    for k in range(i - 1, a, -1):
        after[k] = after[k + 1] * _of_x(rows[k])
    gain = 0.0
    for j in range(a + 1, i):
        # m_j is in the rows of its own step and of up to three steps behind it.
        weights = [float(rows[j, Column.C0] + rows[j, Column.B] / rows[j, Column.V])]
        weights += [float(rows[j + n, c]) for n, c in enumerate(HISTORY, 1) if j + n < i]
        moved = sum(w * after[j + 1 + n] for n, w in enumerate(weights))
        gain += moved * float((places[j] - places[a]) / (places[i] - places[a]))
    return gain
