"""What accelerate, restore and accelerated calls refuse, before any model runs."""

import copy
import re

import diffusers
import pytest
import torch
from diffusers import (
    HeunDiscreteScheduler,
    LMSDiscreteScheduler,
    StableDiffusionPipeline,
)

import morse_engine
from models import randomised, tiny_text_unet
from morse_engine import Dot, Refused, Unavailable
from pipelines import one_thread
from pipelines import shallow as pipeline

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # what diffusers deprecates
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # what NumPy deprecates in it
]
__all__ = ["one_thread"]  # a fixture of this file

CALL = {"prompt": "a cat", "guidance_scale": 3.0, "output_type": "latent"}


@pytest.fixture
def pipe():
    return pipeline("StableDiffusionPipeline")


@pytest.fixture
def asleep(pipe):
    pipe.unet.register_forward_hook(lambda *_: pytest.fail("the unet was called"))
    pipe.text_encoder.register_forward_hook(lambda *_: pytest.fail("the encoder was called"))
    return pipe


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"plan": ".-"}, "first step"),
        ({"plan": 10.0}, "a number of LSD is a budget="),
        ({"plan": "-.-"}, "no dot"),
        ({"plan": "--", "budget": 3.0}, "one of the two"),
        ({"budget": 0.5}, "budget=0.5: a finite number, 1"),
        ({"backend": "fast"}, "fast"),
        ({"dot": "a Dot"}, "not a Dot"),
    ],
)
def test_wrong_options(asleep, options, message):
    with pytest.raises(ValueError, match=message):
        morse_engine.accelerate(asleep, **options)
    assert type(asleep) is StableDiffusionPipeline


@pytest.mark.parametrize("kind", ["StableDiffusionPipeline", "StableDiffusionControlNetPipeline"])
def test_the_dot_of_another_dash(kind):
    with pytest.raises(ValueError, match="another Dash"):
        morse_engine.accelerate(pipeline(kind), Dot(tiny_text_unet(seed=4), widths=(8, 8)))


def test_twice_and_never(asleep):
    with pytest.raises(ValueError, match="not accelerated"):
        morse_engine.restore(asleep)
    morse_engine.accelerate(asleep)
    with pytest.raises(ValueError, match=r"accelerated already.*restore"):
        morse_engine.accelerate(asleep)
    morse_engine.restore(asleep)
    with pytest.raises(ValueError, match="not accelerated"):
        morse_engine.restore(asleep)


def test_plans_that_the_scheduler_cannot_make():
    pipe = pipeline("StableDiffusionPipeline", HeunDiscreteScheduler())
    with pytest.raises(ValueError, match=r"Heun.*cannot make 4 model calls; nearest: 3 or 5"):
        morse_engine.accelerate(pipe, plan="----")


def test_other_pipelines():
    class Own(StableDiffusionPipeline):
        def __call__(self):
            pass

    own = pipeline("StableDiffusionPipeline")
    own.__class__ = Own
    with pytest.raises(ValueError, match=r"Own cannot be accelerated.*StableDiffusionXLPipeline"):
        morse_engine.accelerate(own)
    with pytest.raises(ValueError, match="int cannot be accelerated"):
        morse_engine.accelerate(3)
    own.__class__ = type("Mine", (StableDiffusionPipeline,), {})
    morse_engine.accelerate(own)  # its loop is diffusers'
    with pytest.raises(ValueError, match="predict a variance"):
        morse_engine.accelerate(pipeline("DDPMPipeline", out_channels=2))


def test_offloaded_models(asleep):
    from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module

    add_hook_to_module(asleep.unet, ModelHook())
    with pytest.raises(RuntimeError, match="remove_all_hooks"):
        morse_engine.accelerate(asleep)
    remove_hook_from_module(asleep.unet)
    morse_engine.accelerate(asleep)
    add_hook_to_module(asleep.unet, ModelHook())
    with pytest.raises(RuntimeError, match=r"offloaded.*restore\(pipe\)"):
        asleep(**CALL)


