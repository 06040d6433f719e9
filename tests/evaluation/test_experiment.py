"""The experiment: its points, its rows, and that it goes on where it was."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

from extractor import Pixels
from morse_engine import evaluation
from morse_engine.evaluation import experiment as experiments
from morse_engine.evaluation.experiment import Experiment, Point
from morse_engine.evaluation.frechet import Frechet
from morse_engine.evaluation.partial import Partial
from morse_engine.runtime.models import Models
from morse_engine.runtime.speed import Speed
from morse_engine.sampling.plan import Plan

ROOT = Path(__file__).parents[2]
QUALITY_KEYS = (
    *("bench", "model", "solver", "variant", "plan", "budget_lsd", "cost_lsd", "set", "images"),
    *("unit", "value", "rmse_to_full", "ms_per_image", "batch_size", "lsd_ms", "dot_ms"),
    *("dot_speed", "cpu", "threads", "gpu", "driver", "os", "python", "torch", "triton"),
    *("diffusers", "morse_engine", "commit", "date"),
)


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


def line() -> Models:
    """Models whose estimate is x times a line in t, with a Dot that corrects nothing."""
    return Models(lambda x, timestep, **cond: x * float(timestep) / 1000, evaluation.reuse)


def scheduler():
    from diffusers import DDIMScheduler

    return DDIMScheduler(timestep_spacing="trailing")


@pytest.fixture
def make():
    """`make(**options)`: a small experiment with N = 4."""
    frechet = Frechet(Pixels(), 0.3 * torch.randn(40, 1, 2, 2))

    def make(**options) -> Experiment:
        given = {"solver": "ddim", "model": "a line", "num_images": 9, "batch_size": 4} | options
        made = Experiment(line(), (1, 2, 2), scheduler(), frechet, **given)
        made.speed = Speed(8.0, 2.0, 4.0)
        return made

    return make


def test_points(make):
    points = make().points([4, 2, 2], [6, 4])
    assert [(p.variant, p.budget_lsd) for p in points] == [
        *(("dash only", 2), ("dash only", 4), ("morse", 4), ("morse", 6)),
        *(("extrapolation", 4), ("extrapolation", 6)),
    ]
    assert {p.set for p in points} == {0}
    for morse, rival in zip(points[2:4], points[4:], strict=True):
        assert morse.cost_lsd == morse.plan.lsd(4.0) <= morse.budget_lsd
        assert rival.cost_lsd == rival.plan.num_dash == morse.budget_lsd  # its Dot steps are free
        theirs = morse.plan.num_dot / morse.plan.num_dash
        assert rival.plan.num_dot / rival.plan.num_dash == pytest.approx(theirs, abs=0.2)


def test_rivals_have_one_set_and_small_budgets(make):
    options = {"sets": 3, "rivals": ("extrapolation", "reuse"), "rivals_up_to": 4}
    points = make(full_steps=8).points([2, 8], [4, 6], **options)
    assert [p.plan.num_dash for p in points[:2]] == [8, 2]  # all steps first: rows need them
    for k in range(3):
        mine = [p for p in points if p.set == k]
        free = [p for p in mine if p.variant in ("extrapolation", "reuse")]
        assert len(mine) - len(free) == 4
        assert [p.budget_lsd for p in free] == ([4, 4] if k == 0 else [])


def test_sets_have_their_own_seeds_and_costs_add_up(make, monkeypatch):
    experiment, seeds, costs = make(seed=5), [], []
    sample_many = experiments.sample_many

    def seen(*arguments, **options):
        seeds.append(arguments[4])
        return sample_many(*arguments, **options)

    monkeypatch.setattr(experiments, "sample_many", seen)
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


def test_rmse_to_full_is_of_the_images_as_shown(make):
    experiment = make(full_steps=6)
    full = Point("dash only", Plan("-" * 6), 6, 6)
    row, images = experiment.evaluate(Point("dash only", Plan("--"), 2, 2))
    assert row["rmse_to_full"] == evaluation.rmse_to_full(images, experiment.sample(full, 9)[0])
    assert experiment.evaluate(full)[0]["rmse_to_full"] == 0


def test_too_few_images(make):
    with pytest.raises(ValueError, match=r"4 images: .* at least 5"):
        make(num_images=4)


# -- the whole of it: benchmarks/quality.py --------------------------------------------------------


@pytest.fixture
def quality(monkeypatch):
    """`benchmarks/quality.py` as a module, with short curves."""
    spec = importlib.util.spec_from_file_location("quality", ROOT / "benchmarks" / "quality.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "quality", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "FULL_STEPS", {"ddim": 8, "dpm": 8})
    monkeypatch.setattr(module, "STEPS", (2, 3, 5))
    return module


@pytest.fixture
def bench(quality):
    return quality.Bench(
        model="a line",
        models=line(),
        schedulers={"ddim": scheduler(), "dpm": scheduler()},
        frechet=Frechet(Pixels(), 0.3 * torch.randn(40, 1, 2, 2)),
        shape=(1, 2, 2),
        fingerprint="0",
    )


@pytest.mark.slow
def test_quality_goes_on_where_it_was(quality, bench, tmp_path, monkeypatch, capsys):
    out = tmp_path / "quality.json"
    arguments = f"--images 12 --sets 3 --budgets 2 4 --batch-size 8 --out {out}".split()
    arguments += ["--solvers", "ddim"]
    num_jobs = 3 * (5 + 2) + 2 * 2  # the free rivals have one set
    sampled = []
    sample = Experiment.sample

    def counted(self, point, *rest):
        if len(sampled) == 7:
            raise KeyboardInterrupt
        sampled.append(point)
        return sample(self, point, *rest)

    monkeypatch.setattr(Experiment, "sample", counted)
    with pytest.raises(KeyboardInterrupt):
        quality.main(arguments, bench)
    with open(out.with_suffix(".partial") / "rows.jsonl", "a") as file:
        file.write('{"bench": "qual')  # killed in the middle of a line
    first_part, before = list(sampled), (tmp_path / "quality.partial" / "settings.json").read_text()
    sampled.clear()
    monkeypatch.setattr(Experiment, "sample", lambda *a: sampled.append(a[1]) or sample(*a))
    rows = quality.main(arguments, bench)
    assert len(first_part) == 7
    assert len(sampled) == num_jobs - 7
    assert not set(first_part) & set(sampled)
    assert before == (tmp_path / "quality.partial" / "settings.json").read_text()

    sampled.clear()
    assert quality.main(arguments, bench) == rows
    assert sampled == []
    written = json.loads(out.read_text())
    assert [r for r in written if r["bench"] == "quality"] == rows
    assert len(rows) == num_jobs
    assert [r["rmse_to_full"] for r in rows if r["plan"] == "-" * 8] == [0.0] * 3
    assert {r["cost_lsd"] for r in rows if r["variant"] == "reuse"} == {2, 4}
    gains = [r for r in written if r["bench"] == "quality speed-up"]
    assert [g["variant"] for g in gains] == ["morse", "extrapolation", "reuse"]
    assert gains[0]["low"] <= gains[0]["mean"] <= gains[0]["high"]
    for suffix in (".png", ".svg"):
        assert out.with_suffix(suffix).stat().st_size > 1000
    assert tuple(rows[0]) == QUALITY_KEYS
    assert "Speed-up over Dash alone" in capsys.readouterr().out

    bench.fingerprint = "1"
    with pytest.raises(ValueError, match="models=0"):
        quality.main(arguments, bench)
