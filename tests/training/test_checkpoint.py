"""Nothing lost: damaged checkpoints, full disks, what is not finite, one process a folder."""

import json
import math
import os
import pickle
import subprocess
import sys

import pytest
import torch
from diffusers import DDPMScheduler
from torch import nn

from models import tiny_unet
from morse_engine import Refused, Unavailable, train_dash
from morse_engine.system.lock import alone
from morse_engine.training.fit import Fit
from morse_engine.training.recipe import Recipe

NUMBERS = {"num_steps": 6, "batch_size": 4, "lr": 0.1, "checkpoint_every": 2, "progress": False}
IMAGES = torch.linspace(-1, 1, 16)[:, None, None, None].expand(-1, 1, 16, 16).contiguous()


def loss(model, generator):
    return model(torch.randn(4, 3, generator=generator)).square().mean()


def fit(folder, *, loss=loss, validate=lambda model: {}, about=None, **numbers) -> Fit:
    torch.manual_seed(0)
    return Fit(nn.Linear(3, 1), loss, validate, folder, Recipe(**(NUMBERS | numbers)), about=about)


class Killed(Exception):
    pass


@pytest.fixture
def stopped(tmp_path):
    """A folder with the checkpoint of step 4."""
    steps = iter(range(6))

    def until_the_fifth(model, generator):
        if next(steps) == 4:
            raise Killed
        return loss(model, generator)

    with pytest.raises(Killed):
        fit(tmp_path, loss=until_the_fifth).run()
    return tmp_path


# -- damaged ---------------------------------------------------------------------------------------


def cut(content: dict, path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def of_a_pickle(content: dict, path) -> None:
    path.write_bytes(pickle.dumps({"step": 3}))


def saved(change) -> object:
    return lambda content, path: torch.save(change(content), path)


@pytest.mark.parametrize(
    "damage",
    [
        cut,
        of_a_pickle,
        lambda content, path: path.write_bytes(b""),
        lambda content, path: path.write_bytes(b"\0" * 4000),
        lambda content, path: path.write_bytes(b"PK\3\4 no archive"),
        saved(lambda c: [1, 2]),
        saved(lambda c: torch.zeros(3)),
        saved(lambda c: {k: v for k, v in c.items() if k != "optimizer"}),
        saved(lambda c: c | {"optimizer": {}}),
        saved(lambda c: c | {"ema": None}),
        saved(lambda c: c | {"schedule": 7}),
        saved(lambda c: c | {"step": "four"}),
        saved(lambda c: c | {"params": None}),
        saved(lambda c: c | {"recent": ["x"]}),
        saved(lambda c: c | {"identity": [1]}),
    ],
)
def test_a_damaged_checkpoint_is_refused(damage, stopped):
    path = stopped / "checkpoint.pt"
    damage(torch.load(path, weights_only=True), path)
    before = path.read_bytes()
    with pytest.raises(Refused, match=r"checkpoint\.pt is damaged .*: delete it to begin anew"):
        fit(stopped).run()
    assert path.read_bytes() == before


def test_a_checkpoint_never_runs_code(stopped):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(stopped / "ran"),)

    torch.save({"step": Evil()}, stopped / "checkpoint.pt")
    with pytest.raises(Refused, match="is damaged"):
        fit(stopped).run()
    assert not (stopped / "ran").exists()


@pytest.mark.parametrize("line", ["{", "[]", "{}", '{"step": "x"}', "\0\0"])
def test_a_damaged_row_is_named(line, stopped):
    log = stopped / "log.jsonl"
    log.write_text(log.read_text() + line + "\n")
    with pytest.raises(Refused, match=r"log\.jsonl, line 3, is damaged: remove it"):
        fit(stopped).run()


FULL = """
import resource, sys; sys.path[:0] = {path!r}
from test_checkpoint import fit
limit = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
fit(sys.argv[1]).run()
"""


