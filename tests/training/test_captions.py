"""Captioned images, their latents on disk, and `train-dot --model`."""

import json
import sys
import types

import numpy as np
import pytest
import torch
from PIL import Image

from morse_engine import Dot
from morse_engine.cli import app as cli
from morse_engine.sampling.schedulers import name_of
from morse_engine.training import captions, latents
from morse_engine.training import pipeline as text_to_image
from pipelines import pipeline
from tolerances import assert_close

SD = "StableDiffusionPipeline"
KINDS = (SD, "StableDiffusionXLPipeline", "LatentConsistencyModelPipeline")


def picture(path, seed: int = 0) -> None:
    array = np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(array).save(path)


@pytest.fixture
def folder(tmp_path):
    """Twelve images with captions in metadata.jsonl."""
    data = tmp_path / "data"
    data.mkdir()
    with open(data / "metadata.jsonl", "w") as file:
        for i in range(12):
            picture(data / f"{i:02d}.png", i)
            file.write(json.dumps({"file_name": f"{i:02d}.png", "text": f"photo {i % 3}"}) + "\n")
    return data


@pytest.fixture
def model(tmp_path):
    pipeline(SD).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


# -- images with captions ----------------------------------------------------------------------


def test_metadata_and_texts_beside(folder):
    first = captions.find(folder)
    assert [e.caption for e in first[:4]] == ["photo 0", "photo 1", "photo 2", "photo 0"]
    assert first[0].pixels(16).shape == (3, 16, 16)
    (folder / "metadata.jsonl").unlink()
    for i in range(12):
        (folder / f"{i:02d}.txt").write_text(f"photo {i % 3}\n")
    again = captions.find(folder)
    assert [e[:3] for e in again] == [e[:3] for e in first]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"file_name": "13.png", "text": "a"}', r"line 13 names 13\.png, which is no image in"),
        ('{"file_name": "00.png"}', r"line 13: give \{\"file_name\""),
        ("{", "line 13 is no JSON"),
    ],
)
def test_damaged_metadata(line, said, folder):
    with open(folder / "metadata.jsonl", "a") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match=said):
        captions.find(folder)


