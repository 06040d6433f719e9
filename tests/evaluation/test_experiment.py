"""The experiment: its points, its rows, and that it goes on where it was."""

import pytest
import torch

from extractor import Pixels
from models import line
from morse_engine import Refused, evaluation
from morse_engine.evaluation import subject
from morse_engine.evaluation.experiment import Experiment, Point
from morse_engine.evaluation.frechet import Frechet
from morse_engine.evaluation.partial import Partial
from morse_engine.evaluation.subject import Subject
from morse_engine.runtime.speed import Speed
from morse_engine.sampling.budget import choose
from morse_engine.sampling.plan import Plan


def test_sample_many_does_not_depend_on_the_batch_size():
    table = small_table(4)
    plan, dash = Plan("-.-."), lambda x, timestep, **cond: 0.1 * x
    arguments = (dash, evaluation.reuse, plan, table, range(7), (1, 4, 4))
    whole = evaluation.sample_many(*arguments, batch_size=7)
    assert whole.shape == (7, 1, 4, 4)
    assert torch.equal(whole, evaluation.sample_many(*arguments, batch_size=3))
    assert len(whole.flatten(1).unique(dim=0)) == 7


def small_table(num_steps: int):
    from diffusers import DDIMScheduler

    from morse_engine.sampling.solver import SolverTable

    return SolverTable.from_scheduler(DDIMScheduler(timestep_spacing="trailing"), num_steps)


def scheduler():
    from diffusers import DDIMScheduler

    return DDIMScheduler(timestep_spacing="trailing")


@pytest.fixture
def make():
    """`make(**options)`: a small experiment with N = 4."""
    frechet = Frechet(Pixels(), 0.3 * torch.randn(40, 1, 2, 2))

    def make(**options) -> Experiment:
        given = {"solver": "ddim", "num_images": 9, "batch_size": 4} | options
        made = Experiment(Subject("a line", line(), (1, 2, 2), scheduler()), frechet, **given)
        made.speed = Speed(8.0, 2.0, 4.0)
        return made

    return make


def test_seeds_of_later_sets_are_in_range_too(make):
    made = make(seed=2**64 - 10)
    assert made.points([2], [4])
    with pytest.raises(Refused, match="the last of 9 seeds of set 1 is above"):
        made.points([2], [4], sets=2)
    with pytest.raises(Refused, match="the last of 9 seeds is above"):
        make(seed=2**64 - 8)


def test_points(make):
    made = make()
    points = made.points([4, 2, 2], [6, 4])
    assert [(p.variant, p.budget_lsd) for p in points] == [
        *(("dash only", 2), ("dash only", 4), ("morse", 4), ("morse", 6)),
        *(("free steps", 4), ("free steps", 6)),
    ]
    assert {p.set for p in points} == {0}
    for morse, rival in zip(points[2:4], points[4:], strict=True):
        assert morse.plan == choose(morse.budget_lsd, made.subject.scheduler, 4.0).plan
        assert morse.cost_lsd == morse.plan.lsd(4.0) <= morse.budget_lsd
        assert rival.plan == choose(rival.budget_lsd, made.subject.scheduler, None).plan
        assert rival.plan.num_free > 0  # this scheduler clips, so the range is known
        assert rival.cost_lsd == rival.plan.num_dash == morse.budget_lsd


def test_functions_have_one_set_and_small_budgets(make):
    options = {"sets": 3, "rivals": ("free steps", "extrapolation", "reuse")}
    limits = {"extrapolation": 4, "reuse": 4}
    points = make(full_steps=8).points([2, 8], [4, 6], **options, rivals_up_to=limits)
    assert [p.plan.num_dash for p in points[:2]] == [8, 2]  # all steps first: rows need them
    for k in range(3):
        mine = [p for p in points if p.set == k]
        functions = [p for p in mine if p.variant in ("extrapolation", "reuse")]
        assert len(mine) - len(functions) == 6
        assert [p.budget_lsd for p in functions] == ([4, 4] if k == 0 else [])
        assert all(str(p.plan) == "-..-..-..-.." for p in functions)


