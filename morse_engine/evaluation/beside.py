"""Pictures of some seeds by several methods, each beside its difference to that of the full run."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..system.images import eight_bits, png

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BRIGHTEST = 0.4  # difference of the brightest colour, of a range of 1
DPI = 144
SCALE, GAP, CELL_GAP, TEXT = 3, 6, 26, 34  # pixels of the figure; a picture's become SCALE wide


@dataclass(frozen=True)
class Method:
    """How some pictures were made.

    Attributes:
        name: of the method.
        notes: lines about it: its plan, its cost.
        images: `[k, 3, H, W]` in [-1, 1], one a seed.
        numbers: of each picture, in words.
    """

    name: str
    notes: tuple[str, ...]
    images: Tensor
    numbers: tuple[str, ...]


def heat(image: Tensor, full: Tensor) -> Tensor:
    """The mean difference of the colours, from black, none, to yellow, `BRIGHTEST` and more.

    Args:
        image, full: `[3, H, W]` in [-1, 1].

    Returns:
        `[3, H, W]` in [-1, 1].
    """
    from matplotlib import colormaps

    far = (image - full).abs().mean(0) / 2 / BRIGHTEST
    colours: Any = colormaps["inferno"](far.clamp(0, 1).numpy())
    return torch.from_numpy(colours[..., :3]).permute(2, 0, 1).float() * 2 - 1


def cells(methods: list[Method], k: int) -> list[dict]:
    """Seed k as a page shows it: name, notes, picture and difference (PNG files), numbers."""
    full = methods[0].images[k]
    return [
        {
            "name": method.name,
            "notes": method.notes,
            "picture": png(method.images[k]),
            "difference": None if method is methods[0] else png(heat(method.images[k], full)),
            "numbers": method.numbers[k],
        }
        for method in methods
    ]


def side_by_side(prompts: list[str], methods: list[Method], path: str | Path, title: str) -> None:
    """Draw the pictures, a row a seed and a column a method, with differences; first the full run.

    Args:
        prompts: of the k seeds.
        path: of the file to write; its suffix chooses the format (png, svg, pdf).
    """
    from matplotlib.figure import Figure

    size = methods[0].images.shape[-1]
    big, small = SCALE * size, SCALE * size // 2
    widths = [big, *(big + GAP + small for _ in methods[1:])]
    most = max(len(method.notes) for method in methods)
    above, row = 84 + 17 * most, 26 + big + TEXT
    width = sum(widths) + CELL_GAP * (len(methods) + 1)
    height = above + row * len(prompts)
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
    _text(figure, CELL_GAP, 14, title, size=10)
    left = CELL_GAP
    for method, wide in zip(methods, widths, strict=True):
        _text(figure, left, 50, method.name, size=9, weight="bold")
        for line, note in enumerate(method.notes):
            _text(figure, left, 72 + 17 * line, note, size=6.5, family="monospace")
        for k, image in enumerate(method.images):
            top = above + row * k
            if method is methods[0]:
                _text(figure, left, top, f'"{prompts[k]}"', size=7, style="italic")
            _picture(figure, left, top + 22, image, big)
            if method is not methods[0]:
                under = top + 22 + big - small
                _picture(figure, left + big + GAP, under, heat(image, methods[0].images[k]), small)
            _text(figure, left, top + 27 + big, method.numbers[k], size=7)
        left += wide + CELL_GAP
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI)


def _text(figure: "Figure", left: float, top: float, words: str, **options: Any) -> None:
    """Words at a place, in pixels from the upper left corner."""
    width, height = figure.get_size_inches() * DPI
    figure.text(left / width, 1 - top / height, words, va="top", **options)


def _picture(figure: "Figure", left: float, top: float, image: Tensor, size: int) -> None:
    """A picture `[3, H, W]`, not smoothed, so many pixels wide."""
    width, height = figure.get_size_inches() * DPI
    place = (left / width, 1 - (top + size) / height, size / width, size / height)
    axes = figure.add_axes(place)
    pixels: np.ndarray = eight_bits(image).permute(1, 2, 0).numpy()
    axes.imshow(pixels, interpolation="nearest")
    axes.set_axis_off()
