"""Nothing mixed up: a training refuses the folder of another run."""

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from models import tiny_unet
from morse_engine import Dot, Refused, train_dash, train_dot
from morse_engine.zoo import digits_scheduler

IMAGES = torch.linspace(-1, 1, 16)[:, None, None, None].expand(-1, 1, 16, 16).contiguous()


def dash_run(folder, *, images=IMAGES, noise=None, **options):
    options = {"num_steps": 2, "batch_size": 2, "lr": 1e-3, "checkpoint_every": 1} | options
    noise = noise or DDPMScheduler()
    return train_dash(tiny_unet(), images, noise, folder, progress=False, **options)


def dot_run(folder, *, unet=None, images=IMAGES, noise=None, shape=(), **options):
    unet, noise = unet or tiny_unet(), noise or DDPMScheduler()
    torch.manual_seed(0)
    dot = Dot(unet, noise, **({"widths": (8, 8), "lora_rank": 1} | dict(shape)))
    options = {
        "schedulers": [digits_scheduler("ddim")], "num_steps": 2, "batch_size": 2,
        "num_visits": 8, "run_steps": (4, 4), "checkpoint_every": 1, "progress": False,
    } | options  # fmt: skip
    return train_dot(dot, unet, images, noise, folder, **options)


@pytest.fixture(scope="module")
def finished_dash(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dash")
    dash_run(folder)
    return folder


@pytest.fixture(scope="module")
def finished_dot(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dot")
    dot_run(folder)
    return folder


OTHER = IMAGES.clone()
OTHER[3, 0, 2, 2] += 0.01


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"images": OTHER}, "image_hash="),
        ({"images": IMAGES[:12]}, "images=16, this one has 12"),
        ({"noise": DDPMScheduler(beta_end=0.015)}, r"noise\.beta_end=0\.02, this one has 0\.015"),
        ({"noise": DDPMScheduler(prediction_type="sample")}, r"noise\.prediction_type=epsilon"),
        ({"batch_size": 3}, "batch_size=2, this one has 3"),
        ({"lr": 2e-3}, r"lr=0\.001, this one has 0\.002"),
        ({"seed": 1}, "seed=0, this one has 1"),
        ({"num_steps": 3}, "num_steps=2, this one has 3"),
        ({"ema_decay": 0.5}, r"ema_decay=0\.999, this one has 0\.5"),
    ],
)
def test_another_dash_run_is_refused(options, said, finished_dash):
    with pytest.raises(Refused, match=rf"is of a run with {said}.*: use another folder"):
        dash_run(finished_dash, **options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"unet": tiny_unet(seed=1)}, "dash="),
        ({"shape": {"lora_rank": 2}}, "lora_rank=1, this one has 2"),
        ({"images": OTHER}, "image_hash="),
        (
            {
                "noise": DDPMScheduler(beta_start=2e-4),
                "schedulers": [DDIMScheduler(beta_start=2e-4)],
            },
            r"noise\.beta_start=0\.0001",
        ),
        ({"schedulers": [digits_scheduler("dpm")]}, r"solvers=\['DDIMScheduler'\]"),
        (
            {"schedulers": [DDIMScheduler(timestep_spacing="linspace")]},
            r"solver 1\.timestep_spacing=\w+, this one has linspace",
        ),
        ({"batch_size": 3}, "batch_size=2, this one has 3"),
        ({"run_steps": (4, 5)}, r"run_steps=\[4, 4\], this one has \[4, 5\]"),
        ({"guidance": (1.0, 2.0)}, r"guidance=\[2\.0, 12\.0\]"),
    ],
)
def test_another_dot_run_is_refused(options, said, finished_dot):
    """The Dot of a Dash that was trained anew in the same shape, above all."""
    saved = (finished_dot / "dot" / "model.safetensors").read_bytes()
    with pytest.raises(Refused, match=rf"is of a run with {said}.*: use another folder"):
        dot_run(finished_dot, **options)
    assert (finished_dot / "dot" / "model.safetensors").read_bytes() == saved


def test_how_a_run_is_watched_is_no_difference(finished_dash):
    dash_run(finished_dash, checkpoint_every=7, held_out=IMAGES)
