"""What calls and compile refuse, rather than make images that are silently wrong."""

import inspect
import re

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    UNet2DModel,
)

import morse_engine
from models import text_cond, tiny_text_unet, tiny_unet
from morse_engine import Dot, Refused
from pipelines import shallow as pipeline

SHAPE = (1, 16, 16)


# -- seeds and sizes -------------------------------------------------------------------------------


def test_every_kind_of_integer_is_one(sampler):
    expected = sampler(batch_size=2, seed=3)
    for seed in (np.int64(3), np.uint8(3), torch.tensor(3), [3, 4], (3, 4), np.array([3, 4]),
                 torch.tensor([3, 4]), range(3, 5), np.array([3, 4], np.uint64)):  # fmt: skip
        assert torch.equal(sampler(batch_size=np.int32(2), seed=seed), expected)


@pytest.mark.parametrize(
    "seed", ["12", 1.7, [1.7, 2.0], {5, 3}, {1: 2}, None, True, [True, 1], b"12", iter([1, 2]),
             torch.tensor(1.5), torch.tensor([[1, 2]]), np.array([1.5, 2.5]), ["1", "2"]],
)  # fmt: skip
def test_nothing_else_is_a_seed(sampler, seed):
    with pytest.raises(Refused, match=r"seed=.*has to be an integer"):
        sampler(seed=seed)


@pytest.mark.parametrize("size", [2.0, "2", True, None.__class__, [2], torch.tensor(2.0)])
def test_nothing_else_is_a_number_of_images(sampler, size):
    with pytest.raises(Refused, match="batch_size="):
        sampler(batch_size=size)


def test_too_many_images_are_refused_before_a_list_is_made(sampler):
    for size in (10**12, 2**64, 10**400, 70_000):
        with pytest.raises(Refused, match="1 to 65536 in a call"):
            sampler(batch_size=size)
    with pytest.raises(Refused, match="1 to 65536 in a call"):
        sampler(seed=range(10**12))
    large = morse_engine.compile(lambda x, t: x, plan="-", shape=(1, 4096, 4096))
    with pytest.raises(Refused, match=r"at most 2\^31 in a call"):
        large(batch_size=129)


def test_the_last_seed_counts_too(sampler):
    with pytest.raises(Refused, match=f"seed={2**64}"):
        sampler(batch_size=2, seed=2**64 - 1)


# -- conditions ------------------------------------------------------------------------------------


def test_guidance_without_a_condition(sampler):
    with pytest.raises(Refused, match="no condition to guide by: leave it out"):
        sampler(guidance_scale=7.5)
    for wrong in (np.nan, "7", True, 1e7, 1j):
        with pytest.raises(Refused, match="guidance_scale="):
            sampler(guidance_scale=wrong)


def test_guidance_needs_two_rows_for_each_image():
    """One row would be broadcast, and guide by nothing."""
    sampler = morse_engine.compile(tiny_text_unet(), plan="-")
    for rows in (1, 2, 3):
        with pytest.raises(Refused, match=f"has {rows} rows: with guidance 2 images need 4"):
            sampler(batch_size=2, guidance_scale=2.0, **text_cond(rows))
    assert sampler(batch_size=2, guidance_scale=np.float32(2), **text_cond(4)).shape[0] == 2


