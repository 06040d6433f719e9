import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler

from models import tiny_unet, trajectory
from morse_engine import Dot, train_dash, train_dot, zoo
from morse_engine.training.batches import stratified
from morse_engine.training.dot import DotRecipe, DotTraining
from morse_engine.training.fit import Fit, step_generator
from morse_engine.training.prompts import Asked
from morse_engine.training.visits import Visits, random_run
from morse_engine.zoo import digits, digits_scheduler

HERE = Path(__file__).parent
PATH = [str(HERE), str(HERE.parent / "support")]  # of a process of its own
IMAGES = torch.linspace(-1, 1, 16)[:, None, None, None].expand(-1, 1, 16, 16).contiguous()


def dash_run(folder, **options):
    options = {"num_steps": 8, "batch_size": 4, "lr": 1e-3, "checkpoint_every": 3} | options
    return train_dash(tiny_unet(), IMAGES, DDPMScheduler(), folder, progress=False, **options)


def dot_run(folder, **options):
    unet = tiny_unet()
    torch.manual_seed(0)
    dot = Dot(unet, widths=(8, 8), lora_rank=2)
    options = {
        "schedulers": [digits_scheduler("ddim"), digits_scheduler("dpm")],
        "num_steps": 9,
        "batch_size": 4,
        "num_visits": 64,
        "refresh_every": 2,
        "run_steps": (4, 8),
        "checkpoint_every": 2,
    } | options
    return train_dot(dot, unet, IMAGES, DDPMScheduler(), folder, progress=False, **options)


def assert_same_weights(a, b):
    for (name, p), q in zip(a.named_parameters(), b.parameters(), strict=True):
        assert torch.equal(p, q), name


class Killed(Exception):
    pass


@pytest.fixture(scope="module", params=[dash_run, dot_run], ids=["dash", "dot"])
def whole(request, tmp_path_factory):
    """A kind of run, and the model of an uninterrupted one."""
    return request.param, request.param(tmp_path_factory.mktemp("whole"))


@pytest.mark.slow
@pytest.mark.parametrize("last_step", [3, 5, 7])
def test_stopped_and_resumed_is_the_uninterrupted_run(whole, last_step, tmp_path, monkeypatch):
    run, model = whole
    one_step = Fit._one_step

    def stop(self):
        if self.step == last_step:
            raise Killed
        return one_step(self)

    monkeypatch.setattr(Fit, "_one_step", stop)
    with pytest.raises(Killed):
        run(tmp_path)
    monkeypatch.undo()
    assert_same_weights(run(tmp_path), model)


@pytest.mark.slow
def test_ctrl_c_between_two_checkpoints(whole, tmp_path, monkeypatch):
    run, model = whole
    one_step = Fit._one_step

    def interrupted(self):
        if self.step == 4:
            signal.raise_signal(signal.SIGINT)
        return one_step(self)

    monkeypatch.setattr(Fit, "_one_step", interrupted)
    with pytest.raises(KeyboardInterrupt, match="step 5 of"):
        run(tmp_path)
    monkeypatch.undo()
    assert_same_weights(run(tmp_path), model)


@pytest.mark.slow
def test_killed_process_resumes(tmp_path):
    """SIGKILL at a moment that nobody chose, then the same run again."""
    script = f"""
import sys; sys.path[:0] = {PATH!r}
import torch; torch.set_num_threads(1)
from test_training import dot_run
dot_run({str(tmp_path / "killed")!r}, num_steps=60)
open({str(tmp_path / "end")!r}, "w")
"""
    process = subprocess.Popen([sys.executable, "-c", script])
    deadline = time.time() + 120
    while not (tmp_path / "killed" / "checkpoint.pt").exists() and time.time() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "end").exists(), "the run ended before it was killed"
    step = torch.load(tmp_path / "killed" / "checkpoint.pt", weights_only=True)["step"]
    assert 0 < step < 60
    resumed = dot_run(tmp_path / "killed", num_steps=60)
    assert_same_weights(resumed, dot_run(tmp_path / "whole", num_steps=60))
    lines = (tmp_path / "killed" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(2, 61, 2)), "each row once"


@pytest.mark.slow
def test_dash_learns_and_returns_its_averaged_weights(tmp_path):
    run = {"num_steps": 60, "batch_size": 16, "lr": 3e-3, "checkpoint_every": 20}
    dash_run(tmp_path, held_out=IMAGES, ema_decay=0.9, **run)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [20, 40, 60]
    assert rows[-1]["held_out_loss"] < 0.5 * rows[0]["held_out_loss"]


