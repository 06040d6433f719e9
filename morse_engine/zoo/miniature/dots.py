"""Train the Dots of the miniature.

    python -m morse_engine.zoo.miniature.dots --out runs/miniature

The pictures of the icons are written to `OUT/captioned` as any user's would be, a folder with a
metadata.jsonl, and each Dot is trained as `morse-engine train-dot --model` does it. Interrupt it at
any time; the same command goes on.
"""

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor

from ...system.files import whole
from ...training import pipeline
from ...training.captions import METADATA
from ...training.dot import DotRecipe
from . import WEIGHTS, captions, data

CAPTIONS = 4  # of each picture, drawn as in the training of Dash
GUIDANCE = 1.0, 6.0
SHAPES = {
    "guided": {"guided": True},
    "branches": {},
}


def train(out: Path, name: str, *, num_steps: int, model: Path = WEIGHTS, **shape: object) -> Path:
    """Train one of `SHAPES` for the pipeline in `model`; returns the folder of the Dot."""
    folder = export(*data.load(out / "data"), out / "captioned")
    recipe = DotRecipe(num_steps=num_steps, guidance=GUIDANCE, checkpoint_every=200)
    run = out / f"dot-{name}"
    pipeline.train(
        str(model), str(folder), run, recipe, SHAPES[name] | shape, cache=str(out / "dot-latents")
    )
    return run / "dot"


def export(images: Tensor, icons: list[data.Icon], folder: Path) -> Path:
    """Write the chosen pictures, each `CAPTIONS` times, with captions, unless they are there.

    Args:
        images: uint8 `[n, 3, H, W]` of n icons.
    """
    from PIL import Image

    metadata = folder / METADATA
    if metadata.exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    generator, lines = torch.Generator().manual_seed(0), []
    for row in data.chosen(icons):
        picture = Image.fromarray(images[row].permute(1, 2, 0).numpy())
        for k in range(CAPTIONS):
            name = f"{row:05d}-{k}.png"
            picture.save(folder / name)
            lines.append({"file_name": name, "text": captions.draw(icons[row], generator)})
    with whole(metadata) as path:  # written last: it says that all of them are there
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/miniature"))
    parser.add_argument("--dot", choices=SHAPES, nargs="+", default=list(SHAPES))
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--cut", type=int)
    options = parser.parse_args()
    for name in options.dot:
        shape = {} if options.cut is None else {"cut": options.cut}
        print(f"the Dot is in {train(options.out, name, num_steps=options.steps, **shape)}")


if __name__ == "__main__":
    main()