def test_what_is_missing(folder, tmp_path):
    picture(folder / "new.png")
    with pytest.raises(ValueError, match=r"1 of 13 images in .* no caption, new\.png for one"):
        captions.find(folder)
    (folder / "new.png").write_text("no picture")
    with open(folder / "metadata.jsonl", "a") as file:
        file.write('{"file_name": "new.png", "text": "a"}\n')
    with pytest.raises(ValueError, match=r"new\.png cannot be read"):
        captions.find(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no images"):
        captions.find(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="is not a folder of images with captions"):
        captions.find(tmp_path / "none")
    (tmp_path / "beside").mkdir()
    picture(tmp_path / "beside" / "a.png")
    (tmp_path / "beside" / "a.txt").write_text("a")
    (tmp_path / "beside" / "b.txt").write_text("b")
    with pytest.raises(ValueError, match=r"b\.txt is the caption of no image"):
        captions.find(tmp_path / "beside")


class Rows:
    """As much of a `datasets.Dataset` as is used."""

    def __init__(self, **columns):
        self.columns, self.column_names = columns, list(columns)

    def __len__(self):
        return len(next(iter(self.columns.values())))

    def __getitem__(self, key):
        if isinstance(key, str):
            return self.columns[key]
        return {name: values[key] for name, values in self.columns.items()}


def test_datasets(monkeypatch, tmp_path):
    saved = tmp_path / "saved"
    saved.mkdir()
    (saved / "state.json").write_text("{}")
    monkeypatch.setattr(captions.importlib.util, "find_spec", lambda name: None)
    for name in (saved, "owner/pictures"):
        with pytest.raises(ValueError, match="pip install datasets"):
            captions.find(name)
    rows = Rows(image=[Image.new("RGB", (20, 30), (255, 0, 0))] * 2, text=["a", "b"])
    package = types.SimpleNamespace(
        load_from_disk=lambda path: rows, load_dataset=lambda name, split: rows
    )
    monkeypatch.setitem(sys.modules, "datasets", package)
    monkeypatch.setattr(captions.importlib.util, "find_spec", lambda name: name)
    for name in (saved, "owner/pictures"):
        found = captions.find(name)
        assert [e.caption for e in found] == ["a", "b"]
        assert found[1].pixels(8)[:, 4, 4].tolist() == [1, -1, -1]
    rows.column_names = ["image", "caption"]
    with pytest.raises(ValueError, match="text missing"):
        captions.find(saved)


# -- latents -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_latents_are_what_the_pipeline_makes(kind, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(latents, "ROWS", 5)
    pipe, found = pipeline(kind), captions.find(folder)
    data = latents.encode(pipe, found, tmp_path / "cache", 32)
    assert data.shape == (12, 4, 16, 16)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0)).tolist()
    rows = torch.tensor([11, 0, 6])
    with torch.no_grad():
        pixels = torch.stack([found[order[row]].pixels(32) for row in rows])
        expected = pipe.vae.encode(pixels).latent_dist.mode() * pipe.vae.config.scaling_factor
    assert_close("float16", data[rows].float(), expected)
    cond = data.keywords(rows, "cpu", torch.float32)
    options = {"device": "cpu", "num_images_per_prompt": 1, "do_classifier_free_guidance": True}
    texts = [found[order[row]].caption for row in rows]
    made = pipe.encode_prompt(prompt=texts, **options)
    assert_close("float16", cond["encoder_hidden_states"], made[0])
    part = data.part(slice(6, 12))
    assert torch.equal(part[torch.tensor([0, 5])], data[torch.tensor([6, 11])])
    if "Consistency" in kind:
        assert data.empty is None
        return
    empty = data.keywords(torch.tensor([-1, 2, -1]), "cpu", torch.float32)
    assert_close("float16", empty["encoder_hidden_states"][[0, 2]], made[1][:2])
    if "XL" in kind:
        assert_close("float16", cond["added_cond_kwargs"]["text_embeds"], made[2])
        assert not empty["added_cond_kwargs"]["text_embeds"][0].any(), "SDXL guides with zeros"
        assert cond["added_cond_kwargs"]["time_ids"].tolist() == [[32, 32, 0, 0, 32, 32]] * 3


