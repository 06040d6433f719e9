"""What the engine refuses, rather than make images that are silently wrong."""

import inspect
import re

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    UNet2DModel,
)
from torch import nn

import morse_engine
from models import randomised, text_cond, tiny_text_unet, tiny_unet
from morse_engine import Dot, Plan, Refused, Unavailable
from pipelines import shallow as pipeline

SHAPE = (1, 16, 16)
SCALED = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


@pytest.fixture(scope="module")
def models():
    unet = tiny_unet()
    return unet, randomised(Dot(unet))


@pytest.fixture(scope="module")
def sampler(models):
    return morse_engine.compile(*models, plan="-.")


# -- a Dot and a scheduler of other noise ----------------------------------------------------------

OTHER_NOISE = [
    (DDIMScheduler(beta_end=0.012), "beta_end=0.012, the Dot was trained with .*beta_end=0.02"),
    (DDIMScheduler(beta_end=0.0195), "beta_end=0.0195"),
    (DDIMScheduler(**SCALED), "beta_schedule=scaled_linear"),
    (DDIMScheduler(prediction_type="v_prediction"), "prediction_type='v_prediction', the Dot's"),
    (DDIMScheduler(num_train_timesteps=500), "500 train timesteps, the Dot 1000"),
    (DDIMScheduler(rescale_betas_zero_snr=True), "other betas"),
    (FlowMatchEulerDiscreteScheduler(), "of another kind"),
    (EulerDiscreteScheduler(trained_betas=[0.1] * 1000), "trained with"),
]


@pytest.mark.parametrize(("scheduler", "message"), OTHER_NOISE)
def test_a_dot_on_other_noise_is_refused(models, sampler, scheduler, message):
    unet, dot = models
    with pytest.raises(Refused, match=message):
        morse_engine.compile(unet, dot, plan="-.", scheduler=scheduler)
    with pytest.raises(Refused, match=message):
        sampler.with_plan("-..", scheduler)
    assert morse_engine.compile(unet, plan="-", scheduler=scheduler).plan == Plan("-")


def test_options_that_are_no_noise_are_no_difference(models):
    for options in ({"clip_sample": False}, {"timestep_spacing": "leading"}, {"steps_offset": 1}):
        morse_engine.compile(*models, plan="-.", scheduler=DDIMScheduler(**options))


def test_without_a_scheduler_the_levels_are_those_of_the_dot():
    unet = tiny_unet()
    options = {"prediction_type": "v_prediction", "num_train_timesteps": 800, **SCALED}
    dot = randomised(Dot(unet, DDPMScheduler(**options)))
    ours = morse_engine.compile(unet, dot, plan="-.-.")
    scheduler = DDIMScheduler(timestep_spacing="trailing", **options)
    expected = morse_engine.compile(unet, dot, plan="-.-.", scheduler=scheduler)
    assert torch.equal(ours(seed=3), expected(seed=3))
    linear = DDIMScheduler(timestep_spacing="trailing")
    other = morse_engine.compile(unet, plan="----", scheduler=linear)
    alone = morse_engine.compile(unet, plan="----", scheduler=scheduler)
    assert not torch.equal(other(seed=3), alone(seed=3)), "the levels matter"


def test_latents_are_not_clamped_by_default():
    pictures = morse_engine.compile(tiny_unet(), plan="-").scheduler
    latents = morse_engine.compile(tiny_text_unet(), plan="-").scheduler
    assert (pictures.config.clip_sample, latents.config.clip_sample) == (True, False)


def test_a_pipeline_with_other_noise_than_its_dot():
    pipe = pipeline("DDPMPipeline")
    dot = randomised(Dot(pipe.unet, DDPMScheduler(beta_end=0.01)))
    with pytest.raises(Refused, match="do not belong together"):
        morse_engine.accelerate(pipe, dot, plan="-.")
    dot = randomised(Dot(pipe.unet))
    morse_engine.accelerate(pipe, dot, plan="-.")
    pipe.scheduler = DDIMScheduler(beta_end=0.01)
    with pytest.raises(Refused, match=r"beta_end=0\.01"):
        pipe(num_inference_steps=2, output_type="pt")


# -- a model that is random ------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["eager", "host"])
def test_dropout_in_train_mode(backend):
    unet = tiny_unet(dropout=0.3)
    sampler = morse_engine.compile(unet, plan="--", backend=backend)
    images = sampler(seed=1)
    assert torch.equal(sampler(seed=1), images)
    unet.train()
    with pytest.raises(Unavailable, match=r"unet is in train\(\) mode.*of 0\.3.*unet\.eval"):
        sampler(seed=1)
    with pytest.raises(Unavailable, match=r"train\(\) mode"):
        sampler.start(seed=1)
    assert unet.training, "as it was"
    unet.eval()
    assert torch.equal(sampler(seed=1), images)