@pytest.mark.parametrize(
    ("cond", "message"),
    [
        ({}, "missing a required argument: 'encoder_hidden_states'"),
        ({"encoder_hidden_states": None}, "encoder_hidden_states is None: pass a tensor of 2 rows"),
        (text_cond(1), r"\(1, 5, 8\): this call needs 2 rows"),
        ({"encoder_hidden_states": torch.zeros(2, 5, 7)}, r"\(2, 5, 7\): .*\[T, 8\]"),
        ({"encoder_hidden_states": torch.zeros(2, 8)}, r"pass floats \[2, T, 8\]"),
        ({"encoder_hidden_states": torch.full((2, 5, 8), torch.nan)}, "holds NaN"),
        ({**text_cond(2), "class_labels": torch.zeros(2)}, "the unet has no classes"),
        ({**text_cond(2), "guidance": 3.0}, r"did you mean guidance_scale\?"),
        ({**text_cond(2), "steps": 3}, "unexpected keyword argument 'steps'"),
    ],
)
def test_text_that_does_not_fit(cond, message):
    sampler = morse_engine.compile(tiny_text_unet(), plan="-")
    sampler.models.dash = lambda *_, **__: pytest.fail("a model was called")
    with pytest.raises(Refused, match=message):
        sampler(batch_size=2, **cond)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "the unet needs class_labels: pass a tensor of 2 rows"),
        (torch.tensor([0, 10]), r"\[0, 10\]: 0 to 9"),
        (torch.tensor([-1, 0]), "0 to 9"),
        (torch.tensor([0.0, 1.0]), "int64"),
        (torch.tensor([1]), "needs 2 rows"),
        ([1, 2], "is a list"),
    ],
)
def test_labels_that_do_not_fit(labels, message):
    sampler = morse_engine.compile(tiny_unet(num_class_embeds=10), plan="-")
    with pytest.raises(Refused, match=message):
        sampler(batch_size=2, **({} if labels is None else {"class_labels": labels}))
    assert sampler(batch_size=2, class_labels=torch.tensor([0, 9])).shape == (2, *SHAPE)


def test_keywords_of_a_function(models):
    def unet(x, timestep, *, shift):
        return x + shift

    def dot(x, timestep, x_s, z_s, timestep_s, z_p, timestep_p):
        return torch.zeros_like(x)

    sampler = morse_engine.compile(unet, dot, plan="-.", shape=SHAPE)
    with pytest.raises(Refused, match=r"dot cannot be called as asked.*'shift'"):
        sampler(shift=torch.tensor(1.0))
    sampler = morse_engine.compile(unet, plan="-", shape=SHAPE)
    with pytest.raises(Refused, match=r"missing a required .*'shift'"):
        sampler()
    with pytest.raises(Refused, match=r"did you mean batch_size\?"):
        sampler(batchsize=3, shift=torch.tensor(1.0))


# -- arguments of compile --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": (1, 33, 33)}, r"multiples of 4, for instance \(1, 32, 32\)"),
        ({"shape": (1, 18, 16)}, "multiples of 4"),
        ({"shape": (3, 16, 16)}, "the unet takes 1 channels"),
        ({"shape": (16, 16)}, r"has to be \(C, H, W\)"),
        ({"shape": (1, 16.0, 16)}, "a size in shape=16.0"),
        ({"shape": (1, 0, 16)}, "a size in shape=0"),
        ({"shape": "abc"}, r"has to be \(C, H, W\)"),
        ({"plan": ["-", "."]}, "a Plan, Morse code"),
        ({"plan": True}, "a Plan, Morse code"),
        ({"plan": np.nan}, "a Plan, Morse code"),
        ({"plan": b"-."}, "a Plan, Morse code"),
        ({"plan": 1e12, "dot_speed": 3.0}, "at most 1000000 steps"),
        ({"dot_speed": "3"}, "dot_speed='3'"),
        ({"dot_speed": np.inf}, "dot_speed=inf"),
        ({"scheduler": DDIMScheduler}, "the class DDIMScheduler"),
        ({"scheduler": "ddim"}, "scheduler is a str: pass a diffusers scheduler"),
        ({"scheduler": 5}, "scheduler is a int"),
        ({"merge_dot": "no"}, "merge_dot='no'"),
        ({"inductor": 1}, "inductor=1"),
        ({"graph_memory": 1.5}, "graph_memory=1.5"),
        ({"graph_memory": -1}, "graph_memory=-1"),
        ({"backend": None}, "backend=None"),
    ],
)
def test_wrong_arguments_of_compile(models, options, message):
    with pytest.raises(Refused, match=message):
        morse_engine.compile(*models, **({"plan": "-."} | options))


def test_a_plan_is_any_number(models):
    expected = morse_engine.compile(*models, plan=4, dot_speed=3.0).plan
    for four in (4.0, np.int64(4), np.float32(4), torch.tensor(4)):
        assert morse_engine.compile(*models, plan=four, dot_speed=3.0).plan == expected


