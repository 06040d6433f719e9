"""What a training is refused for before its first step, and weights that are none at its end."""

import copy

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
)

from models import tiny_unet
from morse_engine import Dot, Refused, train_dash, train_dot
from morse_engine.training import Captioned

X = torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
FIT = {"num_steps": 2, "batch_size": 2, "progress": False, "warmup": 0, "checkpoint_every": 1}
WALKS = {"num_visits": 8, "run_steps": (2, 3), **FIT}


def dot_of(unet, **options):
    return Dot(unet, widths=(4, 4), **options)


@pytest.mark.parametrize(
    ("scheduler", "said"),
    [
        (DDIMScheduler(beta_end=0.01), "beta_end=0.01, the Dot was trained with"),
        (DDIMScheduler(prediction_type="v_prediction"), "the Dot's Dash predicts 'epsilon'"),
        (DDIMScheduler(num_train_timesteps=500), "500 train timesteps"),
        (FlowMatchEulerDiscreteScheduler(), "flow matching"),
        (DPMSolverMultistepScheduler(use_flow_sigmas=True), "flow matching"),
    ],
)
def test_a_way_of_other_noise_is_not_walked(scheduler, said, tmp_path):
    unet = tiny_unet()
    schedulers = [DDIMScheduler(), scheduler]
    with pytest.raises(Refused, match=said):
        train_dot(dot_of(unet), unet, X, DDPMScheduler(), tmp_path, schedulers=schedulers, **WALKS)
    assert not list(tmp_path.iterdir())


def test_the_dot_of_another_dash_is_not_trained(tmp_path):
    dot, other = dot_of(tiny_unet()), tiny_unet(seed=5)
    with pytest.raises(Refused, match="the Dot of another Dash"):
        train_dot(dot, other, X, DDPMScheduler(), tmp_path, schedulers=[DDIMScheduler()], **WALKS)
    assert not list(tmp_path.iterdir())


def test_a_merged_dot_is_not_trained(tmp_path):
    unet = tiny_unet()
    dot = dot_of(unet).merged()
    with pytest.raises(Refused, match="a merged Dot is for inference only"):
        train_dot(dot, unet, X, DDPMScheduler(), tmp_path, schedulers=[DDIMScheduler()], **WALKS)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"learning_rate": 1e-3}, "learning_rate=0.001: no such option"),
        ({"chekpoint_every": 1}, "checkpoint_every?"),
        ({"batch_size": 10**12}, "a batch has 1 to"),
        ({"images": X.to("meta")}, "give a dense tensor"),
        ({"images": X.to_sparse()}, "give a dense tensor"),
    ],
)
def test_options_and_images(options, said, tmp_path):
    given = {"images": X, "noise_scheduler": DDPMScheduler(), **FIT, **options}
    with pytest.raises(Refused) as refused:
        train_dash(tiny_unet(), out_dir=tmp_path, **given)
    assert said in str(refused.value)
    assert not list(tmp_path.iterdir())
    if "images" not in options:
        dot, unet = None, tiny_unet()
        dot = dot_of(unet)
        with pytest.raises(Refused) as refused:
            train_dot(dot, unet, out_dir=tmp_path, schedulers=[DDIMScheduler()], **given)
        assert said in str(refused.value)


def test_as_many_visits_as_no_memory_holds(tmp_path):
    unet = tiny_unet()
    given = (dot_of(unet), unet, X, DDPMScheduler(), tmp_path)
    with pytest.raises(Refused, match="num_visits=1000000000000: keep 1 to"):
        train_dot(*given, schedulers=[DDIMScheduler()], **WALKS | {"num_visits": 10**12})


def test_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / "file").write_text("x")
    for place in ("file", "file/run"):
        with pytest.raises(NotADirectoryError, match="choose a folder"):
            train_dash(tiny_unet(), X, DDPMScheduler(), tmp_path / place, **FIT)


@pytest.mark.parametrize("step", [-1, 3, 2.5])
def test_a_step_that_the_run_does_not_have(step, tmp_path):
    train_dash(tiny_unet(), X, DDPMScheduler(), tmp_path, **FIT)
    path = tmp_path / "checkpoint.pt"
    torch.save(torch.load(path, weights_only=True) | {"step": step}, path)
    with pytest.raises(Refused, match=rf"is damaged \(step={step}\)"):
        train_dash(tiny_unet(), X, DDPMScheduler(), tmp_path, **FIT)
    path.unlink()
    path.mkdir()
    with pytest.raises(Refused, match="is damaged"):
        train_dash(tiny_unet(), X, DDPMScheduler(), tmp_path, **FIT)


def test_averaged_weights_that_are_not_finite_are_not_returned(tmp_path):
    train_dash(tiny_unet(), X, DDPMScheduler(), tmp_path, **FIT)
    path = tmp_path / "checkpoint.pt"
    content = copy.deepcopy(torch.load(path, weights_only=True))
    content["ema"]["shadow_params"][0].fill_(float("nan"))
    torch.save(content, path)
    with pytest.raises(Refused, match="the trained weights hold NaN"):
        train_dash(tiny_unet(), X, DDPMScheduler(), tmp_path, **FIT)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((3, {}), "images is a int"),
        ((X, None), "cond is None"),
        ((X, [1]), "cond is a list"),
        ((X, {"a": 3}), "a is a int"),
        ((X, {"a": {"b": "x"}}), "b is a str"),
        ((X, {"a": X}, 3), "empty is a int"),
        ((X, {"a": X}, {"a": 3}), "a is a int"),
    ],
)
def test_captions_of_no_rows(given, said):
    with pytest.raises(Refused, match=said):
        Captioned(*given)
