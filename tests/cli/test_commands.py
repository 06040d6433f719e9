"""What each command of the command line writes."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from commands import run
from morse_engine import zoo
from morse_engine.cli import models, sample
from morse_engine.sampling import budget
from morse_engine.sampling.plan import Plan
from morse_engine.system.lock import alone


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
    words += ["--device", "cpu", "--tries", 2]
    assert run("search", *words, "--out", tmp_path) == 0
    out = capsys.readouterr().out
    assert f"plans.json is in {tmp_path}" in out
    (ranking,) = budget.read(tmp_path).values()
    assert str(ranking.best_first()[0]) == "----"  # the full run is nearest to itself
    assert Plan("--") in ranking.scores
    assert re.search(r"^2 LSD  score \S+ of Dash alone$", out, re.M)
    found = re.findall(r"^       score \S+ at N = \S+: (-\S+)  \(\d Dash.*\)$", out, re.M)
    assert {Plan(plan) for plan in found} <= {*ranking.scores}
    assert len(found) == 2  # at batch 1 and at batch 2
    words = ["--solver", "ddim", "--budget", 2, "--num-images", 1, "--device", "cpu"]
    assert run("sample", *words, "--plans", tmp_path, "--out", tmp_path / "images") == 0
    assert f"by a search in {tmp_path}" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["evaluate", "--steps", "2", "--budgets", "2", "--num-images", 66],
        ["sample", "--budget", 2, "--num-images", 1],
        ["sample", "--budget", 2, "--num-images", 1, "--prompt", "a noto heart"],
    ],
)
def test_plans_of_a_folder(words, tmp_path, capsys):
    ranking = budget.Ranking({Plan("-:::-"): 0.1, Plan("--"): 0.2}, (2,), (1.0, 9.0))
    budget.write(tmp_path, {"ddim": ranking})
    out = [] if words[0] == "evaluate" else ["--out", tmp_path / "images"]
    words = [*words, "--solver", "ddim", "--device", "cpu", "--plans", tmp_path, *out]
    assert run(*words) == 0
    assert "-:::-" in capsys.readouterr().out


def test_plans_are_for_a_budget(fails, tmp_path):
    said = fails("sample", "--plan=-.", "--plans", tmp_path)
    assert "plans are for a budget, give one with --budget" in said
    assert "is not a folder" in fails("sample", "--plans", tmp_path / "none")


@pytest.mark.parametrize("words", [["demo"], ["demo", "--model", "digits"], ["search"]])
def test_one_process_writes_in_a_folder_at_a_time(words, tmp_path, fails):
    with alone(tmp_path):
        assert "is in use by process" in fails(*words, "--device", "cpu", "--out", tmp_path)


def test_search_needs_a_folder(fails):
    assert "name --out, or a Dot with --dot" in fails("search", "--unet", zoo.WEIGHTS / "dash")