def test_a_wrong_plan_is_not_repeated_in_full(models):
    for plan in ("-" * 100_000 + "x", "x" * 100_000, ["-"] * 100_000):
        with pytest.raises(Refused) as found:
            morse_engine.compile(*models, plan=plan)
        assert len(str(found.value)) < 400
    with pytest.raises(Refused, match=re.escape("... (100000 in all)")):
        morse_engine.compile(*models, plan="x" * 100_000)


def test_wrong_models(models):
    unet, dot = models
    with pytest.raises(Refused, match="the class UNet2DModel"):
        morse_engine.compile(UNet2DModel)
    with pytest.raises(Refused, match="too many positional arguments"):
        morse_engine.compile(lambda x: x, shape=SHAPE)
    with pytest.raises(Refused, match="too many positional arguments"):
        morse_engine.compile(unet, lambda x, t: x)
    with pytest.raises(Refused, match=r"DDPMPipeline: pass its unet, or .*accelerate"):
        morse_engine.compile(pipeline("DDPMPipeline"), dot)


def test_a_unet_of_one_level_says_what_fits():
    dash = UNet2DModel(
        sample_size=16, in_channels=1, out_channels=1, block_out_channels=(8,), norm_num_groups=4,
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), add_attention=False,
    )  # fmt: skip
    with pytest.raises(Refused, match="a UNet of 1 levels: give cut=0"):
        morse_engine.Dot(dash)
    assert morse_engine.Dot(dash, cut=0).cut == 0


def test_sizes_of_a_call_are_checked_like_those_of_compile():
    unet = tiny_unet(sample_size=None)
    dot = Dot(unet, widths=(4, 4, 4), cut=2)
    sampler = morse_engine.compile(unet, dot, plan="-.")
    with pytest.raises(Refused, match="multiples of 8"):
        sampler(torch.zeros(1, 1, 20, 20))
    only = morse_engine.compile(unet, dot, plan="-")
    assert only(torch.zeros(1, 1, 20, 20)).shape == (1, 1, 20, 20), "without a Dot 4 is enough"


def test_a_budget_that_cannot_be_measured_names_the_argument():
    unet = tiny_text_unet()
    with pytest.raises(Refused, match=r"encoder_hidden_states.*give dot_speed="):
        morse_engine.compile(unet, Dot(unet, DDPMScheduler(), widths=(8, 8)))
    plan = morse_engine.compile(unet, Dot(unet, widths=(8, 8)), dot_speed=3.0).plan
    assert plan.lsd(3.0) <= 10


def test_wrong_steps_of_a_run(sampler):
    run = sampler.start()
    for k in (0, -1, 1.5, "1", None.__class__):
        with pytest.raises(Refused, match="k="):
            run.segment(k)
    with pytest.raises(Refused, match="on_step is a int"):
        sampler(on_step=3)
    with pytest.raises(Refused, match="on_step cannot be called"):
        sampler(on_step=lambda: None)
    with pytest.raises(Refused, match="a Plan and its table"):
        sampler.with_table("-", sampler.table)


def test_what_a_model_takes_is_what_its_forward_takes_now(monkeypatch):
    """A signature is found once for a class; a forward that was put into its place has another."""
    unet = tiny_unet()
    sampler = morse_engine.compile(unet, plan="-")
    for _ in range(2):
        with pytest.raises(Refused, match=r"shift.*besides .* class_labels, return_dict"):
            sampler(shift=1)
    forward = unet.forward

    def shifted(x, timestep, shift):
        return forward(x, timestep).sample + shift

    unet.forward = shifted
    assert torch.isfinite(sampler(shift=1)).all()
    with pytest.raises(Refused, match="missing a required argument: 'shift'"):
        sampler()
    del unet.forward
    found, signature = [], inspect.signature
    monkeypatch.setattr(inspect, "signature", lambda *args: found.append(args) or signature(*args))
    sampler()
    assert not found
