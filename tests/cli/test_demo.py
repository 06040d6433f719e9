"""The demo, small: the files that it writes, what they say, and what it leaves when stopped."""

import io
import json
import re
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from morse_engine import zoo
from morse_engine.cli import demo
from morse_engine.evaluation import experiment, figures, page
from morse_engine.evaluation.speedup import SpeedUp
from morse_engine.sampling.plan import Plan
from morse_engine.system.files import output_folder, whole

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


def rows(out: Path, bench: str) -> list[dict]:
    return [row for row in json.loads((out / "rows.json").read_text()) if row["bench"] == bench]


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
        (variant, budget) for variant in ("morse", "extrapolation") for budget in (2, 3)
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
    assert [row["variant"] for row in speedups] == ["morse", "extrapolation"]
    assert speedups[0]["value"] == pytest.approx(experiment.gain(points, "morse").mean)


def test_page_needs_nothing_else(result):
    out, _ = result
    text = (out / "index.html").read_text()
    sources = re.findall(r'(?:src|srcset|poster|data)="([^"]*)"', text)
    assert [source[:22] for source in sources] == ["data:image/png;base64,"] * 2
    assert not re.search(r"<script|<link|@import|url\(", text)
    assert "prefers-color-scheme: dark" in text
    assert "width=device-width" in text


def test_page_says_what_was_measured(result):
    out, _ = result
    text = (out / "index.html").read_text()
    points = rows(out, "quality")
    assert experiment.verdict(points).replace(">", "&gt;").replace("<", "&lt;") in text
    for row in points:
        assert f"<td>{row['value']:.3f}</td>" in text
        assert f"<td>{row['plan']}</td>" in text
    for name in ("cpu", "torch", "diffusers", "morse_engine"):
        assert str(points[0][name]) in text


def test_printed(result):
    out, text = result
    flat = " ".join(text.split())
    assert experiment.verdict(rows(out, "quality")) in flat
    assert "Frechet distance" in flat
    assert "extrapolation" in flat
    assert "100%" in flat


def test_page_escapes():
    text = page.render(
        title="<a>",
        verdict="<= 1 & more",
        pictures=b"",
        plot=b"",
        headings=["<h>"],
        cells=[["<c>"]],
        marked="",
        caption="<b>",
        machine={"gpu": None, "cpu": "<cpu>"},
    )
    assert "&lt;= 1 &amp; more" in text
    assert not re.search("<(a|h|c|b|cpu)>", text)
    assert "gpu" not in text


def test_seed_decides(result, tmp_path):
    """Another seed gives other images, and other distances."""
    out, _ = result
    quiet = Console(file=io.StringIO())
    demo.run_demo(tmp_path, seed=1000, console=quiet, **{**SMALL, "budgets": (3,), "steps": (3,)})

    def first(folder):
        points = [r for r in rows(folder, "quality") if r["plan"] == "---"]
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


def test_ctrl_c_leaves_no_half_file(tmp_path, monkeypatch):
    """Stopped in the middle of a file: the old one is whole, no temporary one is left."""
    (tmp_path / "quality.png").write_bytes(b"old")

    def stopped(rows, path):
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(figures, "quality_plot", stopped)
    with pytest.raises(KeyboardInterrupt):
        demo.run_demo(tmp_path, console=Console(file=io.StringIO()), **SMALL)
    assert {path.name for path in tmp_path.iterdir()} == {"quality.png", "side_by_side.png"}
    assert (tmp_path / "quality.png").read_bytes() == b"old"


def test_whole(tmp_path):
    path = tmp_path / "a.txt"
    with whole(path) as partial:
        partial.write_text("one")
        assert partial.suffix == ".txt"
        assert not path.exists()
    assert path.read_text() == "one"

    def fail() -> None:
        with whole(path) as partial:
            partial.write_text("two")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert path.read_text() == "one"
    assert list(tmp_path.iterdir()) == [path]


def test_output_folder_is_made_and_left_empty(tmp_path):
    folder = output_folder(tmp_path / "a" / "b")
    assert folder.is_dir()
    assert not list(folder.iterdir())
    assert output_folder(folder) == folder


# -- the words ---------------------------------------------------------------------------------


def fake_rows(morse: list[float], rival: float = 8.0) -> list[dict]:
    """Dash alone: distance 10 - n at n LSD; Morse: the given distances at 2, 4 ... LSD."""
    about = {"solver": "ddim", "model": "m", "images": 9, "dot_speed": 6.0}

    def row(variant, budget, value):
        cost = {"cost_lsd": budget, "budget_lsd": budget, "ms_per_image": 2.0 * budget}
        return {"variant": variant, "value": value, "plan": "-", **cost, **about}

    return [
        *(row("dash only", n, 10.0 - n) for n in (1, 2, 4, 8)),
        *(row("morse", 2 * (i + 1), value) for i, value in enumerate(morse)),
        row("extrapolation", 2, rival),
    ]


@pytest.mark.parametrize(
    ("morse", "said"),
    [
        (
            [6.0, 2.0],
            "Morse is 2.00x as fast as Dash alone (on average over budgets of 2 and 4 LSD",
        ),
        (
            [4.0, 6.5],
            "Morse is 1.94x as fast as Dash alone (on average over budgets of 2 and 4 LSD",
        ),
        ([8.0], "Morse brings no gain here: 1.00x"),
        ([8.5], "Morse brings no gain here: 0.75x"),
        ([1.0], "Morse is >= 4.00x as fast"),
    ],
)
def test_verdict(morse, said):
    text = experiment.verdict(fake_rows(morse))
    assert said in text
    assert "extrapolation, which needs no training, reaches 1.00x" in text
    assert ("more than Morse" in text) == (morse == [8.5])


def test_verdict_names_the_budgets_without_a_gain():
    assert "with no gain at 4 LSD" in experiment.verdict(fake_rows([4.0, 6.5]))
    assert "no gain" not in experiment.verdict(fake_rows([4.0, 5.0]))


def test_a_busy_machine_is_no_clock():
    found = fake_rows([6.0])
    assert "2.00x by the clock" in experiment.verdict(found)
    found[0]["ms_per_image"] *= 3
    assert experiment.unsteady(found) == pytest.approx(3.0)
    assert "clock" not in experiment.verdict(found)
    about = {"batch_size": 1, "lsd_ms": 2.0, "dot_ms": 0.5}
    assert "busy with other work" in experiment.caption([row | about for row in found])


def test_gain_by_the_clock():
    found = fake_rows([6.0])
    for row in found:
        row["ms_per_image"] *= 2 if row["variant"] == "morse" else 1
    assert isinstance(experiment.gain(found, "morse"), SpeedUp)
    assert experiment.gain(found, "morse").mean == pytest.approx(2.0)
    assert experiment.gain(found, "morse", "ms_per_image").mean == pytest.approx(1.0)


def test_short_plan():
    assert experiment.short("-.." * 13) == "-.." * 13
    assert experiment.short("-" + "." * 39) == "-" + "." * 39
    text = experiment.short("-..." * 15)
    assert text == "-..." * 7 + " and 32 more"
    assert len(text) == 40
