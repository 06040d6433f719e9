"""`morse-engine doctor`."""

import pytest
import torch

from commands import run
from morse_engine import zoo
from morse_engine.cli import doctor as checks
from morse_engine.evaluation.experiment import Experiment
from morse_engine.system import machine


@pytest.mark.slow
def test_doctor(capsys):
    assert run("doctor") == 0
    out = capsys.readouterr().out
    for name in checks.CHECKS:
        assert f"ok    {name}: " in out
    assert torch.__version__ in out
    assert "eager, available" in out
    assert out.endswith("all is well\n")


def test_doctor_finds_missing_models(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(zoo, "WEIGHTS", tmp_path)
    assert run("doctor") == 1
    out = capsys.readouterr().out
    assert "FAIL  bundled models: the models in" in out
    assert checks.REINSTALL in out
    assert f"2 of {len(checks.CHECKS)} checks failed" in out


@pytest.mark.slow
def test_doctor_finds_a_dot_that_does_not_help(monkeypatch, capsys):
    def harmful(unet):
        return lambda x, t, x_s, z_s, *rest: torch.ones_like(z_s)

    monkeypatch.setattr(zoo, "digits_dot", harmful)
    assert run("doctor") == 1
    assert "Dot does not help" in capsys.readouterr().out


def test_device_names():
    assert machine.device("cpu") == torch.device("cpu")
    assert machine.device("auto").type in ("cpu", "cuda")
    with pytest.raises(ValueError, match="choose auto, cpu"):
        machine.device("cuda:one")


def test_a_refused_sample_leaves_its_folder_usable(fails, tmp_path):
    words = ["sample", "--solver", "heun", "--num-images", "1", "--out", str(tmp_path)]
    assert "nearest: 3 or 5" in fails(*words, "--steps", "4")
    assert not list(tmp_path.iterdir())
    assert run(*words, "--steps", "5") == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sample", "--solver", "none"], "choose one of"),
        (["search", "--solver", "none", "--out", "o"], "choose one of"),
        (["evaluate", "--solver", "none"], "choose one of"),
        (["sample", "--prompt", "x", "--plan=-."], "name a Dot with --dot"),
        (["sample", "--prompt", "x", "--guidance", "1e300"], "1e+06 or less"),
        (["demo", "--model", "digits", "--images", "8"], "--images 8: of digits 65 or more"),
    ],
)
def test_what_is_known_at_once_is_said_before_a_folder_is_made(
    words, said, tmp_path, fails, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert said in fails(*words)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["evaluate", "--seed", str(2**64 - 1)], "of 1,000 seeds is above"),
        (["evaluate", "--budgets", "4,200000"], "200000"),
        (["evaluate", "--plan", "-" * 2000], "2000"),
        (["demo", "--model", "digits", "--seed", str(2**64 - 9)], "of 200 seeds is above"),
    ],
)
def test_what_cannot_be_made_is_said_before_anything_is_measured(
    words, said, tmp_path, fails, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Experiment, "measure", lambda *a, **k: pytest.fail("measured"))
    assert said in fails(*words, "--device", "cpu")
