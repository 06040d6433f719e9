"""Images in files: a folder of pictures as a tensor, and tensors as PNG files."""

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .errors import Refused
from .files import whole

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
MODES = {1: "L", 3: "RGB"}


def load_folder(folder: str | Path, size: int, channels: int) -> Tensor:
    """All pictures in a folder and the folders in it, sorted by path, centre-cropped to a square.

    Args:
        folder: holds files that end in `SUFFIXES`; other files are left out.
        size: height and width in pixels; the largest centred square is resized to it (Lanczos).
        channels: 3 for colour, 1 for grey.

    Returns:
        `[n, channels, size, size]` float32 in [-1, 1].

    Raises:
        FileNotFoundError: there is no such folder.
        Refused: no picture in it, a file that is no picture or has more than 8 bits a channel,
            or another number of channels.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder of images")
    if channels not in MODES:
        raise Refused(f"channels={channels}: images are read with 1 (grey) or 3 (colour)")
    paths = find(folder)
    images = torch.empty(len(paths), channels, size, size)
    for row, path in zip(images, paths, strict=True):
        row.copy_(read(path, size, channels))
    return images


def find(folder: Path) -> list[Path]:
    """All pictures in a folder and the folders in it, sorted; ValueError if there is none."""
    paths = sorted(
        p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")
    )
    if not paths:
        raise Refused(f"{folder} holds no images, no file that ends in {' '.join(SUFFIXES)}")
    return paths


def check(path: Path) -> None:
    """Raise ValueError for a file that is no picture, without decoding it."""
    from PIL import Image

    with _readable(path), Image.open(path) as picture:
        picture.verify()


def read(path: Path, size: int, channels: int) -> Tensor:
    """One picture as `square` makes it; the errors are those of `load_folder`."""
    from PIL import Image

    with _readable(path), Image.open(path) as picture:
        if picture.mode.startswith(("I", "F")):
            raise Refused(f"{path} has more than 8 bits a channel: convert it to 8 bits")
        return square(picture, size, channels)


def square(picture: "Picture", size: int, channels: int) -> Tensor:
    """The largest centred square of a PIL image, resized: `[channels, size, size]` in [-1, 1]."""
    from PIL import Image, ImageOps

    picture = ImageOps.exif_transpose(picture).convert(MODES[channels])
    return values(ImageOps.fit(picture, (size, size), Image.Resampling.LANCZOS))


def values(picture: "Picture") -> Tensor:
    """The pixels of a PIL image of 8 bits a channel, `[C, H, W]` in [-1, 1]."""
    import numpy as np

    pixels = torch.from_numpy(np.array(picture))
    return pixels.reshape(*pixels.shape[:2], -1).permute(2, 0, 1) / 127.5 - 1


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    from PIL import UnidentifiedImageError

    try:
        yield
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise Refused(f"{path} cannot be read ({error}): repair or remove it") from error


def eight_bits(images: Tensor, *, scale: int = 1) -> Tensor:
    """Values in [-1, 1] (clamped) as uint8: `round(127.5 (x + 1))`, on the CPU.

    Args:
        images: `[..., H, W]`.
        scale: each pixel becomes a square of `scale` x `scale`.
    """
    values = ((images.detach().cpu().float().clamp(-1, 1) + 1) * 127.5).round().byte()
    return values.repeat_interleave(scale, dim=-2).repeat_interleave(scale, dim=-1)


def png(image: Tensor, *, scale: int = 1) -> bytes:
    """`[C, H, W]` in [-1, 1] (clamped, C = 1 or 3) as an 8-bit PNG file.

    Args:
        scale: pixels of the file, along each side, for one of the image.
    """
    from PIL import Image

    pixels = eight_bits(image, scale=scale)
    array = (pixels[0] if len(pixels) == 1 else pixels.permute(1, 2, 0)).contiguous().numpy()
    file = io.BytesIO()
    Image.fromarray(array).save(file, format="PNG")
    return file.getvalue()


def save_png(image: Tensor, path: str | Path, *, scale: int = 1) -> None:
    """Write the PNG file of `png`, whole or not at all."""
    with whole(path) as partial:
        partial.write_bytes(png(image, scale=scale))


def grid(images: Tensor, *, gap: int = 2, between: float = 1.0) -> Tensor:
    """`[n, C, H, W]` as one image `[C, h, w]`, about as many across as down.

    Args:
        gap: pixels between two images.
        between: what they hold, and places without an image: 1 is white.
    """
    count, channels, height, width = images.shape
    across = math.ceil(math.sqrt(count))
    down = -(-count // across)
    size = down * (height + gap) - gap, across * (width + gap) - gap
    sheet = torch.full((channels, *size), between)
    for i, image in enumerate(images):
        y, x = i // across * (height + gap), i % across * (width + gap)
        sheet[:, y : y + height, x : x + width] = image
    return sheet
