"""The verdict on a Dot: beside free rivals and Dash alone, from seeds that are not trained on."""

import json

import pytest
import torch
from diffusers import DDPMScheduler

from models import text_cond, tiny_text_unet, tiny_unet
from morse_engine import Dot, zoo
from morse_engine.dot.free import reuse
from morse_engine.sampling.plan import Plan
from morse_engine.training import Captioned
from morse_engine.training.judge import FULL_STEPS, SEEDS, Judge, Verdict
from morse_engine.training.prompts import Prompts
from morse_engine.zoo import digits_scheduler

IMAGES = torch.linspace(-1, 1, 8)[:, None, None, None].expand(-1, 1, 16, 16).contiguous()


def judge(unet, dot, data=IMAGES, most_steps=32) -> Judge:
    prompts = Prompts(data, dot, unet, dropout=0.1, guidance=(2, 4))
    return Judge(prompts, [digits_scheduler("ddim")], most_steps)


@pytest.fixture(scope="module")
def tiny():
    unet = tiny_unet()
    dot = Dot(unet, widths=(8, 8))
    torch.nn.init.zeros_(dot.gains.bias)  # a new one holds the clean image
    return judge(unet, dot), dot.eval()


def test_a_dot_that_does_nothing_is_reuse(tiny, tmp_path):
    one, dot = tiny
    found = one.verdict(dot, tmp_path)
    assert found.dot == found.rivals["reuse"]
    assert list(found.rivals) == [
        *("reuse", "extrapolation", "Dash alone in 4 steps", "free steps"),
    ]
    assert not found.useful
    assert "The Dot is WORSE than" in str(found)
    content = json.loads((tmp_path / "verdict.json").read_text())
    assert (content["plan"], content["useful"]) == ("-..-..-..-..", False)
    assert content["dot"] == found.dot


def test_a_perfect_dot_is_useful(tiny, tmp_path):
    one, _ = tiny
    unet = one.prompts.unet

    def perfect(x, t, x_s, z_s, *rest):
        return unet(x, t).sample - z_s

    found = one.verdict(perfect, tmp_path)
    assert found.useful
    assert str(found).endswith("The Dot is the closest.")
    assert found.dot == pytest.approx(one.rmse(None, Plan("-" * 12)), rel=1e-5)
    assert one.full.shape == (SEEDS, 1, 16, 16)
    assert one.rmse(None, Plan("-" * FULL_STEPS)) == 0


def test_what_a_verdict_says():
    numbers = {"plan": "-..", "solver": "DDIMScheduler", "seeds": 16, "full_steps": 30}
    rivals = {"reuse": 0.2, "free steps": 0.1}
    worse = Verdict(**numbers, dot=0.15, rivals=rivals)
    assert (worse.best_rival, worse.useful) == ("free steps", False)
    assert "this Dot 0.150; reuse 0.200, free steps 0.100. The Dot is WORSE than free" in str(worse)
    assert Verdict(**numbers, dot=0.09, rivals=rivals).useful
    assert not Verdict(**numbers, dot=float("nan"), rivals=rivals).useful


@pytest.mark.slow
def test_the_bundled_dot_is_useful(tmp_path):
    unet = zoo.digits_dash()
    dot = zoo.digits_dot(unet)
    data = torch.zeros(1, 1, 32, 32)
    found = judge(unet, dot, data).verdict(dot, tmp_path)
    assert found.useful, str(found)


@pytest.mark.slow
@pytest.mark.parametrize("guided", [False, True])
def test_with_prompts(guided, tmp_path):
    unet = tiny_text_unet()
    dot = Dot(unet, DDPMScheduler(), widths=(8, 8), guided=guided).eval()
    torch.nn.init.zeros_(dot.gains.bias)
    data = Captioned(torch.randn(8, 4, 16, 16), text_cond(8), text_cond(1, seed=6))
    one = judge(unet, dot, data, most_steps=6)
    found = one.verdict(dot, tmp_path)
    assert found.plan == "-..-.."
    assert found.dot == pytest.approx(found.rivals["reuse"], rel=1e-5)
    assert one.preview(dot) is None, "latents are no pictures"


def test_the_preview_is_pairs(tiny):
    one, dot = tiny
    shown = one.preview(dot)
    assert shown.shape == (16, 1, 16, 16)
    assert torch.equal(shown[::2], one.full[:8])
    assert torch.equal(shown[1::2], one.run(reuse, one.plan)[:8])