def test_stopped_encoding_continues_and_a_stale_cache_is_refused(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(latents, "ROWS", 5)
    pipe, found, cache = pipeline(SD), captions.find(folder), tmp_path / "cache"
    encoded, calls = latents._encoded, []

    def stop(*args):
        if len(calls) == 1:
            raise KeyboardInterrupt
        calls.append(1)
        return encoded(*args)

    monkeypatch.setattr(latents, "_encoded", stop)
    with pytest.raises(KeyboardInterrupt):
        latents.encode(pipe, found, cache, 32)
    assert {path.name for path in cache.iterdir()} == {"manifest.json", "00000.safetensors"}
    monkeypatch.setattr(latents, "_encoded", lambda *args: calls.append(1) or encoded(*args))
    done = []
    data = latents.encode(pipe, found, cache, 32, done.append)
    assert (len(calls), sum(done)) == (3, 12), "the first file was not made again"
    whole = latents.encode(pipe, found, tmp_path / "whole", 32)
    rows = torch.arange(12)
    assert torch.equal(data[rows], whole[rows])

    with pytest.raises(ValueError, match=r"cache holds latents of another run, size is 32 there"):
        latents.encode(pipe, found, cache, 16)
    with pytest.raises(ValueError, match="another run, images is 12 there and 11 here"):
        latents.encode(pipe, found[1:], cache, 32)
    with torch.no_grad():
        pipe.vae.encoder.conv_in.weight.mul_(2)
    with pytest.raises(ValueError, match="another run, models is"):
        latents.encode(pipe, found, cache, 32)
    other = [found[0]._replace(caption="other"), *found[1:]]
    with pytest.raises(ValueError, match="another run, files is"):
        latents.encode(pipeline(SD), other, cache, 32)


# -- the command -------------------------------------------------------------------------------


def run(*argv) -> int:
    return cli.main([str(word) for word in argv])


def words(model, data, out) -> list:
    small = ["--widths", "4,4", "--steps", 2, "--batch-size", 2, "--guidance", "2,4"]
    return ["train-dot", "--model", model, "--data", data, *small, "--out", out]


@pytest.mark.slow
@pytest.mark.parametrize("guided", [False, True])
def test_train_dot_of_a_pipeline(guided, folder, model, tmp_path, capsys):
    out = tmp_path / "out"
    command = [*words(model, folder, out), *(["--guided"] if guided else [])]
    assert run(*command, "--accumulate", 2) == 0
    assert "11 images with captions, latents of (4, 16, 16)" in capsys.readouterr().out
    names = {"README.md", "config.json", "model.safetensors"}
    assert {path.name for path in (out / "dot").iterdir()} == names
    unet = pipeline(SD).unet
    dot = Dot.from_pretrained(out / "dot", unet)
    assert dot.guided == guided
    card = (out / "dot" / "README.md").read_text()
    for fact in (dot.dash_fingerprint, "| widths | 4 4 |", "2 steps of 4, 11 images of 32 x 32",
                 "squared error on held-out images", "| Dash | model |"):  # fmt: skip
        assert fact in card
    assert str(tmp_path) not in card
    assert run(*command, "--accumulate", 2) == 0  # a second time: it is finished already
    assert "the run continues" in capsys.readouterr().out


def test_solvers_of_a_pipeline():
    """In both spacings, whatever the pipeline's own is; a consistency model has its own solver."""
    pipe = pipeline(SD)
    pipe.scheduler.register_to_config(beta_start=0.0003)

    def named(*solvers):
        ways = text_to_image.schedulers(pipe, *solvers)
        assert {way.config.beta_start for way in ways} == {0.0003}
        return [(name_of(way), way.config.get("timestep_spacing")) for way in ways]

    both = ("leading", "trailing")
    assert named() == [(name, spacing) for name in ("ddim", "dpm") for spacing in both]
    assert named(["ddpm", "heun"]) == [(name, s) for name in ("ddpm", "heun") for s in both]
    pipe.unet.register_to_config(time_cond_proj_dim=4)
    assert [name for name, _ in named()] == ["lcm"]


@pytest.mark.slow
def test_errors_come_before_any_work(folder, model, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(latents, "_encoded", lambda *_: pytest.fail("work before the check"))
    out = tmp_path / "out"

    def fails(*argv) -> str:
        assert run(*argv) == 2
        err = capsys.readouterr().err.strip().splitlines()[-1]  # after diffusers' progress bars
        assert err.startswith("morse-engine: error: ")
        assert not list(out.iterdir())
        return err

    out.mkdir()
    assert "is missing: is" in fails(*words(folder, folder, out))
    assert "name their folder with --data" in fails(*words(model, "digits", out))
    assert "is not a folder of images with captions" in fails(*words(model, tmp_path / "no", out))
    assert "multiple of 16 pixels" in fails(*words(model, folder, out), "--size", 40)
    picture(folder / "new.png")
    assert "no caption" in fails(*words(model, folder, out))
    (folder / "new.png").unlink()
    index = json.loads((model / "model_index.json").read_text())
    (model / "model_index.json").write_text(json.dumps(index | {"text_encoder": [None, None]}))
    assert "text_encoder missing" in fails(*words(model, folder, out))


def test_numbers_are_checked_before_any_work(folder, model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(text_to_image, "load", lambda *_: pytest.fail("work before the check"))
    for option, text, said in (
        ("--guidance", "4,2", "guidance=(4.0, 2.0): give two scales"),
        ("--guidance", "4", "--guidance '4': give two scales"),
        ("--dropout", "1.5", "dropout=1.5: give a part"),
        ("--lr", "0", "lr=0.0: give a rate above 0"),
    ):
        assert run(*words(model, folder, tmp_path / "out"), option, text) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
