"""Pictures beside those of the full run from the same seeds: distances that need no real pictures.

rms    sqrt(mean over pixels of (x - full)^2) / 2               of a range of 1, by image
unlike 1 - <f(x), f(full)> / (||f(x)|| ||f(full)||)              in features f, by image
score  of all images, see `score.py`
"""

import torch
from torch import Tensor, nn

from .score import score

BATCH = 250  # images through an extractor at once


@torch.no_grad()
def features_of(extractor: nn.Module, images: Tensor) -> Tensor:
    """What an extractor says of `[n, C, H, W]` images (clamped to [-1, 1]): `[n, F]`, on the CPU.

    Args:
        extractor: its `features(x)` is asked, or itself where it has none.
    """
    see = getattr(extractor, "features", extractor)
    device = next((p.device for p in extractor.parameters()), images.device)
    parts = images.clamp(-1, 1).split(BATCH)
    return torch.cat([see(x.to(device)).double().cpu() for x in parts])


def rms(images: Tensor, full: Tensor) -> Tensor:
    """`[n]`: how far each of `[n, C, H, W]` images in [-1, 1] is from that of the full run."""
    return (images.double() - full.double()).square().flatten(1).mean(1).sqrt() / 2


def unlike(features: Tensor, full: Tensor) -> Tensor:
    """`[n]`: the angle between `[n, F]` features and those of the full run, 1 - cosine."""
    return 1 - nn.functional.cosine_similarity(features.double(), full.double(), dim=1)


class Paired:
    """A yardstick without real pictures: the `score` of pictures against those of the full run.

    Args:
        extractor: of features, as for `features_of`.
    """

    unit = "distance to the full run"
    num_features = 1  # so that two images are enough

    def __init__(self, extractor: nn.Module):
        self.extractor = extractor

    def features(self, images: Tensor) -> Tensor:
        """`[n, F]` of `[n, C, H, W]` images."""
        return features_of(self.extractor, images)

    def distance(self, images: Tensor, full: Tensor) -> float:
        """The score of `[n, C, H, W]` images; 0 for the full run's own."""
        return score(self.features(images), self.features(full))
