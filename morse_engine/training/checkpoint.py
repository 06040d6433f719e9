"""The file checkpoint.pt: whole or not there, readable or refused, and of one run alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from ..system.errors import Refused
from ..system.files import whole

#: What every checkpoint has; later versions added names, none was taken away.
NAMES = ("step", "num_steps", "seed", "params", "optimizer", "schedule", "ema", "state")


def write(path: Path, content: dict) -> None:
    """Write a checkpoint, tensors and plain values alone.

    Raises:
        OSError: it cannot be written; the one before is as it was.
    """
    try:
        with whole(path) as partial:
            torch.save(content, partial)
    except (OSError, RuntimeError) as error:
        reason = error.strerror or str(error) if isinstance(error, OSError) else _of_torch(error)
        kept = "the one before is kept" if path.exists() else "there is none before it"
        raise OSError(
            f"{path} of step {content['step']} cannot be written ({reason}), {kept}: make room for "
            "it, then the same run continues"
        ) from error


def read(path: Path, identity: dict) -> dict:
    """The content of a checkpoint, on the CPU.

    Args:
        identity: what a run follows from, name -> plain value. Names that only one of the two runs
            has are not compared: a checkpoint of an earlier version has fewer.

    Raises:
        Refused: a damaged file, or one of another run; the first difference is named.
    """
    with readable(path), open(path, "rb") as file:
        content = torch.load(file, map_location="cpu", weights_only=True)
        missing = [name for name in NAMES if name not in content]
        if missing or not isinstance(content, dict):
            raise KeyError(", ".join(missing))
        found = {name: content[name] for name in ("num_steps", "seed")}
        found |= content.get("identity") or {}
        other = [name for name in identity if name in found and found[name] != identity[name]]
    if other:
        name = other[0]
        raise Refused(
            f"{path} is of a run with {name}={_shown(found[name])}, this one has "
            f"{_shown(identity[name])}: use another folder, or delete the checkpoint"
        )
    return content


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Whatever fails in the block is a damaged checkpoint."""
    try:
        yield
    except Refused:
        raise
    except Exception as error:  # pickle and torch have many names for it
        reason = (str(error).splitlines() or [""])[0][:120] or type(error).__name__
        raise Refused(
            f"{path} is damaged ({reason}): delete it to begin anew, or put a copy in its place"
        ) from error


def _of_torch(error: RuntimeError) -> str:
    """What an error of torch's writer, which has its own words for a full disk, says."""
    if "iostream" in str(error) or "PytorchStreamWriter" in str(error):
        return "is the disk full?"
    raise error


def _shown(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
