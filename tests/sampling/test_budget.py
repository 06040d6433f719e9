"""The policy by which a budget becomes a plan."""

import pytest
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
)
from hypothesis import given
from hypothesis import strategies as st

from morse_engine import Plan, Refused, SolverTable
from morse_engine.sampling.budget import plan_of

SCHEDULERS = [DDIMScheduler(), DPMSolverMultistepScheduler(), EulerDiscreteScheduler()]


@given(st.floats(1, 40), st.floats(0.1, 40), st.sampled_from(SCHEDULERS))
def test_a_budget_is_never_exceeded_and_half_of_it_is_dashs(lsd, speed, scheduler):
    plan = plan_of(lsd, scheduler, speed)
    assert plan.lsd(speed) <= lsd
    # Whole steps come as near to the ratio as they can: one Dash step off at the most.
    assert plan.num_dot / speed <= plan.num_dash + 1


def test_the_plans_of_the_published_rows():
    """Those of benchmarks/results/quality.json, measured at N = 7.54."""
    ddim, dpm = SCHEDULERS[:2]
    assert str(plan_of(4, ddim, 7.54)) == "-...-..-.."
    assert str(plan_of(8, ddim, 7.54)) == "-........-.......-........-......."
    assert plan_of(6, dpm, 7.54) == Plan.from_budget(6, 7.54, dots_per_dash=1)


def test_speed_is_measured_only_where_it_is_needed():
    asked = []

    def measure() -> float:
        asked.append(1)
        return 6.0

    assert plan_of(4, SCHEDULERS[2], measure) == Plan.from_budget(4, 6.0)
    assert asked == [1]
    assert str(plan_of(4.7, SCHEDULERS[0], None)) == "----"


@pytest.mark.parametrize("lsd", [0.5, 0, -1, float("nan"), float("inf")])
@pytest.mark.parametrize("speed", [None, 6.0])
def test_impossible_budgets_are_refused(lsd, speed):
    with pytest.raises(Refused, match="budget="):
        plan_of(lsd, SCHEDULERS[0], speed)


@pytest.mark.parametrize("speed", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_speeds_are_refused(speed):
    with pytest.raises(Refused, match="dot_speed="):
        plan_of(4, SCHEDULERS[0], speed)


@pytest.mark.parametrize("speed", [None, 7.5])
@pytest.mark.parametrize("lsd", [3, 4, 6, 6.5, 10])
def test_a_budget_buys_a_number_of_calls_that_the_solver_can_make(lsd, speed):
    plan = plan_of(lsd, HeunDiscreteScheduler(), speed)  # odd numbers alone
    assert len(SolverTable.for_calls(HeunDiscreteScheduler(), len(plan))) == len(plan)
    assert plan.lsd(speed or 1.0) <= lsd
