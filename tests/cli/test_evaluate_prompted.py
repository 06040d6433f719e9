"""The command `evaluate` with prompts: what its rows are, that it goes on, and what is refused."""

import json

import pytest
import torch

from commands import run
from models import randomised
from morse_engine import Dot, zoo
from morse_engine.cli import compared
from morse_engine.evaluation.experiment import Experiment
from morse_engine.evaluation.subject import Subject
from morse_engine.runtime.speed import Speed
from morse_engine.system.images import save_png
from morse_engine.zoo.miniature import captions
from pipelines import shallow

pytestmark = pytest.mark.slow
WORDS = ["evaluate", "--budgets", "2", "--steps", "2,3", "--device", "cpu"]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Five steps are all, latencies are made up, and the bundled Dot has learnt nothing."""

    def untrained(unet):
        torch.manual_seed(0)
        return Dot(unet, zoo.miniature_pipeline().scheduler, cut=2, guided=True)

    monkeypatch.setattr(compared, "FULL_STEPS", 5)
    monkeypatch.setattr(zoo, "miniature_dot", untrained)
    monkeypatch.setattr(Subject, "measure", lambda *_: Speed(8.0, 2.0, 4.0))


def written(folder) -> list[dict]:
    found = json.loads((folder / "rows.json").read_text())
    return [row for row in found if row["bench"] == "quality"]


def test_a_stopped_run_of_prompts_continues(tmp_path, monkeypatch, fails, capsys):
    (tmp_path / "prompts").write_text("a noto heart\n\na flat fruit\n")
    out = ["--out", tmp_path / "out"]
    words = [*WORDS, "--prompts", tmp_path / "prompts", "--num-images", 4, "--batch-size", 4]
    evaluate, sampled = Experiment.evaluate, []

    def stopped(self, point, *rest):
        if sampled:
            raise KeyboardInterrupt
        sampled.append(str(point.plan))
        return evaluate(self, point, *rest)

    monkeypatch.setattr(Experiment, "evaluate", stopped)
    assert run(*words, *out) == 130
    capsys.readouterr()
    assert "made with guidance=3.0, this run has 2.0" in fails(*words, *out, "--guidance", 2)
    assert "made with prompts=" in fails(*words, *out, "--prompt", "a frog")
    assert "made with solver=" in fails(*words, *out, "--scheduler", "dpm")

    monkeypatch.setattr(
        Experiment,
        "evaluate",
        lambda self, *a: sampled.append(str(a[0].plan)) or evaluate(self, *a),
    )
    assert run(*words, *out) == 0
    assert len(set(sampled)) == len(sampled), "what was there is not sampled again"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"rows.json", "quality.png"}
    rows = written(tmp_path / "out")
    assert {row["variant"] for row in rows} == {"dash only", "morse", "free steps"}
    for row in rows:
        assert row["unit"] == "distance to the full run"
        assert row["images"] == 4
        assert row["value"] > 0
        assert 0 < row["unlike"] < 1
        assert -1 < row["prompt_score"] < 1
    text = " ".join(capsys.readouterr().out.split())
    assert "at equal distance to the full run" in text.lower()


def test_a_pipeline_of_a_folder(tmp_path, capsys):
    """Without a judge, by features of untrained filters."""
    pipe = shallow("StableDiffusionPipeline")
    pipe.save_pretrained(tmp_path / "model")
    dot = randomised(Dot(pipe.unet, pipe.scheduler, widths=(8,), cut=1))
    dot.save_pretrained(tmp_path / "dot")
    words = [*WORDS, "--model", tmp_path / "model", "--dot", tmp_path / "dot", "--plan", "-.-."]
    words += ["--prompt", "a cat"]
    assert run(*words, "--num-images", 3, "--out", tmp_path / "out") == 0
    rows = written(tmp_path / "out")
    assert {row["model"] for row in rows} == {"model"}
    assert [row["plan"] for row in rows if row["variant"] == "morse"] == ["-.-."]
    assert all(row["value"] > 0 and "prompt_score" not in row for row in rows)
    assert "ddim" in {row["solver"] for row in rows}


def test_real_pictures_are_compared_in_the_judges_features(tmp_path, monkeypatch):
    torch.manual_seed(0)
    (tmp_path / "real").mkdir()
    for k in range(98):
        save_png(torch.rand(3, 64, 64) * 2 - 1, tmp_path / "real" / f"{k}.png")

    def sample(self, point, num_images, on_cost=None):
        generator = torch.Generator().manual_seed(len(point.plan))
        return torch.rand((num_images, 3, 64, 64), generator=generator) * 2 - 1, 1.0

    monkeypatch.setattr(Experiment, "sample", sample)
    words = [*WORDS, "--model", "miniature", "--data", tmp_path / "real", "--num-images", 98]
    assert run(*words, "--out", tmp_path / "out") == 0
    rows = written(tmp_path / "out")
    assert {row["unit"] for row in rows} == {"Frechet distance"}
    assert all("agreement" not in row and row["prompt_score"] < 1 for row in rows)
    assert run(*words, "--solver", "ddpm", "--out", tmp_path / "noisy") == 0
    assert all("rmse_to_full" not in row for row in written(tmp_path / "noisy"))


def test_what_does_not_go_together_is_refused(tmp_path, fails):
    pipe = shallow("StableDiffusionPipeline")
    pipe.save_pretrained(tmp_path / "model")
    assert "give prompts like those" in fails("evaluate", "--model", tmp_path / "model")
    assert "--guidance is for pictures of prompts" in fails("evaluate", "--guidance", 2)
    assert "takes no prompts" in fails("evaluate", "--prompt", "x", "--unet", tmp_path)
    assert "--data digits: pictures of prompts" in fails(
        "evaluate", "--prompt", "x", "--data", "digits"
    )
    assert "ddpm adds noise" in fails("evaluate", "--prompt", "x", "--solver", "ddpm")
    assert "a guidance of 1 has none" in fails("evaluate", "--prompt", "x", "--guidance", 1)
    assert "no such file" in fails("evaluate", "--prompts", tmp_path / "none")
    assert "a number of 0 or more" in fails("evaluate", "--prompt", "x", "--guidance", -1)
    assert "model_index.json is missing" in fails("evaluate", "--model", tmp_path, "--prompt", "x")
    assert "1 images" in fails("evaluate", "--prompt", "x", "--num-images", 1)


def test_coarse_prompts_are_the_default(monkeypatch):
    asked = []

    def seen(*words):
        asked.append(words[0])
        raise KeyboardInterrupt

    monkeypatch.setattr(compared, "of_prompts", seen)
    assert run("evaluate", "--model", "miniature") == 130
    assert asked[0].prompts == captions.coarse()
    assert asked[0].bundled
    assert asked[0].scale == 3.0
