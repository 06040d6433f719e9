"""The climb: its changes, that it finds what is near, and that it keeps within what fits."""

from random import Random

import pytest

from morse_engine import Plan
from morse_engine.evaluation.climb import changed, climb


def test_a_change_is_of_one_place_and_every_one_can_come():
    random, plan = Random(1), Plan("-:.")
    runs = [step * count for step in "-.:" for count in (1, 2, 3)]
    expected = {f"{'-:.'[:at]}{run}{'-:.'[at:]}" for at in (1, 2, 3) for run in runs}  # put in
    expected |= {f"-{run}." for run in runs} | {f"-:{run}" for run in runs}  # exchanged
    expected |= {"-:", "-."}  # left out
    expected |= {"-:.", "-.:"}  # moved
    assert {str(changed(plan, random)) for _ in range(5000)} == expected
    assert {str(changed(Plan("-"), random)) for _ in range(300)} == {f"-{run}" for run in runs}


WANTED = "-:..:-::"


def distance(plan: Plan, rivals: list[Plan] | None = None) -> float:
    """How many places differ from the wanted plan."""
    width = max(len(plan), len(WANTED))
    return sum(a != b for a, b in zip(str(plan).ljust(width), WANTED.ljust(width), strict=True))


def cheap(plan: Plan) -> bool:
    return plan.lsd(2) <= 3


def test_a_climb_comes_to_the_best_plan_that_fits():
    begin = {Plan("-:-:"): distance(Plan("-:-:")), Plan("--------"): 0.0}
    asked = []
    found = climb(begin, lambda plan, best: asked.append(plan) or distance(plan), cheap, 400)
    assert min(found, key=found.get) == Plan(WANTED)
    assert all(cheap(plan) for plan in found)
    assert asked == list(found)
    assert len(set(asked)) == len(asked)
    assert not set(asked) & set(begin)
    # The same again, and a shorter one is its beginning.
    assert climb(begin, distance, cheap, 400) == found
    assert list(climb(begin, distance, cheap, 30)) == asked[:30]


def test_what_is_far_behind_is_dropped_and_not_asked_again():
    asked, given = [], []

    def score(plan: Plan, best: list[Plan]) -> float | None:
        asked.append(plan)
        given.append(best)
        return None if distance(plan) > max(distance(one) for one in best) else distance(plan)

    begin = {Plan("-:-:"): distance(Plan("-:-:")), Plan("-"): distance(Plan("-"))}
    found = climb(begin, score, cheap, 300)
    assert len(asked) == len(set(asked)) == 300 > len(found)
    assert given[0] == sorted(begin, key=begin.get)
    assert all(len(best) <= 3 for best in given)
    assert min(found.values()) < min(begin.values())


@pytest.mark.parametrize(
    ("known", "fits", "tries"),
    [
        ({}, cheap, 10),
        ({Plan("------"): 0.0}, cheap, 10),
        ({Plan("-"): 0.0}, lambda plan: str(plan) == "-", 10),
        ({Plan("-"): 0.0}, cheap, 0),
    ],
)
def test_a_climb_without_a_way(known, fits, tries):
    assert climb(known, distance, fits, tries) == {}
