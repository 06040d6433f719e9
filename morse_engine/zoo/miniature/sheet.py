"""Contact sheets of the miniature, and how far few steps are from many.

    python -m morse_engine.zoo.miniature.sheet FOLDER --out runs/miniature/sheets

writes `prompts.png` (a row a guidance scale), `steps.png` (a row a number of steps, the same seeds)
and `steps.json`.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...system.errors import one_line
from ...system.files import whole

PROMPTS = (
    "a noto red heart",
    "a flat green heart",
    "a 3d blue heart",
    "a noto frog",
    "a flat frog",
    "a noto red apple",
    "a flat green apple",
    "a 3d tangerine",
    "a noto grinning face",
    "a flat crying face",
    "a 3d angry face",
    "a noto winking face",
    "a flat cat face",
    "a 3d tiger face",
    "a noto panda",
    "a 3d rose",
)
COARSE = (
    "a noto face",
    "a 3d face",
    "a flat smiling face",
    "a noto cat face",
    "a 3d animal",
    "a flat animal",
    "a noto mammal",
    "a 3d mammal",
    "a flat reptile",
    "a noto fruit",
    "a 3d fruit",
    "a flat fruit",
    "a noto heart",
    "a 3d heart",
    "a flat flower",
    "a 3d flower",
)
STEPS = 50, 20, 10, 6, 4


@torch.no_grad()
def pictures(
    pipe: Any, prompts: tuple[str, ...], num_steps: int, guidance_scale: float, seed: int = 0
) -> np.ndarray:
    """One picture a prompt, the seeds counted up from `seed`: float32 `[n, H, W, 3]` in [0, 1]."""
    generators = [torch.Generator().manual_seed(seed + row) for row in range(len(prompts))]
    return pipe(
        list(prompts),
        num_inference_steps=num_steps,
        guidance_scale=guidance_scale,
        generator=generators,
        output_type="np",
    ).images


def distances(rows: dict[int, np.ndarray]) -> dict[int, float]:
    """The rms distance of each row of pictures to the row with the most steps, of a range of 1."""
    full = rows[max(rows)]
    return {steps: float(np.sqrt(np.square(row - full).mean())) for steps, row in rows.items()}


def save_grid(rows: list[np.ndarray], path: Path, scale: int = 1) -> None:
    """Rows of pictures as one PNG in RGB, `scale` times as large without smoothing."""
    from PIL import Image

    grid = np.concatenate([np.concatenate(list(row), 1) for row in rows], 0)
    image = Image.fromarray((grid * 255).round().astype(np.uint8))
    image = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    with whole(path) as partial:
        image.save(partial)


@one_line
def main() -> None:
    from diffusers import StableDiffusionPipeline

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/miniature/sheets"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    pipe = StableDiffusionPipeline.from_pretrained(options.folder)
    pipe.set_progress_bar_config(disable=True)
    by_guidance = [pictures(pipe, PROMPTS, 50, scale) for scale in (1.0, 3.0, 5.0)]
    save_grid(by_guidance, options.out / "prompts.png", 2)
    numbers = {}
    for scale in (1.0, 3.0):
        rows = {steps: pictures(pipe, COARSE, steps, scale) for steps in STEPS}
        numbers[f"coarse, guidance {scale:g}"] = distances(rows)
    save_grid(list(rows.values()), options.out / "steps.png", 2)
    rows = {steps: pictures(pipe, PROMPTS, steps, 3.0) for steps in STEPS}
    numbers["full names, guidance 3"] = distances(rows)
    with whole(options.out / "steps.json") as path:
        path.write_text(json.dumps(numbers, indent=2) + "\n")
    for name, row in numbers.items():
        print(name, " ".join(f"{steps}: {value:.3f}" for steps, value in row.items()))


if __name__ == "__main__":
    main()
