"""Dots without training: the line through Dash's last two estimates, in two coordinates."""

from functools import partial
from math import inf, log

import pytest
import torch

from morse_engine import evaluation
from morse_engine.dot import free
from morse_engine.integrations import k_diffusion


@pytest.fixture
def z():
    """(z_s, z_p), `[2, 1, 4, 4]`."""
    return torch.randn((2, 2, 1, 4, 4), generator=torch.Generator().manual_seed(0)).unbind()


def eta(function, z, t, t_s, t_p):
    z_s, z_p = z
    return function(None, t, None, z_s, t_s, z_p, t_p)


def test_the_public_names_are_these_functions():
    assert (evaluation.reuse, evaluation.extrapolate) == (free.reuse, free.extrapolate)
    assert (k_diffusion.reuse, k_diffusion.extrapolate) == (free.reuse, free.extrapolate_sigma)


def test_reuse_is_zero(z):
    found = eta(free.reuse, z, 1, 2, 3)
    assert found.shape == z[0].shape
    assert not found.any()


@pytest.mark.parametrize("kind", [float, torch.tensor])
def test_a_line_in_the_timestep(z, kind):
    found = eta(free.extrapolate, z, kind(100), kind(400), kind(500))
    assert torch.equal(found, 3 * (z[0] - z[1]))


def test_a_line_in_the_logarithm_of_the_noise_level(z):
    times = (torch.tensor(sigma) for sigma in (3.0, 4.0, 6.0))
    found = eta(free.extrapolate_sigma, z, *times)
    torch.testing.assert_close(found, log(4 / 3) / log(6 / 4) * (z[0] - z[1]))


@pytest.mark.parametrize("way", [free.difference, free.log_ratio])
@pytest.mark.parametrize(("at_most", "factor"), [(inf, None), (2.0, 2.0)])
def test_the_bound(z, way, at_most, factor):
    line = partial(free.extrapolate, way=way, at_most=at_most)
    times = [torch.tensor(t) for t in (1.0, 40.0, 41.0)]
    found = eta(line, z, *times)
    if factor is None:
        factor = way(times[0], times[1]) / way(times[1], times[2])
        assert factor > 2
    assert torch.equal(found, factor * (z[0] - z[1]))


@pytest.mark.parametrize("function", [free.extrapolate, free.extrapolate_sigma])
def test_no_line_through_one_point(z, function):
    assert not eta(function, z, *map(torch.tensor, (100.0, 400.0, 400.0))).any()


def test_a_time_for_each_image(z):
    t, t_s, t_p = torch.tensor([100, 300]), torch.tensor([400, 400]), torch.tensor([500, 400])
    found = eta(free.extrapolate, z, t, t_s, t_p)
    assert torch.equal(found[0], 3 * (z[0] - z[1])[0])
    assert not found[1].any()


def test_conditions_change_nothing(z):
    plain = eta(free.extrapolate, z, 100, 400, 500)
    z_s, z_p = z
    assert torch.equal(free.extrapolate(None, 100, None, z_s, 400, z_p, 500, text=1), plain)
