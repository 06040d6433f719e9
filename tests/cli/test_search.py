"""The command `search` with a pipeline: the plans that it leaves, and what is refused."""

import json
import re

import pytest
from PIL import Image

from commands import run
from morse_engine import Plan, zoo
from morse_engine.evaluation import search as of_samplers
from morse_engine.sampling import budget
from morse_engine.zoo.miniature import captions, judge
from pipelines import one_thread, shallow

__all__ = ["one_thread"]  # a fixture of this file

pytestmark = pytest.mark.slow
WORDS = ["search", "--budgets", "2", "--num-images", 4, "--batch-size", 2, "--full-steps", 5]
WORDS += ["--tries", 2, "--device", "cpu"]


@pytest.fixture
def model(tmp_path):
    shallow("StableDiffusionPipeline").save_pretrained(tmp_path / "model")
    (tmp_path / "prompts").write_text("a cat\ndog\n")
    return tmp_path / "model"


def test_a_pipeline_without_a_dot(model, tmp_path, capsys):
    """What the search leaves is what a budget buys for these pictures: free steps, and a range."""
    asked = ["--model", model, "--prompts", tmp_path / "prompts", "--guidance", 2]
    assert run(*WORDS, *asked, "--out", tmp_path / "plans") == 0
    out = capsys.readouterr().out
    (ranking,) = budget.read(tmp_path / "plans").values()
    assert {Plan("--"), Plan("-:-:"), Plan("-::-::")} < set(ranking.scores)
    best = next(p for p in ranking.best_first() if p.num_dash <= 2)
    assert re.search(rf"^       score \S+: {best}  \(", out, re.M)
    told = json.loads((tmp_path / "plans" / "latents.json").read_text())
    assert len(told["low"]) == 4
    words = ["sample", *asked, "--budget", 2, "--num-images", 1, "--device", "cpu"]
    words += ["--plans", tmp_path / "plans", "--out", tmp_path / "images"]
    ranking.scores[Plan("-::-::")] = 0.0
    budget.write(tmp_path / "plans", {"ddim": ranking})
    assert run(*words) == 0
    assert "plan    -::-::" in capsys.readouterr().out
    assert Image.open(tmp_path / "images" / "grid.png").size[0] > 0


def test_another_range_makes_another_set(model, tmp_path, fails):
    plans = tmp_path / "plans"
    asked = ["--model", model, "--prompts", tmp_path / "prompts", "--device", "cpu"]
    assert run(*WORDS, *asked, "--out", plans) == 0
    words = ["sample", *asked, "--budget", 2, "--num-images", 1, "--plans", plans]
    words += ["--out", tmp_path / "images"]
    assert run(*words) == 0
    (plans / "latents.json").write_text(json.dumps({"low": [-1] * 4, "high": [1] * 4}))
    assert "latents" in fails(*words)


def test_evaluate_a_pipeline_without_a_dot(model, tmp_path, capsys):
    asked = ["--model", model, "--prompts", tmp_path / "prompts"]
    assert run(*WORDS, *asked, "--out", tmp_path / "plans") == 0
    capsys.readouterr()
    words = ["evaluate", *asked, "--budgets", 2, "--steps", "2,3", "--num-images", 4]
    words += ["--plans", tmp_path / "plans", "--device", "cpu"]
    assert run(*words, "--out", tmp_path / "out") == 0
    out = capsys.readouterr().out.replace("\n", " ")
    assert "ree steps" in out
    assert "Dot" not in out
    rows = json.loads((tmp_path / "out" / "rows.json").read_text())
    (bought,) = (r for r in rows if r["bench"] == "quality" and r["variant"] == "free steps")
    (ranking,) = budget.read(tmp_path / "plans").values()
    best = next(p for p in ranking.best_first() if p.num_dash <= 2)
    assert (bought["plan"], bought["dot_speed"]) == (str(best), None)
    (gain,) = (r for r in rows if r["bench"] == "quality speed-up")
    assert (gain["variant"], gain["over"]) == ("free steps", "dash only")
    words += ["--plan=-:-:", "--out", tmp_path / "other"]
    assert run(*words) == 0
    rows = json.loads((tmp_path / "other" / "rows.json").read_text())
    assert "-:-:" in {r.get("plan") for r in rows}


def test_evaluate_pixels_without_a_dot(tmp_path, capsys):
    words = ["evaluate", "--unet", zoo.WEIGHTS / "dash", "--budgets", 2, "--steps", "2,3"]
    assert run(*words, "--num-images", 66, "--device", "cpu") == 0
    assert "ree steps" in capsys.readouterr().out


def test_the_bundled_pipeline_has_its_dot_and_its_judge(tmp_path, monkeypatch):
    asked = {}

    def seen(pipe, budgets, **options):
        asked.update(options)
        raise KeyboardInterrupt

    monkeypatch.setattr("morse_engine.integrations.search.search", seen)
    assert run("search", "--model", "miniature", "--out", tmp_path) == 130
    assert asked["prompts"] == captions.coarse()
    assert asked["guidance_scale"] == 3.0
    assert asked["dot"].guided
    assert isinstance(asked["features"].__self__, type(judge.load()))


def test_by_default_a_noisy_solver_has_more_images():
    assert (of_samplers.IMAGES, of_samplers.NOISY_IMAGES) == (64, 256)


def test_what_does_not_go_together_is_refused(model, tmp_path, fails):
    out = ["--out", tmp_path / "plans"]
    assert "give prompts like those" in fails("search", "--model", model, *out)
    assert "--guidance is for pictures of prompts" in fails("search", "--guidance", 2, *out)
    assert "takes no prompts" in fails("search", "--prompt", "x", "--unet", model, *out)
    assert "name --out" in fails("search", "--model", model, "--prompt", "x")
    assert "has Dot steps" in fails("evaluate", "--model", model, "--prompt", "x", "--plan=-.")
    assert "whole batches" in fails(*WORDS, "--prompt", "x", "--num-images", 5, *out)
    assert not [p for p in (tmp_path / "plans").glob("*") if p.name != ".lock"]