@pytest.mark.slow
def test_dot_beats_the_zero_residual(tmp_path):
    """A minute of the real thing in small: the bundled Dash, a fresh Dot."""
    unet = zoo.digits_dash()
    images, held_out = (digits.images(split)[0] for split in ("train", "held-out"))
    train_dot(
        Dot(unet), unet, images, DDPMScheduler(), tmp_path,
        schedulers=[zoo.digits_scheduler("ddim")], num_steps=150, batch_size=16, refresh_every=20,
        num_visits=512, checkpoint_every=75, held_out=held_out[:64],
        ema_decay=0.9, warmup=10, own_way_from=0.5, progress=False,
    )  # fmt: skip
    row = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
    assert row["loss"] < 0.5, "the zero residual is worth about 1"
    assert row["held_out_loss"] < row["zero_residual"]
    assert sum(b["n"] for b in row["bins"]) == 64
    mean = sum(b["n"] * b["zero"] for b in row["bins"]) / 64
    assert mean == pytest.approx(row["zero_residual"], rel=1e-4)


def test_visits_keep_the_newest_rows():
    visits = Visits(5)
    for k in range(4):
        column = torch.full((2,), float(k))
        visits.add(**dict.fromkeys(Visits.NAMES, column))
    assert sorted(visits.rows["x"].tolist()) == [1.0, 2.0, 2.0, 3.0, 3.0]
    drawn = visits.draw(100, torch.Generator().manual_seed(0), "cpu")
    assert set(drawn["z"].tolist()) == {1.0, 2.0, 3.0}
    assert torch.equal(drawn["x"], drawn["t_s"])


def test_stratified_times_cover_the_range():
    u = stratified(64, step_generator(0, 0))
    assert torch.equal((64 * u).long().sort().values, torch.arange(64))
    assert not torch.equal(u, stratified(64, step_generator(0, 1)))


@pytest.mark.parametrize(("options", "message"), [({"num_steps": 0}, "num_steps=0")])
def test_wrong_input(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        dash_run(tmp_path, **options)
    scheduler = DDPMScheduler(prediction_type="learned")
    with pytest.raises(ValueError, match="learned"):
        train_dash(tiny_unet(), IMAGES, scheduler, tmp_path, num_steps=1)


@pytest.mark.slow
def test_trained_dot_is_usable(tmp_path):
    dot = dot_run(tmp_path)
    assert not dot.training
    assert torch.isfinite(dot(*trajectory(tiny_unet()))).all()


def test_plans_of_walks_are_of_the_asked_length_and_have_free_steps():
    schedulers, generator = [digits_scheduler("ddim")], torch.Generator().manual_seed(0)
    for least, most in ((2, 2), (4, 8), (4, 32)):
        plans = [random_run(schedulers, (least, most), generator)[0] for _ in range(60)]
        assert all(least - 2 <= len(plan) <= most and plan.num_dot for plan in plans)
        each = {plan.num_free / (plan.num_dash + plan.num_dot) for plan in plans}
        assert each == ({0} if most == 2 else {0, 1, 2})


def test_a_point_with_fresh_noise_is_measured_by_the_held_image(tmp_path):
    """Where a solver has added noise, reusing z_s is so wrong that any Dot would look good."""
    unet = tiny_unet()
    training = DotTraining(
        Dot(unet), unet, IMAGES, DDPMScheduler(), [digits_scheduler("ddpm")], DotRecipe()
    )
    generator = torch.Generator().manual_seed(0)
    x, x_s, z_s, z_p = torch.randn(4, 4, 1, 16, 16, generator=generator)
    times = {name: torch.full((4,), float(t)) for name, t in (("t", 300), ("t_s", 500))}
    batch = {"x": x, "x_s": x_s, "z_s": z_s, "z_p": z_p, "t_p": times["t_s"], **times}
    batch["z"] = z_s + training.levels.miss(x, x_s, z_s, times["t"], times["t_s"])
    ours, zero, held = training.errors(training.dot, batch, Asked())
    assert held.max() < 1e-8 < 0.1 < zero.min(), "here Dash says what the held image does"
    assert torch.equal(ours, held) or (ours - held).abs().max() < 1e-8, "an untrained Dot holds it"


def test_a_dot_knows_its_solvers(tmp_path):
    dot = dot_run(tmp_path, num_steps=1, schedulers=[digits_scheduler("ddpm")])
    assert dot.solvers == ("ddpm",)
    assert Dot.from_pretrained(tmp_path / "dot", tiny_unet()).solvers == ("ddpm",)
