"""`benchmarks/quality.py`, small: it goes on where it was; the tables that are made of its rows."""

import importlib.util
import json
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from extractor import Pixels
from models import line
from morse_engine.evaluation.experiment import Experiment
from morse_engine.evaluation.frechet import Frechet
from morse_engine.sampling.budget import read
from morse_engine.sampling.plan import Plan

ROOT = Path(__file__).parents[2]
QUALITY_KEYS = (
    *("bench", "model", "solver", "variant", "plan", "budget_lsd", "cost_lsd", "batch_size"),
    *("lsd_ms", "dot_ms", "dot_speed", "set", "images", "unit", "value", "rmse_to_full"),
    "unlike",
    *(
        "ms_per_image",
        "sampled_in",
        "dot",
        "cpu",
        "threads",
        "gpu",
        "driver",
        "os",
        "python",
        "torch",
        "triton",
    ),
    *("diffusers", "morse_engine", "commit", "date"),
)
WANTED = ("morse", "dash only", 8)


def scheduler():
    from diffusers import DDIMScheduler

    return DDIMScheduler(timestep_spacing="trailing")


def script(name: str):
    """A file of `benchmarks/` as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def quality(monkeypatch):
    """`benchmarks/quality.py` as a module, with short curves."""
    module = script("quality")
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
        dash="0",
        dot="dot",
    )


@pytest.mark.slow
def test_quality_goes_on_where_it_was(quality, bench, tmp_path, monkeypatch, capsys):
    out = tmp_path / "quality.json"
    arguments = f"--images 12 --sets 3 --budgets 2 4 --batch-size 8 --out {out}".split()
    arguments += ["--solvers", "ddim", "--batches", "1", "8", "--functions"]
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
    first_part = list(sampled)
    speeds = out.with_suffix(".partial") / "batch-8" / "settings.json"
    before = speeds.read_text()
    sampled.clear()
    monkeypatch.setattr(Experiment, "sample", lambda *a: sampled.append(a[1]) or sample(*a))
    rows = quality.main(arguments, bench)
    assert len(first_part) == 7
    done = {(point.plan, point.set, point.variant == "reuse") for point in first_part}
    assert not done & {(point.plan, point.set, point.variant == "reuse") for point in sampled}
    assert before == speeds.read_text()

    sampled.clear()
    assert quality.main(arguments, bench) == rows
    assert sampled == []
    written = json.loads(out.read_text())
    assert [r for r in written if r["bench"] == "quality"] == rows
    count = Counter((row["variant"], row["batch_size"]) for row in rows)
    assert count == {
        ("dash only", 1): 3 * 5,  # 2, 3, 5 and all 8 steps, and as many as the budget of 4
        ("free steps", 1): 3 * 2,
        **{("morse", batch): 3 * 2 for batch in (1, 8)},
        **{(function, 1): 2 for function in ("extrapolation", "reuse")},  # in one set
    }
    assert [r["rmse_to_full"] for r in rows if r["plan"] == "-" * 8] == [0.0] * 3
    assert {r["cost_lsd"] for r in rows if r["variant"] == "reuse"} == {2, 4}
    gains = [r for r in written if r["bench"] == "quality speed-up"]
    assert {(g["variant"], g["over"]) for g in gains} == {
        *(("morse", "dash only"), ("morse", "free steps"), ("free steps", "dash only")),
        *(("extrapolation", "dash only"), ("reuse", "dash only")),
    }
    assert gains[0]["low"] <= gains[0]["mean"] <= gains[0]["high"]
    for suffix in (".png", ".svg"):
        assert out.with_suffix(suffix).stat().st_size > 1000
    assert tuple(rows[0]) == QUALITY_KEYS
    printed = " ".join(capsys.readouterr().out.split())
    assert "Speed-up over Dash alone" in printed
    assert "over free steps" in printed
    assert "over the best sampler" not in printed  # there is one solver

    # Another solver later, whose rows are beside those that are there.
    both = quality.main([*arguments[:-5], "dpm", "--batches", "1"], bench)
    assert [r for r in both if r["solver"] == "ddim"] == rows
    assert {r["solver"] for r in both} == {"ddim", "dpm"}
    assert "over the best sampler alone" in " ".join(capsys.readouterr().out.split())

    # The README's tables are made of them.
    readme, images = tmp_path / "README.md", tmp_path / "images"
    readme.write_text("before\n<!-- results -->\nold\n<!-- /results -->\nafter\n")
    images.mkdir()
    options = {"--rows": out, "--readme": readme, "--images": images}
    script("tables").main([str(word) for pair in options.items() for word in pair])
    text = readme.read_text()
    assert text.startswith("before\n<!-- results -->\n`python benchmarks/quality.py`")
    assert text.endswith("<!-- /results -->\nafter\n")
    assert "old" not in text
    (morse,) = (g for g in gains if (g["variant"], g["over"], g["batch_size"]) == WANTED)
    assert f"{morse['value']:.2f}x" in text
    assert (images / "quality.png").exists()

    bench.dash = "1"
    with pytest.raises(ValueError, match="models=0"):
        quality.main(arguments, bench)


@pytest.mark.slow
def test_the_table_of_plans(quality, tmp_path, monkeypatch):
    """benchmarks/plans.py: rows, and a table of them, which a later run with more plans extends."""
    plans = script("plans")

    class Means(Pixels):
        def features(self, x):
            return x.flatten(1)

    bench = quality.Bench(
        model="a line",
        models=line(),
        schedulers={"ddim": scheduler()},
        frechet=Frechet(Means(), 0.3 * torch.randn(40, 1, 2, 2)),
        shape=(1, 2, 2),
        dash="0",
        dot="dot",
    )
    monkeypatch.setattr(plans, "ALONE", (5,))
    arguments = f"--images 8 --budgets 3 --solvers ddim --out {tmp_path / 'plans.json'}".split()
    arguments += ["--table", str(tmp_path / "table")]
    rows = plans.main([*arguments, "--speeds"], bench)
    expected = {*(f"-{':' * k}" * 3 for k in (0, 1, 2)), "-----", "--------"}
    assert {row["plan"] for row in rows} == expected
    found = read(tmp_path / "table")["ddim"]
    assert found.speeds is None
    assert found.scores[Plan("-" * 8)] == 0
    more = plans.main([*arguments, "--speeds", "2"], bench)
    assert {row["plan"] for row in rows} < {row["plan"] for row in more}
    assert [row["value"] for row in more if row["plan"] == "---"] == [
        row["value"] for row in rows if row["plan"] == "---"
    ]
    found = read(tmp_path / "table")["ddim"]
    assert (found.budgets, found.speeds) == ((3,), (2, 2))
    assert plans.main([*arguments[:4], *arguments[6:], "--solvers"], None) == more  # the table
