"""Images in files: a folder of pictures as a tensor, and tensors as PNG files."""

import io
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from . import checks
from .errors import Refused
from .files import whole

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
MODES = {1: "L", 3: "RGB"}
NOT_FINITE = (
    "the image holds NaN or infinite values: the model, its dtype (half precision overflows) or "
    "its conditions are at fault"
)
MOST_SIDE = 4096  # pixels
MOST_PIXELS = 1 << 28  # of what is written at once


def load_folder(folder: str | Path, size: int, channels: int, *, skip_bad: bool = False) -> Tensor:
    """All pictures in a folder and the folders in it, sorted by path, centre-cropped to a square.

    Args:
        folder: holds files that end in `SUFFIXES`; other files are left out.
        size: height and width in pixels; the largest centred square is resized to it (Lanczos).
            What is transparent lies on white.
        channels: 3 for colour, 1 for grey.
        skip_bad: leave out pictures that cannot be read, with a warning that names them.

    Returns:
        `[n, channels, size, size]` float32 in [-1, 1].

    Raises:
        FileNotFoundError: there is no such folder.
        Refused: no picture in it, a file that is no picture, has more than 8 bits a channel or
            more pixels than Pillow opens (179 million), or another number of channels.
    """
    folder = checks.path("folder", folder)
    size = checks.integer("size", size, 1, MOST_SIDE)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder of images")
    if not isinstance(channels, int) or channels not in MODES:
        raise Refused(
            f"channels={checks.shown(channels)}: images are read with 1 (grey) or 3 (colour)"
        )
    return load(find(folder), size, channels, skip_bad)[0]


def load(
    paths: Sequence[Path], size: int, channels: int, skip_bad: bool
) -> tuple[Tensor, list[Path]]:
    """Pictures as `load_folder` reads them, and which they are: all, or without the bad ones."""
    bad, good = Bad(skip_bad), list[Path]()
    images = torch.empty(len(paths), channels, size, size, dtype=torch.float32)
    for path in paths:
        with bad:
            images[len(good)] = read(path, size, channels)
            good.append(path)
    bad.tell(len(good))
    return images[: len(good)], good


class Bad:
    """Pictures that cannot be read: all are looked for, then all are named at once.

    Args:
        skip: whether the others are to be used without them.
    """

    NAMED = 20  # in a message, at most

    def __init__(self, skip: bool):
        self.skip = skip
        self.said: list[str] = []

    def __enter__(self) -> None:
        """What is refused in the block is one of them."""

    def __exit__(self, kind: object, error: object, trace: object) -> bool:
        if isinstance(error, Refused):
            self.said.append(str(error))
        return isinstance(error, Refused)

    def tell(self, good: int) -> None:
        """Name them: in a warning if they are to be skipped and some are good, else `Refused`."""
        if not self.said:
            return
        more = len(self.said) - self.NAMED
        lines = self.said[: self.NAMED] + ([f"and {more} more"] if more > 0 else [])
        if self.skip and good:
            warnings.warn(
                f"{len(self.said)} pictures are left out:\n" + "\n".join(lines), stacklevel=3
            )
        elif len(self.said) == 1:
            leave = ", or leave it out with skip_bad (--skip-bad)" if good else ""
            raise Refused(f"{self.said[0]}{leave}")
        else:
            leave = ", or leave them out with skip_bad (--skip-bad)" if good else ""
            raise Refused(f"{len(self.said)} pictures are bad{leave}:\n" + "\n".join(lines))


def find(folder: Path) -> list[Path]:
    """All pictures in a folder and the folders in it, sorted; ValueError if there is none."""
    paths = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and not path.is_dir()
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
        # Pillow reads 16 bits of colour as 8: only how the file packs them tells.
        packed = [str(tile[3]) for tile in getattr(picture, "tile", ())]
        if picture.mode.startswith(("I", "F")) or any(";16" in form for form in packed):
            raise Refused(f"{path} has more than 8 bits a channel: convert it to 8 bits")
        return square(picture, size, channels)


