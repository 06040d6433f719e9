"""Evaluation: distances, speed-ups on curves made by hand, free rivals, the quality benchmark."""

import importlib.util
import json
import math
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from morse_engine import evaluation
from morse_engine.evaluation import figures
from morse_engine.evaluation.speedup import (
    Frechet,
    SpeedUp,
    rmse_to_full,
    speedup,
    speedup_over_sets,
)
from morse_engine.sampling.plan import Plan
from morse_engine.zoo import classifier

ROOT = Path(__file__).parents[2]


class Pixels(nn.Module):
    """The identity as an extractor: the features of an image are its pixels."""

    def __init__(self, num_features: int = 4):
        super().__init__()
        self.num_features = num_features

    def forward(self, x):
        return x.flatten(1)


def standardised(n: int, d: int) -> torch.Tensor:
    """`[n, d]` float64 samples with mean exactly 0 and covariance exactly I."""
    x = torch.randn(n, d, dtype=torch.float64)
    x = x - x.mean(0)
    return torch.linalg.solve_triangular(torch.linalg.cholesky(x.T.cov()), x.T, upper=False).T


# -- Frechet, rmse -----------------------------------------------------------------------------


def test_frechet_of_a_set_with_itself_is_zero():
    images = torch.rand(200, 1, 2, 2) * 2 - 1
    frechet = Frechet(Pixels(), images)
    assert frechet.distance(images.flip(0)) == pytest.approx(0.0, abs=1e-9)


def test_frechet_of_gaussians_is_the_closed_form():
    mean = torch.tensor([0.05, -0.1, 0.0, 0.2], dtype=torch.float64)
    spread = torch.tensor([0.05, 0.1, 0.15, 0.12], dtype=torch.float64)
    unit = standardised(300, 4)
    images = (unit * spread + mean).reshape(-1, 1, 2, 2)
    assert images.abs().max() < 1  # nothing is clamped
    frechet = Frechet(Pixels(), 0.1 * unit.reshape(-1, 1, 2, 2), batch_size=77)
    expected = (mean.square() + (spread - 0.1).square()).sum().item()
    distance = frechet.distance(images)
    assert distance == pytest.approx(expected, rel=1e-9)
    # The real statistics stay, those of the images before are forgotten.
    assert frechet.distance(images) == distance


def test_frechet_takes_images_as_they_are_shown():
    images = torch.rand(200, 1, 2, 2) * 4 - 2
    assert Frechet(Pixels(), images.clamp(-1, 1)).distance(images) == pytest.approx(0.0, abs=1e-9)


def test_frechet_uses_the_features_of_the_classifier_and_leaves_it_alone():
    model = classifier.DigitClassifier()
    images = torch.rand(130, 1, 32, 32) * 2 - 1
    frechet = Frechet(model, images[:65])
    assert not model.training
    features = model.features(images).detach().double()
    real, fake = features[:65], features[65:]
    product = torch.linalg.eigvals(real.T.cov() @ fake.T.cov()).sqrt().real.sum()
    expected = (real.mean(0) - fake.mean(0)).square().sum()
    expected += real.T.cov().trace() + fake.T.cov().trace() - 2 * product
    assert frechet.distance(images[65:]) == pytest.approx(expected.item(), rel=1e-6)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_frechet_refuses_what_it_cannot_measure():
    images = torch.randn(5, 1, 2, 2)
    with pytest.raises(ValueError, match="4 images for 4 features"):
        Frechet(Pixels(), images[:4])
    with pytest.raises(ValueError, match="at least 5 images"):
        Frechet(Pixels(), images).distance(images[:4])
    with pytest.raises(ValueError, match=r"gave \(5, 4\).*\(5, 3\)"):
        Frechet(Pixels(3), images)
    with pytest.raises(ValueError, match="num_features"):
        Frechet("resnet", images)


@pytest.mark.skipif(importlib.util.find_spec("torch_fidelity") is not None, reason="it is there")
def test_inception_without_its_package_names_it():
    with pytest.raises(RuntimeError, match="pip install torch-fidelity"):
        Frechet("inception", torch.zeros(3000, 1, 2, 2))


