"""Models that a command reads: what is damaged, missing or not finite is one line, before work."""

import json
import math
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from morse_engine import Refused
from morse_engine.training import pipeline
from morse_engine.zoo import WEIGHTS, miniature

NAME = "diffusion_pytorch_model.safetensors"
FIRST = "conv_in.bias"


def write(path, tensors):
    save_file(tensors, path, metadata={"format": "pt"})


def without(path, name):
    write(path, {k: v for k, v in load_file(path).items() if k != name})


def not_finite(path, name):
    write(path, load_file(path) | {name: load_file(path)[name] * math.nan})


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


WRONG_DASH = [
    (lambda f: without(f / NAME, FIRST), f"lacks 1 of its weights, {FIRST}"),
    (lambda f: not_finite(f / NAME, FIRST), f"not finite in {FIRST}"),
    (lambda f: (f / NAME).write_bytes((f / NAME).read_bytes()[:1000]), "cannot be loaded"),
    (lambda f: (f / NAME).unlink(), "cannot be loaded"),
    (lambda f: edit(f / "config.json", in_channels=3), "cannot be loaded .*size mismatch"),
    (lambda f: edit(f / "config.json", down_block_types=["None"] * 4), "cannot be loaded"),
    (lambda f: (f / "scheduler_config.json").write_text('{"beta_schedule": "x"}'), "repair its"),
]


@pytest.mark.parametrize(("damage", "said"), WRONG_DASH)
@pytest.mark.parametrize("command", ["sample", "train-dot"])
def test_a_dash(command, damage, said, tmp_path, fails):
    shutil.copytree(WEIGHTS / "dash", tmp_path / "dash")
    damage(tmp_path / "dash")
    out = tmp_path / "out"
    words = ["--steps", 2, "--device", "cpu", "--out", out]
    message = fails(command, "--unet", tmp_path / "dash", *words)
    with pytest.raises(Refused, match=said):
        raise Refused(message)
    assert not list(out.iterdir())


WRONG_PIPELINE = [
    (lambda f: (f / "model_index.json").write_text("{"), "model_index.json cannot be loaded"),
    (lambda f: (f / "model_index.json").write_text("[1]"), "describes no pipeline"),
    (lambda f: edit(f / "model_index.json", unet=3), "unet missing"),
    (lambda f: edit(f / "model_index.json", _class_name="None"), "cannot be loaded"),
    (lambda f: without(f / "unet" / NAME, FIRST), "lacks 1 of its weights"),
    (lambda f: not_finite(f / "unet" / NAME, FIRST), "not finite"),
    (lambda f: shutil.rmtree(f / "vae"), "cannot be loaded"),
    (lambda f: not_finite(f / "vae" / NAME, "decoder.conv_in.bias"), "VAE .* not finite"),
    (lambda f: (f / "tokenizer" / "tokenizer.json").write_text("{"), "cannot be loaded"),
    (lambda f: (f / "scheduler" / "scheduler_config.json").write_text("x"), "cannot be loaded"),
]


@pytest.mark.parametrize(("damage", "said"), WRONG_PIPELINE)
def test_a_pipeline(damage, said, tmp_path):
    shutil.copytree(miniature.WEIGHTS, tmp_path / "pipe")
    damage(tmp_path / "pipe")
    with pytest.raises(Refused, match=said):
        pipeline.load(str(tmp_path / "pipe"))


LAYER = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.lora_"


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"a": torch.zeros(3)}, "is no LoRA of this"),
        (
            {LAYER + "A.weight": torch.zeros(4, 7), LAYER + "B.weight": torch.zeros(9, 4)},
            "size mis",
        ),
        (
            {
                LAYER + "A.weight": torch.full((4, 96), math.nan),
                LAYER + "B.weight": torch.zeros(96, 4),
            },
            "not finite",
        ),
    ],
)
def test_a_lora(tensors, said, tmp_path, fails):
    (tmp_path / "lora").mkdir()
    write(tmp_path / "lora" / "pytorch_lora_weights.safetensors", tensors)
    out = tmp_path / "out"
    words = ["sample", "--prompt", "x", "--steps", 2, "--device", "cpu", "--out", out]
    assert said in fails(*words, "--lora", tmp_path / "lora")
    assert not list(out.iterdir())


@pytest.mark.parametrize("name", ["", "none", "a/b/c", "./none"])
def test_a_lora_that_is_nowhere_is_not_asked_of_the_network(name, tmp_path, fails):
    out = tmp_path / "out"
    assert "no such folder or file" in fails(
        "sample", "--prompt", "x", "--lora", name, "--out", out
    )
    assert not out.exists()
