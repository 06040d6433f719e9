"""What a Dot is called with: images of one shape, and times."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..sampling.free import Numbers
from ..system import checks
from ..system.errors import Refused

MOST_TIME = 1e9


def check(images: Sequence[Tensor], times: Sequence[Numbers], form: str = "[B, C, H, W]") -> None:
    """Refuse images that are no floats of this form and one shape, and times that are none.

    Args:
        images: x, x_s, z_s, z_p, or the last of these.
        times: t, t_s, t_p, numbers or tensors `[]`, `[1]` or `[B]`.
    """
    shape = None
    for name, image in zip(("x", "x_s", "z_s", "z_p")[-len(images) :], images, strict=True):
        checks.tensor(name, image, form)
        if image.shape != (shape := shape or image.shape):
            raise Refused(f"{name} has shape {tuple(image.shape)}, the first {tuple(shape)}")
    for name, time in zip(("timestep", "timestep_s", "timestep_p"), times, strict=True):
        if not isinstance(time, Tensor):
            if abs(checks.number(name, time)) > MOST_TIME:
                raise Refused(f"{name}={checks.shown(time)}: has to be a timestep")
        elif time.ndim > 1 or time.is_complex() or time.dtype == torch.bool:
            raise Refused(f"{name} is {list(time.shape)} {time.dtype}: give a number, [] or [B]")
        elif shape is not None and time.numel() not in (1, shape[0]):
            raise Refused(f"{name} has {time.numel()} times for {shape[0]} images")
        elif time.is_floating_point() and time.is_cpu and not time.isfinite().all():
            raise Refused(f"{name}={checks.shown(time)}: has to be finite")