def test_train_mode_without_random_layers_is_taken():
    unet = tiny_unet()
    sampler = morse_engine.compile(unet, plan="--")
    images = sampler(seed=1)
    unet.train()
    assert torch.equal(sampler(seed=1), images)


def test_dropout_of_a_dot_that_is_not_merged():
    unet = tiny_unet(dropout=0.3).train()
    dot = Dot(unet)
    unet.eval()
    sampler = morse_engine.compile(unet, dot, plan="-.", merge_dot=False)
    with pytest.raises(Unavailable, match=r"the dot is in train\(\) mode"):
        sampler()
    morse_engine.compile(unet, dot, plan="-.")()  # a merged copy is for inference


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


# -- what a model returns --------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["eager", "host"])
@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda x: x[:, :1, :1, :1], r"unet returned shape \(2, 1, 1, 1\) for x \(2, 1, 16, 16\)"),
        (lambda x: x.mean(), r"returned shape \(\)"),
        (lambda x: None, "returned a NoneType"),
        (lambda x: (x,), "returned a tuple"),
    ],
)
def test_what_would_be_broadcast(backend, returned, message):
    sampler = morse_engine.compile(lambda x, t: returned(x), plan="-", shape=SHAPE, backend=backend)
    with pytest.raises(Refused, match=message):
        sampler(batch_size=2)


def test_a_residual_that_would_be_broadcast():
    sampler = morse_engine.compile(
        lambda x, t: x, lambda x, *_: x[:, :, :1, :1], plan="-.", shape=SHAPE
    )
    with pytest.raises(Refused, match=r"dot returned shape \(1, 1, 1, 1\)"):
        sampler()


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


class Layer(nn.Module):
    """A Dash of one layer, which sees the first channel."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x, t):
        return x


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (nn.MultiheadAttention(8, 2, dropout=0.5), "dropout of 0.5"),
        (nn.GRU(8, 8, 2, dropout=0.25), "dropout of 0.25"),
        (nn.InstanceNorm2d(1, track_running_stats=True), "InstanceNorm2d"),
        (nn.BatchNorm2d(1), "BatchNorm2d"),
    ],
)
def test_layers_with_a_dropout_or_statistics_of_their_own(layer, said):
    made = morse_engine.compile(Layer(layer).train(), plan="--", shape=(1, 8, 8))
    with pytest.raises(Unavailable, match=said):
        made()
    made.models.unet.eval()
    made()


def test_random_layers_that_are_not_are_taken():
    for layer in (nn.MultiheadAttention(8, 2), nn.InstanceNorm2d(1), nn.GRU(8, 8)):
        morse_engine.compile(Layer(layer).train(), plan="--", shape=(1, 8, 8))()


@pytest.mark.parametrize("dtype", [torch.complex64, torch.int64, torch.bool])
def test_an_output_that_is_no_float(dtype):
    """Cast to one, the imaginary part would be lost in silence."""
    made = morse_engine.compile(lambda x, t: x.to(dtype), plan="--", shape=(1, 8, 8))
    with pytest.raises(Refused, match=f"unet returned {dtype}"):
        made()


def test_an_output_on_another_device():
    made = morse_engine.compile(lambda x, t: x.to("meta"), plan="--", shape=(1, 8, 8))
    with pytest.raises(Refused, match="on meta: it has to return floats on cpu"):
        made()


def test_images_that_are_not_finite_are_spoken_of():
    def dash(x, t):
        return torch.where(x[:, :, :1, :1] == x[1:2, :, :1, :1], float("nan"), x)

    made = morse_engine.compile(dash, plan="--", shape=(1, 8, 8))
    with pytest.warns(UserWarning, match="1 of 3 images hold NaN"):
        x = made(batch_size=3)
    assert x.isfinite().flatten(1).all(1).tolist() == [True, False, True]


def test_a_unet_of_one_level_says_what_fits():
    dash = UNet2DModel(
        sample_size=16, in_channels=1, out_channels=1, block_out_channels=(8,), norm_num_groups=4,
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), add_attention=False,
    )  # fmt: skip
    with pytest.raises(Refused, match="a UNet of 1 levels: give cut=0"):
        morse_engine.Dot(dash)
    assert morse_engine.Dot(dash, cut=0).cut == 0
