import math
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from morse_engine.sampling.plan import Plan

plans = st.text("-.", max_size=200).map(lambda tail: Plan("-" + tail))
dot_speeds = st.floats(0.05, 50.0)
budgets = st.floats(1.0, 200.0)
ratios = st.floats(0.0, 20.0)


def runs_of_dots(plan):
    return [len(run) for run in str(plan).split("-")[1:]]


@given(plans)
def test_a_plan_is_its_string(plan):
    assert Plan(str(plan)) == plan
    assert hash(Plan(str(plan))) == hash(plan)
    assert repr(plan) == f'Plan("{plan}")'
    assert eval(repr(plan)) == plan
    assert pickle.loads(pickle.dumps(plan)) == plan
    assert "".join(plan) == str(plan)


@given(plans)
def test_every_step_is_visited_once(plan):
    assert sorted(plan.dash_positions + plan.dot_positions) == list(range(len(plan)))
    assert (plan.num_dash, plan.num_dot) == (len(plan.dash_positions), len(plan.dot_positions))
    assert plan.dash_positions[0] == 0
    assert Plan.from_positions(len(plan), plan.dash_positions) == plan


def test_a_plan_cannot_be_changed():
    plan = Plan("-..")
    with pytest.raises(AttributeError):
        plan.morse = "-"


@given(st.integers(1, 300), st.integers(0, 300))
def test_spread_is_even(num_dash, num_dot):
    plan = Plan.spread(num_dash, num_dot)
    runs = runs_of_dots(plan)
    assert (plan.num_dash, plan.num_dot) == (num_dash, num_dot)
    assert max(runs) - min(runs) <= 1
    assert runs[0] == max(runs)
    assert runs[-1] == min(runs)
    # "Evenly" beyond that: any two windows of as many runs hold as many Dots, up to one.
    for size in (2, 3, 7):
        sums = [sum(runs[i : i + size]) for i in range(len(runs) - size + 1)]
        assert not sums or max(sums) - min(sums) <= 1


@pytest.mark.parametrize(
    ("num_dash", "num_dot", "morse"),
    [(1, 0, "-"), (1, 3, "-..."), (3, 9, "-...-...-..."), (3, 1, "-.--"), (4, 2, "-.--.-")],
)
def test_spread_examples(num_dash, num_dot, morse):
    assert str(Plan.spread(num_dash, num_dot)) == morse


@given(budgets, dot_speeds, ratios)
def test_a_budget_is_spent_and_never_exceeded(lsd, dot_speed, dots_per_dash):
    plan = Plan.from_budget(lsd, dot_speed, dots_per_dash=dots_per_dash)
    assert plan == Plan.spread(plan.num_dash, plan.num_dot)
    assert plan.lsd(dot_speed) <= lsd
    one_dot_more = plan.num_dash + (plan.num_dot + 1) / dot_speed
    assert lsd < one_dot_more
    # No other number of Dash steps comes nearer to the ratio.
    for num_dash in range(1, int(lsd) + 1):
        num_dot = math.floor((lsd - num_dash) * dot_speed + 1e-9)
        missed = abs(num_dot - dots_per_dash * num_dash)
        assert abs(plan.num_dot - dots_per_dash * plan.num_dash) <= missed + 1 + 1e-6


@given(st.integers(1, 200), st.integers(0, 9), dot_speeds)
def test_the_budget_of_a_regular_plan_buys_it_back(num_dash, dots_per_dash, dot_speed):
    plan = Plan.spread(num_dash, num_dash * dots_per_dash)
    lsd = plan.lsd(dot_speed)
    assert Plan.from_budget(lsd, dot_speed, dots_per_dash=dots_per_dash) == plan


@given(st.integers(1, 40), st.integers(1, 60), st.integers(0, 59))
def test_rounding_loses_no_step(num_dash, dot_speed, num_dot):
    num_dot %= dot_speed  # less than one Dash step, so that it stays the fraction of the budget
    plan = Plan.from_budget(num_dash + num_dot / dot_speed, dot_speed, dots_per_dash=0)
    assert (plan.num_dash, plan.num_dot) == (num_dash, num_dot)


@given(plans, dot_speeds)
def test_price_and_gain(plan, dot_speed):
    assert plan.lsd(dot_speed) == pytest.approx(sum(1 if s == "-" else 1 / dot_speed for s in plan))
    n, k = plan.lsd(dot_speed), plan.num_dot / dot_speed
    assert n - k == pytest.approx(plan.num_dash)
    assert plan.gain(dot_speed) == pytest.approx((n - k + dot_speed * k) / n)


def test_budget_examples():
    assert str(Plan.from_budget(4 + 6 / 6.0, 6.0)) == "-..-.-..-."
    assert str(Plan.from_budget(5, 6.0, dots_per_dash=4)) == "-....-....-...."
    assert str(Plan.from_budget(1, 6.0)) == "-"
    assert str(Plan.from_budget(1.5, 6.0)) == "-..."
    assert Plan.from_budget(10, 6.0) == Plan.spread(7, 18)  # 8 and 12 miss the ratio as much
    assert Plan.from_budget(10, 6.0, dots_per_dash=0) == Plan("-" * 10)
    # A Dot as slow as ten Dash steps still leaves the one Dash that a plan begins with.
    assert str(Plan.from_budget(1.5, 0.1)) == "-"


@pytest.mark.parametrize("bad", ["", ".", ".-", "- .", "-_", "—", None, 10, ["-", "."]])
def test_what_is_no_plan_is_refused(bad):
    with pytest.raises(ValueError, match="Plan"):
        Plan(bad)


@pytest.mark.parametrize("lsd", [0, 0.999, -1, float("inf"), float("nan")])
def test_impossible_budgets_are_refused(lsd):
    with pytest.raises(ValueError, match="lsd="):
        Plan.from_budget(lsd, 6.0)


@pytest.mark.parametrize("dot_speed", [0, -6.0, float("inf"), float("nan")])
def test_impossible_dot_speeds_are_refused(dot_speed):
    for call in (
        Plan("-.").lsd,
        Plan("-.").gain,
        lambda speed: Plan.from_budget(10, speed),
    ):
        with pytest.raises(ValueError, match="dot_speed="):
            call(dot_speed)


@pytest.mark.parametrize("dots_per_dash", [-0.5, float("inf"), float("nan")])
def test_impossible_ratios_are_refused(dots_per_dash):
    with pytest.raises(ValueError, match="dots_per_dash="):
        Plan.from_budget(10, 6.0, dots_per_dash=dots_per_dash)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Plan.spread(0, 3), "num_dash=0"),
        (lambda: Plan.spread(2.5, 3), "num_dash=2.5"),
        (lambda: Plan.spread(3, -1), "num_dot=-1"),
        (lambda: Plan.from_positions(0, []), "num_steps=0"),
        (lambda: Plan.from_positions(4, [0, 4]), "position 4 is outside a plan of 4 steps"),
        (lambda: Plan.from_positions(4, [0, -1]), "position of a Dash=-1"),
        (lambda: Plan.from_positions(4, [0, 2, 2]), "position 2 is named twice"),
        (lambda: Plan.from_positions(4, [1]), "first step"),
    ],
)
def test_impossible_positions_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
