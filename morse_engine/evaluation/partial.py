"""The finished part of an experiment in a folder: a run that was stopped goes on where it was."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from ..system.errors import Refused
from ..system.files import whole


class Partial:
    """`settings.json`, `rows.jsonl` and the images of all steps; the folder keeps out of git."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / ".gitignore").write_text("*\n")

    def settings(self, wanted: dict, measure: Callable[[], dict]) -> dict:
        """The settings of the run: `wanted` + `measure()` at first, what was written then later.

        Raises:
            Refused: the rows that are there were made with other settings, or the file is damaged.
        """
        path = self.folder / "settings.json"
        if not path.exists():
            text = json.dumps(wanted | measure(), indent=2) + "\n"
            with whole(path) as new:
                new.write_text(text)
        with _readable(path):
            found = dict(json.loads(path.read_text("utf-8")))
        for name, value in json.loads(json.dumps(wanted)).items():
            if found.get(name) != value:
                raise Refused(
                    f"{self.folder} was made with {name}={found.get(name)}, this run has {value}: "
                    "delete the folder or choose another"
                )
        return found

    def rows(self) -> list[dict]:
        """The rows that were written whole; the rest of a line that was not is removed.

        Raises:
            Refused: the file is damaged.
        """
        path = self.folder / "rows.jsonl"
        if not path.exists():
            return []
        with _readable(path):
            text = path.read_text("utf-8")
            lines = text[: text.rfind("\n") + 1]
            rows = [dict(json.loads(line)) for line in lines.splitlines()]
        if lines != text:
            with whole(path) as new:
                new.write_text(lines)
        return rows

    def add(self, row: dict) -> None:
        """Append a row at once."""
        with open(self.folder / "rows.jsonl", "a") as file:
            file.write(json.dumps(row) + "\n")

    def images(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """Images from the file of that name, or made now and written."""
        path = self.folder / f"{name}.pt"
        if not path.exists():
            images = make()
            with whole(path) as new:
                torch.save(images, new)
            return images
        with open(path, "rb") as file, _readable(path):
            return torch.load(file, weights_only=True)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # json and torch have many names for it
        reason = (str(error).splitlines() or [""])[0][:120] or type(error).__name__
        raise Refused(f"{path} is damaged ({reason}): delete it, it is made again") from error
