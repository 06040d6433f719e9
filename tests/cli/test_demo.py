"""The demo of digits, small: its files, what they say, and what it leaves when stopped."""

import io
import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console

from morse_engine import zoo
from morse_engine.cli import demo
from morse_engine.evaluation import figures, subject, verdict
from morse_engine.runtime.speed import Speed
from morse_engine.sampling.plan import Plan

pytestmark = pytest.mark.slow  # the demo is run once for all of them

FILES = {"index.html", "quality.png", "rows.json", "side_by_side.png"}
SMALL = {
    "images": 66,
    "budgets": (2, 3),
    "steps": (2, 4),
    "full_steps": 5,
    "pictured": 4,
    "pictured_budget": 3,
    "batch_size": 33,
    "device_name": "cpu",
}


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """(the folder, what was printed) of one small run."""
    out, text = tmp_path_factory.mktemp("demo") / "new" / "folder", io.StringIO()
    path = demo.run_demo(out, console=Console(file=text, width=100), **SMALL)
    assert path == out / "index.html"
    return out, text.getvalue()


def rows(out: Path, bench: str, batch_size: int = 33) -> list[dict]:
    found = json.loads((out / "rows.json").read_text())
    return [row for row in found if (row["bench"], row["batch_size"]) == (bench, batch_size)]


def test_files(result):
    out, _ = result
    assert {path.name for path in out.iterdir()} == FILES
    for name in ("quality.png", "side_by_side.png"):
        with Image.open(out / name) as picture:
            picture.load()
            assert picture.format == "PNG"
            assert min(picture.size) > 300


def test_rows(result):
    out, _ = result
    points = rows(out, "quality")
    found = {(row["variant"], row["budget_lsd"]) for row in points}
    # 3, the budget that is pictured, was added to the steps
    assert found == {("dash only", n) for n in (2, 3, 4)} | {
        (variant, budget) for variant in ("morse", "free steps") for budget in (2, 3)
    }
    for row in points:
        plan = Plan(row["plan"])
        assert row["cost_lsd"] <= row["budget_lsd"]
        assert row["images"] == 66
        assert row["value"] > 0
        assert row["ms_per_image"] > 0
        if row["variant"] == "dash only":
            assert row["plan"] == "-" * row["budget_lsd"]
        elif row["variant"] == "morse":
            assert row["cost_lsd"] == pytest.approx(plan.lsd(row["dot_speed"]))
        else:
            assert plan.num_dash == row["budget_lsd"]
    speedups = rows(out, "quality speed-up")
    pairs = [("morse", "dash only"), ("morse", "free steps"), ("free steps", "dash only")]
    assert [(row["variant"], row["over"]) for row in speedups] == pairs
    assert speedups[0]["value"] == pytest.approx(verdict.gain(points, "morse").mean)


def test_batch_1_has_a_line_of_its_own(result):
    """Its plans are those that the budgets buy at its N, and cost what they cost there."""
    out, text = result
    alone = rows(out, "quality", 1)
    assert [(row["variant"], row["budget_lsd"]) for row in alone] == [("morse", 2), ("morse", 3)]
    for row in alone:
        assert row["cost_lsd"] == pytest.approx(Plan(row["plan"]).lsd(row["dot_speed"]))
        assert row["cost_lsd"] <= row["budget_lsd"]
    others = [row for row in rows(out, "quality") if row["variant"] != "morse"]
    line = verdict.in_short(others + alone)
    assert line.startswith(f"At batch 1, where a Dot step takes 1/{alone[0]['dot_speed']:.1f} of")
    assert line.replace(">", "&gt;").replace("<", "&lt;") in (out / "index.html").read_text()
    assert line in " ".join(text.split())


def test_page_needs_nothing_else(result):
    out, _ = result
    text = (out / "index.html").read_text()
    sources = re.findall(r'(?:src|srcset|poster|data)="([^"]*)"', text)
    assert [source[:22] for source in sources] == [
        "data:image/png;base64,"
    ] * 4  # three methods, the plot
    assert not re.search(r"<script|<link|@import|url\(", text)
    assert "prefers-color-scheme: dark" in text
    assert "width=device-width" in text


def test_page_says_what_was_measured(result):
    out, _ = result
    text = (out / "index.html").read_text()
    points = rows(out, "quality")
    assert verdict.verdict(points).replace(">", "&gt;").replace("<", "&lt;") in text
    for row in points:
        assert f"<td>{row['value']:.3f}</td>" in text
        assert f"<td>{row['plan']}</td>" in text
    for name in ("cpu", "torch", "diffusers", "morse_engine"):
        assert str(points[0][name]) in text


def test_printed(result):
    out, text = result
    flat = " ".join(text.split())
    assert verdict.verdict(rows(out, "quality")) in flat
    assert "Frechet distance" in flat
    assert "free steps alone" in flat
    assert "100%" in flat


def test_seed_decides(result, tmp_path, monkeypatch):
    """Another seed gives other images, and other distances."""
    out, _ = result
    monkeypatch.setattr(subject, "measure_speed", lambda *args, **kwargs: Speed(8.0, 1.0, 8.0))
    small = {"budgets": (2,), "steps": (2,), "full_steps": 2, "pictured_budget": 2}
    demo.run_demo(tmp_path, seed=1000, console=Console(file=io.StringIO()), **{**SMALL, **small})

    def first(folder):
        points = [r for r in rows(folder, "quality") if r["plan"] == "--"]
        return points[0]["value"]

    assert first(tmp_path) != first(out)


# -- what can go wrong -------------------------------------------------------------------------


@pytest.fixture
def no_work(monkeypatch):
    """Fails where a model is loaded."""
    monkeypatch.setattr(zoo, "digits_dash", lambda: pytest.fail("work before the check"))


@pytest.mark.parametrize("below", ["", "below"])
def test_out_is_a_file(tmp_path, no_work, below):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(NotADirectoryError, match="file: choose a folder"):
        demo.run_demo(tmp_path / "file" / below)
    assert (tmp_path / "file").read_text() == "mine"


def test_out_cannot_be_written(tmp_path, no_work, monkeypatch):
    def denied(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", denied)
    with pytest.raises(PermissionError, match=r"cannot be written to \(Permission denied\)"):
        demo.run_demo(tmp_path)


@pytest.mark.parametrize("pictured", [0, 67])
def test_more_pictures_than_images(tmp_path, no_work, pictured):
    with pytest.raises(ValueError, match=f"pictured={pictured}"):
        demo.run_demo(tmp_path, images=66, pictured=pictured)


def test_too_few_images(tmp_path):
    with pytest.raises(ValueError, match=r"64 images: .* at least 65"):
        demo.run_demo(tmp_path, **{**SMALL, "images": 64})


def test_ctrl_c_leaves_no_half_file(result, tmp_path, monkeypatch):
    """Stopped in the middle of a file: the old one is whole, no temporary one is left."""
    alone = rows(result[0], "quality", 1)
    measured = rows(result[0], "quality"), alone, {"Morse": torch.zeros(4, 1, 32, 32)}
    monkeypatch.setattr(demo, "_measure", lambda *args: measured)
    (tmp_path / "quality.png").write_bytes(b"old")

    def stopped(rows, path):
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(figures, "quality_plot", stopped)
    with pytest.raises(KeyboardInterrupt):
        demo.run_demo(tmp_path, console=Console(file=io.StringIO()), **SMALL)
    assert {path.name for path in tmp_path.iterdir()} == {"quality.png", "side_by_side.png"}
    assert (tmp_path / "quality.png").read_bytes() == b"old"