def test_rmse():
    full = torch.zeros(3, 1, 2, 2)
    assert rmse_to_full(full + 0.5, full) == 0.5
    half = full.clone()
    half[..., 0] = 2.0
    assert rmse_to_full(half, full) == pytest.approx(math.sqrt(2.0))
    with pytest.raises(ValueError, match="same seeds"):
        rmse_to_full(full[:2], full)


# -- speed-up ----------------------------------------------------------------------------------


def test_speedup_on_a_curve_made_by_hand():
    baseline = [(40, 2.0), (10, 10.0), (20, 4.0)]  # any order
    result = speedup(baseline, [(5, 10.0), (5, 7.0), (10, 3.0), (40, 2.0)])
    assert result.per_budget == [2.0, 3.0, 3.0, 1.0]
    assert result.mean == 2.25
    assert not any(result.lower_bounds + result.upper_bounds)
    assert (result.low, result.high) == (None, None)
    assert str(result) == "2.25x"


def test_the_baseline_against_itself_gains_nothing():
    baseline = [(2, 9.0), (4, 5.0), (8, 2.5), (16, 1.0)]
    assert speedup(baseline, baseline).per_budget == [1.0] * 4


def test_a_wiggle_of_the_baseline_is_read_in_its_favour():
    # 4 is reached at latency 20; that the point at 30 is worse again does not count.
    result = speedup(
        [(10, 8.0), (20, 4.0), (30, 6.0), (40, 2.0)], [(10, 4.0), (10, 5.0), (10, 3.0)]
    )
    assert result.per_budget == pytest.approx([2.0, 1.75, 3.5])


def test_outside_of_the_measured_range_there_are_bounds():
    baseline = [(10, 8.0), (20, 4.0)]
    result = speedup(baseline, [(5, 3.0), (5, 4.0), (20, 9.0), (5, 8.0)])
    assert result.per_budget == [4.0, 4.0, 0.5, 2.0]
    assert result.lower_bounds == [True, False, False, False]
    assert result.upper_bounds == [False, False, True, False]
    assert str(speedup(baseline, [(5, 3.0)])) == ">= 4.00x"
    assert str(speedup(baseline, [(20, 9.0)])) == "<= 0.50x"


def test_speedup_over_sets_has_a_student_interval():
    baseline = [(10, 8.0), (20, 4.0)]
    morses = [[(10, 8.0), (10, 4.0)], [(10, 4.0), (10, 4.0)], [(10, 4.0), (5, 3.0)]]
    result = speedup_over_sets([baseline] * 3, morses)  # the sets' means: 1.5, 2, 3
    assert result.mean == pytest.approx(6.5 / 3)
    assert result.per_budget == pytest.approx([5 / 3, 8 / 3])
    assert (result.lower_bounds, result.upper_bounds) == ([False, True], [False, False])
    half = 4.302652729911275 * math.sqrt(7 / 12) / math.sqrt(3)  # t_0.975 with 2 degrees of freedom
    assert (result.low, result.high) == pytest.approx((result.mean - half, result.mean + half))
    two = speedup_over_sets([baseline] * 2, morses[:2])
    assert (two.mean, two.low, two.high) == (1.75, None, None)


@pytest.mark.parametrize(
    ("baseline", "morse", "message"),
    [
        ([], [(1, 1.0)], "baseline is empty"),
        ([(1, 1.0)], [], "morse is empty"),
        ([(0, 1.0)], [(1, 1.0)], "latency > 0"),
        ([(1, 1.0)], [(1, math.nan)], "nan"),
    ],
)
def test_speedup_refuses(baseline, morse, message):
    with pytest.raises(ValueError, match=message):
        speedup(baseline, morse)


def test_speedup_over_sets_refuses_sets_that_do_not_fit():
    curve = [(1, 1.0)]
    with pytest.raises(ValueError, match="one of each per set"):
        speedup_over_sets([curve], [])
    with pytest.raises(ValueError, match="the same budgets"):
        speedup_over_sets([curve] * 2, [curve, curve * 2])


