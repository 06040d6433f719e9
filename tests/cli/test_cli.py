"""The command line: help, arguments, errors, and what each command writes."""

import inspect
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from commands import run
from morse_engine import Dot, train_dash, train_dot, zoo
from morse_engine.cli import app as cli
from morse_engine.cli import doctor as checks
from morse_engine.cli import models, options, sample, train
from morse_engine.evaluation.experiment import Experiment
from morse_engine.sampling import budget
from morse_engine.sampling.plan import Plan
from morse_engine.system import machine
from morse_engine.system.lock import alone

COMMANDS = ("demo", "sample", "train-dash", "train-dot", "evaluate", "search", "doctor")


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.array(picture).astype(int)


@pytest.fixture
def photos(tmp_path):
    """Twelve colour pictures of odd sizes, one of them in a folder within the folder."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    generator = np.random.default_rng(0)
    for i in range(12):
        array = generator.integers(0, 256, (40 + i, 50 - i, 3), dtype=np.uint8)
        Image.fromarray(array).save(folder / ("more" if i == 5 else ".") / f"{i:02d}.png")
    (folder / "notes.txt").write_text("not a picture")
    return folder


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
    assert "needs a Dot" in fails("evaluate", *words)


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


# -- the commands ------------------------------------------------------------------------------


@pytest.mark.slow
def test_sample_with_a_plan(tmp_path, capsys):
    words = ["sample", "--plan", "-.-", "--out", tmp_path, "--device", "cpu"]
    assert run(*words, "--num-images", 3, "--seed", 7, "--batch-size", 2) == 0
    names = {f"seed-{n:07d}.png" for n in (7, 8, 9)}
    assert {path.name for path in tmp_path.iterdir()} == {"grid.png", "settings.json", *names}
    assert pixels(tmp_path / "seed-0000007.png").shape == (32, 32)
    out = capsys.readouterr().out
    assert "-.-  (2 Dash, 1 Dot)" in out
    assert "3 images and grid.png are in" in out
    # the image of a seed does not depend on the batch
    assert run(*words[:-4], "--out", tmp_path / "alone", "--num-images", 1, "--seed", 9) == 0
    apart = pixels(tmp_path / "alone" / "seed-0000009.png") - pixels(tmp_path / "seed-0000009.png")
    assert abs(apart).max() <= 1


@pytest.mark.slow
def test_sample_within_a_budget(tmp_path, capsys):
    assert run("sample", "--budget", 2, "--num-images", 2, "--out", tmp_path) == 0
    out = capsys.readouterr().out
    bought, why = out.split("budget  ")[1].split("\n")[0].split(" ", 1)
    assert Plan(bought).num_dash <= 2
    assert why.startswith("for 2 LSD at N = ")
    assert f"plan    {bought}  " in out


def test_a_budget_without_a_dot(tmp_path, capsys):
    """Dash and free steps; `auto` is a budget, 10 LSD if none is given."""
    words = ["sample", "--unet", zoo.WEIGHTS / "dash", "--num-images", 1]
    assert run(*words, "--budget", 3, "--out", tmp_path / "a") == 0
    bought = capsys.readouterr().out.split("plan    ")[1].split(" ")[0]
    assert (Plan(bought).num_dash, Plan(bought).num_dot) == (3, 0)
    assert run(*words, "--plan", "auto", "--budget", 3, "--out", tmp_path / "b") == 0
    assert f"plan    {bought}  " in capsys.readouterr().out
    assert sample.settle("auto", None, None, has_dot=True) == budget.DEFAULT_BUDGET
    assert sample.settle(" auto ", 4.5, None, has_dot=True) == 4.5


def test_sample_with_dash_alone(tmp_path, capsys):
    words = ["sample", "--unet", zoo.WEIGHTS / "dash", "--solver", "dpm", "--num-images", 1]
    assert run(*words, "--steps", 3, "--out", tmp_path) == 0
    out = capsys.readouterr().out
    assert "---  (3 Dash, 0 Dot)" in out
    assert "DPMSolverMultistepScheduler" in out


@pytest.mark.slow
def test_train_both_then_sample(photos, tmp_path, capsys):
    """A folder of pictures, a Dash, its Dot and an image, by the commands that the texts name."""
    small = ["--batch-size", 2, "--data", photos]
    words = ["train-dash", *small, "--size", 32, "--widths", "8,8,8", "--steps", 2]
    assert run(*words, "--out", tmp_path / "dash") == 0
    unet = tmp_path / "dash" / "unet"
    assert {"config.json", "scheduler_config.json"} <= {path.name for path in unet.iterdir()}
    # two of the twelve are held out
    assert "10 images of 32 x 32, 3 channels" in capsys.readouterr().out
    log = (tmp_path / "dash" / "log.jsonl").read_text().splitlines()
    assert "held_out_loss" in json.loads(log[-1])

    words = ["train-dot", *small, "--unet", unet, "--widths", "4,4", "--lora-rank", 1, "--steps", 2]
    assert run(*words, "--out", tmp_path / "dot") == 0
    capsys.readouterr()
    assert run(*words, "--out", tmp_path / "dot") == 0  # a second time: it is finished already
    assert "the run continues" in capsys.readouterr().out

    words = ["sample", "--unet", unet, "--dot", tmp_path / "dot" / "dot", "--plan", "-.."]
    assert run(*words, "--num-images", 1, "--out", tmp_path / "out") == 0
    assert pixels(tmp_path / "out" / "seed-0000000.png").shape == (32, 32, 3)


def test_dot_of_another_dash(fails, tmp_path):
    unet = zoo.digits_dash()
    with torch.no_grad():
        unet.conv_in.weight.mul_(2)
    unet.save_pretrained(tmp_path / "other")
    words = ["--unet", tmp_path / "other", "--dot", zoo.WEIGHTS / "dot", "--out", tmp_path / "out"]
    assert "Dot of another Dash" in fails("sample", *words)


def test_a_pipeline_folder(tmp_path):
    """The model in `unet/`, its noise schedule in `scheduler/`."""
    from diffusers import DDPMScheduler

    zoo.digits_dash().save_pretrained(tmp_path / "unet")
    DDPMScheduler(beta_schedule="squaredcos_cap_v2").save_pretrained(tmp_path / "scheduler")
    for folder in (tmp_path, tmp_path / "unet"):
        _, config = models.load_unet(folder)
        assert config["beta_schedule"] == "squaredcos_cap_v2"


def test_training_errors(fails, tmp_path, photos):
    out = ["--out", tmp_path / "out"]
    message = fails("train-dash", "--size", 30, *out)
    assert message.endswith("4 widths need a multiple of 8, for instance 32")
    assert "multiples of 8" in fails("train-dash", "--widths", "12,16", *out)
    message = fails("train-dash", "--data", "digits", "--size", 64, *out)
    assert "the digits are grey, 32 x 32" in message
    assert "is not a folder of images" in fails("train-dot", "--data", tmp_path / "none", *out)


@pytest.mark.slow
def test_evaluate(tmp_path, capsys):
    words = ["--budgets", 2, "--steps", "2,3", "--num-images", 66, "--device", "cpu"]
    assert run("evaluate", *words, "--out", tmp_path) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"rows.json", "quality.png"}
    rows = json.loads((tmp_path / "rows.json").read_text())
    variants = ["dash only"] * 2 + ["morse", "free steps"] + ["morse"] * 2 + ["free steps"]
    assert [row["variant"] for row in rows] == variants
    text = " ".join(capsys.readouterr().out.split())
    assert "free steps alone, without a Dot" in text


@pytest.mark.slow
def test_evaluate_needs_enough_images(fails, tmp_path):
    message = fails("evaluate", "--num-images", 64, "--out", tmp_path)
    assert message.startswith("64 images")


@pytest.mark.slow
def test_search(tmp_path, capsys):
    words = ["--budgets", 2, "--num-images", 4, "--batch-size", 2, "--full-steps", 4]
    words += ["--device", "cpu"]
    assert run("search", *words, "--out", tmp_path) == 0
    out = capsys.readouterr().out
    assert f"plans.json is in {tmp_path}" in out
    (ranking,) = budget.read(tmp_path).values()
    assert str(ranking.best_first()[0]) == "----"  # the full run is nearest to itself
    assert Plan("--") in ranking.scores
    assert "0  ----  (4 Dash" in out


@pytest.mark.parametrize("words", [["demo"], ["demo", "--model", "digits"], ["search"]])
def test_one_process_writes_in_a_folder_at_a_time(words, tmp_path, fails):
    with alone(tmp_path):
        assert "is in use by process" in fails(*words, "--device", "cpu", "--out", tmp_path)


def test_search_needs_a_folder(fails):
    assert "name --out, or a Dot with --dot" in fails("search", "--unet", zoo.WEIGHTS / "dash")


# -- doctor ------------------------------------------------------------------------------------


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
