"""The search of plans: its candidates, what it refuses, and that it goes on where it was."""

import json
from statistics import fmean

import pytest
from diffusers import DDIMScheduler, DDPMScheduler, HeunDiscreteScheduler

import morse_engine
from morse_engine import Plan, Refused, evaluation
from morse_engine.evaluation.confirm import FIRST
from morse_engine.evaluation.search import SEED, check, search
from morse_engine.evaluation.survey import candidates, survey
from morse_engine.sampling import budget
from searches import OPTIONS, TABLE, model, sampler

# -- candidates ------------------------------------------------------------------------------------


@pytest.mark.parametrize("speed", [None, 0.4, 1.7, 2, 7.5])
@pytest.mark.parametrize("lsd", [1, 2, 3, 4.5, 8])
def test_candidates_are_within_the_budget(lsd, speed):
    plans = candidates(lsd, speed)
    assert len(plans) == len(set(plans))
    most = int(lsd)
    for free in ("", ":", "::"):  # what nothing may be worse than
        assert Plan(f"-{free}" * most) in plans
    for plan in plans:
        cost = plan.num_dash if speed is None else plan.lsd(speed)
        assert lsd - 1 < cost <= lsd
        assert plan.num_dot <= 6 * plan.num_dash
        assert speed is not None or not plan.num_dot
        assert plan.num_free in (0, plan.num_dash + plan.num_dot, 2 * (len(plan) - plan.num_free))


def test_candidates_have_the_plans_of_the_trial():
    assert {Plan("-:.:.:-:.:.:"), Plan("-..-..")} <= set(candidates(4, 2))
    assert Plan("-:.:.:.:.:-:.:.:.:.:") in candidates(3, 8)


# -- the search ------------------------------------------------------------------------------------


def test_search_writes_what_compile_reads(tmp_path):
    seen = []
    made = sampler()
    ranking = search(made, [3, 4], folder=tmp_path, on_plan=lambda *a: seen.append(a), **OPTIONS)
    plans = {*candidates(3, 2.0), *candidates(4, 2.0)}
    assert {plan for plan in plans if not plan.num_dot} < set(ranking.scores)
    assert set(ranking.scores) <= plans | {Plan("-" * 40)}
    assert {plan for plan, *_ in seen} == plans
    dropped = {plan for plan, value, _ in seen if value == float("inf")}
    assert dropped
    assert set(ranking.scores) == plans - dropped | {Plan("-" * 40)}
    assert seen[-1][2] == 1
    assert budget.read(tmp_path) == {"ddim": ranking}
    assert (ranking.budgets, ranking.speeds) == ((3, 4), (2.0, 2.0))
    # More steps are better: the scores say so, and so is what is chosen.
    assert ranking.scores[Plan("----")] < ranking.scores[Plan("---")]
    options = {"scheduler": made.scheduler, "shape": (1, 8, 8), "dot_speed": 2.0}
    bought = morse_engine.compile(
        model, evaluation.extrapolate, plan="auto", budget=4, plans=tmp_path, **options
    )
    within = {plan: s for plan, s in ranking.scores.items() if plan.lsd(2.0) <= 4}
    assert ranking.scores[bought.plan] == min(within.values())
    assert f"a search in {tmp_path}" in bought.report().chosen


