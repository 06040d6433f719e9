import copy
import gc

import pytest
import torch
from torch import nn

from models import tiny_unet
from morse_engine.dot import fingerprint as module
from morse_engine.dot.fingerprint import fingerprint


@pytest.fixture
def computed(monkeypatch):
    """How often the values were gone through."""
    made, digest = [], module._digest
    monkeypatch.setattr(module, "_digest", lambda *args: made.append(1) or digest(*args))
    return made


def test_it_is_computed_once_for_the_same_weights(computed):
    unet = tiny_unet()
    names = {fingerprint(unet) for _ in range(3)}
    assert (len(names), len(computed)) == (1, 1)
    assert fingerprint(copy.deepcopy(unet)) in names
    assert len(computed) == 2, "another model"
    assert fingerprint(unet.to(memory_format=torch.channels_last)) in names
    assert fingerprint(unet.half()) in names
    assert len(computed) == 4, "moved, and cast"


@torch.no_grad()
@pytest.mark.parametrize(
    "change",
    [
        lambda conv: conv.weight.view(-1)[5].add_(0.5),  # which is not looked at
        lambda conv: conv.weight.data.mul_(1.25),  # which torch does not count
        lambda conv: setattr(conv.weight, "data", conv.weight.data.add_(0.01)),
        lambda conv: setattr(conv, "weight", nn.Parameter(conv.weight + 1)),
        lambda conv: conv.register_buffer("more", torch.ones(1)),
    ],
)
def test_it_follows_the_weights(computed, change):
    unet = tiny_unet()
    before = fingerprint(unet)
    change(unet.mid_block.resnets[0].conv1)
    assert fingerprint(unet) != before
    assert fingerprint(unet) == module._digest(unet.state_dict())


def test_weights_of_inference_mode_have_no_count(computed):
    with torch.inference_mode():
        model = nn.Linear(3, 3)
        before = fingerprint(model)
        model.weight[0, 0] += 1
    assert fingerprint(model) != before
    assert len(computed) == 2


def test_models_that_are_gone_are_forgotten():
    gc.collect()
    unet = tiny_unet()
    fingerprint(unet)
    count = len(module._known)
    del unet
    gc.collect()
    assert len(module._known) == count - 1
