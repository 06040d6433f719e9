"""Models and images that the commands work with, from folders or bundled."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import zoo
from ..dot.dot import Dot
from ..sampling import schedulers
from ..system import images
from ..system.errors import Refused
from ..system.files import whole
from ..training.captioned import Captioned
from ..zoo import digits

BESIDE = ""  # the folder of pictures that are in none


def load_unet(folder: str | Path) -> tuple[Any, dict]:
    """A diffusers `UNet2DModel` on the CPU, in `eval()`, and the config of its noise schedule.

    Args:
        folder: a local folder as `save_pretrained` writes it, of the model or of a pipeline with
            the model in `unet/`. The schedule is taken from a `scheduler_config.json` beside the
            model's config, or in `scheduler/` of the pipeline; without one it is that of diffusers:
            1,000 steps, linear betas, a model that predicts the noise.

    Raises:
        FileNotFoundError: no such folder, or no model in it.
        Refused: a damaged config, weights that are damaged, missing or not finite, or another kind
            of model.
    """
    from diffusers import UNet2DModel

    from ..training.pipeline import loaded

    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; models are read from local folders")
    root = next((p for p in (folder, folder / "unet") if (p / "config.json").is_file()), None)
    if root is None:
        raise FileNotFoundError(f"{folder / 'config.json'} is missing: is {folder} a saved UNet?")
    kind = _json(root / "config.json").get("_class_name")
    if kind != "UNet2DModel":
        raise Refused(
            f"{root} holds a {kind}: the command line reads UNet2DModel; for other models use "
            "morse_engine.compile in Python"
        )
    unet = loaded(UNet2DModel, root).eval()
    name = "scheduler_config.json"
    places = (root / name, folder / "scheduler" / name, folder.parent / "scheduler" / name)
    found = next((path for path in places if path.is_file()), None)
    return unet, _json(found) if found else schedulers.LINEAR_BETAS


def _json(path: Path) -> dict:
    try:
        content = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise Refused(f"{path} is damaged ({error}): copy it again") from error
    if not isinstance(content, dict):
        raise Refused(f"{path} does not describe a model or scheduler")
    return content


def load(
    unet_folder: str | None,
    dot_folder: str | None,
    solver: str,
    device: torch.device,
    with_dot: bool,
) -> tuple[Any, Dot | None, Any]:
    """(unet, dot or None, scheduler): from the two folders, or of the bundled digits."""
    if unet_folder is None:
        scheduler, unet = zoo.digits_scheduler(solver), zoo.digits_dash()
    else:
        unet, config = load_unet(unet_folder)
        scheduler = schedulers.make(solver, config)
    unet = unet.to(device)
    if not with_dot:
        return unet, None, scheduler
    if dot_folder is not None:
        return unet, Dot.from_pretrained(dot_folder, unet), scheduler
    if unet_folder is not None:
        raise Refused("this needs a Dot: name its folder with --dot, or train one (train-dot)")
    return unet, zoo.digits_dot(unet), scheduler


def save_unet(unet: Any, noise_scheduler: Any, folder: Path) -> None:
    """Write a Dash with its noise schedule, as `load_unet` reads it; each file whole."""
    with tempfile.TemporaryDirectory() as made:
        unet.save_pretrained(made)
        noise_scheduler.save_pretrained(made)
        folder.mkdir(exist_ok=True)
        for path in Path(made).iterdir():
            with whole(folder / path.name) as partial:
                shutil.copyfile(path, partial)


def data(
    source: str, size: int, channels: int, skip_bad: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Images for training, and those held out (None for fewer than ten images).

    Args:
        skip_bad: leave out files that cannot be read, and say which.
    """
    if source == "digits":
        _check_digits(size, channels)
        return digits.images("train")[0], digits.images("held-out")[0]
    found = images.load_folder(source, size, channels, skip_bad=skip_bad)
    held_out = _held_out(len(found))
    return (found, None) if held_out is None else (found[~held_out], found[held_out])


def classed(
    source: str, classes: int, size: int, channels: int, skip_bad: bool = False
) -> tuple[Captioned, Captioned | None]:
    """The same with the class of each image, for a Dash that is told it.

    Args:
        source: a folder with one folder of pictures for each class, numbered in the order of their
            names (as torchvision's `ImageFolder` does it), or the digits.
    """
    if source == "digits":
        _check_digits(size, channels)
        if classes != digits.CLASSES:
            raise Refused(f"the digits have {digits.CLASSES} classes, this model has {classes}")
        parts = [digits.images("train"), digits.images("held-out")]
        return _captioned(*parts[0]), _captioned(*parts[1])
    root, paths = Path(source), images.find(Path(source))
    names = sorted({_class_of(path, root) for path in paths})
    if len(names) != classes or BESIDE in names:
        named = ", ".join(name or "none, for some pictures" for name in names[:4])
        raise Refused(
            f"the model has {classes} classes, the folders of pictures in {source} are "
            f"{len(names)} ({named}{', ...' if names[4:] else ''}): give one folder for each "
            "class; they are numbered in the order of their names"
        )
    found, good = images.load(paths, size, channels, skip_bad)
    labels = torch.tensor([names.index(_class_of(path, root)) for path in good])
    held_out = _held_out(len(labels))
    if held_out is None:
        return _captioned(found, labels), None
    kept = ~held_out
    return _captioned(found[kept], labels[kept]), _captioned(found[held_out], labels[held_out])


def _class_of(path: Path, root: Path) -> str:
    """The folder of `root` that a picture is in; `BESIDE` for one that is in none of them."""
    return next(iter(path.relative_to(root).parent.parts), BESIDE)


def _captioned(pictures: Tensor, labels: Tensor) -> Captioned:
    return Captioned(pictures, {"class_labels": labels})


def _check_digits(size: int, channels: int) -> None:
    if (size, channels) != (digits.SIZE, 1):
        raise Refused(
            f"the digits are grey, {digits.SIZE} x {digits.SIZE}; this model takes {channels} "
            f"channels of {size} x {size}: name a folder of images with --data"
        )


def _held_out(count: int) -> Tensor | None:
    """Which of so many images are held out, bool `[count]`; None for fewer than ten images."""
    if count < 10:
        return None
    held_out = torch.zeros(count, dtype=torch.bool)
    held_out[:: max(10, count // 256)] = True  # a tenth, not more than 257
    return held_out


def shape(unet: Any) -> tuple[int, int]:
    """(size, channels) of a UNet's images."""
    size = unet.config.sample_size
    if not isinstance(size, int):
        raise Refused(f"sample_size={size} in the UNet's config: square images are needed")
    return size, unet.config.in_channels
