"""Handwritten digits at 32 x 32: the real images that the bundled models are trained on.

Source: scikit-learn's `load_digits`, the test part of the UCI "Optical Recognition of Handwritten
Digits" set (1,797 images of 8 x 8 pixels, 17 grey levels).
"""

import torch
from torch import Tensor

from ..system.errors import Refused

SIZE, CLASSES = 32, 10
NUM_TRAIN = 1500  # the last 297 are held out: no model sees them in training


def images(split: str = "all") -> tuple[Tensor, Tensor]:
    """The digits as float32 images in [-1, 1] and their labels.

    Args:
        split: "train" (1,500), "held-out" (297) or "all" (1,797).

    Returns:
        images `[n, 1, 32, 32]` float32 (bicubic from 8 x 8, clamped), labels `[n]` int64.
    """
    from sklearn.datasets import load_digits

    parts = {
        "train": slice(0, NUM_TRAIN),
        "held-out": slice(NUM_TRAIN, None),
        "all": slice(None),
    }
    if split not in parts:
        raise Refused(f"split={split!r}: choose one of {', '.join(parts)}")
    # A fixed shuffle: the file is ordered by writer, the held-out part must not be other writers.
    order = torch.randperm(1797, generator=torch.Generator().manual_seed(0))[parts[split]]
    digits = load_digits()
    small = torch.tensor(digits.images, dtype=torch.float32)[order, None] / 8 - 1
    large = torch.nn.functional.interpolate(small, size=(SIZE, SIZE), mode="bicubic")
    return large.clamp(-1, 1), torch.tensor(digits.target)[order]