def test_a_search_climbs_from_the_candidates_at_each_budget(tmp_path, monkeypatch):
    """With the Dot and without, from the best so far; one that was stopped goes on the same."""
    seen = []
    options = OPTIONS | {"tries": 6, "num_images": 16, "batch_size": 8}
    ranking = search(
        sampler(), [2, 3], folder=tmp_path / "a", on_plan=lambda *a: seen.append(a), **options
    )
    assert {plan for plan, score, _ in seen if score < float("inf")} < {*ranking.scores}
    assert seen[-1][2] == 1
    plans = [plan for plan, _, part in seen if part <= FIRST]
    at = 0
    for lsd, n in ((2, None), (2, 2.0), (3, None), (3, 2.0)):
        even = candidates(lsd, n)
        assert plans[at : at + len(even)] == even
        climbed = plans[at + len(even) :][:6]
        assert len(climbed) == 6
        assert all(budget.fits(plan, lsd, n) for plan in climbed)
        assert not set(climbed) & set(even)
        at += len(even) + 6
        alone = [plan for plan in even if not plan.num_dot]
        assert {*alone} <= {*ranking.scores}
    assert at == len(plans)

    def stopped(plan, found, part):
        if part > 0.7 * FIRST:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(sampler(), [2, 3], folder=tmp_path / "b", on_plan=stopped, **options)
    calls, call = [], type(sampler()).__call__

    def called(self, **words):
        if words["seed"] < SEED + 16:  # of the first look
            calls.append(self.plan)
        return call(self, **words)

    monkeypatch.setattr(type(sampler()), "__call__", called)
    assert search(sampler(), [2, 3], folder=tmp_path / "b", **options) == ranking
    assert set(calls) - {Plan("--.")} < set(plans[len(plans) // 2 :])


def test_a_climb_is_where_the_next_budget_begins():
    """Of two Dash steps those with the most free steps at the end are the best here."""
    rivals = {}

    def score(plan, beside):
        rivals[plan] = list(beside)
        return 1 / (1 + plan.free_behind(len(plan) - 1 - str(plan)[::-1].index("-")))

    survey([2, 3], [2.0], score, lambda plan: True, lambda lsd: [], 20, lambda *_: None)
    even = {plan for lsd in (2, 3) for n in (None, 2.0) for plan in candidates(lsd, n)}
    first = next(beside for plan, beside in rivals.items() if plan.num_dash == 2 and plan.num_dot)
    assert first
    assert not set(first) <= even  # a candidate beside what a climb without Dot has come to


def test_budgets_that_repeat_and_climbs_without_a_way(tmp_path):
    """Each budget once; tries that a climb has left over count as done."""
    parts = []
    alone = sampler(DDIMScheduler(timestep_spacing="trailing", clip_sample=False), dot=None)
    options = {k: v for k, v in OPTIONS.items() if k != "dot_speed"} | {"tries": 4}
    search(alone, [3, 2, 3.0], folder=tmp_path, on_plan=lambda *a: parts.append(a[2]), **options)
    first = [part / FIRST for part in parts if part <= FIRST]
    assert first == pytest.approx([0.1, 0.2, 0.6])  # "--", "-" of ten, "---"
    assert parts[3:] == pytest.approx([(1 + FIRST) / 2, 1])  # looked at again, at two budgets


def test_the_full_run_is_no_candidate(tmp_path):
    """Heun makes odd numbers of calls, so that of four Dash steps is of three."""
    made = sampler(HeunDiscreteScheduler())
    seen = []
    options = OPTIONS | {"full_steps": 4, "tries": 3}
    ranking = search(made, [3], folder=tmp_path, on_plan=lambda *a: seen.append(a), **options)
    assert Plan("---") not in {plan for plan, _, part in seen if part <= FIRST}
    assert ranking.scores[Plan("---")] == 0


def test_search_without_a_dot_and_without_a_range(tmp_path):
    options = {k: v for k, v in OPTIONS.items() if k != "dot_speed"}
    made = sampler(DDIMScheduler(timestep_spacing="trailing", clip_sample=False), dot=None)
    ranking = search(made, [3], folder=tmp_path, **options)
    assert set(ranking.scores) == {Plan("---"), Plan("-" * 40)}
    assert ranking.speeds is None
    made = sampler(dot=None)
    ranking = search(made, [3], folder=tmp_path / "clipped", **options)
    assert Plan("-:-:-:") in ranking.scores
    assert (
        json.loads((tmp_path / "plans.json").read_text())["solvers"]["ddim"]["dot_speeds"] is None
    )


@pytest.mark.parametrize(
    ("scheduler", "num_images"), [(DDIMScheduler(), 66), (DDPMScheduler(), 258)]
)
@pytest.mark.parametrize("plan", ["-", "---"])
def test_solvers_that_add_noise_need_more_images(scheduler, num_images, plan):
    """Whatever the plan of the sampler is: one step alone adds none. In whole batches."""
    asked = check(sampler(scheduler).with_plan(plan), [2], batch_size=6)
    assert asked.num_images == num_images


def test_scores_of_more_images_agree(tmp_path):
    """A ranking by 32 images is nearly that by 128: the order of Dash alone is the same."""
    few = search(sampler(), [2, 3, 4, 5], folder=tmp_path / "few", **OPTIONS)
    many = OPTIONS | {"num_images": 128}
    many = search(sampler(), [2, 3, 4, 5], folder=tmp_path / "many", **many)
    alone = [Plan("-" * n) for n in (5, 4, 3, 2)]
    for ranking in (few, many):
        values = [ranking.scores[plan] for plan in alone]
        assert values == sorted(values)
    assert fmean(few.scores.values()) == pytest.approx(fmean(many.scores.values()), rel=0.5)


@pytest.mark.parametrize(
    ("budgets", "options", "said"),
    [
        ([], {}, "give a list of LSD"),
        ("46", {}, "give a list of LSD"),
        ([0.5], {}, "budget=0.5"),
        ([float("nan")], {}, "a budget=nan"),
        (["4"], {}, "a budget='4'"),
        ([40], {}, "no less than full_steps=40"),
        ([3], {"batch_size": 5}, "whole batches"),
        ([3], {"batch_size": 0}, "batch_size=0"),
        ([3], {"batch_size": 8.0}, "batch_size=8.0"),
        ([3], {"num_images": 1, "batch_size": 1}, "num_images=1"),
        ([3], {"num_images": 10**9}, "num_images=1000000000"),
        ([3], {"tries": -1}, "tries=-1"),
        ([3], {"full_steps": "x"}, "full_steps='x'"),
        ([3], {"dot_speed": [2.0, 0]}, "dot_speed=0"),
        ([3], {"folder": ""}, "folder=''"),
        ([3], {"features": 3}, "features is a int"),
        ([3], {"on_plan": lambda: None}, "on_plan cannot be called"),
        ([3], {"guidance_scale": 2.0}, "no condition to guide by"),
    ],
)
def test_wrong_searches(budgets, options, said, tmp_path):
    with pytest.raises(Refused, match=said):
        search(sampler(), budgets, **{"folder": tmp_path, **OPTIONS, **options})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrong", [None, model, sampler().with_table(Plan("-"), TABLE)])
def test_a_search_needs_a_whole_sampler(wrong, tmp_path):
    with pytest.raises(Refused, match="pass what compile"):
        search(wrong, [3], folder=tmp_path, **OPTIONS)


@pytest.mark.parametrize(
    ("features", "said"),
    [
        (lambda x: x, r"features made \(16, 1, 8, 8\)"),
        (lambda x: None, "features made None"),
        (lambda x: x.flatten(1) * float("nan"), "hold NaN"),
    ],
)
def test_features_without_a_score(features, said, tmp_path):
    """Nothing of them is kept: no ranking, no features of the full run."""
    with pytest.raises(Refused, match=said):
        search(sampler(), [3], folder=tmp_path, features=features, **OPTIONS)
    assert budget.read(tmp_path) == {}
    assert not list(tmp_path.rglob("full.pt"))


def test_images_that_are_not_finite_are_not_ranked(tmp_path):
    broken = morse_engine.compile(lambda x, t: x * float("nan"), plan="-", shape=(1, 8, 8))
    with pytest.raises(Refused, match="the full run or their features hold NaN"):
        search(broken, [3], folder=tmp_path, **OPTIONS)
    assert budget.read(tmp_path) == {}


def test_a_dot_that_makes_nan_has_no_score(tmp_path):
    """Its plans are left out, now and when the search goes on."""

    def broken(x, timestep, *_):
        return x * (0.0 if float(timestep) > 400 else float("nan"))

    made, said = sampler(dot=broken), []
    options = OPTIONS | {"on_plan": lambda plan, value, part: said.append((plan, value))}
    for _ in range(2):
        said.clear()
        ranking = search(made, [3], folder=tmp_path, **options)
        assert {Plan("---"), Plan("-:-:-:")} < set(ranking.scores)
        assert all(value < float("inf") for value in ranking.scores.values())
        assert (Plan("-.-."), float("inf")) in said
    assert budget.read(tmp_path) == {"ddim": ranking}


@pytest.mark.parametrize("dot", [None, evaluation.extrapolate])
def test_what_a_budget_buys_alone_is_ranked_with_heun_too(dot, tmp_path):
    """It makes odd numbers of calls: of four Dash steps three, and one free step less."""
    options = {k: v for k, v in OPTIONS.items() if dot is not None or k != "dot_speed"}
    made = sampler(HeunDiscreteScheduler(clip_sample=True), dot)
    made = morse_engine.compile(
        model, dot, plan="-", shape=(1, 8, 8), scheduler=made.scheduler, clean_range=(-1, 1)
    )
    ranking = search(made, [4], folder=tmp_path, **options)
    assert {Plan("---"), Plan("-:-:-"), Plan("-::-::-::")} < set(ranking.scores)


def test_a_speed_beyond_all_measure_makes_no_endless_plans():
    assert max(plan.num_dot for plan in candidates(4.5, 1e308)) == 6 * 4
