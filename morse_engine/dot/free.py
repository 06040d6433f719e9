"""Dots without training: they repeat, or continue, what Dash has said.

They are called as every Dot is, and they are the rivals that a trained one has to beat.
"""

from collections.abc import Callable
from functools import partial
from math import inf
from typing import Any

import torch
from torch import Tensor

from ..sampling.free import Numbers, difference, log_ratio, slope
from ..system import checks
from . import trajectory

FORM = "[B, C, ...]"  # of images, latents of video and sound


def reuse(
    x: Tensor,
    timestep: Numbers,
    x_s: Tensor,
    z_s: Tensor,
    timestep_s: Numbers,
    z_p: Tensor,
    timestep_p: Numbers,
    **cond: Any,
) -> Tensor:
    """Repeat Dash's last estimate: `eta = 0`, in the form of z_s."""
    trajectory.check((z_s, z_p), (timestep, timestep_s, timestep_p), FORM)
    return torch.zeros_like(z_s)


def extrapolate(
    x: Tensor,
    timestep: Numbers,
    x_s: Tensor,
    z_s: Tensor,
    timestep_s: Numbers,
    z_p: Tensor,
    timestep_p: Numbers,
    *,
    way: Callable[[Tensor, Tensor], Tensor] = difference,
    at_most: float = inf,
    **cond: Any,
) -> Tensor:
    """Continue Dash's last two estimates on a straight line.

        eta = min(way(t, t_s) / way(t_s, t_p), at_most) (z_s - z_p)

    Args:
        z_s, z_p: `[B, C, ...]`.
        timestep, timestep_s, timestep_p: numbers or tensors `[]` or `[B]`.
        way: the coordinate of the line; default: the timestep.
        at_most: the bound of how far it is continued; default: none.

    Returns:
        as z_s; zero until there are two estimates.
    """
    trajectory.check((z_s, z_p), (timestep, timestep_s, timestep_p), FORM)
    checks.function("way", way, "a function of two times", 2)
    if not (isinstance(at_most, float) and at_most == inf):
        at_most = min(checks.positive("at_most", at_most), torch.finfo(torch.float32).max)
    factor = slope(timestep, timestep_s, timestep_p, way, at_most)
    return factor.reshape(-1, *[1] * (z_s.ndim - 1)).to(z_s) * (z_s - z_p)


# In the terms of k-diffusion, whose times are noise levels.
extrapolate_sigma = partial(extrapolate, way=log_ratio, at_most=2.0)
