"""The range of a pipeline's latents, which free steps stay within."""

import json
from pathlib import Path
from typing import Any

from ..sampling.free import NO_RANGE, Range, as_range
from ..system.errors import Refused

FILE = "latents.json"


def range_of(pipe: Any) -> Range:
    """What the pipeline's files say: `latents.json` in the folder that its VAE was loaded from.

    The file holds `{"low": [...], "high": [...]}`, a number for each channel of the latents as the
    unet sees them, that is times the VAE's `scaling_factor`; 0.1 % and 99.9 % quantiles do.

    Returns:
        without bounds where there is no VAE, no folder or no such file.

    Raises:
        Refused: the file says something else.
    """
    vae = getattr(pipe, "vae", None)
    file = Path(vae.config.get("_name_or_path") or "") / FILE if vae is not None else None
    if file is None or file.parent == Path() or not file.is_file():
        return NO_RANGE
    try:
        told = json.loads(file.read_text())
        return as_range((told["low"], told["high"]))
    except (ValueError, KeyError, TypeError) as error:
        raise Refused(
            f'{file}: not the range of latents, which is {{"low": [...], "high": [...]}} with one '
            f"number a channel ({type(error).__name__}: {error})"
        ) from error
