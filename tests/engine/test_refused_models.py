"""Models that the engine refuses: of other noise, random, or with an output that is no image."""

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
)
from torch import nn

import morse_engine
from models import randomised, tiny_text_unet, tiny_unet
from morse_engine import Dot, Plan, Refused, Unavailable
from pipelines import shallow as pipeline

SHAPE = (1, 16, 16)
SCALED = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


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
