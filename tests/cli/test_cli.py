"""The command line: help, arguments and errors."""

import inspect
import subprocess
import sys

import pytest
import torch

from commands import run
from morse_engine import Dot, train_dash, train_dot, zoo
from morse_engine.cli import app as cli
from morse_engine.cli import models, options, sample, train

COMMANDS = ("demo", "sample", "train-dash", "train-dot", "evaluate", "search", "doctor")


# -- help --------------------------------------------------------------------------------------


def test_help_lists_the_commands(capsys):
    assert run("--help") == 0
    text = capsys.readouterr().out
    for name in COMMANDS:
        assert name in text


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command(name, capsys):
    assert run(name, "--help") == 0
    assert f"example:\n    morse-engine {name}" in capsys.readouterr().out


@pytest.fixture
def given(monkeypatch):
    """The options that a command is called with, in the place of its work."""
    seen = {}
    monkeypatch.setattr(cli, "_status", lambda stopped, command, options: seen.update(options) or 0)
    return seen


@pytest.mark.parametrize("name", COMMANDS)
def test_the_example_of_a_command_is_valid(name, capsys, given):
    """Nobody can copy an example from the help that is refused."""
    run(name, "--help")
    words = capsys.readouterr().out.split("morse-engine ")[-1].split()
    assert words[0] == name
    assert run(*words) == 0
    assert given or name == "doctor"


def test_help_needs_no_torch():
    """It would take seconds to load."""
    code = (
        "import sys\nfrom morse_engine import cli\n"
        "assert cli.main(['sample', '--help']) == 0\n"
        "heavy = {'torch', 'diffusers', 'numpy', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, timeout=60)


def test_version(capsys):
    assert run("--version") == 0
    assert capsys.readouterr().out.startswith("morse-engine 0.")


# -- arguments and errors ----------------------------------------------------------------------


@pytest.mark.parametrize("plan", ["-", "--", "-.", "-..-.."])
@pytest.mark.parametrize("words", [["--plan", "{}"], ["--plan={}"]])
def test_a_plan_may_begin_with_a_dash(plan, words, given):
    assert run("sample", *(word.format(plan) for word in words), "--seed", 1) == 0
    assert (given["plan"], given["seed"]) == (plan, 1)
    assert str(sample.settle(plan, None, None, has_dot=True)) == plan


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sample", "--num-images", "0"], "greater than or equal to 1"),
        (["sample", "--steps", "0"], "greater than or equal to 1"),
        (["sample", "--budget", "x"], "a valid number"),
        (["sample", "--num-images", "1000000000000"], "less than or equal to 100000000"),
        (
            ["sample", "--seed", "18446744073709551616"],
            "less than or equal to 18446744073709551615",
        ),
        (["sample", "--seed", "18446744073709551615"], "the last of 16 seeds is above 1844674407"),
        (["sample", "--format", "jpg"], "'jpg' is not one of 'png', 'safetensors'"),
        (["demo", "--images", "7"], "greater than or equal to 8"),
        (["demo", "--model", "x"], "'x' is not one of 'miniature', 'icons', 'digits'"),
        (["sample", "--size", "64"], "No such option"),
        (["train-dot"], "--out"),
        (["unknown"], "No such command"),
        (["sampel"], "Did you mean 'sample'"),
    ],
)
def test_wrong_arguments(words, said, capsys):
    assert run(*words) == 2
    out, err = capsys.readouterr()
    assert said in err
    assert "Traceback" not in out + err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--budget", "-1"], "budget=-1: a finite number, 1 "),
        (["--budget", "nan"], "budget=nan: a finite number, 1 "),
        (["--plan", "-.", "--steps", "3"], "--plan and --steps exclude each other: give one"),
        (["--plan", "-.", "--budget", "3"], "--plan and --budget exclude each other: give one"),
        (["--plan", "auto", "--steps", "3"], "--plan and --steps exclude each other: give one"),
        (["--plan", ""], "a plan has at least one step"),
        (["--solver", "dmp"], "solver='dmp': choose one of ddim, ddpm, dpm,"),
        (["--solver", "flow"], "solver='flow' is not for the noise"),
        (["--device", "cpu:7"], "device 'cpu:7': choose auto, cpu, cuda or cuda:NUMBER"),
        (["--out", ""], "the name of the output folder is empty"),
    ],
)
def test_wrong_samples(words, said, fails, tmp_path):
    assert said in fails("sample", "--out", tmp_path, "--num-images", 1, *words)
    assert not list(tmp_path.iterdir())


def test_two_models(fails, tmp_path):
    message = fails("train-dot", "--unet", "a", "--model", "b", "--out", tmp_path)
    assert message.startswith("--unet and --model exclude each other")


def test_options_of_a_pipeline(fails, tmp_path):
    for words in (["--guided"], ["--size", 64], ["--cache", tmp_path]):
        message = fails("train-dot", "--out", tmp_path / "out", *words)
        assert message.startswith("--guided, --size and --cache are for the Dot of a pipeline")


