"""The loop on a linear model: checkpoints, resume, signals, the log, what a run refuses."""

import json
import math
import signal
import types
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from morse_engine import Refused
from morse_engine.training import fit as fit_module
from morse_engine.training.dot import DotRecipe
from morse_engine.training.fit import Fit, Recipe, step_generator
from morse_engine.training.stop import Stop
from morse_engine.training.visits import Visits

NUMBERS = {"num_steps": 12, "batch_size": 4, "lr": 0.1, "checkpoint_every": 4, "progress": False}


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(3, 1)


def loss(model, generator):
    x = torch.randn(4, 3, generator=generator)
    return (model(x) - x.sum(dim=1, keepdim=True)).square().mean()


def fit(folder, *, loss=loss, state=None, **numbers) -> Fit:
    recipe = Recipe(**(NUMBERS | numbers))
    return Fit(linear(), loss, lambda model: {"seen": 1.0}, folder, recipe, state=state)


def rows(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The weights of the uninterrupted run, and its folder."""
    folder = tmp_path_factory.mktemp("whole")
    return fit(folder).run(), folder


def assert_same(a: nn.Module, b: nn.Module) -> None:
    for (name, p), q in zip(a.named_parameters(), b.parameters(), strict=True):
        assert torch.equal(p, q), name


def test_what_a_run_leaves(whole):
    model, folder = whole
    assert not model.training
    names = {"checkpoint.pt", "log.jsonl", "log.html"}
    assert {path.name for path in folder.iterdir()} == names
    assert [row["step"] for row in rows(folder)] == [4, 8, 12]
    assert rows(folder)[-1].keys() == {"step", "loss", "seconds", "seen"}
    assert rows(folder)[-1]["loss"] < rows(folder)[0]["loss"]


def test_a_finished_run_is_finished(whole):
    model, folder = whole
    log = (folder / "log.jsonl").read_bytes()
    again = fit(folder, loss=lambda *_: pytest.fail("a step after the last"))
    assert_same(again.run(), model)
    assert (folder / "log.jsonl").read_bytes() == log


def first_layout(steps: int) -> dict:
    """A checkpoint as the first version wrote it, made without `Fit`: its names are a promise."""
    from diffusers.optimization import get_cosine_schedule_with_warmup
    from diffusers.training_utils import EMAModel

    model = linear()
    params = list(model.parameters())
    optimizer = torch.optim.AdamW(params, lr=0.1, weight_decay=0.0, betas=(0.9, 0.99))
    schedule = get_cosine_schedule_with_warmup(optimizer, 12, 12)  # warmup 200, of 12 steps
    ema = EMAModel(params, decay=0.999)
    for step in range(steps):
        loss(model, step_generator(0, step)).backward()
        nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        ema.step(params)
    one = {name: torch.full((8, 1), 2.0) for name in ("x", "x_s", "z_s", "z_p", "z")}
    times = {name: torch.full((8,), 3.0) for name in ("t", "t_s", "t_p")}
    return {
        "step": steps,
        "num_steps": 12,
        "seed": 0,
        "params": [p.detach() for p in params],
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "ema": ema.state_dict(),
        "state": {"count": 11, "rows": one | times},
    }


def test_a_checkpoint_of_the_first_version_is_continued(whole, tmp_path):
    content = first_layout(steps=5)
    torch.save(content, tmp_path / "checkpoint.pt")
    visits = Visits(8)
    continued = fit(tmp_path, state=visits)
    assert_same(continued.run(), whole[0])
    assert [row["step"] for row in rows(tmp_path)] == [8, 12]
    assert visits.count == 11
    assert visits.rows.keys() == set(Visits.NAMES)
    now = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert now.keys() - content.keys() == {"identity", "recent", "scaler", "seconds"}
    assert content.keys() <= now.keys()
    for name in ("optimizer", "schedule", "ema"):
        assert now[name].keys() == content[name].keys(), name


@pytest.mark.parametrize("added", [0, 3, 8, 13])
def test_visits_are_saved_as_far_as_they_are_filled(added):
    visits, again = Visits(8), Visits(8)
    for i in range(added):
        visits.add(x=torch.full((1, 2), 1.0 + i), t=torch.tensor([i]))
    content = visits.state_dict()
    held = min(added, 8)
    assert [rows.untyped_storage().nbytes() for rows in content["rows"].values()] == (
        [held * 8, held * 8] if added else []
    )
    again.load_state_dict(content)
    for some in (visits, again):
        some.add(x=torch.full((2, 2), -1.0), t=torch.tensor([7, 8]))
    assert again.count == visits.count == added + 2
    for name, rows in visits.rows.items():
        assert torch.equal(again.rows[name], rows)


def test_a_failed_save_leaves_the_checkpoint_before(whole, tmp_path, monkeypatch):
    first = fit(tmp_path)
    first.save()
    before = (tmp_path / "checkpoint.pt").read_bytes()

    def full(content, path):
        path.write_bytes(b"half of it")
        raise OSError("no space left")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="no space"):
        first.save()
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint.pt"}
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_another_run_in_the_same_folder_is_refused(whole, tmp_path):
    torch.save(first_layout(steps=1), tmp_path / "checkpoint.pt")
    with pytest.raises(Refused, match="num_steps=12, this one has 9: use another folder"):
        fit(tmp_path, num_steps=9).run()
    with pytest.raises(Refused, match="seed=0, this one has 1"):
        fit(tmp_path, seed=1).run()
    other = Fit(nn.Linear(4, 1), loss, lambda model: {}, tmp_path, Recipe(**NUMBERS))
    with pytest.raises(Refused, match="another model"):
        other.run()


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ({"num_steps": 0}, "num_steps=0: a run needs at least one step"),
        ({"batch_size": 0}, "batch_size=0: a batch has 1 to 1,048,576 points"),
        ({"lr": 0.0}, "lr=0.0: give a rate above 0"),
        ({"lr": float("inf")}, "lr=inf: give a rate above 0"),
        ({"warmup": -1}, "warmup=-1: give a number of steps, 0 for none"),
        ({"clip": 0.0}, "clip=0.0: give a norm above 0, or inf"),
        ({"ema_decay": 1.0}, "ema_decay=1.0: give a decay from 0 to below 1"),
        ({"accumulate": 0}, "accumulate=0: a step needs at least one batch"),
        ({"mixed_precision": "half"}, "mixed_precision='half': use one of no, bf16, fp16"),
        ({"seed": -1}, "seed=-1: give 0 or more"),
        ({"checkpoint_every": 0}, "checkpoint_every=0: give at least one step"),
        ({"own_way_from": 1.5}, "own_way_from=1.5: give a part, from 0 to 1"),
        ({"data_share": -0.1}, "data_share=-0.1: give a part, from 0 to 1"),
        ({"dropout": 1.5}, "dropout=1.5: give a part, from 0 to 1"),
        ({"num_visits": 0}, "num_visits=0: keep 1 to 1,048,576 points"),
        ({"refresh_every": 0}, "refresh_every=0: give at least one step"),
        ({"run_steps": (1, 4)}, r"run_steps=\(1, 4\): give two numbers of 2 or more, the lower"),
        ({"run_steps": (8, 4)}, r"run_steps=\(8, 4\): give two numbers of 2 or more, the lower"),
        ({"guidance": (8, 2)}, r"guidance=\(8, 2\): give two scales from 0, the lower first"),
        ({"guidance": (-1, 2)}, r"guidance=\(-1, 2\): give two scales from 0, the lower first"),
    ],
)
def test_numbers_out_of_range(numbers, said):
    with pytest.raises(Refused, match=said):
        DotRecipe(**numbers)


# -- stopped ---------------------------------------------------------------------------------------


def sends(*numbers: int, at: int):
    """The loss of a run that is sent signals during a step."""
    steps = iter(range(12))

    def loss_and_signals(model, generator):
        if next(steps) == at:
            for number in numbers:
                signal.raise_signal(number)
        return loss(model, generator)

    return loss_and_signals


@pytest.mark.parametrize("at", [3, 5, 11])
def test_ctrl_c_saves_the_running_step(whole, at, tmp_path):
    usual = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match=f"step {at + 1} of 12 is saved in .*checkpoint"):
        fit(tmp_path, loss=sends(signal.SIGINT, at=at)).run()
    assert signal.getsignal(signal.SIGINT) == usual
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == at + 1
    assert_same(fit(tmp_path).run(), whole[0])
    assert [row["step"] for row in rows(tmp_path)] == [4, 8, 12]


def test_sigterm_saves_the_running_step(whole, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        fit(tmp_path, loss=sends(signal.SIGTERM, at=5)).run()
    assert stopped.value.code == 143
    assert "stopped: step 6 of 12 is saved in" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert_same(fit(tmp_path).run(), whole[0])


def test_ctrl_c_and_sigterm_together_are_one_stop(tmp_path):
    """As launchers of several processes send them."""
    with pytest.raises(SystemExit):
        fit(tmp_path, loss=sends(signal.SIGINT, signal.SIGTERM, at=5)).run()
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == 6


def test_a_second_ctrl_c_acts_at_once(tmp_path):
    with pytest.raises(KeyboardInterrupt) as stopped:
        fit(tmp_path, loss=sends(signal.SIGINT, signal.SIGINT, at=5)).run()
    assert "saved" not in str(stopped.value)
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == 4
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler


def test_a_handler_of_the_program_stays(whole, tmp_path):
    seen = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    try:
        model = fit(tmp_path, loss=sends(signal.SIGTERM, at=5)).run()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [signal.SIGTERM]
    assert_same(model, whole[0])


def test_a_run_in_a_thread(whole, tmp_path):
    with ThreadPoolExecutor(1) as pool:
        assert_same(pool.submit(fit(tmp_path).run).result(), whole[0])


@pytest.mark.parametrize(
    ("seconds", "share", "steps"),
    [(60, 0.05, [4, 8, 12]), (0, math.inf, list(range(1, 13))), (0, 1e-9, [1, 4, 8, 12])],
    ids=["a minute has not passed", "after each step", "where writing is slow"],
)
def test_a_checkpoint_by_the_clock(seconds, share, steps, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(fit_module, "SAVE_SECONDS", seconds)
    monkeypatch.setattr(fit_module, "SAVE_SHARE", share)
    save, saved = torch.save, []
    monkeypatch.setattr(torch, "save", lambda c, path: saved.append(c["step"]) or save(c, path))
    assert_same(fit(tmp_path).run(), whole[0])
    assert saved == steps
    assert [row["step"] for row in rows(tmp_path)] == [4, 8, 12]


def test_no_row_twice_after_a_kill_between_log_and_checkpoint(whole, tmp_path, monkeypatch):
    save = Fit.save
    monkeypatch.setattr(Fit, "save", lambda self: save(self) if self.step < 8 else killed())

    def killed():
        raise OSError("killed")

    with pytest.raises(OSError, match="killed"):
        fit(tmp_path).run()
    monkeypatch.undo()
    assert [row["step"] for row in rows(tmp_path)] == [4, 8]
    with open(tmp_path / "log.jsonl", "a") as log:
        log.write('{"step": 12, "lo')  # half a row
    assert_same(fit(tmp_path).run(), whole[0])
    assert [row["step"] for row in rows(tmp_path)] == [4, 8, 12]


def test_without_its_checkpoint_a_run_begins_its_log_anew(whole, tmp_path):
    fit(tmp_path).run()
    (tmp_path / "checkpoint.pt").unlink()
    assert_same(fit(tmp_path).run(), whole[0])
    assert [row["step"] for row in rows(tmp_path)] == [4, 8, 12]


def test_several_processes_stop_after_the_same_step(tmp_path):
    """A signal to any of them counts for all."""
    one, stop = fit(tmp_path), Stop()
    assert one._told(stop) == 0
    one.accelerator = types.SimpleNamespace(
        num_processes=2, device="cpu", gather=lambda told: torch.cat([told, torch.tensor([15])])
    )
    assert one._told(stop) == signal.SIGTERM