def square(picture: "Picture", size: int, channels: int) -> Tensor:
    """The largest centred square of a PIL image, resized: `[channels, size, size]` in [-1, 1].

    What is transparent lies on white: below it a file may hold any colour.
    """
    from PIL import Image, ImageOps

    picture = ImageOps.exif_transpose(picture)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    picture = picture.convert(MODES[channels])
    return values(ImageOps.fit(picture, (size, size), Image.Resampling.LANCZOS))


def values(picture: "Picture") -> Tensor:
    """The pixels of a PIL image of 8 bits a channel, `[C, H, W]` in [-1, 1]."""
    import numpy as np

    pixels = torch.from_numpy(np.array(picture))
    return pixels.reshape(*pixels.shape[:2], -1).permute(2, 0, 1) / 127.5 - 1


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    from PIL.Image import DecompressionBombError

    if path.exists() and not path.is_file():
        raise Refused(f"{path} is no file but a pipe or a device: remove it")
    try:
        yield
    except (Refused, MemoryError):
        raise
    except DecompressionBombError as error:
        raise Refused(f"{path} has too many pixels ({error}): make it smaller") from error
    except Exception as error:  # whatever a decoder stumbles over
        raise Refused(f"{path} cannot be read ({error}): repair or remove it") from error


def eight_bits(images: Tensor, *, scale: int = 1) -> Tensor:
    """Values in [-1, 1] (clamped) as uint8: `round(127.5 (x + 1))`, on the CPU.

    Args:
        images: floats `[..., H, W]`.
        scale: each pixel becomes a square of `scale` x `scale`.

    Raises:
        Refused: no floats, or NaN or infinite values, which no colour stands for.
    """
    if not isinstance(images, Tensor) or not images.is_floating_point() or images.ndim < 2:
        raise Refused(f"images={checks.shown(images)}: pass floats [..., H, W] in [-1, 1]")
    scale = checks.integer("scale", scale, 1, MOST_SIDE)
    if (pixels := images.numel() * scale**2) > MOST_PIXELS:
        raise Refused(f"scale={scale} makes {pixels} pixels of {list(images.shape)}: at most 2^28")
    if not images.isfinite().all():
        raise Refused(NOT_FINITE)
    values = ((images.detach().cpu().float().clamp(-1, 1) + 1) * 127.5).round().byte()
    return values.repeat_interleave(scale, dim=-2).repeat_interleave(scale, dim=-1)


def png(image: Tensor, *, scale: int = 1) -> bytes:
    """`[C, H, W]` in [-1, 1] (clamped, C = 1 or 3) as an 8-bit PNG file.

    Args:
        scale: pixels of the file, along each side, for one of the image.

    Raises:
        Refused: another shape, or values that are not finite.
    """
    from PIL import Image

    checks.tensor("image", image, "[C, H, W]")
    if len(image) not in MODES or not image.numel():
        raise Refused(f"image has shape {tuple(image.shape)}: pass [1, H, W] or [3, H, W]")
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
    count, channels, height, width = checks.tensor("images", images, "[n, C, H, W]").shape
    if not images.numel():
        raise Refused(f"images has shape {tuple(images.shape)}: nothing to put on a sheet")
    gap = checks.integer("gap", gap, 0, MOST_SIDE)
    if not -1 <= checks.number("between", between) <= 1:
        raise Refused(f"between={between}: has to be from -1 (black) to 1 (white)")
    across = math.ceil(math.sqrt(count))
    down = -(-count // across)
    size = down * (height + gap) - gap, across * (width + gap) - gap
    sheet = torch.full((channels, *size), between)
    for i, image in enumerate(images):
        y, x = i // across * (height + gap), i % across * (width + gap)
        sheet[:, y : y + height, x : x + width] = image
    return sheet
