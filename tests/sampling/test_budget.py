"""The policy by which a budget becomes a plan."""

import json

import pytest
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
)
from hypothesis import given
from hypothesis import strategies as st

from morse_engine import Plan, Refused, SolverTable
from morse_engine.sampling import budget, schedulers
from morse_engine.sampling.budget import Ranking, choose

SCHEDULERS = [DDIMScheduler(), DPMSolverMultistepScheduler(), EulerDiscreteScheduler()]
RANGE = (-1, 1)
OWN = Ranking(
    {
        Plan("-:.:-:.:"): 0.1,
        Plan("----"): 0.2,
        Plan("-.-."): 0.2,
        Plan("-:-:-:-:"): 0.15,
        Plan("---"): 0.4,
    },
    (3, 4),
    (2.0, 2.0),
)
GAP = Ranking({Plan("--"): 0.4, Plan("-" * 8): 0.1, Plan("-:" * 8): 0.01}, (2, 8), None)


def test_the_table_of_the_package_is_there():
    """Whoever made it, for these solvers at least, with what nothing may be worse than."""
    table = budget.read(budget.TABLE)
    assert {"ddim", "dpm"} <= set(table)
    for ranking in table.values():
        for n in range(3, 9):
            assert Plan("-" * n) in ranking.scores


@given(st.floats(1, 40), st.none() | st.floats(0.1, 40), st.sampled_from(SCHEDULERS))
def test_a_budget_is_never_exceeded(lsd, speed, scheduler):
    plan, _ = choose(lsd, scheduler, speed)
    cost = plan.num_dash if speed is None else plan.lsd(speed)
    assert cost <= lsd
    assert speed is not None or not plan.num_dot


@given(st.floats(1, 12), st.none() | st.floats(0.5, 12), st.sampled_from(["ddim", "dpm"]))
def test_never_worse_than_dash_or_free_steps(lsd, speed, name):
    """By the score, of all plans of the table within the budget."""
    scheduler = schedulers.make(name, schedulers.LINEAR_BETAS)
    scores = budget.read(budget.TABLE)[name].scores
    plan, _ = choose(lsd, scheduler, speed)
    free = {p: s for p, s in scores.items() if not p.num_dot and p.num_dash <= lsd}
    if plan in scores:  # else there are more Dash steps than any plan of the table has
        assert scores[plan] <= min(free.values(), default=scores[plan])


def test_a_search_answers_for_the_budgets_that_it_looked_at(tmp_path):
    budget.write(tmp_path, {"ddim": GAP})
    options = {"clean_range": RANGE, "folder": tmp_path}
    for lsd, own in ((1.9, False), (2.9, True), (3, False), (7, False), (8, True), (9, False)):
        why = choose(lsd, DDIMScheduler(), None, **options).why
        assert ("by a search" in why) is own, (lsd, why)


def test_beyond_the_table_as_many_dash_steps_as_fit(monkeypatch):
    """Alone, where the line between those that were ranked says so; else with free steps."""
    scores = GAP.scores | {Plan("-" * 20): 0.02, Plan("-" * 30): 0.0}
    assert [Ranking(scores, (2, 8), None).of_dash(n) for n in (1, 2, 5, 25, 40)] == pytest.approx(
        [float("inf"), 0.4, 0.25, 0.01, 0.0]
    )
    monkeypatch.setattr(budget, "_table", lambda: {"ddim": Ranking(scores, (2, 8), None)})
    for lsd, plan in ((8.9, "-:" * 8), (12, "-:" * 12), (24, "-:" * 24), (26, "-" * 26)):
        assert str(choose(lsd, DDIMScheduler(), None, clean_range=RANGE).plan) == plan
    assert str(choose(12, DDIMScheduler(clip_sample=False), None).plan) == "-" * 12


def test_the_best_score_within_the_budget(tmp_path):
    budget.write(tmp_path, {"ddim": OWN})
    ddim, options = SCHEDULERS[0], {"clean_range": RANGE, "folder": tmp_path}
    plan, why = choose(3, ddim, 2.0, **options)
    assert str(plan) == "-:.:-:.:"
    assert str(tmp_path) in why
    assert "N = 2" in why
    assert str(choose(4, ddim, 2.0, **options).plan) == "-:.:-:.:"  # the best, if not the dearest
    plans = dict(OWN.scores)
    del plans[Plan("-:.:-:.:")]
    budget.write(tmp_path, {"ddim": Ranking(plans, (3, 4), (2.0, 2.0))})
    assert str(choose(4, ddim, 2.0, **options).plan) == "-:-:-:-:"
    # Free steps need a range: DDIM clips, and so knows one, but not with clip_sample=False.
    unknown = DDIMScheduler(clip_sample=False)
    assert str(choose(4, unknown, 2.0, folder=tmp_path).plan) == "----"  # ties to fewer helpers
    assert str(choose(4, unknown, 2.0, **options).plan) == "-:-:-:-:"
    # All Dash are as many as fit: more than the ranking has.
    assert str(choose(4.9, unknown, 2.0, folder=tmp_path).plan) == "----"


