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
from ..zoo import digits


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
        if (size, channels) != (digits.SIZE, 1):
            raise Refused(
                f"the digits are grey, {digits.SIZE} x {digits.SIZE}; this model takes {channels} "
                f"channels of {size} x {size}: name a folder of images with --data"
            )
        return digits.images("train")[0], digits.images("held-out")[0]
    found = images.load_folder(source, size, channels, skip_bad=skip_bad)
    if len(found) < 10:
        return found, None
    held_out = torch.zeros(len(found), dtype=torch.bool)
    held_out[:: max(10, len(found) // 256)] = True  # a tenth, not more than 257
    return found[~held_out], found[held_out]


def shape(unet: Any) -> tuple[int, int]:
    """(size, channels) of a UNet's images."""
    size = unet.config.sample_size
    if not isinstance(size, int):
        raise Refused(f"sample_size={size} in the UNet's config: square images are needed")
    return size, unet.config.in_channels
