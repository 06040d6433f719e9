"""A folder that one process writes in at a time."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from .errors import Unavailable

LOCK = ".lock"
_PARTIAL = re.compile(r"\..+\.\d+\.partial(\..+)?")  # as `files.whole` names them


@contextmanager
def alone(folder: str | Path) -> Iterator[None]:
    """While the block runs, no other block of this kind holds the folder.

    The lock is the operating system's, so that of a process which was killed is gone with it. What
    killed processes left half-written, in the folder and the folders in it, is removed first.

    Raises:
        Unavailable: another process holds the folder.
    """
    folder = Path(folder)
    with _held(folder / LOCK):
        for pattern in (".*.partial*", "*/.*.partial*"):
            for path in folder.glob(pattern):
                if _PARTIAL.fullmatch(path.name) and path.is_file():
                    path.unlink(missing_ok=True)
        yield


@contextmanager
def _held(path: Path) -> Iterator[None]:
    try:
        import fcntl
    except ImportError:  # Windows, where a user has to take care
        yield
        return
    while True:
        with open(path, "a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Unavailable(_in_use(path, file)) from None
            if not _is(file, path):  # its last holder has just removed it
                continue
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def _is(file: IO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _in_use(path: Path, file: IO) -> str:
    file.seek(0)
    return (
        f"{path.parent} is in use by process {file.read(20) or 'unknown'}: wait until it ends, "
        "stop it, or choose another folder"
    )
