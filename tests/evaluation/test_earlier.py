"""A search that goes on: what it keeps, and what it refuses as another one."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import HeunDiscreteScheduler

import morse_engine
from morse_engine import Plan, Refused, Unavailable, evaluation
from morse_engine.evaluation.search import SEED, search
from morse_engine.sampling import budget
from morse_engine.system.lock import alone
from searches import OPTIONS, model, sampler


def test_search_goes_on_where_it_was(tmp_path, monkeypatch):
    calls = []
    made = sampler()
    call = type(made).__call__
    monkeypatch.setattr(
        type(made), "__call__", lambda s, **a: calls.append((s.plan, a["seed"])) or call(s, **a)
    )

    def stopped(plan, found, part):
        if len(calls) > 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(made, [3], folder=tmp_path, on_plan=stopped, **OPTIONS)
    assert budget.read(tmp_path) == {}
    first = set(calls)
    calls.clear()
    found = search(made, [3], folder=tmp_path, **OPTIONS)
    looked_at = Plan("--."), SEED  # again, whether the models are the same
    assert first & set(calls) == {looked_at}
    calls.clear()
    assert search(made, [3], folder=tmp_path, **OPTIONS) == found
    assert calls == [looked_at]
    with pytest.raises(ValueError, match="num_images=32, this run has 16"):
        search(made, [3], folder=tmp_path, **OPTIONS | {"num_images": 16})
    other = search(sampler(HeunDiscreteScheduler()), [3], folder=tmp_path, **OPTIONS)
    assert set(budget.read(tmp_path)) == {"ddim", "heun"}
    assert all(len(plan) % 2 for plan in other.scores)  # it makes odd numbers of calls alone


def test_a_look_of_another_size_is_another_search(tmp_path):
    search(sampler(), [2], folder=tmp_path, **OPTIONS)
    with pytest.raises(Refused, match="was made with look=16, this run has 8"):
        search(sampler(), [2], folder=tmp_path, **OPTIONS | {"batch_size": 8})


def test_a_search_that_goes_on_keeps_the_speed_that_was_measured(tmp_path, monkeypatch):
    options, measured = {k: v for k, v in OPTIONS.items() if k != "dot_speed"}, [2.0, 3.0, 9.0]
    made = sampler()
    monkeypatch.setattr(
        type(made), "measure", lambda *_, **__: SimpleNamespace(dot_speed=measured.pop(0))
    )

    def stopped(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(made, [3], folder=tmp_path, on_plan=stopped, **options)
    assert search(made, [3], folder=tmp_path, **options).speeds == (2.0, 3.0)  # at 1 and at 16
    assert measured == [9.0]


def test_scores_are_of_one_condition_one_function_and_one_range(tmp_path):
    def told(x, timestep, text):
        return model(x, timestep) + 0 * text.mean()

    def other(x, timestep, text):
        return told(x, timestep, text)

    def of(dash, **options):
        return morse_engine.compile(dash, plan="-", shape=(1, 8, 8), **options)

    text = {"text": torch.zeros(16, 2)}
    search(of(told), [2], folder=tmp_path, **OPTIONS, **text)
    for made, cond, said in (
        (of(told), {"text": torch.ones(16, 2)}, "cond="),
        (of(other), text, "dash="),
        (of(told, clean_range=(0, 1)), text, "clean_range="),
    ):
        with pytest.raises(Refused, match=f"was made with {said}"):
            search(made, [2], folder=tmp_path, **OPTIONS, **cond)


def test_one_search_in_a_folder_and_damaged_rows(tmp_path):
    with alone(tmp_path), pytest.raises(Unavailable, match="in use"):
        search(sampler(), [3], folder=tmp_path, **OPTIONS)
    search(sampler(), [3], folder=tmp_path, **OPTIONS)
    (tmp_path / "plans-ddim.partial" / "asked.json").write_text('{"budgets": 3}')
    with pytest.raises(Refused, match=r"asked\.json is damaged"):
        search(sampler(), [3], folder=tmp_path, **OPTIONS)
    (tmp_path / "plans-ddim.partial" / "rows.jsonl").write_text("{}\n")
    with pytest.raises(Refused, match="is damaged"):
        search(sampler(), [3], folder=tmp_path, **OPTIONS)


def test_budgets_of_an_earlier_search_still_count(tmp_path):
    first = search(sampler(), [4], folder=tmp_path, **OPTIONS)
    both = search(sampler(), [2.5], folder=tmp_path, **OPTIONS | {"dot_speed": 3.0})
    assert first.scores.items() <= both.scores.items()
    assert (both.budgets, both.speeds) == ((2.5, 4), (2.0, 3.0))
    assert [both.covers(lsd, 2.0) for lsd in (2, 2.5, 3.4, 3.5, 4.9, 5)] == [
        *(False, True, True, False, True, False)
    ]
    # A file of another search is replaced.
    budget.write(tmp_path, {"ddim": budget.Ranking({Plan("---"): 7.0}, (3,), None)})
    again = search(sampler(), [2.5], folder=tmp_path, **OPTIONS)
    assert again.budgets == both.budgets
    assert Plan("---") not in again.scores  # of four LSD; its score was of no search here
    assert budget.read(tmp_path) == {"ddim": again}


def test_what_functions_are_called_does_not_make_them_the_same(tmp_path):
    def scaled(by):
        return lambda x, timestep: model(x, timestep) * by

    def of(dash, dot=evaluation.extrapolate):
        return morse_engine.compile(dash, dot, plan="-", shape=(1, 8, 8))

    search(of(scaled(1.0)), [2], folder=tmp_path, **OPTIONS)
    search(of(scaled(1.0)), [2], folder=tmp_path, **OPTIONS)
    with pytest.raises(Refused, match="another model, features or conditions"):
        search(of(scaled(0.8)), [2], folder=tmp_path, **OPTIONS)

    class Other:
        def __call__(self, x, *_, **__):
            return 0.5 * x

    other = Other()
    other.__qualname__ = evaluation.extrapolate.__qualname__
    with pytest.raises(Refused, match="another model, features or conditions"):
        search(of(scaled(1.0), other), [2], folder=tmp_path, **OPTIONS)
    features = tmp_path / "features"
    search(sampler(), [2], folder=features, features=lambda x: x.flatten(1), **OPTIONS)
    with pytest.raises(Refused, match="another model, features or conditions"):
        search(sampler(), [2], folder=features, features=lambda x: x.mean((2, 3)), **OPTIONS)


def test_the_speed_is_measured_once_at_each_batch_size(tmp_path, monkeypatch):
    options, measured = {k: v for k, v in OPTIONS.items() if k != "dot_speed"}, [2.0, 3.0, 9.0, 5.0]
    monkeypatch.setattr(
        type(sampler()), "measure", lambda *_, **__: SimpleNamespace(dot_speed=measured.pop(0))
    )
    for batch_size, speeds in ((16, (2.0, 3.0)), (8, (2.0, 9.0)), (16, (2.0, 9.0))):
        options |= {"batch_size": batch_size, "num_images": 64}
        assert search(sampler(), [2], folder=tmp_path, **options).speeds == speeds
    assert measured == [5.0]


def test_numbers_of_numpy(tmp_path):
    options = OPTIONS | {name: np.int64(OPTIONS[name]) for name in ("num_images", "batch_size")}
    options |= {"full_steps": np.int64(40), "dot_speed": np.float32(2)}
    text = {"text": torch.tensor(0.5)}
    found = search(sampler(), [np.float32(2)], folder=tmp_path, **options)
    assert found == search(sampler(), [2], folder=tmp_path, **OPTIONS)
    told = morse_engine.compile(
        lambda x, timestep, text: model(x, timestep) + 0 * text, plan="-", shape=(1, 8, 8)
    )
    search(told, [2], folder=tmp_path / "told", **OPTIONS, **text)


def test_a_damaged_ranking_is_refused_before_the_search(tmp_path):
    (tmp_path / "plans.json").write_text("{")
    with pytest.raises(Refused, match="is damaged"):
        search(sampler(), [2], folder=tmp_path, **OPTIONS, features=lambda x: x.nothing)
