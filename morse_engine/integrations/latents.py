"""The range of a pipeline's latents, which free steps stay within."""

import json
from pathlib import Path
from typing import Any

from ..sampling.free import NO_RANGE, Range, as_range
from ..system.errors import Refused

FILE = "latents.json"


def range_of(pipe: Any, folder: str | Path | None = None) -> Range:
    """What the pipeline's files say: `latents.json` in the folder that its VAE was loaded from.

    The file holds `{"low": [...], "high": [...]}`, a number for each channel of the latents as the
    unet sees them, that is times the VAE's `scaling_factor`; 0.1 % and 99.9 % quantiles do.

    Args:
        folder: of plans; a file that a search has left there (`integrations/search.py`) is taken
            where the VAE has none.

    Returns:
        without bounds where there is no VAE, no folder or no such file.

    Raises:
        Refused: the file says something else.
    """
    vae = getattr(pipe, "vae", None)
    if vae is None:
        return NO_RANGE
    folders = [Path(vae.config.get("_name_or_path") or ""), Path(folder or "")]
    files = [place / FILE for place in folders if place != Path()]
    file = next((file for file in files if file.is_file()), None)
    return NO_RANGE if file is None else _read(file)


def _read(file: Path) -> Range:
    try:
        told = json.loads(file.read_text())
        return as_range((told["low"], told["high"]))
    except (ValueError, KeyError, TypeError) as error:
        raise Refused(
            f'{file}: not the range of latents, which is {{"low": [...], "high": [...]}} with one '
            f"number a channel ({type(error).__name__}: {error})"
        ) from error
