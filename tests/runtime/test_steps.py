"""Whole runs with the kernels equal the specification."""

from contextlib import nullcontext

import pytest
import torch

import morse_engine
from models import randomised, tiny_text_unet, tiny_unet
from morse_engine import Dot, kernels
from solvers import FAMILIES
from tolerances import assert_close

pytest.importorskip("triton", reason="the kernels are written in Triton")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True)
def _kernels_run():
    with nullcontext() if DEVICE == "cuda" else kernels.interpreter():
        yield


@pytest.fixture(scope="module")
def models():
    unet = tiny_unet(in_channels=3, out_channels=3, sample_size=8).to(DEVICE)
    dot = randomised(Dot(unet))
    dot.levels.check = lambda scheduler: None  # any solver's arithmetic, whatever its noise
    return unet, dot


def pair(unet, dot, **options):
    return [
        morse_engine.compile(unet, dot, backend=backend, **options) for backend in ("eager", "host")
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_every_solver_family(name, models):
    eager, host = pair(*models, scheduler=FAMILIES[name], plan="-..-.")
    expected = eager(batch_size=2, seed=11)
    scale = expected.abs().max()
    assert_close("steps", host(batch_size=2, seed=11) / scale, expected / scale)


@pytest.mark.slow
@pytest.mark.parametrize("plan", ["-...-...", "-.-.-.-", "-....", "----"])
def test_plans_of_the_digits(plan):
    unet = morse_engine.zoo.digits_dash().to(DEVICE)
    eager, host = pair(unet, morse_engine.zoo.digits_dot(unet), plan=plan)
    assert_close("steps", host(seed=3), eager(seed=3))


def test_any_callable_is_a_dot(models):
    unet, _ = models

    def plain(x, t, x_s, z_s, t_s, z_p, t_p):
        return 0.1 * (x - x_s) + 0.2 * (z_s - z_p) * (t_s - t) / t_p

    eager, host = pair(unet, plain, plan="-..-.")
    assert_close("steps", host(batch_size=2), eager(batch_size=2))


def test_guidance(models):
    unet, _ = models

    def dash(x, t, *, shift):
        return unet(x, t).sample + shift[:, None, None, None] * x

    def dot(x, t, x_s, z_s, t_s, z_p, t_p, *, shift):
        return 0.1 * (x - x_s) + 0.2 * shift[:, None, None, None] * (z_s - z_p)

    options = {"scheduler": FAMILIES["dpm 2m sde"], "plan": "-..-.", "shape": (3, 8, 8)}
    eager, host = pair(dash, dot, **options)
    call = {"batch_size": 3, "guidance_scale": 2.5}
    call["shift"] = torch.tensor([0.0, 0.0, 0.0, 0.1, 0.2, 0.3], device=DEVICE)
    noise = morse_engine.noise.normal(range(3), -1, (3, 8, 8), device=DEVICE)
    expected = eager(noise, **call)
    assert_close("steps", host(noise, **call), expected)
    assert (expected - eager(noise, **call | {"guidance_scale": 1.0})).abs().max() > 1e-2


@pytest.mark.slow
def test_guidance_through_a_dot():
    """Both branches have the same condition here: guidance changes nothing then."""
    unet = tiny_text_unet().to(DEVICE)
    eager, host = pair(unet, randomised(Dot(unet)), plan="-.-..")
    text = torch.randn(2, 5, 8, device=DEVICE)
    expected = eager(batch_size=2, seed=3, encoder_hidden_states=text)
    for sampler in (eager, host):
        both = {"encoder_hidden_states": torch.cat([text, text]), "guidance_scale": 3.0}
        assert_close("steps", sampler(batch_size=2, seed=3, **both), expected)


@pytest.mark.slow
def test_a_run_leaves_nothing_behind(models):
    _, host = pair(*models, scheduler=FAMILIES["dpm 2m"], plan="-.-.")
    first = host(batch_size=2, seed=5)
    host.captures._steps.state.history.fill_(torch.nan)
    host(batch_size=1, seed=99)
    host(batch_size=2, seed=99)
    assert torch.equal(host(batch_size=2, seed=5), first)


@pytest.mark.slow
def test_runs_inside_and_outside_inference_mode_share_their_memory(models):
    _, host = pair(*models, plan="-.-.")
    with torch.inference_mode():
        first = host(batch_size=1, seed=5)
    steps = host.captures._steps
    tensors = [steps.dot.packed, *(t for t in steps.state if t is not None)]
    addresses = [t.data_ptr() for t in tensors]
    assert torch.equal(host(batch_size=1, seed=5), first)
    assert host.captures._steps is steps
    assert [t.data_ptr() for t in tensors] == addresses


@pytest.mark.slow
def test_half_precision_models():
    unet = tiny_unet(sample_size=8).to(DEVICE, torch.float16)
    eager, host = pair(unet, randomised(Dot(unet)), plan="-.-.")
    expected = eager(batch_size=2)
    scale = expected.abs().max()
    assert_close("steps/float16", host(batch_size=2) / scale, expected / scale)


@pytest.mark.slow
def test_weights_changed_in_place_are_used():
    unet = tiny_unet().to(DEVICE)
    dot = randomised(Dot(unet))
    host = morse_engine.compile(unet, dot, plan="-.-.", backend="host", merge_dot=False)
    before = host(seed=1)
    with torch.no_grad():
        dot.gains.bias.add_(0.5)
    eager = morse_engine.compile(unet, dot, plan="-.-.", backend="eager", merge_dot=False)
    assert_close("steps", host(seed=1), eager(seed=1))
    assert (host(seed=1) - before).abs().max() > 1e-2


@pytest.mark.slow
def test_seeds_up_to_64_bits(models):
    eager, host = pair(*models, scheduler=FAMILIES["ddpm"], plan="-.-")
    seeds = [2**64 - 1, 2**63]
    assert_close("steps", host(seed=seeds), eager(seed=seeds))


def test_conditioning_that_dot_does_not_take(models):
    class Conditioned(torch.nn.Module):
        def forward(self, x, t, label=None):
            return x

    host = morse_engine.compile(
        models[0], models[1], plan="-.", backend="host", scheduler=FAMILIES["euler"]
    )
    host.models.unet = Conditioned()
    with pytest.raises(ValueError, match="takes no conditioning, got label"):
        host(label=torch.zeros(1))


def test_the_report_says_the_layouts():
    unet = tiny_unet().to(DEVICE, memory_format=torch.channels_last)
    sampler = morse_engine.compile(unet, Dot(unet), plan="-.")
    assert "\n          Dash channels-last, Dot channels-last\n" in str(sampler.report())
    plain = morse_engine.compile(tiny_unet().to(DEVICE), lambda *a: a[3], plan="-.")
    assert "\n          Dash contiguous\n" in str(plain.report())
    functions = morse_engine.compile(lambda x, t: x, lambda *a: a[3], plan="-.", shape=(1, 2, 2))
    assert functions.report().layouts == ""