@pytest.mark.parametrize(("lsd", "speed"), [(2.9, 2.0), (5, 2.0)])
def test_a_search_decides_for_what_it_was_made_for(tmp_path, lsd, speed):
    budget.write(tmp_path, {"ddim": OWN})
    options = {"clean_range": RANGE, "folder": tmp_path}
    _, why = choose(lsd, SCHEDULERS[0], speed, **options)
    assert str(tmp_path) not in why
    assert "the table of the package" in why
    assert str(choose(3, SCHEDULERS[0], None, **options).plan) == "---"  # it has what needs no Dot


@pytest.mark.parametrize(("speed", "plan"), [(1.5, "---"), (2.6, "-:.:-:.:"), (20.0, "-:.:-:.:")])
def test_a_search_decides_at_any_speed(tmp_path, speed, plan):
    """What it scored is of this model; the table of the package is not."""
    budget.write(tmp_path, {"ddim": OWN})
    found = choose(3, SCHEDULERS[0], speed, clean_range=RANGE, folder=tmp_path)
    assert str(found.plan) == plan
    assert str(tmp_path) in found.why


def test_a_search_decides_for_the_same_solver_in_other_coordinates(tmp_path):
    """Where none was made with that one; a solver that is only near has the package's table."""
    options = {"clean_range": RANGE, "folder": tmp_path}
    budget.write(tmp_path, {"ddim": OWN})
    plan, why = choose(4, EulerDiscreteScheduler(), 2.0, **options)
    assert str(plan) == "-:.:-:.:"
    assert f"a search in {tmp_path} with ddim" in why
    for other in (EulerDiscreteScheduler(use_karras_sigmas=True), HeunDiscreteScheduler()):
        assert str(tmp_path) not in choose(4, other, 2.0, **options).why
    budget.write(tmp_path, {"euler": GAP})
    assert choose(8, EulerDiscreteScheduler(), None, **options).why.endswith(
        f"a search in {tmp_path}, score 0.01"
    )
    assert "with ddim" in choose(4, EulerDiscreteScheduler(), None, **options).why
    budget.write(tmp_path, {"ddpm": OWN})
    plan, why = choose(3, EulerAncestralDiscreteScheduler(), 2.0, **options)
    assert f"a search in {tmp_path} with ddpm, score 0.1" in why


def test_solvers_that_were_not_ranked(tmp_path):
    assert choose(4, EulerDiscreteScheduler(), None, clean_range=RANGE).plan == (
        choose(4, SCHEDULERS[0], None, clean_range=RANGE).plan
    )
    plan, why = choose(4, LCMScheduler(), 6.0, clean_range=RANGE)
    assert str(plan) == "----"
    assert "no plans were compared" in why


def test_names_of_schedulers():
    for name in schedulers.SOLVERS:
        config = {} if name in ("flow", "vp-sde", "ve-sde") else schedulers.LINEAR_BETAS
        kind = {"flow": {"shift": 1.0}, "vp-sde": {"beta_min": 0.1}, "ve-sde": {"snr": 0.1}}
        made = schedulers.make(name, config or kind[name])
        assert schedulers.name_of(made) == name
    assert schedulers.name_of(DDPMScheduler()) == "ddpm"
    odd = DPMSolverMultistepScheduler(solver_order=3)
    assert schedulers.name_of(odd) == "DPMSolverMultistepScheduler"


def test_speed_is_measured_only_where_it_is_needed(tmp_path):
    asked = []

    def measure() -> float:
        asked.append(1)
        return 2.0

    budget.write(tmp_path, {"ddim": OWN})
    assert choose(3, SCHEDULERS[0], measure, clean_range=RANGE, folder=tmp_path).plan.num_dot
    assert asked == [1]
    choose(3, LCMScheduler(), measure)  # nothing to spend it on
    assert asked == [1]
    assert not choose(4.7, SCHEDULERS[0], None).plan.num_dot


@pytest.mark.parametrize("lsd", [0.5, 0, -1, float("nan"), float("inf")])
@pytest.mark.parametrize("speed", [None, 6.0])
def test_impossible_budgets_are_refused(lsd, speed):
    with pytest.raises(Refused, match="budget="):
        choose(lsd, SCHEDULERS[0], speed)