def test_sets_have_their_own_seeds_and_costs_add_up(make, monkeypatch):
    experiment, seeds, costs = make(seed=5), [], []
    sample_many = subject.sample_many

    def seen(*arguments, **options):
        seeds.append(arguments[4])
        return sample_many(*arguments, **options)

    monkeypatch.setattr(subject, "sample_many", seen)
    point = Point("morse", Plan("-.."), 2, 1.5, set=2)
    images, seconds = experiment.sample(point, 9, costs.append)
    assert list(seeds[0]) == list(range(200_005, 200_014))
    assert costs == [4.0, 1.0, 1.0] * 2 + [1.0, 0.25, 0.25]  # batches of 4, 4 and 1
    assert images.abs().max() <= 1
    assert seconds > 0


def test_a_row_is_kept_and_taken_again(make, tmp_path):
    point = Point("dash only", Plan("---"), 3, 3)
    row = make(partial=Partial(tmp_path)).row(point)
    assert "rmse_to_full" not in row
    assert row["ms_per_image"] > 0
    again = make(partial=Partial(tmp_path))
    costs: list[float] = []
    assert again.row(point, costs.append) == row
    assert sum(costs) == 3 * 9
    assert again.row(Point("dash only", Plan("---"), 3, 3, set=1)) != row
    other = make(partial=Partial(tmp_path), solver="dpm")  # rows of another solver are not its own
    assert other.row(point)["solver"] == "dpm"


def test_a_plan_is_sampled_once(make, tmp_path, monkeypatch):
    """Whatever budget buys it, at whatever batch size: what differs is what it costs."""
    made, plan = make(partial=Partial(tmp_path)), Plan("-.-.")
    first = made.row(Point("morse", plan, 3, 2.5))
    monkeypatch.setattr(made, "sample", None)
    made.timed_at, made.speed = 100, Speed(8.0, 1.0, 8.0)
    again = made.row(Point("morse", plan, 4, plan.lsd(8.0)))
    assert again["value"] == first["value"]
    names = ("batch_size", "dot_speed", "budget_lsd", "cost_lsd")
    assert [first[name] for name in names] == [4, 4.0, 3, 2.5]
    assert [again[name] for name in names] == [100, 8.0, 4, 2.25]
    assert first["sampled_in"] == again["sampled_in"] == 4


def test_rows_of_another_dot_are_left_alone(make, tmp_path):
    """When a Dot is trained anew, those of Dash alone stay."""
    dash, morse = Point("dash only", Plan("---"), 3, 3), Point("morse", Plan("-."), 2, 1.25)
    first = make(partial=Partial(tmp_path), dot_name="one")
    rows = first.row(dash), first.row(morse)
    assert [row["dot"] for row in rows] == ["", "one"]
    other = make(partial=Partial(tmp_path), dot_name="two")
    assert other.row(dash) == rows[0]
    assert other.row(morse)["dot"] == "two"


def test_what_is_compared_with_the_full_run_is_as_shown(make):
    experiment = make(full_steps=6, num_compared=5)
    full = Point("dash only", Plan("-" * 6), 6, 6)
    row, images = experiment.evaluate(Point("dash only", Plan("--"), 2, 2))
    others = experiment.sample(full, 5)[0]
    assert row["rmse_to_full"] == evaluation.rmse_to_full(images[:5], others)
    assert "agreement" not in row  # pixels do not classify
    assert experiment.evaluate(full)[0]["rmse_to_full"] == 0


def test_agreement_is_of_what_the_extractor_says(make):
    class Signs(Pixels):
        """Of the first pixel."""

        def features(self, x):
            return x.flatten(1)

        def forward(self, x):
            return torch.stack([x[:, 0, 0, 0], -x[:, 0, 0, 0]], 1)

    experiment = make(full_steps=6)
    experiment.yardstick = Frechet(Signs(), 0.3 * torch.randn(40, 1, 2, 2))
    full = experiment.sample(Point("dash only", Plan("-" * 6), 6, 6), 9)[0]
    row, images = experiment.evaluate(Point("dash only", Plan("--"), 2, 2))
    same = (images[:, 0, 0, 0] < 0) == (full[:, 0, 0, 0] < 0)
    assert row["agreement"] == pytest.approx(same.double().mean().item())


def test_too_few_images(make):
    with pytest.raises(ValueError, match=r"4 images: .* at least 5"):
        make(num_images=4)
