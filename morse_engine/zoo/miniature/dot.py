"""Train the Dot of the miniature.

    python -m morse_engine.zoo.miniature.dot --out runs/miniature

The pictures of the icons are written to `OUT/captioned` as any user's would be, a folder with a
metadata.jsonl, and the Dot is trained as `morse-engine train-dot --model` does it. Interrupt it at
any time; the same command goes on.
"""

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor

from ...system.errors import one_line
from ...system.files import whole
from ...training import pipeline
from ...training.captions import METADATA
from ...training.dot import DotRecipe
from . import WEIGHTS, captions, data

CAPTIONS = 4  # of each picture, drawn as in the training of Dash
STEPS = 3000
GUIDANCE = 1.0, 6.0
# One pass in the place of two, and of Dash's levels only the innermost, at the resolution that it
# knows: nearly three times as fast as Dash at batch 1. With one level more it learns no faster.
SHAPE = {"cut": 2}


def train(out: Path, num_steps: int = STEPS, *, guided: bool = True) -> Path:
    """Train the Dot of the pipeline in `out`, of the bundled one if none is there.

    Args:
        guided: whether it corrects the guided estimate, as the bundled one does, or each branch of
            the guidance.

    Returns:
        the folder of the Dot.
    """
    trained = out / "pipeline"
    model = trained if trained.exists() else WEIGHTS
    folder = export(*data.load(out / "data"), out / "captioned")
    recipe = DotRecipe(num_steps=num_steps, guidance=GUIDANCE, checkpoint_every=200)
    run, cache = out / ("dot-guided" if guided else "dot-branches"), out / "dot-latents"
    shape = {"guided": guided, **SHAPE}
    pipeline.train(str(model), str(folder), run, recipe, shape, cache=str(cache))
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


@one_line
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/miniature"))
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--per-branch", action="store_true", help="a Dot of each branch instead")
    options = parser.parse_args()
    folder = train(options.out, options.steps, guided=not options.per_branch)
    print(f"the Dot is in {folder}")


if __name__ == "__main__":
    main()
