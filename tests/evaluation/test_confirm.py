"""The second look of a search: what is ahead by luck is set back, what is surely ahead stays."""

import pytest
import torch

from morse_engine import Plan
from morse_engine.evaluation import search as search_module
from morse_engine.evaluation.confirm import FIRST, TIMES, TRIED, Second, confirm
from morse_engine.evaluation.partial import Partial
from morse_engine.evaluation.score import share_nearer
from morse_engine.evaluation.search import search
from morse_engine.sampling.budget import Ranking, fits
from searches import OPTIONS, sampler

DASH = {n: Plan("-" * n) for n in (2, 3, 4)}


def alone(lsd: float) -> list[Plan]:
    return [DASH[int(lsd)].with_free(each) for each in (0, 1)]


def looked(scores, budgets, truth, speeds=()):
    """The scores after a second look at which plans have their true ones; what was looked at."""
    seen = []

    def sure(plan, others):
        seen.append(plan)
        return all(truth[plan] < truth[other] for other in others)

    kept = confirm(scores, budgets, speeds, alone, sure, lambda *_: None)
    assert kept.keys() == scores.keys()
    return kept, seen


def bought(kept, lsd, n=None) -> str:
    ranking = Ranking(kept, (lsd,), None)
    return str(next(p for p in ranking.best_first() if fits(p, lsd, n)))


def plans(**scores) -> dict[Plan, float]:
    """D for Dash, x for Dot, o for free: what Python takes as a name."""
    return {Plan(name.translate(str.maketrans("Dxo", "-.:"))): s for name, s in scores.items()}


def test_luck_is_set_back_behind_what_needs_no_search():
    first = plans(DDD=1.0, DoDoDo=0.8, DDDo=0.5, DDoD=0.6)
    truth = plans(DDD=1.0, DoDoDo=0.7, DDDo=2.0, DDoD=0.6)
    kept, seen = looked(first, [3], truth)
    assert bought(kept, 3) == "--:-"  # the next one, which is ahead
    assert seen == [Plan("-:-:-:"), Plan("---:"), Plan("--:-")]
    truth |= plans(DDoD=0.9)
    kept, _ = looked(first, [3], truth)
    assert bought(kept, 3) == "-:-:-:"
    truth |= plans(DoDoDo=1.1)
    kept, _ = looked(first, [3], truth)
    assert bought(kept, 3) == "--:-", "ahead of Dash alone, and free steps are not"
    truth |= plans(DDoD=1.1)
    kept, _ = looked(first, [3], truth)
    assert bought(kept, 3) == "---"


def test_no_more_than_some_are_looked_at():
    first = plans(DDD=1.0, DDDo=0.5, DDoD=0.6, DoDD=0.7, DDoDo=0.8)
    truth = dict.fromkeys(first, 2.0) | plans(DDD=1.0, DDoDo=0.1)
    kept, seen = looked(first, [3], truth)
    assert len(seen) == TRIED
    assert bought(kept, 3) == "---"


def test_each_budget_has_its_own_rivals():
    """What is ahead of two Dash steps need not be ahead of three, and stays what two LSD buy."""
    first = plans(DD=2.0, DDo=0.5, DDD=1.0)
    truth = plans(DD=2.0, DDo=1.5, DDD=1.0)
    kept, _ = looked(first, [2, 3], truth)
    assert (bought(kept, 2), bought(kept, 3)) == ("--:", "---")
    kept, _ = looked(first, [3], truth)
    assert bought(kept, 3) == "---"


def test_what_is_proven_at_one_speed_stays_at_a_higher_one():
    first = plans(DD=2.0, Dxx=0.9, Dxxxx=0.4)
    truth = plans(DD=2.0, Dxx=1.0, Dxxxx=3.0)
    kept, _ = looked(first, [2], truth, [2.0, 4.0])
    assert bought(kept, 2, 2.0) == "-.."
    assert bought(kept, 2, 4.0) == "-.."
    truth |= plans(Dxxxx=0.4)
    kept, _ = looked(first, [2], truth, [2.0, 4.0])
    assert bought(kept, 2, 2.0) == "-.."
    assert bought(kept, 2, 4.0) == "-...."


def test_the_share_of_draws_in_which_a_plan_is_nearer():
    generator = torch.Generator().manual_seed(0)
    full = torch.randn(64, 5, generator=generator)
    noise = torch.randn(64, 5, generator=generator)
    near, far = full + 0.1 * noise + 0.1, full + 0.1 * noise + 0.5
    assert share_nearer(near, far, full) == 1
    assert share_nearer(far, near, full) == 0
    assert share_nearer(near, near, full) == 0
    other = full + 0.101 * torch.randn(64, 5, generator=generator) + 0.1
    assert 0 < share_nearer(near, other, full) < 1
    assert share_nearer(near, other, full) + share_nearer(other, near, full) == 1
    assert share_nearer(near * float("nan"), far, full) == 0


def test_the_second_look_is_of_other_images_and_kept(tmp_path):
    made = []

    def features(plan, first, last):
        made.append((plan, first, last))
        generator = torch.Generator().manual_seed(0)
        full = torch.randn(last - first, 3, generator=generator)
        return full + (3 - plan.num_dash)

    for _ in range(2):
        second = Second(features, 10, DASH[3], Partial(tmp_path))
        assert second(DASH[3], [DASH[2]])
        assert not second(DASH[2], [DASH[3]])
    assert len(made) == 2
    assert {*made} == {(plan, 10, 10 + TIMES * 10) for plan in (DASH[2], DASH[3])}


def test_a_search_looks_again(tmp_path, monkeypatch):
    """A score of the first images that the others do not bear out buys nothing."""
    describe, lucky = search_module._describe, Plan("-:-:-:")
    full = Plan("-" * 40)

    def of(sampler, see, clamp, batch_size, given, plan, start, stop):
        flattered = plan == lucky and stop <= OPTIONS["num_images"]
        worse = plan == lucky and not flattered
        made = describe(
            sampler, see, clamp, batch_size, given, full if flattered else plan, start, stop
        )
        return made + (10.0 if worse else 0.0)

    monkeypatch.setattr(search_module, "_describe", of)
    seen = []
    ranking = search(
        sampler(dot=None), [3], folder=tmp_path, on_plan=lambda *a: seen.append(a),
        **{k: v for k, v in OPTIONS.items() if k != "dot_speed"},
    )  # fmt: skip
    first = {plan: value for plan, value, part in seen if part <= FIRST}
    assert first[lucky] < first[Plan("---")]
    assert ranking.scores[lucky] > ranking.scores[Plan("---")]
    best = next(plan for plan in ranking.best_first() if plan.num_dash <= 3)
    assert best != lucky
    assert seen[-1][0] == best
    assert seen[-1][2] == pytest.approx(1)