@pytest.mark.parametrize("speed", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_speeds_are_refused(speed):
    with pytest.raises(Refused, match="dot_speed="):
        choose(4, SCHEDULERS[0], speed)


@pytest.mark.parametrize("speed", [None, 7.5])
@pytest.mark.parametrize("lsd", [3, 4, 6, 6.5, 10])
def test_a_budget_buys_a_number_of_calls_that_the_solver_can_make(lsd, speed):
    plan, _ = choose(lsd, HeunDiscreteScheduler(), speed)  # odd numbers alone
    assert len(SolverTable.for_calls(HeunDiscreteScheduler(), len(plan))) == len(plan)
    assert plan.lsd(speed or 1.0) <= lsd


def test_the_file(tmp_path):
    assert budget.read(tmp_path) == {}
    alone = Ranking({Plan("--"): 0.5}, (2, 2), None)
    budget.write(tmp_path / "new", {"dpm": alone})
    path = budget.write(tmp_path / "new", {"ddim": OWN})  # beside what is there
    assert budget.read(path.parent) == {"ddim": OWN, "dpm": alone}
    for wrong, said in [
        ("{", "damaged"),
        ("[]", "damaged"),
        ('{"format_version": 1}', "damaged"),
        (json.dumps({"format_version": 2, "solvers": {}}), "version 2"),
        (path.read_text().replace('"-.-."', '"x"'), "damaged"),
    ]:
        path.write_text(wrong)
        with pytest.raises(Refused, match=said):
            budget.read(path.parent)


def test_dots_of_solvers_that_add_noise(tmp_path):
    """Only those that a search has found to be good there; who has a Dot is told."""
    options = {"clean_range": RANGE, "folder": tmp_path}
    for lsd in range(3, 9):
        assert not choose(lsd, DDPMScheduler(), 8.0, **options).plan.num_dot
        assert "a search is needed" in choose(lsd, DDPMScheduler(), 8.0, **options).why
        assert "a search is needed" not in choose(lsd, DDPMScheduler(), None, **options).why
        assert "a search is needed" not in choose(lsd, DDIMScheduler(), 8.0, **options).why
    budget.write(
        tmp_path, {"ddpm": Ranking({Plan("-:.:"): 0.1, Plan("--"): 0.3}, (2,), (2.0, 2.0))}
    )
    assert str(choose(2, DDPMScheduler(), 2.0, **options).plan) == "-:.:"


def test_a_search_with_other_sigmas_is_another_ranking(tmp_path):
    plain = DPMSolverMultistepScheduler()
    karras = DPMSolverMultistepScheduler(use_karras_sigmas=True)
    assert [schedulers.ranked_as(s) for s in (plain, karras)] == ["dpm", "dpm-karras"]
    options = {"clean_range": RANGE, "folder": tmp_path}
    table = choose(4, karras, 2.0, clean_range=RANGE)
    budget.write(tmp_path, {"dpm": OWN})
    assert str(choose(4, plain, 2.0, **options).plan) == "-:.:-:.:"
    assert choose(4, karras, 2.0, **options) == table
    budget.write(tmp_path, {"dpm-karras": OWN})
    assert str(choose(4, karras, 2.0, **options).plan) == "-:.:-:.:"


def test_ancestral_euler_takes_the_plans_of_ddpm():
    """It is DDPM in other coordinates."""
    euler = schedulers.make("euler-ancestral", schedulers.LINEAR_BETAS)
    ddpm = schedulers.make("ddpm", schedulers.LINEAR_BETAS)
    for lsd, speed in ((4, None), (4, 3.0), (6, 8.0)):
        plan = choose(lsd, euler, speed, clean_range=RANGE).plan
        assert plan == choose(lsd, ddpm, speed, clean_range=RANGE).plan
        assert plan.num_free


@pytest.mark.parametrize("name", ["ddpm", "dpm-sde", "euler-ancestral"])
def test_with_guidance_noisy_solvers_have_free_steps_between_many_dash_steps_alone(name, tmp_path):
    """What the table says of few is not true of a model with guidance."""
    scheduler = schedulers.make(name, schedulers.LINEAR_BETAS)
    options = {"clean_range": RANGE}
    for lsd in range(1, 6):
        assert not choose(lsd, scheduler, 3.0, guided=True, **options).plan.num_free
        assert lsd < 3 or choose(lsd, scheduler, None, guided=False, **options).plan.num_free
    assert choose(6, scheduler, None, guided=True, **options).plan.num_free
    assert choose(4, SCHEDULERS[0], None, guided=True, **options).plan.num_free
    # A search has looked at the model itself.
    budget.write(tmp_path, {name: Ranking({Plan("---"): 0.2, Plan("-:-:-:"): 0.1}, (3,), None)})
    found = choose(3, scheduler, None, guided=True, folder=tmp_path, **options)
    assert str(found.plan) == "-:-:-:"


def test_a_folder_of_plans_that_holds_none_is_refused(tmp_path):
    """Else the table of the package would decide, and the user would think the search did."""
    assert budget.searched(None) is None
    for wrong in (tmp_path, tmp_path / "none"):
        with pytest.raises(Refused, match=r"no plans.json is there; name the folder of a search"):
            budget.searched(wrong)
    budget.write(tmp_path, {"ddim": OWN})
    assert budget.searched(str(tmp_path)) == tmp_path
