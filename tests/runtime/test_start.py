"""The start of a captured run: what the host does there, and does not."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import fake_capture
import morse_engine
from captured import BACKENDS
from models import randomised, text_cond, tiny_text_unet, tiny_unet
from morse_engine import Dot
from morse_engine.runtime.models import Models
from morse_engine.sampling.request import Request

SHAPE = (1, 16, 16)


class Seen(TorchDispatchMode):
    """Operations within it, by name, in order; reading a value would wait for a GPU."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.name().partition("::")[2])
        return func(*args, **(kwargs or {}))


WAIT = "_local_scalar_dense"


@pytest.fixture
def log(fake, monkeypatch):
    return fake_capture.install(monkeypatch, fake)


@pytest.fixture
def sampler(log):
    unet = tiny_unet()
    ours = morse_engine.compile(unet, randomised(Dot(unet)), plan="-..-.", backend="host")
    ours(batch_size=2)
    log.clear()
    return ours


def test_given_noise_is_looked_at_once_before_there_is_work(sampler, log):
    noise = torch.randn(2, *SHAPE)
    with Seen() as seen:
        run = sampler.start(noise, seed=torch.tensor([3, 4]))
    assert log == ["first"]
    assert seen.names.count(WAIT) == 1
    assert "copy_" not in seen.names[: seen.names.index(WAIT)]
    assert run.i == 0


def test_noise_of_seeds_is_drawn_in_a_graph_without_a_wait(sampler, log):
    with Seen() as seen:
        sampler.start(batch_size=2, seed=torch.tensor([3, 4]))
    assert log == ["noise", "first"]
    assert WAIT not in seen.names


def test_given_noise_and_that_of_seeds_take_turns(sampler):
    noise = morse_engine.noise.normal([3, 4], morse_engine.noise.INITIAL, SHAPE)
    of_seeds = sampler(batch_size=2, seed=3)
    assert not torch.equal(sampler(batch_size=2, seed=9), of_seeds)
    assert torch.equal(sampler(noise, seed=3), of_seeds)
    assert torch.equal(sampler(batch_size=2, seed=3), of_seeds)


def test_a_private_dot_costs_no_comparison_of_its_layers(log):
    """Its copy is nobody else's: what is done to the one that was given is not in it."""
    unet = tiny_text_unet()
    dot = randomised(Dot(unet))
    ours = morse_engine.compile(unet, dot, plan="-.", backend="host")
    before = ours(seed=1, **text_cond(1))
    dot.register_forward_hook(lambda module, args, out: 2 * out)
    assert torch.equal(ours(seed=1, **text_cond(1)), before)
    assert ours.report().captures == 1


@pytest.mark.parametrize("seed", [torch.tensor([1.0, 2.0]), torch.tensor([True, False])])
def test_seeds_that_are_no_integers(seed):
    with pytest.raises(ValueError, match="has to be an integer"):
        Request.make(None, None, seed, None, {}, shape=SHAPE, device=None)


def test_cast_models_are_refused(sampler):
    sampler.models.unet.half()
    with pytest.raises(RuntimeError, match=r"Dash is on cpu in torch.float16.*compile again"):
        sampler(seed=1)


@pytest.mark.parametrize("backend", [*BACKENDS, "eager"])
def test_a_model_that_becomes_random_is_refused(log, monkeypatch, backend):
    unet = tiny_unet(dropout=0.1)
    ours = morse_engine.compile(unet, plan="--", backend=backend)
    before, asked = ours(seed=1), []
    check = Models.check
    monkeypatch.setattr(Models, "check", lambda models: asked.append(1) or check(models))
    ours(seed=1)
    assert len(asked) == (backend == "eager"), "captured steps are as they were"
    unet.train()
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"train\(\) mode, where its dropout of 0.1"):
            ours(seed=1)
    unet.eval()
    assert torch.equal(ours(seed=1), before)