# -- rivals ------------------------------------------------------------------------------------


def linear_in_t(slope, offset):
    return lambda x, timestep, **cond: slope * float(timestep) + offset


def test_extrapolation_is_exact_on_a_line():
    dash, x = linear_in_t(*torch.randn(2, 2, 1, 4, 4, dtype=torch.float64)), torch.zeros(2, 1, 4, 4)
    for t in (torch.tensor([700, 700]), torch.tensor(700), 700):
        eta = evaluation.extrapolate(x, t, x, dash(x, 800), 800, dash(x, 900), torch.tensor(900))
        torch.testing.assert_close(dash(x, 800) + eta, dash(x, 700), rtol=1e-6, atol=1e-6)


def test_no_line_through_one_estimate_or_two_at_one_time():
    x = torch.ones(2, 1, 4, 4)
    assert not evaluation.extrapolate(x, 850, x, x, 900, x, 900).any()
    assert not evaluation.extrapolate(x, 850, x, x, 900, 2 * x, 900).any()


def test_reuse_is_no_correction():
    x = torch.randn(2, 1, 4, 4)
    assert torch.equal(evaluation.reuse(x, 5, x, x, 9, x, 9, extra=1), torch.zeros_like(x))


# -- many images --------------------------------------------------------------------------------


def test_sample_many_does_not_depend_on_the_batch_size():
    table = small_table(4)
    plan, dash = Plan("-.-."), lambda x, timestep, **cond: 0.1 * x
    arguments = (dash, evaluation.reuse, plan, table, range(7), (1, 4, 4))
    whole = evaluation.sample_many(*arguments, batch_size=7)
    assert whole.shape == (7, 1, 4, 4)
    assert torch.equal(whole, evaluation.sample_many(*arguments, batch_size=3))
    assert len(whole.flatten(1).unique(dim=0)) == 7


# -- the classifier ----------------------------------------------------------------------------


def test_classifier_is_small_and_its_training_repeatable(tmp_path):
    images, labels = torch.rand(20, 1, 32, 32) * 2 - 1, torch.arange(20) % 10
    state = torch.get_rng_state()
    first, second = (
        classifier.train_classifier(images, labels, seed=3, num_steps=2, batch_size=8)
        for _ in range(2)
    )
    assert torch.equal(state, torch.get_rng_state())
    assert sum(p.numel() for p in first.parameters()) < 60_000
    assert first.features(images).shape == (20, first.num_features)
    assert first(images).shape == (20, 10)
    assert torch.equal(first(images), second(images))
    classifier.save_classifier(first, tmp_path / "classifier.safetensors")
    loaded = classifier.load_classifier(tmp_path / "classifier.safetensors")
    assert torch.equal(first(images), loaded(images))
    with pytest.raises(FileNotFoundError, match="missing"):
        classifier.load_classifier(tmp_path / "missing.safetensors")
    with pytest.raises(ValueError, match="20 images but 19 labels"):
        classifier.train_classifier(images, labels[1:])


def test_the_bundled_classifier_reads_held_out_digits():
    pytest.importorskip("sklearn")
    from morse_engine.zoo import digits

    weights = Path(classifier.__file__).parent / "weights" / "classifier.safetensors"
    assert weights.stat().st_size < 300_000
    model = classifier.load_classifier(weights)
    assert classifier.accuracy(model, *digits.images("held-out")) > 0.97


# -- the figures and the benchmark -------------------------------------------------------------


def test_picture_grid(tmp_path):
    images = torch.rand(5, 1, 8, 8) * 2 - 1
    columns = {"full, 100 steps": images, "Morse, 5 LSD\n" + "-.." * 40: images}
    figures.picture_grid(columns, tmp_path / "grid.png", title="digits")
    assert (tmp_path / "grid.png").stat().st_size > 1000
    with pytest.raises(ValueError, match="one"):
        figures.picture_grid({"a": images, "b": images[1:]}, tmp_path / "grid.png")
    with pytest.raises(ValueError, match="C = 1 or 3"):
        figures.picture_grid({"a": images.expand(-1, 2, -1, -1)}, tmp_path / "grid.png")


