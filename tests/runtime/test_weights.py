import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from peft import LoraConfig
from torch import nn

from models import tiny_text_unet, tiny_unet
from morse_engine import Dot
from morse_engine.runtime.models import Models
from morse_engine.runtime.weights import Weights


@pytest.fixture
def model():
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Sequential(nn.Linear(3, 3)))


def test_values_may_change(model):
    weights = Weights([model, None, lambda x: x])
    with torch.no_grad():
        model[0].weight.add_(1)
        model[0].weight.data.mul_(2)
    model.load_state_dict(model.state_dict())
    assert weights.changed() is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m[0].double(), "0.weight was moved"),
        (lambda m: setattr(m[0], "weight", nn.Parameter(m[0].weight + 1)), "0.weight was replaced"),
        (lambda m: setattr(m[0], "weight", None), "0.weight was replaced"),
        (lambda m: m[1].register_buffer("running_mean", torch.ones(4)), "1.running_mean was"),
        (lambda m: setattr(m[2][0].bias, "data", torch.ones(3)), "2.0.bias was moved"),
        (lambda m: m[2].append(nn.ReLU()), "layers were exchanged or added"),
        (lambda m: m[2].__setitem__(0, nn.Linear(3, 3)), "layers were exchanged"),
        (lambda m: m[2][0].register_parameter("scale", nn.Parameter(torch.ones(1))), "added"),
        (lambda m: m[1].eval(), "a model was switched"),
        (lambda m: setattr(m[0], "padding_mode", "circular"), "0.padding_mode was 'zeros', is 'c"),
        (lambda m: setattr(m[0], "forward", lambda x: x), "0.forward was not there, is a function"),
        (lambda m: setattr(m[2], "shift", torch.ones(3)), "2.shift was not there, is a Tensor"),
        (lambda m: m.register_forward_hook(print), "a forward hook of the model was added"),
        (lambda m: m[2][0].register_forward_pre_hook(print), "a forward hook of 2.0 was added"),
    ],
)
def test_other_changes_are_found(model, change, said):
    weights = Weights([model])
    change(model)
    assert said in weights.changed()
    assert Weights([model]).changed() is None


def test_an_attribute_in_the_place_of_another(model):
    model.one = 1
    weights = Weights([model])
    del model.one
    model.two = 1
    assert weights.changed() == "one was 1, is not there"


def test_of_a_private_model_only_its_memory_counts(model):
    weights = Weights([nn.Linear(2, 2), None], [model])
    model[0].padding_mode = "circular"
    model.register_forward_hook(print)
    assert weights.changed() is None
    model[1].running_mean.data = torch.ones(4)
    assert weights.changed() == "1.running_mean was moved"


def test_only_a_copy_is_private():
    unet = tiny_unet()
    dot = Dot(unet)
    assert Models(unet, dot).own_helper
    assert not Models(unet, dot, merge_dot=False).own_helper
    assert not Models(unet, lambda *trajectory: trajectory[3]).own_helper
    assert not Models(unet, None).own_helper


def test_hooks_of_all_modules(model):
    weights = Weights([model])
    handle = nn.modules.module.register_module_forward_hook(lambda *args: None)
    try:
        assert "forward hook" in weights.changed()
    finally:
        handle.remove()
    assert weights.changed() is None


@pytest.fixture
def adapted():
    unet = tiny_text_unet()
    unet.add_adapter(LoraConfig(target_modules=["to_q", "to_v"], init_lora_weights=False), "a")
    unet.set_attn_processor(AttnProcessor2_0())
    return unet


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda unet: unet.set_adapters(["a"], [0.25]), "scaling was {'a': 1.0}, is {'a': 0.25}"),
        (lambda unet: unet.disable_lora(), "_disable_adapters was False, is True"),
        (lambda unet: unet.fuse_lora(), "merged_adapters was [], is ['a']"),
        (lambda unet: unet.set_attn_processor(AttnProcessor()), "a AttnProcessor2_0, is a AttnP"),
        (lambda unet: setattr(processor(unet), "strength", 0.5), "processor was {}, is {'strength"),
        (lambda unet: unet.enable_freeu(0.9, 0.2, 1.2, 1.4), "b1 was not there, is 1.2"),
    ],
)
def test_settings_of_diffusers_and_peft_are_found(adapted, change, said):
    weights = Weights([adapted])
    change(adapted)
    assert said in weights.changed()
    assert Weights([adapted]).changed() is None


def processor(unet):
    return next(iter(unet.attn_processors.values()))
