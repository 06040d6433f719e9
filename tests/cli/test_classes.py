"""Models with classes, as the commands draw, measure and search with them."""

import json

import pytest
import torch
from diffusers import DDIMScheduler
from PIL import Image
from safetensors.torch import load_file

import morse_engine
from commands import run
from models import randomised, tiny_unet
from morse_engine import Dot, Plan, zoo
from morse_engine.cli import models
from morse_engine.cli.classes import chosen, labels_of
from morse_engine.evaluation.frechet import Frechet
from morse_engine.sampling import budget, schedulers
from morse_engine.training.dot import DotTraining
from morse_engine.zoo import digits

CLASSES = 5
SCHEDULER = DDIMScheduler(clip_sample=True)


@pytest.fixture
def unet(tmp_path):
    made = tiny_unet(num_class_embeds=CLASSES, sample_size=32)
    models.save_unet(made, SCHEDULER, tmp_path / "unet")
    return tmp_path / "unet"


@pytest.mark.parametrize(("words", "classes"), [([], range(5)), (["--classes", "3,1"], (3, 1))])
def test_samples_are_of_the_classes_of_their_seeds(words, classes, unet, tmp_path):
    words = ["--unet", unet, "--plan=---", "--device", "cpu", *words, "--format", "safetensors"]
    words = ["sample", *words, "--num-images", 6, "--seed", 7, "--batch-size", 4]
    assert run(*words, "--out", tmp_path / "out") == 0
    dash, config = models.load_unet(unet)
    sampler = morse_engine.compile(dash, scheduler=schedulers.make("ddim", config), plan="---")
    labels = [classes[seed % len(classes)] for seed in range(7, 13)]
    expected = sampler(seed=range(7, 13), class_labels=torch.tensor(labels))
    files = sorted((tmp_path / "out").glob("*.safetensors"))
    found = torch.cat([load_file(file)["samples"] for file in files])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_another_choice_of_classes_makes_another_set(unet, tmp_path, fails):
    words = ["sample", "--unet", unet, "--plan=-", "--device", "cpu", "--num-images", 2]
    words += ["--out", tmp_path / "out"]
    assert run(*words) == 0
    assert "classes [0, 1, 2, 3, 4], these are with [1]" in fails(*words, "--classes", 1)


@pytest.mark.slow
@pytest.mark.parametrize("with_dot", [False, True])
def test_a_search_and_what_it_brings(with_dot, unet, tmp_path):
    """The plans of the search are those that `evaluate` measures, of the same classes."""
    words, out = ["--unet", unet, "--device", "cpu", "--classes", "3,1"], tmp_path / "plans"
    if with_dot:
        dash, _ = models.load_unet(unet)
        randomised(Dot(dash, SCHEDULER, widths=(4,), cut=1)).save_pretrained(tmp_path / "dot")
        words += ["--dot", tmp_path / "dot"]
    small = ["--budgets", 2, "--num-images", 4, "--batch-size", 2, "--full-steps", 5, "--tries", 2]
    assert run("search", *words, *small, "--out", out) == 0
    (ranking,) = budget.read(out).values()
    assert {Plan("--"), Plan("-:-:")} < set(ranking.scores)
    assert any(plan.num_dot for plan in ranking.scores) == with_dot
    words = ["evaluate", *words, "--budgets", 2, "--steps", "2,5", "--num-images", 66]
    assert run(*words, "--plans", out, "--out", tmp_path / "out") == 0
    rows = json.loads((tmp_path / "out" / "rows.json").read_text())
    rows = [row for row in rows if row["bench"] == "quality"]
    helped = {row["plan"] for row in rows if row["variant"] != "dash only"}
    assert helped <= {str(plan) for plan in ranking.scores}
    dash, config = models.load_unet(unet)
    sampler = morse_engine.compile(dash, scheduler=schedulers.make("ddim", config), plan="--")
    x = sampler(seed=range(66), class_labels=torch.tensor([3, 1] * 33)).clamp(-1, 1)
    real = models.data("digits", 32, 1)[0]
    expected = Frechet(zoo.digits_classifier(), real).distance(x)
    (row,) = (row for row in rows if row["plan"] == "--" and row["variant"] == "dash only")
    assert row["value"] == pytest.approx(expected, rel=1e-3)


def test_a_model_without_classes(tmp_path, fails):
    models.save_unet(tiny_unet(), SCHEDULER, tmp_path / "unet")
    words = ["sample", "--unet", tmp_path / "unet", "--plan=-", "--num-images", 1]
    words += ["--device", "cpu", "--out", tmp_path / "out"]
    assert "has no classes" in fails(*words, "--classes", 1)
    assert run(*words) == 0


