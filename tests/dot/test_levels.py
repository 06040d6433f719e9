import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler

from morse_engine.dot.levels import PREDICTION_TYPES, NoiseLevels
from tolerances import assert_close

T_S, T = torch.tensor([999, 700, 300, 10]), torch.tensor([500, 699, 0, 9])


@pytest.fixture(params=PREDICTION_TYPES)
def case(request):
    """Levels, data x_0, noise eps, and (x_s, z_s) of a perfect model at T_S."""
    scheduler = DDPMScheduler(prediction_type=request.param)
    generator = torch.Generator().manual_seed(0)
    x_0, eps = torch.randn((2, 4, 1, 8, 8), generator=generator)
    velocity = scheduler.get_velocity(x_0, eps, T_S)
    z_s = {"epsilon": eps, "sample": x_0, "v_prediction": velocity}[request.param]
    return NoiseLevels.from_scheduler(scheduler), scheduler, x_0, eps, z_s


def test_estimates_invert_the_noising(case):
    levels, scheduler, x_0, eps, z_s = case
    found = levels.estimates(scheduler.add_noise(x_0, eps, T_S), z_s, T_S)
    assert_close("levels", found[0], x_0)
    assert_close("levels", found[1], eps)


def test_a_jump_lands_on_the_same_image_with_the_same_noise(case):
    levels, scheduler, x_0, eps, z_s = case
    landed = levels.jump(scheduler.add_noise(x_0, eps, T_S), z_s, T_S, T)
    assert_close("levels", landed, scheduler.add_noise(x_0, eps, T))


def test_miss_is_what_z_has_to_change_by(case):
    """Zero after a jump of a velocity's worth, and the change of noise where noise was changed."""
    levels, scheduler, x_0, eps, z_s = case
    x_s = scheduler.add_noise(x_0, eps, T_S)
    fresh = torch.randn(eps.shape, generator=torch.Generator().manual_seed(1))
    x = scheduler.add_noise(x_0, fresh, T)
    given = torch.stack((x, x_s, z_s), dim=1).flatten(2)
    seen, miss = ((c[:, None] @ given).view(x.shape) for c in levels.coordinates(T, T_S))
    target = {
        "epsilon": fresh,
        "sample": x_0,
        "v_prediction": scheduler.get_velocity(x_0, fresh, T),
    }[levels.prediction_type]
    alpha, sigma = levels.at(T_S)
    weight = alpha / (alpha**2 + sigma**2 / 100).sqrt()
    if levels.prediction_type == "epsilon":  # the image shrinks to what is known of it
        alpha, sigma = levels.at(T)
        target = target + alpha / sigma * (1 - weight**2) * x_0
    assert_close("levels/miss", miss, target - z_s)
    assert torch.equal(miss, levels.miss(x, x_s, z_s, T, T_S))
    assert_close("levels", seen, weight * x_0)


def test_fractional_times_lie_between(case):
    levels = case[0]
    alpha, _ = levels.at(torch.tensor([10.0, 10.5, 11.0, 5000.0]))
    assert alpha[0] > alpha[1] > alpha[2] > alpha[3]
    assert alpha[3] == levels.at(torch.tensor([999]))[0]


def test_a_cast_leaves_the_levels_in_float32(case):
    levels = case[0]
    before = levels.at(T_S)
    assert all(map(torch.equal, levels.half().at(T_S), before))


def test_levels_of_something_else():
    with pytest.raises(ValueError, match="FlowMatchEulerDiscreteScheduler"):
        NoiseLevels.from_scheduler(FlowMatchEulerDiscreteScheduler())
    with pytest.raises(ValueError, match="DDPMScheduler is not"):
        NoiseLevels.from_scheduler(DDPMScheduler(trained_betas=[0.1, 0.2]))
    with pytest.raises(ValueError, match="'score'"):
        NoiseLevels.from_scheduler(DDPMScheduler(prediction_type="score"))


def test_timestep_of_a_noise_level():
    """The inverse of `NoiseLevels.at`, at timesteps and between them."""
    levels = NoiseLevels.from_scheduler()
    for t in (0.0, 0.25, 17.0, 499.5, 998.75, 999.0):
        alpha, sigma = levels.at(torch.tensor([t]))
        found = levels.timestep((sigma / alpha).reshape(()))
        assert_close("levels/timestep", found, torch.tensor(t))
