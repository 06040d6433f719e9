from types import SimpleNamespace

import pytest
import torch

import fake_cuda
from fake_cuda import Event, FakeCuda
from morse_engine.runtime.speed import MOST, measure_speed, measure_steps


def test_on_a_gpu_steps_are_timed_in_a_row(monkeypatch):
    """A wait behind each step would add its launch and wake-up to it."""
    FakeCuda().install(monkeypatch)
    monkeypatch.setattr(Event, "waits", 0)
    now, made = [0.0], []
    monkeypatch.setattr(fake_cuda, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def step(name, seconds):
        made.append(name)
        now[0] += seconds

    speed = measure_steps(
        lambda: step("-", 2e-3), lambda: step(".", 1e-5), device=torch.device("cuda"),
        repeats=5, again=lambda: made.append("again"),
    )  # fmt: skip
    rows = "".join(name[0] for name in made).split("a")[1:]
    assert len(rows) == Event.waits == 2 * (2 + 3 + 5)
    assert [len(row) for row in rows[:4]] == [1] * 4, "two of each to find out"
    dash, dot = rows[4::2], rows[5::2]
    assert set(dot) == {"." * MOST}
    assert set(dash) == {"--"}
    assert (speed.lsd_ms, speed.dot_ms) == pytest.approx((2, 0.01))


def test_on_a_cpu_by_the_wall_one_by_one():
    made = []

    def step():
        made.append("-")

    speed = measure_steps(step, None, device=torch.device("cpu"), repeats=3)
    assert len(made) == 2 + 3 + 3
    assert (speed.dot_ms, speed.dot_speed) == (None, None)
    with pytest.raises(ValueError, match="repeats=2"):
        measure_steps(step, None, device=torch.device("cpu"), repeats=2)


@pytest.mark.parametrize("guided_dot", [True, False])
def test_with_guidance_dash_sees_both_branches_and_a_guided_dot_one(guided_dot):
    text, seen = torch.arange(6.0)[:, None], {}

    def dash(x, t, **cond):
        seen["dash"] = len(x), cond["text"].flatten().tolist()
        return x

    def dot(x, t, x_s, z_s, t_s, z_p, t_p, **cond):
        seen["dot"] = {len(part) for part in (x, x_s, z_s, z_p)}, cond["text"].flatten().tolist()
        seen["scale"] = cond.get("guidance_scale")
        return x

    measure_speed(
        dash, dot, (1, 2, 2), batch_size=3, repeats=3, cond={"text": text}, guidance_scale=2.0,
        guided_dot=guided_dot,
    )  # fmt: skip
    assert seen["dash"] == (6, [0, 1, 2, 3, 4, 5])
    assert seen["dot"] == (({3}, [3, 4, 5]) if guided_dot else ({6}, [0, 1, 2, 3, 4, 5]))
    assert seen["scale"] == (2.0 if guided_dot else None)
