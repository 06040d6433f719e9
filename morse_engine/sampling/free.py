"""Free steps: between two model calls the clean image goes on on a straight line, without a model.

    x0_j = U_j x_j + V_j z_j                       what call j, Dash's or Dot's, says of the image
    x0   = clamp(x0_a + f (x0_a - x0_b), lo, hi)   a, b: the last two calls, the later one first
    f    = (t - t_a) / (t_a - t_b)                 the line in t; 0 where there is none (`slopes`)
    z    = (x0 - U x) / V                          what a model that says so would return

U and V are numbers of the solver's row; t is the timestep, or what `clean.py` has in its place. lo
and hi bound the image by what the data hold: without them the line leaves the images that there
are, and the step is worse than none.
"""

from collections.abc import Callable
from math import inf
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..system.checks import shown
from ..system.errors import Refused
from .plan import FREE, Plan

Numbers = Tensor | float  # a number, or a tensor `[]` or `[R]`: one for all rows or for each


def difference(a: Tensor, b: Tensor) -> Tensor:
    """a - b, the way from b to a in the timestep."""
    return a - b


def log_ratio(a: Tensor, b: Tensor) -> Tensor:
    """log(a / b), the way from b to a in the logarithm of a noise level."""
    return torch.log(a / b)


def slope(
    t: Numbers,
    t_a: Numbers,
    t_b: Numbers,
    way: Callable[[Tensor, Tensor], Tensor],
    at_most: float = inf,
) -> Tensor:
    """How far t lies beyond the times of the last two estimates, with theirs as the unit.

        min(way(t, t_a) / way(t_a, t_b), at_most);   0 where no line goes through the two

    Args:
        t, t_a, t_b: numbers or tensors `[]` or `[R]`, which fall in a run, or all rise.
        way: `difference` or `log_ratio`.
        at_most: two points that are close say little about one that is far.

    Returns:
        as the times, in floats.
    """
    t, t_a, t_b = map(torch.as_tensor, (t, t_a, t_b))
    # A solver of second order may ask twice at one time, and at first b is a.
    return torch.where(t_b != t_a, way(t, t_a) / way(t_a, t_b), 0.0).clamp(max=at_most)


def slopes(plan: Plan, places: Tensor, noisy: bool) -> list[float]:
    """f of each free step of a run; 0 of its model calls.

    With a solver that adds noise two calls differ by what the noise between them says too, which
    does not go on. Most does it between the first two, where the image is decided; there is no line
    through these then (measured in docs/architecture.md).

    Args:
        places: t of each call, float64 `[len(plan)]`.
        noisy: whether the solver adds noise.
    """
    rows, a, b = [], 0, 0  # places of the last two calls
    for i, symbol in enumerate(plan):
        if symbol != FREE:
            a, b = i, a
        rows.append((i, a, a if noisy and b == 0 else b))
    t, t_a, t_b = (places.cpu()[list(of)] for of in zip(*rows, strict=True))
    return slope(t, t_a, t_b, difference).tolist()


class Line(NamedTuple):
    """The clean images of the last two model calls; b is a as long as there was but one."""

    a: Tensor
    b: Tensor

    @classmethod
    def after(cls, last: "Line | None", clean: Tensor) -> "Line":
        """The line once a model call has said `clean`."""
        return cls(clean, clean if last is None else last.a)

    def at(self, f: float, low: Tensor | float, high: Tensor | float) -> Tensor:
        """The clean image that lies f times the way from b to a beyond a."""
        # torch takes two numbers or two tensors, which its types do not say of one call.
        return (self.a + f * (self.a - self.b)).clamp(low, high)  # type: ignore[arg-type]


Range = tuple[tuple[float, ...], tuple[float, ...]]  # the least and the most, of all or per channel
NO_RANGE: Range = ((-inf,), (inf,))


def as_range(bounds: Any) -> Range:
    """What a user gives as the range of clean images, as two tuples of equal length.

    Args:
        bounds: `(lowest, highest)`, each a number or a sequence of one number for each channel.

    Raises:
        Refused: anything else, a NaN, or a lowest that is not below the highest.
    """
    try:
        low, high = (
            tuple(float(b) for b in bound) if hasattr(bound, "__len__") else (float(bound),)
            for bound in bounds
        )
    except (TypeError, ValueError):
        low = high = ()
    if not low or len(low) != len(high) or not all(a < b for a, b in zip(low, high, strict=True)):
        raise Refused(
            f"clean_range={shown(bounds)}: give (lowest, highest), the lowest below the highest, "
            "each a number or one for each channel"
        )
    return low, high


def bounds(of: Range, like: Tensor) -> tuple[Tensor | float, Tensor | float]:
    """A range as `clamp` takes it for images `[B, C, ...]`: numbers, or tensors `[C, 1, ...]`.

    Raises:
        Refused: as many numbers as the images have channels are needed, and there are others.
    """
    low, high = of
    if len(low) == 1:
        return low[0], high[0]
    if len(low) != like.shape[1]:
        raise Refused(f"clean_range is of {len(low)} channels, the images have {like.shape[1]}")
    shape = (-1, *[1] * (like.ndim - 2))
    return tuple(like.new_tensor(b).reshape(shape) for b in of)  # type: ignore[return-value]