def test_picture_grid_keeps_pixels_crisp():
    x = torch.tensor([[[[-1.0, 1.0], [0.0, 5.0]]]])
    block = figures._block(x, across=1, scale=3, gap=2)
    assert block.shape == (6, 6, 3)
    assert block[::3, ::3, 0].tolist() == [[0, 255], [128, 255]]
    assert (block[:3, :3] == 0).all()


def test_labels_are_moved_apart_and_keep_their_order():
    moved = figures._apart([0.0, 5.0, 0.1, 0.05], 1.0)
    assert moved[1] == 5.0
    assert moved[0] < moved[3] < moved[2]
    assert sorted(moved)[1] - sorted(moved)[0] == pytest.approx(1.0)
    assert sum(moved) == pytest.approx(5.15)


def small_table(num_steps: int):
    from diffusers import DDIMScheduler

    from morse_engine.sampling.solver import SolverTable

    return SolverTable.from_scheduler(DDIMScheduler(timestep_spacing="trailing"), num_steps)


@pytest.fixture
def quality(monkeypatch):
    """`benchmarks/quality.py` as a module, with short curves."""
    spec = importlib.util.spec_from_file_location("quality", ROOT / "benchmarks" / "quality.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "quality", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "FULL_STEPS", {"ddim": 8, "dpm": 8})
    monkeypatch.setattr(module, "STEPS", {"ddim": (2, 3, 5)})
    return module


@pytest.fixture
def bench(quality):
    from diffusers import DDIMScheduler

    real = 0.3 * torch.randn(40, 1, 2, 2)
    return quality.Bench(
        model="a Gaussian",
        dash=lambda x, timestep, **cond: x * float(timestep) / 1000,
        dot=evaluation.reuse,
        schedulers={"ddim": DDIMScheduler(timestep_spacing="trailing")},
        frechet=Frechet(Pixels(), real),
        shape=(1, 2, 2),
        fingerprint="0",
    )


def test_quality_goes_on_where_it_was(quality, bench, tmp_path, monkeypatch, capsys):
    out = tmp_path / "quality.json"
    arguments = f"--images 12 --sets 3 --budgets 2 4 --batch-size 8 --out {out}".split()
    num_jobs = 3 * (5 + 2) + 2 * 2  # the free rivals have one set
    sampled = []
    sample_job = quality.sample_job

    def counted(bench, job, *rest):
        if len(sampled) == 7:
            raise KeyboardInterrupt
        sampled.append(job)
        return sample_job(bench, job, *rest)

    monkeypatch.setattr(quality, "sample_job", counted)
    with pytest.raises(KeyboardInterrupt):
        quality.main(arguments, bench)
    with open(out.with_suffix(".partial") / "rows.jsonl", "a") as file:
        file.write('{"bench": "qual')  # killed in the middle of a line
    first_part, before = list(sampled), (tmp_path / "quality.partial" / "settings.json").read_text()
    sampled.clear()
    monkeypatch.setattr(quality, "sample_job", lambda *a: sampled.append(a[1]) or sample_job(*a))
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
    assert "Speed-up over Dash alone" in capsys.readouterr().out

    bench.fingerprint = "1"
    with pytest.raises(RuntimeError, match="models=0"):
        quality.main(arguments, bench)


@pytest.mark.parametrize(
    ("gain", "words"),
    [
        (SpeedUp(0.9, [0.8, 1.0], [False] * 2, [False] * 2, 0.8, 1.0), "no gain: <= 1.0x"),
        (
            SpeedUp(1.1, [0.8, 1.4], [False] * 2, [False] * 2, 0.9, 1.3),
            "includes 1.0x; <= 1.0x at 4",
        ),
        (SpeedUp(2.0, [2.0, 2.0], [False] * 2, [False] * 2, 1.9, 2.1), "gain"),
    ],
)
def test_verdicts_are_plain(quality, gain, words):
    from dataclasses import asdict

    assert words in quality.verdict({"budgets": [4, 5], **asdict(gain)})