def test_lists():
    assert options.numbers("--widths", "16,32", least=8) == [16, 32]
    assert options.numbers("--guidance", "2,12.5", float, least=0) == [2.0, 12.5]
    for text in ("", "8", "16,", "16 32", "16,x", "16,1.5", "16,-3"):
        with pytest.raises(ValueError, match=f"--widths '{text}': give whole numbers of 9 or more"):
            options.numbers("--widths", text, least=9)
    with pytest.raises(ValueError, match="give numbers of 0 or more"):
        options.numbers("--guidance", "nan,inf", float, least=0)


def test_defaults_are_those_of_the_library():
    """The help shows them, so they are written twice."""

    def default(function, name):
        return inspect.signature(function).parameters[name].default

    for command, function in ((train.train_dash, train_dash), (train.train_dot, train_dot)):
        assert default(command, "steps") == default(function, "num_steps")
        for name in ("batch_size", "lr"):
            assert default(command, name) == default(function, name)
    assert default(train.train_dot, "dropout") == default(train_dot, "dropout")
    guidance = options.numbers("--guidance", default(train.train_dot, "guidance"), float)
    assert tuple(guidance) == default(train_dot, "guidance")
    widths = options.numbers("--widths", default(train.train_dot, "widths"))
    assert tuple(widths) == default(Dot, "widths")
    assert default(train.train_dot, "lora_rank") == default(Dot, "lora_rank")


@pytest.mark.parametrize(
    "name", ["demo", "sample", "train-dash", "train-dot", "evaluate", "search"]
)
def test_out_is_a_file(name, fails, tmp_path):
    (tmp_path / "file").write_text("mine")
    assert "file: choose a folder" in fails(name, "--out", tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about a machine without CUDA")
@pytest.mark.parametrize("name", ["demo", "sample", "evaluate", "search"])
def test_no_cuda(name, fails, tmp_path, monkeypatch):
    for load in ("digits_dash", "miniature_pipeline"):
        monkeypatch.setattr(zoo, load, lambda: pytest.fail("work before the check"))
    message = fails(name, "--device", "cuda", "--out", tmp_path)
    assert torch.__version__ in message
    assert "use the CPU" in message


def test_no_such_device(fails, tmp_path):
    said = fails("sample", "--device", "tpu", "--out", tmp_path)
    assert said == "device 'tpu': choose auto, cpu, cuda or cuda:NUMBER"


def test_unet_folder(fails, tmp_path):
    out = ["--out", tmp_path / "out"]
    assert "is not a folder" in fails("sample", "--unet", tmp_path / "none", *out)
    assert "is missing: is" in fails("sample", "--unet", tmp_path, *out)
    (tmp_path / "config.json").write_text('{"_class_name": "UNet2DConditionModel"}')
    assert "holds a UNet2DConditionModel" in fails("sample", "--unet", tmp_path, *out)
    (tmp_path / "config.json").write_text("{")
    assert "is damaged" in fails("sample", "--unet", tmp_path, *out)


def test_dot_is_needed(fails, tmp_path):
    words = ["--unet", zoo.WEIGHTS / "dash", "--out", tmp_path]
    assert "'-.-.' has Dot steps: name a Dot" in fails("sample", *words, "--plan", "-.-.")
    assert "--plan -.-. has Dot steps: name a Dot" in fails("evaluate", *words, "--plan", "-.-.")


def test_plan_of_other_characters(fails, tmp_path):
    assert "character 'x' at position 1" in fails("sample", "--plan=-x-", "--out", tmp_path)
    assert "first step has to be a Dash" in fails("sample", "--plan", "..-", "--out", tmp_path)


def _torch_fails() -> None:
    torch.ones(2) @ torch.ones(3)


def _python_fails() -> None:
    int("x")


@pytest.mark.parametrize(
    ("defect", "kind"), [(_torch_fails, RuntimeError), (_python_fails, ValueError)]
)
def test_a_defect_keeps_its_traceback(defect, kind, monkeypatch, tmp_path):
    """The types are those of our own errors, but nothing of ours raised them."""
    hook = sys.excepthook
    monkeypatch.setattr(models, "load", lambda *_: defect())
    with pytest.raises(kind):
        run("sample", "--out", tmp_path)
    assert sys.excepthook is hook


@pytest.mark.parametrize(("name", "status"), [("sklearn", 2), ("nothing_else", None)])
def test_missing_package(name, status, monkeypatch, capsys, tmp_path):
    def missing(*_) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(models, "load", missing)
    if status is None:
        with pytest.raises(ModuleNotFoundError):
            run("sample", "--out", tmp_path)
    else:
        assert run("sample", "--out", tmp_path) == status
        assert "pip install 'morse-engine[demo]'" in capsys.readouterr().err


def test_ctrl_c_is_one_line(monkeypatch, capsys, tmp_path):
    def stopped(*_) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(models, "data", stopped)
    assert run("train-dot", "--out", tmp_path) == 130
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "the same command continues" in err
