import time

import pytest
import torch

from fake_cuda import Event, FakeCuda
from morse_engine.runtime.speed import MOST, measure_steps


def test_on_a_gpu_steps_are_timed_in_a_row(monkeypatch):
    """A wait behind each step would add its launch and wake-up to it."""
    FakeCuda().install(monkeypatch)
    monkeypatch.setattr(Event, "waits", 0)
    made = []

    def step(name, seconds):
        made.append(name)
        time.sleep(seconds)

    speed = measure_steps(
        lambda: step("-", 2e-3), lambda: step(".", 0), device=torch.device("cuda"),
        repeats=5, again=lambda: made.append("again"),
    )  # fmt: skip
    rows = "".join(name[0] for name in made).split("a")[1:]
    assert len(rows) == Event.waits == 2 * (2 + 3 + 5)
    assert [len(row) for row in rows[:4]] == [1] * 4, "two of each to find out"
    dash, dot = rows[4::2], rows[5::2]
    assert set(dot) == {"." * MOST}
    assert len(set(dash)) == 1
    assert dash[0] in ("-", "--")
    assert speed.lsd_ms >= 2
    assert speed.dot_ms < speed.lsd_ms / 2


def test_on_a_cpu_by_the_wall_one_by_one():
    made = []

    def step():
        made.append("-")

    speed = measure_steps(step, None, device=torch.device("cpu"), repeats=3)
    assert len(made) == 2 + 3 + 3
    assert (speed.dot_ms, speed.dot_speed) == (None, None)
    with pytest.raises(ValueError, match="repeats=2"):
        measure_steps(step, None, device=torch.device("cpu"), repeats=2)
