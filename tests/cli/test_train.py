"""The commands that train: what they refuse and how soon, bad pictures, verdicts, options."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from commands import run
from models import tiny_unet
from morse_engine import Dot, training
from morse_engine.cli import models
from morse_engine.system import images
from morse_engine.training import captions
from morse_engine.training.dot import DotTraining


@pytest.fixture
def photos(tmp_path):
    """Twelve pictures of 16 x 16."""
    folder = tmp_path / "photos"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for i in range(12):
        array = generator.integers(0, 256, (16, 16), dtype=np.uint8)
        Image.fromarray(array).save(folder / f"{i:02d}.png")
    return folder


@pytest.fixture
def unet(tmp_path):
    tiny_unet().save_pretrained(tmp_path / "unet")
    return tmp_path / "unet"


# -- what is refused at once -----------------------------------------------------------------------

EARLY = [
    (["train-dash", "--data", "nowhere"], "--data nowhere: nowhere is not a folder of images"),
    (["train-dot", "--data", "nowhere"], "--data nowhere: nowhere is not a folder of images"),
    (["train-dot", "--unet", "nowhere"], "--unet nowhere: nowhere is not a folder"),
    (["train-dash", "--widths", "x"], "--widths 'x': give whole numbers"),
    (["train-dot", "--guidance", "3"], "--guidance '3': give two scales"),
    (["train-dot", "--unet", "a", "--model", "b"], "--unet and --model exclude each other"),
    (["train-dot", "--model", "b"], "--model needs images with captions"),
    (["sample", "--unet", "nowhere"], "--unet nowhere: nowhere is not a folder"),
    (["sample", "--dot", "nowhere"], "--dot nowhere: nowhere is not a folder"),
    (["evaluate", "--unet", "nowhere"], "--unet nowhere: nowhere is not a folder"),
    (["evaluate", "--dot", "nowhere"], "--dot nowhere: nowhere is not a folder"),
    (["evaluate", "--data", "nowhere"], "--data nowhere: nowhere is not a folder of images"),
    (["evaluate", "--steps", "x"], "--steps 'x': give whole numbers"),
]


def test_errors_that_need_no_torch(tmp_path):
    """They come at once; torch takes seconds to load."""
    code = (
        "import sys\nfrom morse_engine import cli\n"
        f"for words, said in {EARLY!r}:\n"
        f"    assert cli.main([*words, '--out', {str(tmp_path / 'out')!r}]) == 2, words\n"
        "    heavy = {'torch', 'diffusers', 'numpy', 'rich'} & set(sys.modules)\n"
        "    assert not heavy, (words, heavy)\n"
    )
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.strip().splitlines()
    for line, (words, said) in zip(lines, EARLY, strict=True):
        assert line.startswith(f"morse-engine: error: {said}"), words
    assert not list(tmp_path.iterdir())


# -- bad pictures ----------------------------------------------------------------------------------


def test_all_bad_pictures_are_named_at_once(photos, fails, tmp_path):
    (photos / "03.png").write_bytes(b"no picture")
    (photos / "07.png").write_bytes((photos / "07.png").read_bytes()[:60])
    words = ["train-dash", "--grey", "--size", 16, "--widths", "8,8", "--data", photos]
    said = fails(*words, "--out", tmp_path / "out")
    assert said.startswith("2 pictures are bad, or leave them out with skip_bad (--skip-bad):\n")
    assert [line.split(" ")[0] for line in said.splitlines()[1:]] == [
        *(str(photos / "03.png"), str(photos / "07.png")),
    ]
    with pytest.warns(UserWarning, match="2 pictures are left out:\n.*03.png.*\n.*07.png"):
        found = images.load_folder(photos, 16, 1, skip_bad=True)
    whole = torch.stack([images.read(path, 16, 1) for path in sorted(photos.iterdir())
                         if path.stem not in ("03", "07")])  # fmt: skip
    assert torch.equal(found, whole)


def test_one_bad_picture_and_nothing_but_bad_ones(photos):
    (photos / "03.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"03\.png cannot be read .* skip_bad \(--skip-bad\)$"):
        images.load_folder(photos, 16, 1)
    for i in range(12):
        (photos / f"{i:02d}.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"^12 pictures are bad:"):
        images.load_folder(photos, 16, 1, skip_bad=True)
    for i in range(30):
        (photos / f"{i:02d}.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"and 10 more$"):
        images.load_folder(photos, 16, 1)


def test_bad_pictures_with_captions(photos):
    for i in range(12):
        (photos / f"{i:02d}.txt").write_text(f"number {i}")
    for name in ("03.png", "07.png"):
        (photos / name).write_bytes(b"no picture")
    with pytest.raises(ValueError, match="2 pictures are bad, or leave them out"):
        captions.find(photos)
    with pytest.warns(UserWarning, match="2 pictures are left out"):
        found = captions.find(photos, skip_bad=True)
    assert [example.caption for example in found][:4] == [
        *("number 0", "number 1", "number 2", "number 4"),
    ]


# -- verdicts --------------------------------------------------------------------------------------


def train_dot(photos, unet, out) -> int:
    words = ["train-dot", "--unet", unet, "--data", photos, "--widths", "8,8", "--steps", 1]
    return run(*words, "--batch-size", 2, "--device", "cpu", "--out", out)


def test_a_dot_worse_than_none_is_not_recommended(photos, unet, tmp_path, capsys, monkeypatch):
    made = Dot._make_blocks

    def wild(self):  # one step of training does not mend it
        made(self)
        torch.nn.init.constant_(self.gains.bias, 3.0)

    monkeypatch.setattr(Dot, "_make_blocks", wild)
    assert train_dot(photos, unet, tmp_path / "out") == 0
    said = capsys.readouterr().out
    assert "The Dot is WORSE than" in said
    assert "To use it" not in said
    assert (tmp_path / "out" / "dot" / "model.safetensors").exists()
    verdict = json.loads((tmp_path / "out" / "verdict.json").read_text())
    assert not verdict["useful"]


def test_a_good_dot_is(photos, unet, tmp_path, capsys, monkeypatch):
    def finished(self, folder):
        from morse_engine.training.judge import Verdict

        self.verdict = Verdict("-..", "DDIMScheduler", 16, 30, 0.1, {"reuse": 0.2})
        return self.dot

    monkeypatch.setattr(DotTraining, "run", finished)
    assert train_dot(photos, unet, tmp_path / "out") == 0
    said = capsys.readouterr().out
    assert "The Dot is the closest." in said
    assert f"sample --unet {unet} --dot {tmp_path / 'out' / 'dot'}" in said


@pytest.mark.parametrize(("steps", "rate", "learned"), [(1, 1e-3, False), (60, 1e-2, True)])
def test_a_dash_that_has_learned_nothing(steps, rate, learned, photos, tmp_path, capsys):
    """One step of a warm-up changes nothing; sixty do."""
    words = ["train-dash", "--grey", "--size", 16, "--widths", "8,8", "--data", photos]
    words += ["--steps", steps, "--lr", rate, "--batch-size", 16, "--out", tmp_path / "out"]
    assert run(*words) == 0
    said = capsys.readouterr().out
    assert "knowing nothing is worth 1" in said or "knowing nothing is worth 0.9" in said
    assert ("has learned nothing" in said) is not learned
    assert ("train-dot --unet" in said) is learned
    mode = (tmp_path / "out" / "unet" / "diffusion_pytorch_model.safetensors").stat().st_mode
    assert mode & 0o077 == (tmp_path / "out" / "log.jsonl").stat().st_mode & 0o077


# -- options ---------------------------------------------------------------------------------------

OPTIONS = ["--seed", 7, "--checkpoint-every", 3, "--report-to", "wandb", "--device", "cpu"]


def test_options_of_both_trainings(photos, unet, tmp_path, monkeypatch):
    seen = {}

    def stop(*args, **options):
        seen.update(options)
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train_dash", stop)
    words = ["--data", photos, "--out", tmp_path / "out", *OPTIONS]
    assert run("train-dash", "--grey", "--size", 16, "--widths", "8,8", *words) == 130
    wanted = {"seed": 7, "checkpoint_every": 3, "report_to": "wandb"}
    assert wanted.items() <= seen.items()

    monkeypatch.setattr(DotTraining, "run", lambda self, folder: stop(**vars(self.recipe)))
    assert run("train-dot", "--unet", unet, "--widths", "8,8", *words) == 130
    assert wanted.items() <= seen.items()


def test_skip_bad_reaches_the_images(photos, unet, tmp_path, monkeypatch):
    def data(source, size, channels, skip_bad):
        assert skip_bad
        raise KeyboardInterrupt

    monkeypatch.setattr(models, "data", data)
    words = ["--data", photos, "--out", tmp_path / "out", "--skip-bad"]
    assert run("train-dash", "--size", 16, "--widths", "8,8", *words) == 130
    assert run("train-dot", "--unet", unet, *words) == 130
