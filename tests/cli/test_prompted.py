"""The command `sample` with prompts: pictures of a pipeline, their files and what is refused."""

import json
import sys

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from diffusers.loaders import StableDiffusionLoraLoaderMixin
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict

import morse_engine
from commands import run
from morse_engine import Dot
from morse_engine.system import images
from morse_engine.training import pipeline
from morse_engine.zoo import miniature

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pipe():
    pipe = pipeline.load(str(miniature.WEIGHTS))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def names(folder):
    return sorted(path.name for path in folder.glob("*seed*"))


def pictures(folder):
    return torch.stack([images.read(folder / name, 64, 3) for name in names(folder)])


def by_diffusers(pipe, prompts, seeds, **words):
    """In [-1, 1]."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return pipe(prompts, generator=generators, output_type="pt", **words).images * 2 - 1


def assert_pictures(folder, expected):
    """Of 8 bits; the last one may be rounded to the other side."""
    assert (pictures(folder) - expected.clamp(-1, 1)).abs().max() < 1.5 / 127.5


def test_dash_alone_is_the_pipeline(tmp_path, pipe):
    words = ["--prompt", "a frog", "--steps", 3, "--num-images", 3, "--seed", 5, "--batch-size", 2]
    assert run("sample", *words, "--device", "cpu", "--out", tmp_path) == 0
    assert names(tmp_path) == [f"seed-000000{seed}.png" for seed in (5, 6, 7)]
    expected = by_diffusers(
        pipe, ["a frog"] * 3, (5, 6, 7), num_inference_steps=3, guidance_scale=3.0
    )
    assert_pictures(tmp_path, expected)
    assert (tmp_path / "grid.png").exists()


def test_prompts_of_a_file_scheduler_guidance_and_negative(tmp_path, pipe):
    (tmp_path / "prompts.txt").write_text("a frog\n\na 3d animal\n")
    out = tmp_path / "out"
    words = ["--prompts", tmp_path / "prompts.txt", "--steps", 3, "--num-images", 2]
    words += ["--scheduler", "dpm", "--guidance", 2, "--negative", "a heart", "--device", "cpu"]
    assert run("sample", *words, "--out", out) == 0
    assert names(out) == [f"prompt-000{p}-seed-000000{s}.png" for p in (0, 1) for s in (0, 1)]
    settings = json.loads((out / "settings.json").read_text())
    assert settings["prompts"] == ["a frog", "a 3d animal"]
    assert settings["solver"] == "DPMSolverMultistepScheduler"
    own, pipe.scheduler = (
        pipe.scheduler,
        DPMSolverMultistepScheduler.from_config(
            pipe.scheduler.config, solver_order=2, timestep_spacing="trailing"
        ),
    )
    prompts = ["a frog"] * 2 + ["a 3d animal"] * 2
    expected = by_diffusers(
        pipe, prompts, (0, 1, 0, 1), num_inference_steps=3, guidance_scale=2.0,
        negative_prompt=["a heart"] * 4,
    )  # fmt: skip
    pipe.scheduler = own
    assert_pictures(out, expected)


def test_it_continues_but_mixes_nothing(tmp_path, fails, monkeypatch):
    words = ["sample", "--prompt", "a frog", "--steps", 2, "--device", "cpu", "--out", tmp_path]
    assert run(*words, "--num-images", 1) == 0
    first = (tmp_path / "seed-0000000.png").read_bytes()
    assert run(*words, "--num-images", 2) == 0
    assert (tmp_path / "seed-0000000.png").read_bytes() == first
    assert len(names(tmp_path)) == 2
    assert 'with prompts ["a frog"]' in fails(*words, "--prompt", "a cat")
    assert "with guidance 3.0, these are with 1.0" in fails(*words, "--guidance", 1)
    assert "with plan" in fails(*words[:3], "--steps", 3, *words[5:])


def test_a_budget_buys_free_steps(tmp_path, capsys):
    """The range of the miniature's latents is known."""
    words = ["--prompt", "a frog", "--model", "miniature", "--budget", 4, "--num-images", 1]
    words += ["--device", "cpu"]
    assert run("sample", *words, "--out", tmp_path) == 0
    plan = json.loads((tmp_path / "settings.json").read_text())["plan"]
    assert ":" in plan
    assert plan.count("-") <= 4
    assert f"budget  {plan} within 4 LSD" in capsys.readouterr().out


def test_a_dot_and_a_lora(tmp_path, pipe, fails):
    """The Dot belongs to the Dash without the LoRA; the LoRA changes the pictures."""
    unet = pipeline.load(str(miniature.WEIGHTS)).unet
    Dot(unet, pipe.scheduler).save_pretrained(tmp_path / "dot")
    torch.manual_seed(0)
    unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    StableDiffusionLoraLoaderMixin.save_lora_weights(
        tmp_path / "lora", unet_lora_layers=get_peft_model_state_dict(unet)
    )
    words = ["sample", "--prompt", "a frog", "--plan=-.-.", "--num-images", 1, "--device", "cpu"]
    words += ["--dot", tmp_path / "dot"]
    assert run(*words, "--out", tmp_path / "without") == 0
    assert run(*words, "--lora", tmp_path / "lora", "--out", tmp_path / "with") == 0
    assert (pictures(tmp_path / "with") - pictures(tmp_path / "without")).abs().mean() > 0.01
    words_of_it = [*words, "--lora", tmp_path / "lora"]
    assert "holds images with lora null" in fails(*words_of_it, "--out", tmp_path / "without")
    assert "is no LoRA of this" in fails(
        *words, "--lora", tmp_path / "dot", "--out", tmp_path / "x"
    )
    accelerated = morse_engine.accelerate(
        pipe, Dot.from_pretrained(tmp_path / "dot", pipe.unet), plan="-.-."
    )
    expected = by_diffusers(pipe, ["a frog"], [0], guidance_scale=3.0)
    morse_engine.restore(pipe)
    assert accelerated.report().num_dot == 2
    assert_pictures(tmp_path / "without", expected)


def test_without_transformers(tmp_path, fails, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    message = fails("sample", "--prompt", "a frog", "--out", tmp_path / "out")
    assert "pip install transformers" in message


def test_what_does_not_go_together_is_refused(tmp_path, fails):
    out = ["--out", tmp_path / "out"]
    assert "--negative is for pictures of prompts" in fails("sample", "--negative", "x", *out)
    assert "--model is for pictures of prompts" in fails("sample", "--model", "x", *out)
    prompt = ["sample", "--prompt", "a frog", *out]
    assert "model_index.json is missing" in fails(*prompt, "--model", tmp_path)
    assert "takes no prompts" in fails(*prompt, "--unet", tmp_path)
    assert "are written as png" in fails(*prompt, "--format", "safetensors")
    assert "a number of 0 or more" in fails(*prompt, "--guidance", -1)
    assert "no such file" in fails("sample", "--prompts", tmp_path / "none", *out)
    (tmp_path / "empty").write_text("\n\n")
    assert "0 prompts" in fails("sample", "--prompts", tmp_path / "empty", *out)
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    assert "no text in UTF-8" in fails("sample", "--prompts", tmp_path / "bytes", *out)
    assert "solver='x'" in fails(*prompt, "--scheduler", "x")
    assert not list(tmp_path.glob("out/*"))
