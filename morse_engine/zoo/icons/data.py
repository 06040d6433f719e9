"""Icons of classes, 32 x 32 pixels: moved, mirrored and turned in hue a little at every visit.

A class, a style with a group such as ("3d", "animal"), stands for many pictures, and the changes
make each of these a family. What a sampler draws is then not settled by its first steps.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..miniature import data
from ..miniature.data import Icon

SIZE = 32
STYLES = tuple(data.PACKAGES)
GROUPS = {"face": 130, "animal": 75, "heart": 25, "plant": 12, "food": 20}  # pictures in a style
CLASSES = tuple((style, group) for style in STYLES for group in GROUPS)
WORDS = tuple(f"a {style} {group}" for style, group in CLASSES)
ZOOM = 0.9, 1.05
SHIFT = 0.06  # of the width, at most, to each side
TURN = 0.5  # radians of hue, at most, to each side: with any hue a small model loses the colours


def label(icon: Icon) -> int:
    """The row of an icon's class in `CLASSES`."""
    return CLASSES.index((icon.style, icon.group))


def labels(icons: list[Icon]) -> Tensor:
    """int64 `[n]` of n icons."""
    return torch.tensor([label(icon) for icon in icons])


def labels_of(seeds: Sequence[int]) -> Tensor:
    """The classes that the pictures of seeds are drawn of, as often as they were trained: int64."""
    share = torch.tensor([float(GROUPS[group]) for _, group in CLASSES])
    return torch.cat(
        [
            torch.multinomial(share, 1, generator=torch.Generator().manual_seed(seed))
            for seed in seeds
        ]
    )


def varied(images: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures as they are trained on: moved, zoomed, every second one mirrored, turned in hue.

    Args:
        images: uint8 `[B, 3, 64, 64]`.

    Returns:
        float32 `[B, 3, SIZE, SIZE]` in [-1, 1], channels last in memory.
    """
    count = len(images)
    white = data.to_float(images).sub_(1)  # 0 is white, as what lies outside of the picture

    def draw(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=generator)

    zoom, mirror = 1 / draw(*ZOOM), torch.randint(2, (count,), generator=generator) * 2.0 - 1
    none = torch.zeros(count)
    x = torch.stack([zoom * mirror, none, draw(-SHIFT, SHIFT)], 1)
    y = torch.stack([none, zoom, draw(-SHIFT, SHIFT)], 1)
    grid = nn.functional.affine_grid(
        torch.stack([x, y], 1), list(images.shape), align_corners=False
    )
    moved = nn.functional.grid_sample(white, grid, align_corners=False)
    small = nn.functional.avg_pool2d(moved, images.shape[-1] // SIZE)
    turned = torch.einsum("bij,bjhw->bihw", _turns(draw(-TURN, TURN)), small)
    return turned.add_(1).clamp_(-1, 1).contiguous(memory_format=torch.channels_last)


def shown(x: Tensor) -> Tensor:
    """Pictures `[B, 3, 32, 32]` as the judge and the demo see them: each pixel a square of four."""
    return nn.functional.interpolate(x, scale_factor=2)


def _turns(angles: Tensor) -> Tensor:
    """`[B, 3, 3]`, turns of RGB about the axis of greys by angles in radians (Rodrigues)."""
    cos, sin = angles.cos().view(-1, 1, 1), angles.sin().view(-1, 1, 1)
    axis = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    return cos * torch.eye(3) + sin * axis + (1 - cos) * torch.full((3, 3), 1 / 3)
