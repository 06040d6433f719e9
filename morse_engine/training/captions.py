"""Captioned images: in a folder, or in a data set of the package `datasets`; all checked first."""

import importlib.util
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from torch import Tensor

from ..system import images
from ..system.errors import Refused

METADATA = "metadata.jsonl"
HUB_ID = r"[\w.-]+/[\w.-]+"


class Example(NamedTuple):
    """One image with its caption; nothing is read before `pixels`."""

    name: str
    caption: str
    num_bytes: int  # of the file, 0 in a data set
    pixels: Callable[[int], Tensor]  # size -> [3, size, size] in [-1, 1]


def find(
    data: str | Path, track: Callable[[Iterable], Iterable] = iter, *, skip_bad: bool = False
) -> list[Example]:
    """The examples in `data`, in the order of their names, after a look at every file.

    Args:
        data: one of
            - a folder with a `metadata.jsonl`, a line `{"file_name": ..., "text": ...}` an image,
              as `datasets` has it in an image folder;
            - a folder with `NAME.txt` beside `NAME.png`;
            - a data set that `datasets` saved on disk, or the name of one on the hub (its split
              "train"), with the columns `image` and `text`.
        track: given the files while they are looked at, for a progress bar.
        skip_bad: leave out pictures that cannot be read, with a warning that names them.

    Raises:
        FileNotFoundError: no such folder.
        Refused: no images, an image without a caption, a caption of a missing image, a file that
            is no picture, or `datasets` is needed and missing.
    """
    folder = Path(data)
    if not folder.is_dir():
        if folder.exists() or not re.fullmatch(HUB_ID, str(data)):
            raise FileNotFoundError(f"{folder} is not a folder of images with captions")
        return _of_rows(_datasets(data).load_dataset(str(data), split="train"), str(data))
    if (folder / "dataset_dict.json").is_file():
        raise Refused(f"{folder} holds several splits: name one of them, {folder / 'train'}")
    if (folder / "state.json").is_file():
        return _of_rows(_datasets(data).load_from_disk(str(folder)), str(data))
    paths = images.find(folder)
    of = _metadata if (folder / METADATA).is_file() else _beside
    captions = of(folder, paths)
    if bare := [path for path in paths if path not in captions]:
        raise Refused(
            f"{len(bare)} of {len(paths)} images in {folder} have no caption, {bare[0].name} for "
            f"one: add a line to {METADATA}, or a file {bare[0].with_suffix('.txt').name}"
        )
    found, bad = [], images.Bad(skip_bad)
    for path in track(paths):

        def pixels(size: int, path: Path = path) -> Tensor:
            return images.read(path, size, 3)

        with bad:
            images.check(path)
            name = path.relative_to(folder).as_posix()
            found.append(Example(name, captions[path], path.stat().st_size, pixels))
    bad.tell(len(found))
    return found


def _metadata(folder: Path, paths: list[Path]) -> dict[Path, str]:
    known, captions = set(paths), {}
    for number, line in enumerate((folder / METADATA).read_text("utf-8").splitlines(), 1):
        if not line.strip():
            continue
        where = f"{folder / METADATA}, line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise Refused(f"{where} is no JSON ({error}): repair it") from error
        if not isinstance(row, dict) or not all(
            isinstance(row.get(key), str) for key in ("file_name", "text")
        ):
            raise Refused(f'{where}: give {{"file_name": "NAME.png", "text": "a caption"}}')
        path = folder / row["file_name"]
        if path not in known:
            raise Refused(f"{where} names {row['file_name']}, which is no image in {folder}")
        captions[path] = row["text"]
    return captions


def _beside(folder: Path, paths: list[Path]) -> dict[Path, str]:
    captions = {path: path.with_suffix(".txt") for path in paths}
    captions = {path: text for path, text in captions.items() if text.is_file()}
    lost = set(folder.rglob("*.txt")) - set(captions.values())
    if captions and lost:  # without any caption the texts are something else, a licence for one
        raise Refused(
            f"{min(lost)} is the caption of no image: add the image or remove the file, or name "
            f"the captions in {folder / METADATA}"
        )
    return {path: text.read_text("utf-8").strip() for path, text in captions.items()}


def _datasets(data: str | Path) -> ModuleType:
    if importlib.util.find_spec("datasets") is None:
        raise Refused(
            f"{data} is a data set of the package datasets, which is missing: pip install "
            "datasets, or name a folder of images with captions"
        )
    import datasets

    return datasets


def _of_rows(rows: Any, name: str) -> list[Example]:
    """Those of a `datasets.Dataset`."""
    if missing := [column for column in ("image", "text") if column not in rows.column_names]:
        raise Refused(
            f"{name} has the columns {', '.join(rows.column_names)}: {' and '.join(missing)} "
            "missing, rename it with rename_column"
        )
    if not len(rows):
        raise Refused(f"{name} holds no images")
    captions = rows["text"]

    def example(i: int) -> Example:
        def pixels(size: int) -> Tensor:
            return images.square(rows[i]["image"], size, 3)

        return Example(f"{i:08d}", captions[i], 0, pixels)

    return [example(i) for i in range(len(rows))]
