"""What makes Dot steps, in one form: a Dot as it is, a function as a helper."""

import pytest
import torch

from models import randomised, tiny_unet, trajectory
from morse_engine import Dot
from morse_engine.dot.helper import AnyEta, as_helper
from morse_engine.runtime.models import Models
from morse_engine.runtime.weights import Weights
from morse_engine.system.errors import Refused


def half(x, t, x_s, z_s, t_s, z_p, t_p, **cond):
    return 0.5 * (z_s - z_p) + cond.get("shift", 0)


def test_a_dot_is_its_own_helper():
    dot = Dot(tiny_unet(), guided=True)
    assert as_helper(dot) is dot
    assert dot.fused
    assert dot.guided
    assert dot.levels.prediction_type == "epsilon"
    with pytest.raises(Refused, match="Dot of another Dash"):
        dot.check_dash(tiny_unet(seed=3))


def test_a_function_is_called_as_it_is():
    inputs = trajectory(tiny_unet())
    helper = as_helper(half)
    assert torch.equal(helper(*inputs, shift=2), half(*inputs, shift=2))
    assert (helper.fused, helper.guided, helper.levels) == (False, False, None)
    assert helper.merged() is helper
    assert as_helper(helper) is helper
    helper.check_dash(object())  # it fits every Dash


def test_a_function_that_says_it_is_guided():
    def eta(*trajectory, guidance_scale, **cond):
        return guidance_scale * trajectory[3]

    eta.guided = True
    assert as_helper(eta).guided
    assert Models(tiny_unet(), eta).guided_dot


def test_what_cannot_be_called():
    with pytest.raises(Refused, match="dot is a int, not a Dot or callable"):
        as_helper(3)


def test_what_dash_alone_is_given_does_not_reach_a_helper():
    unet = tiny_unet()
    inputs, dot = trajectory(unet), randomised(Dot(unet))
    assert torch.equal(dot(*inputs, dash_only={"channels": 1}), dot(*inputs))
    assert torch.equal(as_helper(half)(*inputs, dash_only={"channels": 1}), half(*inputs))


def test_the_weights_of_a_module_as_a_function_are_watched():
    class Eta(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.gain = torch.nn.Parameter(torch.ones(1))

        def forward(self, x, t, x_s, z_s, t_s, z_p, t_p):
            return self.gain * z_s

    helper = Models(tiny_unet(), Eta()).helper
    assert isinstance(helper, AnyEta)
    weights = Weights([helper])
    assert weights.changed() is None
    helper.function.gain = torch.nn.Parameter(torch.zeros(1))
    assert weights.changed() == "function.gain was replaced"
