"""A trained kind of Dot in a sampler of k-diffusion."""

import pytest
import torch

from denoiser import SHAPE, karras, model, start
from models import randomised, tiny_unet
from morse_engine import Dot, Plan, SolverTable
from morse_engine.integrations import k_diffusion
from morse_engine.sampling.loop import walk
from tolerances import assert_close


@pytest.fixture(scope="module")
def pair():
    unet = tiny_unet()
    return unet, randomised(Dot(unet))


def test_free_steps_between_dot_steps(pair):
    """Both kinds of calls make the line, and a Dot's range holds it."""
    _, dot = pair
    sigmas = karras(6)
    run = k_diffusion.sampler("-:.:", dot)
    x = run(model, start(sigmas), sigmas, disable=True)
    dot.clean_range = (-0.5, 0.5)
    try:
        held = k_diffusion.sampler("-:.:", dot)(model, start(sigmas), sigmas, disable=True)
        given = k_diffusion.sampler("-:.:", dot, clean_range=(-9, 9))
        assert_close("k_diffusion", given(model, start(sigmas), sigmas, disable=True), x)
    finally:
        del dot.clean_range
    assert not torch.allclose(held, x, atol=1e-2)


def test_a_dot_sees_its_own_scale_and_timesteps(pair):
    """A run in the terms of k-diffusion is the run of the variance-preserving Euler scheduler."""
    from diffusers import EulerDiscreteScheduler

    unet, dot = pair
    # Whole timesteps: between two diffusers and a Dot's levels do not interpolate alike.
    scheduler = EulerDiscreteScheduler(timestep_spacing="leading")
    table = SolverTable.from_scheduler(scheduler, 6)
    scheduler.set_timesteps(6)
    sigmas, times = (
        scheduler.sigmas,
        dict(zip(scheduler.sigmas.tolist(), table.timesteps, strict=False)),
    )

    def host(x, sigma):
        s = sigma[:, None, None, None]
        return x - s * unet(x / (1 + s**2).sqrt(), times[float(sigma[0])]).sample

    plan, x = Plan("-..-.."), start(sigmas)
    ours = k_diffusion.sampler(plan, dot, solver="euler")(host, x, sigmas, disable=True)
    dash = lambda x, t: unet(x, t).sample  # noqa: E731
    *_, theirs = walk(dash, dot.merged(), plan, table, x / table.init_noise_sigma, ())
    assert_close("k_diffusion/dot", ours, theirs)


def test_a_dot_is_for_images(pair):
    with pytest.raises(ValueError, match=r"pass floats \[B, C, H, W\]"):
        k_diffusion.sampler("-.", pair[1])(model, start(karras(4)).unsqueeze(2), karras(4))


def test_conditions_reach_the_dot(pair):
    """And only the Dot: this one has no use for them, and says so at its first step."""
    run = k_diffusion.sampler("-.", pair[1], cond={"label": torch.zeros(2)})
    with pytest.raises(ValueError, match="label"):
        run(model, start(karras(4)), karras(4), disable=True)


def test_a_dot_of_another_prediction_type():
    from diffusers import DDPMScheduler

    dot = Dot(tiny_unet(), DDPMScheduler(prediction_type="v_prediction"))
    with pytest.raises(ValueError, match="corrects v_prediction"):
        k_diffusion.sampler("-.", dot)


def test_levels_beyond_those_of_the_dot(pair):
    run = k_diffusion.sampler("-.", pair[1])
    with pytest.raises(ValueError, match="the run begins at 1000"):
        run(model, torch.zeros(SHAPE), karras(4, high=1000.0))
    with pytest.raises(ValueError, match="the run goes up to 1000"):
        run(model, torch.zeros(SHAPE), karras(4, high=1000.0)[:-1].flip(0))