def test_hooks_of_diffusers_get_advice_that_helps(asleep):
    from diffusers.hooks import HookRegistry, ModelHook

    registry = HookRegistry.check_if_exists_or_initialize(asleep.unet)
    registry.register_hook(ModelHook(), "taylorseer_cache")
    with pytest.raises(Unavailable, match=r"\"taylorseer_cache\".*remove_hook") as found:
        morse_engine.accelerate(asleep)
    advice = re.search(r"diffusers\.hooks\.\S+\)", str(found.value))[0]
    eval(advice, {"diffusers": diffusers, "pipe": asleep})
    morse_engine.accelerate(asleep)


def test_layerwise_casting_gets_advice_that_helps(asleep):
    asleep.unet.enable_layerwise_casting(torch.float8_e4m3fn, torch.float32)
    message = r"casts its weights layer by layer.*load it again, without enable_layerwise_casting"
    with pytest.raises(Unavailable, match=message) as found:
        morse_engine.accelerate(asleep)
    assert "remove_all_hooks" not in str(found.value)


def test_pipelines_without_a_unet(asleep):
    class Other(diffusers.DiffusionPipeline):
        def __call__(self):
            pass

    with pytest.raises(Refused, match="Other cannot be accelerated: it has no unet") as found:
        morse_engine.accelerate(Other())
    assert "compile(unet" not in str(found.value)
    asleep.unet = None
    with pytest.raises(Refused, match="StableDiffusionPipeline has no unet: load it with"):
        morse_engine.accelerate(asleep)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": "4"}, "budget='4'"),
        ({"budget": float("nan")}, "budget=nan"),
        ({"dot_speed": -1.0}, "dot_speed=-1"),
        ({"plan": ["-"]}, "a Plan or Morse code"),
        ({"plan": "x" * 100_000}, r"100000 in all"),
    ],
)
def test_values_that_are_no_budget_and_no_plan(asleep, options, message):
    with pytest.raises(Refused, match=message):
        morse_engine.accelerate(asleep, **options)


def test_models_that_changed_behind_its_back(asleep):
    dot = randomised(Dot(asleep.unet, widths=(8, 8)))
    morse_engine.accelerate(asleep, dot, plan="-.")
    unet = asleep.unet
    asleep.unet = tiny_text_unet()
    with pytest.raises(RuntimeError, match=r"another one than when.*restore\(pipe\)"):
        asleep(**CALL)
    asleep.unet = unet
    asleep.unet.to(torch.float16)
    with pytest.raises(RuntimeError, match=r"float16, its Dot.*restore\(pipe\)"):
        asleep(**CALL)
    asleep.unet.to(torch.float32)


def test_a_copy_of_an_accelerated_pipeline(asleep):
    morse_engine.accelerate(asleep)
    twin = copy.copy(asleep)
    with pytest.raises(RuntimeError, match="copy of an accelerated one"):
        twin(**CALL)
    morse_engine.restore(twin)
    assert type(twin) is StableDiffusionPipeline
    assert type(asleep) is not StableDiffusionPipeline


def test_a_scheduler_without_a_table_on_a_backend_that_needs_one():
    pipe = pipeline("StableDiffusionPipeline", LMSDiscreteScheduler())
    morse_engine.accelerate(pipe, backend="host")
    pipe.unet.register_forward_hook(lambda *_: pytest.fail("the unet was called"))
    with pytest.raises(RuntimeError, match=r"LMSDiscreteScheduler has no solver table.*auto"):
        pipe(**CALL)


def test_wrong_arguments_are_the_pipelines_own_error():
    pipe = pipeline("DDPMPipeline")
    with pytest.raises(TypeError) as own:
        pipe(num_steps=3)
    morse_engine.accelerate(pipe)
    with pytest.raises(TypeError, match="num_steps"):
        pipe(num_steps=3)
    assert "num_steps" in str(own.value)
