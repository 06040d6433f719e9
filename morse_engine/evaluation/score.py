"""How near the images of a plan are to those of the full run: what plans are ranked by.

    score = sum_k (mu_k - mu'_k)^2 + (s_k - s'_k)^2

with the mean mu_k and the deviation s_k of feature k over the images of a plan, and mu', s' over
those of the full run from the same seeds. It is the Frechet distance of two normal distributions
whose features do not depend on each other. With the same seeds much of the noise of a small number
of images is in both and cancels, so some 64 seeds rank plans, where the Frechet distance to real
images needs a thousand. rmse to the full run does not rank them: it prefers blur.

Of many plans some are ahead by the luck of their 64 seeds, those most whose images are far from the
full run's. So a search ranks by the upper end of the score's 95 % interval.

Source: Heusel et al. 2017 (arXiv 1706.08500), eq. 6, for diagonal covariances.
"""

import torch
from torch import Tensor, nn

from .bootstrap import Bootstrap, between


def score(features: Tensor, full: Tensor) -> float:
    """The distance between `[n, F]` features of a plan's images and those of the full run's."""
    a, b = features.double(), full.double()
    means = (a.mean(0) - b.mean(0)).square().sum()
    return float(means + (a.std(0) - b.std(0)).square().sum())


def upper_end(features: Tensor, full: Tensor) -> float:
    """Where the 95 % interval of the score of `[n, F]` features ends, by a bootstrap over images.

    0 for the full run's own features.
    """
    return between(_drawn(features, full)).high


def share_nearer(features: Tensor, others: Tensor, full: Tensor) -> float:
    """In which part of the draws the score of `[n, F]` features is below that of others.

    The draws are the same for both, which are of the same seeds.
    """
    return float((_drawn(features, full) < _drawn(others, full))[1:].double().mean())


def _drawn(features: Tensor, full: Tensor) -> Tensor:
    """The score by all images, then by each draw: `[1 + DRAWS]`."""
    n = len(features)
    drawn = torch.stack([rows.bincount(minlength=n) for rows in Bootstrap(n).rows]).double()
    drawn = torch.cat([torch.ones(1, n).double(), drawn])  # how often each image is in each draw

    def moments(values: Tensor) -> tuple[Tensor, Tensor]:
        values = values.double() - full.double().mean(0)  # small, for the difference of squares
        mean, square = drawn @ values / n, drawn @ values.square() / n
        return mean, ((square - mean.square()).clamp(min=0) * n / (n - 1)).sqrt()

    (mean, deviation), (mean_, deviation_) = moments(features), moments(full)
    scores = (mean - mean_).square() + (deviation - deviation_).square()
    return scores.sum(1)


class Pyramid(nn.Module):
    """Features of any images, without training or download: pixels and random convolutions.

    At each of three sizes, the image and its halves: the pixels on a grid of at most 8 x 8, and for
    each of 32 random 3 x 3 filters the mean of its rectified response and that of its square root
    of energy. What a filter answers is local contrast, which blur takes away.

    Args:
        channels: of the images.
    """

    def __init__(self, channels: int):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.filters = torch.randn((32, channels, 3, 3), generator=generator)
        self.filters /= self.filters.flatten(1).norm(dim=1)[:, None, None, None]

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, H, W]` float32 -> `[B, F]`."""
        found = []
        for _ in range(3):
            pooled = nn.functional.adaptive_avg_pool2d(x, min(8, *x.shape[-2:]))
            found.append(pooled.flatten(1) / pooled[0].numel() ** 0.5)
            answers = nn.functional.conv2d(x, self.filters.to(x), padding=1)
            means = answers.relu().mean(dim=(2, 3)), answers.square().mean(dim=(2, 3)).sqrt()
            found += [m / m.shape[1] ** 0.5 for m in means]
            if min(x.shape[-2:]) < 4:
                break
            x = nn.functional.avg_pool2d(x, 2)
        return torch.cat(found, 1)
