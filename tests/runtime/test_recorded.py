"""What Python said at the capture: captures that replay operations, as a GPU does."""

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from peft import LoraConfig

import fake_capture
import morse_engine
from models import randomised, text_cond, tiny_text_unet, tiny_unet
from morse_engine import Dot
from tolerances import assert_close

PLAN = "-..-."


@pytest.fixture
def recorded(fake, monkeypatch):
    return fake_capture.install(monkeypatch, fake, recorded=True)


class Sharper(AttnProcessor2_0):
    """Attention that doubles its output."""

    def __call__(self, attn, *args, **kwargs):
        return 2 * super().__call__(attn, *args, **kwargs)


CHANGES = {
    "set_adapters": lambda unet: unet.set_adapters(["a"], [0.1]),
    "disable_lora": lambda unet: unet.disable_lora(),
    "set_attn_processor": lambda unet: unet.set_attn_processor(Sharper()),
    "enable_freeu": lambda unet: unet.enable_freeu(0.2, 0.2, 1.9, 1.9),
    "register_forward_hook": lambda unet: unet.mid_block.register_forward_hook(
        lambda module, args, out: 2 * out
    ),
}


def lora_unet():
    unet = tiny_text_unet()
    config = LoraConfig(target_modules=["to_q", "to_v", "conv1"], init_lora_weights=False)
    unet.add_adapter(config, "a")
    return unet.eval()


def call(sampler):
    return sampler(batch_size=2, seed=1, **text_cond(2))


@pytest.mark.parametrize("change", CHANGES)
def test_what_python_decides_is_captured_anew(recorded, change):
    unet = lora_unet()
    ours = morse_engine.compile(unet, plan="--", backend="host")
    before = call(ours)
    assert torch.equal(call(ours), before)
    CHANGES[change](unet)
    eager = call(morse_engine.compile(unet, plan="--", backend="eager"))
    assert_close("steps", call(ours), eager)
    report = ours.report()
    assert (report.captures, bool(report.recaptured_because)) == (2, True)
    assert not torch.allclose(before, eager, atol=1e-3), "the change is one of the image"


@pytest.mark.parametrize("backend", ["host", "device"])
def test_autocast_is_off_in_every_backend(recorded, backend):
    """Inside of it, a capture would hold the addresses of copies of weights that are gone after."""
    unet = tiny_unet()
    dot = randomised(Dot(unet))
    ours, eager = (
        morse_engine.compile(unet, dot, plan=PLAN, backend=name) for name in (backend, "eager")
    )
    expected = eager(batch_size=2, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        within = [sampler(batch_size=2, seed=1) for sampler in (ours, eager)]
        stepped = eager.start(batch_size=2, seed=1)
        while stepped.i < len(PLAN):
            stepped.step()
        assert torch.is_autocast_enabled("cpu")
    assert torch.equal(within[1], expected)
    assert torch.equal(stepped.x, expected)
    assert_close("steps", within[0], expected)
    assert torch.equal(ours(batch_size=2, seed=1), within[0])
    assert_close("steps", ours(batch_size=2, seed=1), expected)


def test_measuring_is_without_autocast_too():
    seen = []

    def dash(x, t):
        seen.append(torch.is_autocast_enabled("cpu"))
        return x

    sampler = morse_engine.compile(dash, plan="-", shape=(1, 4, 4))
    with torch.autocast("cpu", torch.bfloat16):
        sampler.measure()
        sampler()
    assert set(seen) == {False}
