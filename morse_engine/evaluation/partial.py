"""The finished part of an experiment in a folder: a run that was stopped goes on where it was."""

import json
from collections.abc import Callable
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
            Refused: the rows that are there were made with other settings.
        """
        path = self.folder / "settings.json"
        if not path.exists():
            text = json.dumps(wanted | measure(), indent=2) + "\n"
            with whole(path) as new:
                new.write_text(text)
        found = json.loads(path.read_text())
        for name, value in wanted.items():
            if found[name] != value:
                raise Refused(
                    f"{self.folder} was made with {name}={found[name]}, this run has {value}: "
                    "delete the folder or choose another --out"
                )
        return found

    def rows(self) -> list[dict]:
        """The rows that were written whole; the rest of a line that was not is removed."""
        path = self.folder / "rows.jsonl"
        if not path.exists():
            return []
        text = path.read_text()
        lines = text[: text.rfind("\n") + 1]
        if lines != text:
            with whole(path) as new:
                new.write_text(lines)
        return [json.loads(line) for line in lines.splitlines()]

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
        return torch.load(path, weights_only=True)
