"""Dots without training: they repeat, or continue, what Dash has said.

They are called as every Dot is, and they are the rivals that a trained one has to beat.
"""

from collections.abc import Callable
from functools import partial
from math import inf
from typing import Any

import torch
from torch import Tensor

Numbers = Tensor | float  # a number, or a tensor `[]` or `[R]`: one for all rows or for each


def difference(a: Tensor, b: Tensor) -> Tensor:
    """a - b, the way from b to a in the timestep."""
    return a - b


def log_ratio(a: Tensor, b: Tensor) -> Tensor:
    """log(a / b), the way from b to a in the logarithm of a noise level."""
    return torch.log(a / b)


def slope(
    t: Numbers,
    t_s: Numbers,
    t_p: Numbers,
    way: Callable[[Tensor, Tensor], Tensor],
    at_most: float,
) -> Tensor:
    """How far t lies beyond the times of Dash's last two estimates, with theirs as the unit.

        min(way(t, t_s) / way(t_s, t_p), at_most);   0 where no line goes through the two

    Args:
        t, t_s, t_p: numbers or tensors `[]` or `[R]`, falling in a run.
        way: `difference` or `log_ratio`.
        at_most: two points that are close say little about one that is far.

    Returns:
        as the times, in floats.
    """
    t, t_s, t_p = map(torch.as_tensor, (t, t_s, t_p))
    # A solver of second order may ask Dash twice at one time, and at first p is s.
    return torch.where(t_p > t_s, way(t, t_s) / way(t_s, t_p), 0.0).clamp(max=at_most)


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
    """Repeat Dash's last estimate: `eta = 0`, `[B, C, H, W]`."""
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
        z_s, z_p: `[B, C, H, W]`.
        timestep, timestep_s, timestep_p: numbers or tensors `[]` or `[B]`.
        way: the coordinate of the line; default: the timestep.
        at_most: the bound of how far it is continued; default: none.

    Returns:
        `[B, C, H, W]` in the dtype of z_s; zero until there are two estimates.
    """
    factor = slope(timestep, timestep_s, timestep_p, way, at_most)
    return factor.reshape(-1, 1, 1, 1).to(z_s) * (z_s - z_p)


# In the terms of k-diffusion, whose times are noise levels.
extrapolate_sigma = partial(extrapolate, way=log_ratio, at_most=2.0)
