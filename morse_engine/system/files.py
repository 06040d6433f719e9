"""Files that are written whole or not at all, and folders that are known to be writable."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from . import checks
from .errors import Refused

if TYPE_CHECKING:
    from torch import Tensor


@contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its name when the block ends well.

    After an error or Ctrl-C the temporary file is gone, and an older `path` is as it was. The
    temporary name keeps the suffix, for writers that choose the format by it. Who may read it is
    what the umask says, whatever a writer makes of it.
    """
    path = checks.path("path", path)
    if not path.name or path.is_dir():
        raise Refused(f"path={str(path)!r}: has to name a file")
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        # Made here, in the mode of any new file, which is given to what the writer leaves.
        partial.touch()
        mode = partial.stat().st_mode
        yield partial
        partial.chmod(mode)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_rows(path: str | Path, rows: list[dict]) -> None:
    """Rows as a JSON list, one object a line; the file is whole at any time."""
    lines = ",\n".join(json.dumps(row) for row in rows)
    with whole(path) as new:
        new.write_text(f"[\n{lines}\n]\n" if rows else "[]\n")


def write_tensors(path: str | Path, tensors: dict[str, "Tensor"]) -> None:
    """Tensors as a safetensors file, over one that is there.

    Not by its `save_file`, which writes to a temporary file of its own and leaves it there when it
    is killed; what is left of `whole` is known by its name, see `lock.alone`.
    """
    from safetensors.torch import save

    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    Path(path).write_bytes(save(tensors, metadata={"format": "pt"}))


def output_folder(path: str | Path) -> Path:
    """The folder `path`, made if it is not there, after a file could be written in it.

    Raises:
        NotADirectoryError: `path`, or a part of it, is a file.
        PermissionError: the folder cannot be made, or not be written to.
        Refused: an empty name.
    """
    if not str(path):
        raise Refused("the name of the output folder is empty: name one, `.` for this one")
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except (FileExistsError, NotADirectoryError):
        raise NotADirectoryError(f"{path} is or lies under a file: choose a folder") from None
    except OSError as error:
        raise PermissionError(
            f"{path} cannot be written to ({error.strerror}): choose another folder, or change its "
            "permissions"
        ) from None
    return path
