"""95 % intervals over images by a bootstrap: the images are drawn again, with replacement."""

from typing import NamedTuple

import torch
from torch import Tensor

DRAWS = 400


class Interval(NamedTuple):
    """A number of all images, and where 95 % of its draws lie."""

    value: float
    low: float
    high: float


class Bootstrap:
    """Draws of n images, the same ones for all that is asked, so that differences are paired.

    Source: Efron 1979, percentiles.
    """

    def __init__(self, num_images: int):
        generator = torch.Generator().manual_seed(0)
        self.rows = torch.randint(num_images, (DRAWS, num_images), generator=generator)

    def means(self, values: Tensor) -> Tensor:
        """The mean of `[n]` values over all images, then over each draw: `[1 + DRAWS]`."""
        values = values.double()
        return torch.cat([values.mean()[None], values[self.rows].mean(1)])

    def interval(self, values: Tensor) -> Interval:
        """Of the mean of `[n]` values."""
        return between(self.means(values))


def between(found: Tensor) -> Interval:
    """The interval of a number, given for all images and for each draw, `[1 + DRAWS]`."""
    low, high = torch.quantile(found[1:].double(), torch.tensor([0.025, 0.975]).double()).tolist()
    return Interval(float(found[0]), low, high)
