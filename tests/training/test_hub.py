"""Pipelines and Dots of the hub, without a network."""

import pytest
import torch

from models import text_cond, tiny_text_unet, tiny_unet, trajectory
from morse_engine import Dot
from morse_engine.dot import files
from morse_engine.training import pipeline as text_to_image


def test_a_model_of_the_hub_offline(monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def offline(name, **_):
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    for load in (text_to_image.load, lambda name: Dot.from_pretrained(name, tiny_unet())):
        with pytest.raises(FileNotFoundError, match=r"owner/name .*the hub \(no connection\)"):
            load("owner/name")


def test_push_and_load(tmp_path, monkeypatch):
    import shutil

    import huggingface_hub

    made = {}

    class Api:
        def create_repo(self, repo_id, *, private, exist_ok):
            made[repo_id] = private
            return f"https://hub/{repo_id}"

        def upload_folder(self, *, repo_id, folder_path, commit_message):
            shutil.copytree(folder_path, tmp_path / "hub" / repo_id)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    asked = []
    monkeypatch.setattr(
        huggingface_hub,
        "snapshot_download",
        lambda name, allow_patterns: asked.extend(allow_patterns) or tmp_path / "hub" / name,
    )
    unet = tiny_text_unet()
    dot = Dot(unet, widths=(8, 8), guided=True)
    assert dot.push_to_hub("me/my-dot", private=True) == "https://hub/me/my-dot"
    assert made == {"me/my-dot": True}
    card = (tmp_path / "hub" / "me" / "my-dot" / "README.md").read_text()
    assert f"`{dot.dash_fingerprint}`" in card
    assert "guided: one pass" in card
    again = Dot.from_pretrained("me/my-dot", unet)
    assert sorted(asked) == ["config.json", "model.safetensors"]
    call = {"guidance_scale": 4.0, **text_cond(2)}
    assert torch.equal(again(*trajectory(unet), **call), dot(*trajectory(unet), **call))
    dot.push_to_hub("me/other", card="mine")
    assert (tmp_path / "hub" / "me" / "other" / "README.md").read_text() == "mine"


def test_the_hub_refuses(monkeypatch):
    import huggingface_hub

    class Api:
        def create_repo(self, *_, **__):
            raise OSError("not yours")

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    with pytest.raises(RuntimeError, match=r"me/my-dot cannot be uploaded \(not yours\)"):
        Dot(tiny_unet(), widths=(8, 8)).push_to_hub("me/my-dot")


def test_the_card_links_a_model_of_the_hub_alone():
    dot = Dot(tiny_unet(), widths=(8, 8))
    assert "base_model: owner/name" in files.card(dot, "owner/name")
    assert "base_model" not in files.card(dot, "/some/where/model")
    assert "/some/where" not in files.card(dot, "/some/where/model")