@pytest.mark.parametrize(
    ("classes", "said"),
    [("5", "classes 0 to 4, no 5"), ("x", "give whole numbers"), ("-1", "give whole numbers")],
)
@pytest.mark.parametrize("command", ["sample", "search", "evaluate"])
def test_wrong_classes(command, classes, said, unet, tmp_path, fails):
    words = [command, "--unet", unet, "--device", "cpu", f"--classes={classes}"]
    assert said in fails(*words, "--out", tmp_path / "out")
    assert "have no classes" in fails(command, "--prompt", "x", "--classes", 1, "--out", tmp_path)


def test_models_that_are_told_classes_otherwise(fails):
    unet = tiny_unet(class_embed_type="timestep")
    with pytest.raises(ValueError, match="told classes by TimestepEmbedding"):
        chosen(unet, None)


def test_the_class_of_a_seed():
    assert labels_of([4, 2], [0, 1, 2, 2**64 - 1]).tolist() == [4, 2, 4, 2]


# -- a Dot for them --------------------------------------------------------------------------------


@pytest.fixture
def pictures(tmp_path):
    """Four pictures of each class, in the grey of its number; `10` comes before `2`."""
    names = ["10", "2", "a", "b", "c"]
    for number, name in enumerate(names):
        (tmp_path / "pictures" / name / "more").mkdir(parents=True)
        for i in range(4):
            path = tmp_path / "pictures" / name / ("more" if i else "") / f"{i}.png"
            Image.new("L", (32, 32), 10 * number).save(path)
    return tmp_path / "pictures"


@pytest.fixture
def trained(monkeypatch):
    """What a training is given, in the place of the training."""
    seen = {}

    def begin(self, dot, unet, images, noise_scheduler, ways, recipe, held_out):
        seen.update(dot=dot, images=images, ways=ways, held_out=held_out)
        raise KeyboardInterrupt

    monkeypatch.setattr(DotTraining, "__init__", begin)
    return seen


def test_a_dot_is_trained_with_the_class_of_each_picture(pictures, unet, trained, tmp_path):
    words = ["train-dot", "--unet", unet, "--device", "cpu", "--out", tmp_path / "out"]
    words += ["--widths", "8,8", "--data", pictures]
    (pictures / "2" / "bad.png").write_bytes(b"no picture")
    assert run(*words, "--skip-bad", "--solvers", "ddim, ddpm,ddim") == 130
    assert [schedulers.name_of(way) for way in trained["ways"]] == ["ddim", "ddpm"]
    labels = []
    for part in (trained["images"], trained["held_out"]):
        shades = torch.arange(5) * 10 / 127.5 - 1
        found = part.cond["class_labels"]
        torch.testing.assert_close(part.images.mean((1, 2, 3)), shades[found], rtol=0, atol=1e-6)
        labels += found.tolist()
    assert sorted(labels) == sorted([*range(5)] * 4)
    assert len(trained["held_out"]) == 2


def test_a_trained_dot_of_classes_makes_images(pictures, unet, tmp_path, capsys):
    words = ["--unet", unet, "--device", "cpu"]
    small = ["--widths", "8,8", "--steps", 2, "--batch-size", 4, "--lr", 1e-5]
    assert run("train-dot", *words, "--data", pictures, *small, "--out", tmp_path / "run") == 0
    assert "18 images of 32 x 32" in capsys.readouterr().out, "two are held out"
    dot = Dot.from_pretrained(tmp_path / "run" / "dot", models.load_unet(unet)[0])
    assert dot.solvers == ("ddim", "dpm")
    words += ["--dot", tmp_path / "run" / "dot", "--plan=-.-.", "--num-images", 2]
    assert run("sample", *words, "--classes", "4", "--out", tmp_path / "out") == 0


def test_pictures_that_are_not_of_the_classes(pictures, unet, trained, tmp_path, fails):
    words = ["train-dot", "--unet", unet, "--device", "cpu", "--out", tmp_path / "out"]
    said = fails(*words, "--data", pictures / "c")
    assert "5 classes" in said
    assert "are 2 (none, for some pictures, more)" in said
    (pictures / "extra").mkdir()
    assert run(*words, "--data", pictures) == 130, "a folder without pictures is none"
    Image.new("L", (8, 8)).save(pictures / "extra" / "a.png")
    assert "are 6 (10, 2, a, b, ...)" in fails(*words, "--data", pictures)
    assert "the digits have 10 classes, this model has 5" in fails(*words)
    assert "solver='x': choose one of" in fails(*words, "--solvers", "ddim,x")


def test_digits_have_classes(trained, tmp_path):
    made = tiny_unet(num_class_embeds=10, sample_size=32)
    models.save_unet(made, SCHEDULER, tmp_path / "unet")
    words = ["--unet", tmp_path / "unet", "--device", "cpu", "--out", tmp_path / "out"]
    assert run("train-dot", *words, "--widths", "8,8") == 130
    images, labels = digits.images("train")
    assert trained["images"].cond["class_labels"].equal(labels)
    assert trained["images"].images.equal(images)
