"""kill -9 at 20 random moments of each command that writes: the same command continues.

What it leaves at last is, byte for byte, what an uninterrupted run leaves; only times differ.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models import tiny_unet

pytestmark = [pytest.mark.slow]
KILLS = Path(__file__).parents[1] / "support" / "kills.py"
MOMENTS = 20  # of a kill
TIMES = {"seconds", "ms_per_image", "date", "value_by_clock"}  # in rows


def kills(folder: Path, *words) -> list[Path]:
    """Folders: of two uninterrupted runs, and of runs that were killed, `MOMENTS` in all."""
    command = [sys.executable, str(KILLS), str(folder), str(MOMENTS), "0", "--", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["killed"] == MOMENTS
    return [
        folder / "first",
        folder / "whole",
        *(folder / f"part-{k}" for k in range(said["parts"])),
    ]


def content(path: Path) -> object:
    """What is in a file, without times."""
    if path.suffix == ".pt":  # torch writes the name of the first file into it
        found = torch.load(path, weights_only=True)
        return timeless(found) if isinstance(found, dict) else found
    if path.name == "log.jsonl":
        return [timeless(json.loads(line)) for line in path.read_text().splitlines()]
    if path.name == "rows.json":
        return [timeless(row) for row in json.loads(path.read_text())]
    if path.name == "log.html":
        return re.sub(r"<dt>seconds</dt><dd>[^<]*</dd>", "", path.read_text())
    return path.read_bytes()


def timeless(row: dict) -> dict:
    return {name: value for name, value in row.items() if name not in TIMES}


def same(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[name], b[name]) for name in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def assert_same(folders: list[Path]) -> None:
    whole, *parts = (
        {
            str(path.relative_to(folder)): content(path)
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        for folder in folders
    )
    for part in parts:
        assert part.keys() == whole.keys(), "no file more, none less"
        for name, value in whole.items():
            assert same(part[name], value), name


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for i in range(12):
        array = generator.integers(0, 256, (16, 16), dtype=np.uint8)
        Image.fromarray(array).save(folder / f"{i:02d}.png")
    return folder


@pytest.mark.parametrize("form", ["png", "safetensors"])
def test_sample(form, tmp_path):
    words = ["sample", "--plan", "-.-.", "--num-images", 12, "--batch-size", 2, "--device", "cpu"]
    folders = kills(tmp_path, *words, "--format", form, "--out", "OUT")
    assert_same(folders)


def test_train_dash(photos, tmp_path):
    words = ["train-dash", "--grey", "--size", 16, "--widths", "8,8", "--data", photos]
    words += ["--steps", 12, "--checkpoint-every", 4, "--batch-size", 4, "--device", "cpu"]
    assert_same(kills(tmp_path, *words, "--out", "OUT"))


def test_train_dot(photos, tmp_path):
    tiny_unet().save_pretrained(tmp_path / "unet")
    words = ["train-dot", "--unet", tmp_path / "unet", "--widths", "8,8", "--data", photos]
    words += ["--steps", 6, "--checkpoint-every", 3, "--batch-size", 2, "--device", "cpu"]
    assert_same(kills(tmp_path, *words, "--out", "OUT"))


def test_train_dot_of_a_pipeline(photos, tmp_path):
    from pipelines import pipeline

    for path in list(photos.iterdir()):
        path.with_suffix(".txt").write_text(path.stem)
    pipeline("StableDiffusionPipeline").save_pretrained(tmp_path / "model")
    words = ["train-dot", "--model", tmp_path / "model", "--data", photos, "--widths", "4,4"]
    words += ["--size", 32, "--steps", 6, "--checkpoint-every", 2, "--batch-size", 2]
    assert_same(kills(tmp_path, *words, "--device", "cpu", "--out", "OUT"))


@pytest.mark.parametrize(
    "words",
    [
        ["evaluate", "--num-images", 66, "--budgets", 2, "--steps", "2,3"],
        ["evaluate", "--num-images", 4, "--budgets", 2, "--steps", "2,3", "--model", "miniature"],
        ["demo", "--images", 65, "--model", "digits"],
        ["demo", "--images", 8],
        [
            "search",
            "--num-images",
            "4",
            "--batch-size",
            "4",
            "--budgets",
            "2",
            "--full-steps",
            "4",
            "--tries",
            "2",
        ],
        [
            "sample",
            "--num-images",
            3,
            "--prompt",
            "a noto heart",
            "--plan",
            "-:",
            "--batch-size",
            1,
        ],
    ],
    ids=["evaluate", "evaluate-model", "demo-digits", "demo", "search", "sample-prompt"],
)
def test_bundled_models(words, tmp_path):
    assert_same(kills(tmp_path, *words, "--device", "cpu", "--out", "OUT"))
