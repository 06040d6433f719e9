"""Speed-ups on curves made by hand, and the rivals that need no training."""

import math

import numpy as np
import pytest
import torch

from morse_engine.evaluation import extrapolate, reuse
from morse_engine.evaluation.speedup import speedup, speedup_over_sets


def test_speedup_on_a_curve_made_by_hand():
    baseline = [(40, 2.0), (10, 10.0), (20, 4.0)]  # any order
    result = speedup(baseline, [(5, 10.0), (5, 7.0), (10, 3.0), (40, 2.0)])
    assert result.per_budget == [2.0, 3.0, 3.0, 1.0]
    assert result.mean == 2.25
    assert not any(result.lower_bounds + result.upper_bounds)
    assert (result.low, result.high) == (None, None)
    assert str(result) == "2.25x"


def test_the_baseline_against_itself_gains_nothing():
    baseline = [(2, 9.0), (4, 5.0), (8, 2.5), (16, 1.0)]
    assert speedup(baseline, baseline).per_budget == [1.0] * 4


def test_a_wiggle_of_the_baseline_is_read_in_its_favour():
    # 4 is reached at latency 20; that the point at 30 is worse again does not count.
    result = speedup(
        [(10, 8.0), (20, 4.0), (30, 6.0), (40, 2.0)], [(10, 4.0), (10, 5.0), (10, 3.0)]
    )
    assert result.per_budget == pytest.approx([2.0, 1.75, 3.5])


def test_outside_of_the_measured_range_there_are_bounds():
    baseline = [(10, 8.0), (20, 4.0)]
    result = speedup(baseline, [(5, 3.0), (5, 4.0), (20, 9.0), (5, 8.0)])
    assert result.per_budget == [4.0, 4.0, 0.5, 2.0]
    assert result.lower_bounds == [True, False, False, False]
    assert result.upper_bounds == [False, False, True, False]
    assert str(speedup(baseline, [(5, 3.0)])) == ">= 4.00x"
    assert str(speedup(baseline, [(20, 9.0)])) == "<= 0.50x"


def test_speedup_over_sets_has_a_student_interval():
    baseline = [(10, 8.0), (20, 4.0)]
    morses = [[(10, 8.0), (10, 4.0)], [(10, 4.0), (10, 4.0)], [(10, 4.0), (5, 3.0)]]
    result = speedup_over_sets([baseline] * 3, morses)  # the sets' means: 1.5, 2, 3
    assert result.mean == pytest.approx(6.5 / 3)
    assert result.per_budget == pytest.approx([5 / 3, 8 / 3])
    assert (result.lower_bounds, result.upper_bounds) == ([False, True], [False, False])
    # t_0.975 with 2 degrees of freedom, of logarithms; 1.5 * 2 * 3 = 9
    half = 4.302652729911275 * np.log([1.5, 2, 3]).std(ddof=1) / math.sqrt(3)
    middle = 9 ** (1 / 3)
    ends = (middle / math.exp(half), middle * math.exp(half))
    assert (result.low, result.high) == pytest.approx(ends)
    two = speedup_over_sets([baseline] * 2, morses[:2])
    assert (two.mean, two.low, two.high) == (1.75, None, None)


@pytest.mark.parametrize(
    ("baseline", "morse", "message"),
    [
        ([], [(1, 1.0)], "baseline is empty"),
        ([(1, 1.0)], [], "morse is empty"),
        ([(0, 1.0)], [(1, 1.0)], "a latency of baseline=0: has to be a positive"),
        ([(1, 1.0)], [(1, math.nan)], "nan"),
    ],
)
def test_speedup_refuses(baseline, morse, message):
    with pytest.raises(ValueError, match=message):
        speedup(baseline, morse)


def test_speedup_over_sets_refuses_sets_that_do_not_fit():
    curve = [(1, 1.0)]
    with pytest.raises(ValueError, match="one of each per set"):
        speedup_over_sets([curve], [])
    with pytest.raises(ValueError, match="the same budgets"):
        speedup_over_sets([curve] * 2, [curve, curve * 2])


# -- rivals ------------------------------------------------------------------------------------


def linear_in_t(slope, offset):
    return lambda x, timestep, **cond: slope * float(timestep) + offset


def test_extrapolation_is_exact_on_a_line():
    dash, x = linear_in_t(*torch.randn(2, 2, 1, 4, 4, dtype=torch.float64)), torch.zeros(2, 1, 4, 4)
    for t in (torch.tensor([700, 700]), torch.tensor(700), 700):
        eta = extrapolate(x, t, x, dash(x, 800), 800, dash(x, 900), torch.tensor(900))
        torch.testing.assert_close(dash(x, 800) + eta, dash(x, 700), rtol=1e-6, atol=1e-6)


def test_no_line_through_one_estimate_or_two_at_one_time():
    x = torch.ones(2, 1, 4, 4)
    assert not extrapolate(x, 850, x, x, 900, x, 900).any()
    assert not extrapolate(x, 850, x, x, 900, 2 * x, 900).any()


def test_reuse_is_no_correction():
    x = torch.randn(2, 1, 4, 4)
    assert torch.equal(reuse(x, 5, x, x, 9, x, 9, extra=1), torch.zeros_like(x))
