"""What can be seen of a training: rows, page, pictures, the line of a terminal, trackers."""

import io
import itertools
import json
import re

import pytest
import rich
import torch
from accelerate import tracking
from diffusers import DDPMScheduler
from PIL import Image
from rich.console import Console
from torch import nn

from models import tiny_unet
from morse_engine import Refused, Unavailable, train_dash
from morse_engine.training import progress
from morse_engine.training.fit import Fit
from morse_engine.training.log import Log, chart, page
from morse_engine.training.recipe import Recipe

ROWS = [
    {"step": 5, "loss": 0.8, "seconds": 1.0, "held_out_loss": 0.9, "zero_estimate": 1.0},
    {"step": 10, "loss": 0.4, "seconds": 2.0, "held_out_loss": 0.5, "zero_estimate": 1.0},
]


def test_the_page_shows_the_last_row_and_all_lines():
    text = page(ROWS, 20, b"png")
    assert "<h1>Step 10 of 20</h1>" in text
    assert text.count("<polyline") == 3
    assert "<dt>held out loss</dt><dd>0.5</dd>" in text
    assert "data:image/png;base64,cG5n" in text
    assert "<dd>12,346</dd>" in page([ROWS[0] | {"seconds": 12345.6}], 20)
    assert "refresh" in text, "the run is not finished"
    assert "refresh" not in page(ROWS, 10)
    assert not re.search(r"https?://", text), "it needs nothing else"


def test_the_chart_is_logarithmic_and_within_its_frame():
    rows = [{"step": k, "loss": 10.0**-k} for k in range(1, 5)]
    points = re.search('<polyline points="([^"]*)"', chart(rows, 4))[1].split()
    y = [float(point.split(",")[1]) for point in points]
    steps = {round(b - a) for a, b in itertools.pairwise(y)}
    assert len(steps) == 1, "equal factors are equal distances"
    assert 0 < min(y) < max(y) < 260
    assert chart([{"step": 1, "loss": 0.0}], 4) == "", "no logarithm"
    assert "<polyline" in chart([{"step": 1, "loss": 2.0}], 4), "one point alone"


def test_a_picture_that_is_not_finite_is_left_out(tmp_path):
    log = Log(tmp_path, 10)
    log.add(ROWS[0], torch.full((4, 1, 8, 8), torch.nan))
    assert not (tmp_path / "preview.png").exists()
    log.add(ROWS[1], torch.zeros(4, 1, 8, 8))
    with Image.open(tmp_path / "preview.png") as picture:
        assert picture.size == (18 * 12, 18 * 12)
    assert log.rows() == ROWS


def test_a_dash_is_previewed_at_each_row(tmp_path):
    images = torch.linspace(-1, 1, 12)[:, None, None, None].expand(-1, 1, 16, 16).contiguous()
    train_dash(
        tiny_unet(), images, DDPMScheduler(), tmp_path, num_steps=2, batch_size=2,
        checkpoint_every=1, held_out=images, progress=False,
    )  # fmt: skip
    names = {"checkpoint.pt", "log.jsonl", "log.html", "preview.png"}
    assert {path.name for path in tmp_path.iterdir()} == names
    row = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
    assert row["zero_estimate"] == pytest.approx(1, abs=0.2), "of unit noise"
    assert "<h2>Preview</h2>" in (tmp_path / "log.html").read_text()


# -- the line of a terminal ------------------------------------------------------------------------


def watched(monkeypatch, *, terminal: bool) -> str:
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=120)
    monkeypatch.setattr(rich, "_console", console)
    watch = progress.Watch(20, 10, 8, shown=True)
    with watch.running():
        watch.began -= 5  # seconds
        for k in range(11, 21):
            watch.step(k, 0.5)
        watch.row(20, 0.25)
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", file.getvalue())


def test_a_terminal_shows_loss_rate_and_times(monkeypatch, capsys):
    said = watched(monkeypatch, terminal=True)
    assert "20/20" in said
    assert "loss 0.5000  16 images/s" in said
    assert re.search(r"0:00:0\d.*0:00:00", said), "elapsed and remaining time"
    assert capsys.readouterr().out == ""


def test_a_file_gets_a_line_for_each_row(monkeypatch, capsys):
    assert watched(monkeypatch, terminal=False).strip() == ""
    said = capsys.readouterr().out
    assert said == "step 20 of 20: loss 0.2500, 16 images/s, 0:00:05 elapsed, 0:00:00 left\n"


# -- trackers --------------------------------------------------------------------------------------


class Tracker(tracking.GeneralTracker):
    name, requires_logging_directory = "aim", False
    seen: list = []  # noqa: RUF012

    def __init__(self, run_name, **options):
        super().__init__()
        self.seen.append(("begin", run_name))

    tracker = None

    def store_init_configuration(self, values):
        self.seen.append(("config", values))

    def log(self, values, step, **options):
        self.seen.append((step, values))

    def finish(self):
        self.seen.append(("end",))


def fit(folder, **numbers) -> Fit:
    numbers = {"num_steps": 4, "batch_size": 2, "lr": 0.1, "checkpoint_every": 2} | numbers
    loss = lambda model, generator: model(torch.ones(1, 3)).square().mean()  # noqa: E731
    recipe = Recipe(progress=False, **numbers)
    return Fit(nn.Linear(3, 1), loss, lambda model: {"held_out_loss": 1.0}, folder, recipe)


def test_a_tracker_gets_the_rows(tmp_path, monkeypatch):
    """One of accelerate's names with a tracker of our own behind it: none is installed here."""
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "aim", Tracker)
    monkeypatch.setattr(tracking, "_available_trackers", [tracking.LoggerType("aim")])
    fit(tmp_path, report_to="aim").run()
    assert Tracker.seen[0] == ("begin", "morse_engine")
    assert Tracker.seen[1][1]["lr"] == "0.1"
    assert [entry[0] for entry in Tracker.seen[2:]] == [2, 4, "end"]
    assert Tracker.seen[2][1].keys() == {"loss", "seconds", "held_out_loss"}


def test_a_tracker_that_is_not_there(tmp_path, monkeypatch):
    with pytest.raises(Refused, match="report_to='tensorbord': accelerate has the trackers aim"):
        fit(tmp_path, report_to="tensorbord")
    monkeypatch.setattr(tracking, "_available_trackers", [])
    with pytest.raises(Unavailable, match="its package is missing, pip install wandb"):
        fit(tmp_path, report_to="wandb")
