"""The scores of plans: the first look, what it drops, and that a run goes on where it was."""

import pytest
import torch

from morse_engine import Plan
from morse_engine.evaluation.score import score, upper_end
from morse_engine.evaluation.scores import WORSE, Scores

FULL = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
NEAR, FAR, FARTHER = Plan("---"), Plan("--"), Plan("-")
MOVED = {NEAR: 0.1, FAR: 0.1 * (0.99 * WORSE) ** 0.5, FARTHER: 0.1 * (1.01 * WORSE) ** 0.5}


def made(rows=()):
    """The scores of plans whose features are moved, what was asked for, and what was kept."""
    asked, kept = [], []

    def features(plan, first, last):
        asked.append((plan, first, last))
        return FULL[first:last] + MOVED[plan]

    return Scores(features, FULL, 4, rows, kept.append), asked, kept


def test_a_score_is_that_of_all_images():
    scores, asked, kept = made()
    expected = upper_end(FULL + MOVED[NEAR], FULL)
    assert scores(NEAR) == pytest.approx(expected, rel=1e-3)
    assert scores.looks[NEAR] == pytest.approx(score(FULL[:4] + MOVED[NEAR], FULL[:4]), rel=1e-3)
    assert asked == [(NEAR, 0, 4), (NEAR, 4, 16)]
    assert scores(NEAR) == scores.values[NEAR]
    assert len(asked) == 2
    assert kept[-1] == {"plan": "---", "look": scores.looks[NEAR], "score": scores.values[NEAR]}


def test_what_is_far_behind_its_rivals_has_a_quarter_of_its_images_made():
    scores, asked, _ = made()
    scores(NEAR)
    asked.clear()
    assert scores(FARTHER, [NEAR]) is None
    assert asked == [(FARTHER, 0, 4)]
    assert scores(FAR, [NEAR]) is not None
    assert FARTHER not in scores.values
    # Beside others it is worth more images, and is then dropped again beside the first.
    assert scores(FARTHER, [NEAR, FAR]) is not None
    asked.clear()
    assert scores(FARTHER, [NEAR]) is None
    assert scores(FARTHER) == scores.values[FARTHER]
    assert asked == []


def test_rows_of_an_earlier_run():
    first, _, kept = made()
    for plan, rivals in ((NEAR, ()), (FARTHER, [NEAR]), (FAR, [NEAR])):
        first(plan, rivals)
    again, asked, new = made(kept)
    assert (again.looks, again.values) == (first.looks, first.values)
    assert again(FARTHER, [NEAR]) is None
    assert asked == new == []
    assert again(FARTHER) is not None
    assert asked == [(FARTHER, 0, 4), (FARTHER, 4, 16)]


def test_what_is_seen_whole_is_not_dropped():
    scores = Scores(lambda plan, first, last: FULL[first:last] + MOVED[plan], FULL, len(FULL))
    scores(NEAR)
    assert scores(FARTHER, [NEAR]) == pytest.approx(
        upper_end(FULL + MOVED[FARTHER], FULL), rel=1e-3
    )


def test_a_plan_that_makes_nan_is_dropped_for_good():
    """Whenever its values come: in the first look, or behind it."""
    for first_bad in (0, 4):
        asked = []

        def features(plan, first, last, first_bad=first_bad, asked=asked):
            asked.append(first)
            return FULL[first:last] * (1.0 if last <= first_bad else float("nan"))

        kept = []
        assert Scores(features, FULL, 4, keep=kept.append)(NEAR) is None
        asked.clear()
        again = Scores(features, FULL, 4, kept)
        assert again(NEAR) is None
        assert asked == []
        assert again.values == {}