def test_a_full_disk_keeps_the_checkpoint_before(stopped):
    """The longest file that the operating system allows, in the place of a full disk."""
    before = (stopped / "checkpoint.pt").read_bytes()
    here = os.path.dirname(__file__)
    script = FULL.format(path=[here, os.path.join(os.path.dirname(here), "support")])
    words = [sys.executable, "-c", script, str(stopped), str(len(before) // 2)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=200)
    assert done.returncode == 1
    said = done.stderr.strip().splitlines()[-1]
    assert said.startswith(f"OSError: {stopped}/checkpoint.pt of step 6 cannot be written")
    assert said.endswith("the one before is kept: make room for it, then the same run continues")
    assert (stopped / "checkpoint.pt").read_bytes() == before
    assert {path.name for path in stopped.iterdir()} == {"checkpoint.pt", "log.jsonl", "log.html"}
    fit(stopped).run()


# -- not finite ------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path):
    def infinite(model, generator):
        steps.append(1)
        return loss(model, generator) * (math.inf if len(steps) == 4 else 1)

    steps: list[int] = []
    with pytest.raises(Refused, match=r"at step 4 the loss is (inf|nan): .*earlier step is kept"):
        fit(tmp_path, loss=infinite).run()
    content = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert content["step"] == 2
    assert all(torch.isfinite(p).all() for p in content["params"])


def test_a_gradient_that_is_not_finite_ends_the_run(tmp_path):
    def steep(model, generator):
        return (loss(model, generator) * 0).sqrt()

    with pytest.raises(Refused, match=r"at step 1 the norm of the gradient is nan.* no check"):
        fit(tmp_path, loss=steep).run()
    assert not (tmp_path / "checkpoint.pt").exists()


def test_a_held_out_loss_that_is_not_finite_ends_the_run(tmp_path):
    with pytest.raises(Refused, match="at step 2 the held_out_loss is nan"):
        fit(tmp_path, validate=lambda model: {"held_out_loss": math.nan}).run()
    assert not (tmp_path / "checkpoint.pt").exists()
    assert not (tmp_path / "log.jsonl").exists()


def test_an_absurd_rate(tmp_path):
    """The weights go first, the loss a step later; no file holds them."""
    with pytest.raises(Refused, match=r"Try a lower rate than lr=1e\+30 in another folder"):
        train_dash(
            tiny_unet(), IMAGES, DDPMScheduler(), tmp_path, lr=1e30, num_steps=9, batch_size=2,
            warmup=0, progress=False,
        )  # fmt: skip
    assert not (tmp_path / "checkpoint.pt").exists()


# -- one process a folder --------------------------------------------------------------------------


def test_a_folder_in_use(stopped):
    with (
        alone(stopped),
        pytest.raises(Unavailable, match=rf"is in use by process {os.getpid()}: wait until"),
    ):
        fit(stopped).run()
    fit(stopped).run()
    assert {path.name for path in stopped.iterdir()} == {"checkpoint.pt", "log.jsonl", "log.html"}


HOLDER = """
import sys, time
from morse_engine.system.lock import alone
with alone(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_lock_of_a_killed_process_is_none(tmp_path):
    words = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(Unavailable, match=f"in use by process {holder.pid}"), alone(tmp_path):
            pass
        holder.kill()
        holder.wait()
    assert (tmp_path / ".lock").exists()
    with alone(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_what_killed_processes_left_is_removed(tmp_path):
    (tmp_path / "dot").mkdir()
    left = [".checkpoint.77.partial.pt", "dot/.model.77.partial.safetensors", ".rows.7.partial"]
    mine = ["checkpoint.partial.pt", ".notes", ".my.partial.txt"]
    for name in left + mine:
        (tmp_path / name).write_bytes(b"half")
    with alone(tmp_path):
        there = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
        assert there == {*mine, ".lock"}


# -- what else a checkpoint holds ------------------------------------------------------------------


def test_the_scale_of_half_precision_is_kept(stopped):
    """accelerate has it on a GPU; here it is put in its place."""
    first = fit(stopped)
    first.resume()
    first.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    first.save()
    again = fit(stopped)
    again.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    again.resume()
    assert again.accelerator.scaler.get_scale() == 64.0


def test_a_row_after_a_resume_is_that_of_the_whole_run(stopped, tmp_path_factory):
    """Its loss is the mean since the row before, over both processes."""

    def told(model, generator):
        steps.append(1)
        if len(steps) == 3:
            raise KeyboardInterrupt
        return loss(model, generator)

    whole, part = (tmp_path_factory.mktemp(name) for name in ("whole", "part"))
    fit(whole, checkpoint_every=6).run()
    steps: list[int] = []
    one = fit(part, checkpoint_every=6, loss=told)
    with pytest.raises(KeyboardInterrupt):
        one.run()
    one.save()
    fit(part, checkpoint_every=6).run()
    rows = [json.loads((f / "log.jsonl").read_text()) for f in (whole, part)]
    assert rows[0].pop("seconds") >= 0
    assert rows[1].pop("seconds") >= 0
    assert rows[0] == rows[1]
