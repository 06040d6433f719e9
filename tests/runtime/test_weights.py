import pytest
import torch
from torch import nn

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
    ],
)
def test_other_changes_are_found(model, change, said):
    weights = Weights([model])
    change(model)
    assert said in weights.changed()
    assert Weights([model]).changed() is None
