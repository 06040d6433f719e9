"""The format of a saved Dot: its keys, the names of its tensors, its model card."""

import json

import torch
from safetensors.torch import load_file

from models import SDXL, tiny_text_unet, tiny_unet
from morse_engine import Dot, zoo
from morse_engine.dot import files

KEYS = [
    "format_version",
    "class",
    "dash_class",
    "dash_fingerprint",
    "noise",
    "widths",
    "lora_rank",
    "cut",
    "guided",
    "solvers",
]


def test_the_bundled_dot_knows_what_it_was_trained_with():
    folder = zoo.WEIGHTS / "dot"
    config = json.loads((folder / "config.json").read_text())
    assert list(config) == KEYS
    assert (config["format_version"], config["widths"], config["cut"]) == (3, [16, 32], 2)
    dot = Dot.from_pretrained(folder, zoo.digits_dash())
    assert dot.solvers == ("ddim", "dpm", "ddpm", "dpm-sde", "euler-ancestral")
    stored = load_file(folder / "model.safetensors")
    assert all(torch.equal(p, stored[n]) for n, p in dot.trained_parameters().items())


def test_a_dot_saved_now_has_the_tensors_and_keys_of_before(tmp_path):
    before = zoo.WEIGHTS / "dot"
    zoo.digits_dot(zoo.digits_dash()).save_pretrained(tmp_path)
    names = (files.WEIGHTS, files.CONFIG)
    old, new = (load_file(folder / names[0]) for folder in (before, tmp_path))
    assert {n: t.shape for n, t in new.items()} == {n: t.shape for n, t in old.items()}
    assert all(torch.equal(new[n], t) for n, t in old.items())
    old, new = (json.loads((folder / names[1]).read_text()) for folder in (before, tmp_path))
    assert new == old


def test_names_of_a_dot_with_conditions_are_those_of_before():
    dot = Dot(tiny_text_unet(**SDXL), widths=(8,), cut=2, guided=True)
    down, mid, up = "down_blocks.0.resnets.0", "mid_block.resnets", "up_blocks.0.resnets"
    blocks = [down, f"{mid}.0", f"{mid}.1", f"{up}.0", f"{up}.1"]
    layers = {f"{b}.{layer}" for b in blocks for layer in ("conv1", "conv2", "time_emb_proj")}
    attention = "mid_block.attentions.0.transformer_blocks.0"
    for i in (1, 2):
        layers |= {f"{attention}.attn{i}.{n}" for n in ("to_q", "to_k", "to_v", "to_out.0")}
    lora = {f"trunk.{layer}.lora_{ab}.default.weight" for layer in layers for ab in "AB"}
    own = ["trajectory_embedding.0", "trajectory_embedding.2", "down.0.conv", "down.0.act.linear"]
    residual = ("norm", "conv1", "act.linear", "conv2")
    own += [f"{at}.{layer}" for at in ("refine", "up.0.refine") for layer in residual]
    own += ["enter", "up.0.conv1", "up.0.act.linear", "up.0.conv2", "guidance_embedding", "gains"]
    assert dot.trained_parameters().keys() == lora | {
        f"{name}.{kind}" for name in own for kind in ("weight", "bias")
    }


def test_the_card_is_made_without_a_connection(monkeypatch):
    import socket

    from huggingface_hub import ModelCard

    def offline(*_, **__):
        raise AssertionError("a connection was asked for")

    monkeypatch.setattr(socket, "socket", offline)
    dot = Dot(tiny_unet(), widths=(8, 8))
    text = files.card(dot, "owner/name", {"training": "2 steps"})
    card = ModelCard(text)
    assert card.data.library_name == "morse-engine"
    assert card.data.tags == ["diffusion", "morse"]
    assert card.data.base_model == "owner/name"
    table = text[text.index("| | |") :].split("\n\n")[0].splitlines()
    assert table[1:] == [
        "|---|---|",
        "| Dash | owner/name |",
        f"| Dash's fingerprint | `{dot.dash_fingerprint}` |",
        "| widths | 8 8 |",
        "| levels of Dash left out (cut) | 2 |",
        "| LoRA rank | 1 |",
        "| training | 2 steps |",
    ]
    assert text.endswith("```\n")
