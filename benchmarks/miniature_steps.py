"""Do steps matter to the bundled miniature: the distance of DDIM's pictures to real ones.

    python benchmarks/miniature_steps.py --data runs/miniature/data [--images 512]

needs the rendered pictures of `make zoo-miniature`. Prompts are drawn from the coarse half of the
ladder of captions of the training pictures, at guidance 1 and 3. A row is the distance of means and
deviations of `evaluation.score.Pyramid` features between the pictures of so many steps and all
training pictures ("value"), with half of the training pictures against the other half beside it.
"""

import argparse
import json
from pathlib import Path

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from torch import Tensor

from morse_engine.evaluation.score import Pyramid, score
from morse_engine.system.files import whole
from morse_engine.system.machine import now
from morse_engine.zoo.miniature import WEIGHTS, captions, data

ROWS = Path(__file__).parent / "results/miniature-steps.json"
STEPS = 4, 6, 10, 20, 50
BATCH = 32


def coarse(icons: list, count: int) -> list[str]:
    """Prompts as a training draws them, without those that name one thing."""
    generator = torch.Generator().manual_seed(0)
    found: list[str] = []
    while len(found) < count:
        icon = icons[int(torch.randint(len(icons), (), generator=generator))]
        caption = captions.draw(icon, generator)
        if icon.name not in caption:
            found.append(caption)
    return found


@torch.no_grad()
def pictures(
    pipe: StableDiffusionPipeline, prompts: list[str], steps: int, guidance: float
) -> Tensor:
    """`[n, 3, 64, 64]` in [-1, 1]; picture k has the seed k."""
    made = []
    for first in range(0, len(prompts), BATCH):
        part = prompts[first : first + BATCH]
        seeds = range(first, first + len(part))
        made.append(
            pipe(
                part,
                num_inference_steps=steps,
                guidance_scale=guidance,
                generator=[torch.Generator().manual_seed(seed) for seed in seeds],
                output_type="pt",
            ).images
        )
    return torch.cat(made) * 2 - 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0, 3.0])
    parser.add_argument("--out", type=Path, default=ROWS)
    options = parser.parse_args()
    drawn, icons = data.load(options.data)
    rows_of = data.chosen(icons)
    features = Pyramid(3)
    real = features(drawn[rows_of].float() / 127.5 - 1)
    half = torch.randperm(len(real), generator=torch.Generator().manual_seed(0)) % 2 == 0
    prompts = coarse([icons[row] for row in rows_of], options.images)
    pipe = StableDiffusionPipeline.from_pretrained(WEIGHTS)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, timestep_spacing="trailing")
    pipe.set_progress_bar_config(disable=True)
    pipe.unet.to(memory_format=torch.channels_last)
    rows = []
    for guidance in options.guidance:
        for steps in STEPS:
            value = score(features(pictures(pipe, prompts, steps, guidance)), real)
            row = {"bench": "miniature steps", "solver": "ddim", "guidance": guidance}
            row |= {"steps": steps, "images": options.images, "unit": "distance to real pictures"}
            row |= {"value": value, "halves": score(real[half], real[~half])}
            rows.append(row | {"torch": torch.__version__, "date": now()[:10]})
            print(f"guidance {guidance:g}, {steps} steps: {value:.5f}", flush=True)
            with whole(options.out) as path:
                path.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")


if __name__ == "__main__":
    main()
