"""Editing at equal cost: image to image and inpainting on the miniature.

    python benchmarks/miniature_edits.py [--images 48]

Pictures of 50 steps are turned into another style: the whole picture (image to image) or its right
half (inpainting, with a unet of 4 channels, so the pipeline mixes the rest in after each step). All
plans start at the same noise level, three quarters of a run, and are compared with 52 Dash steps
from the same seeds. What a plan costs is that of its part; N is of results/miniature-speed.json.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline
from fidelity import MINIATURE, RESULTS, speed_file
from torch import Tensor

import morse_engine
from morse_engine import Plan, zoo
from morse_engine.evaluation.bootstrap import Bootstrap
from morse_engine.evaluation.paired import rms
from morse_engine.integrations.latents import range_of
from morse_engine.sampling import schedulers
from morse_engine.system.files import write_rows
from morse_engine.system.machine import commit, machine, now
from morse_engine.zoo.miniature import captions, data

FULL, STRENGTH, GUIDANCE, BATCH = (
    52,
    0.75,
    3.0,
    16,
)  # three quarters of every plan is a whole number
PLANS = {
    "Dash alone": [Plan.spread(n, 0) for n in (4, 8, 12, 16)],
    "free steps": [Plan("-:" * n) for n in (4, 8, 12)],
    "Dot": [Plan("-." * 4), Plan("-:.:" * 4)],
}
KINDS = {
    "image to image": StableDiffusionImg2ImgPipeline,
    "inpainting": StableDiffusionInpaintPipeline,
}
STYLES = list(data.PACKAGES)


def part(plan: Plan) -> Plan:
    """The steps that are left of a plan at `STRENGTH`."""
    return Plan(str(plan)[len(plan) - int(STRENGTH * len(plan)) :])


def wanted(prompt: str) -> str:
    """The same thing in the next style."""
    _, style, kind = prompt.split(" ", 2)
    return f"a {STYLES[(STYLES.index(style) + 1) % len(STYLES)]} {kind}"


class Edits:
    """Both kinds of edits of the same pictures.

    Attributes:
        pictures: `[n, 3, 64, 64]` in [0, 1], what is edited.
    """

    def __init__(self, images: int):
        base = zoo.miniature_pipeline()
        base.scheduler = schedulers.make("ddim", base.scheduler.config)
        self.base, self.dot = base, zoo.miniature_dot(base.unet)
        every = captions.coarse()
        self.prompts = [every[k % len(every)] for k in range(images)]
        self.pictures = self.run(base, self.prompts, num_inference_steps=50)

    def run(self, pipe: Any, prompts: list[str], **options: Any) -> Tensor:
        """`[n, 3, 64, 64]` in [0, 1], seed k for picture k; options of n rows are cut with it."""
        found = []
        for first in range(0, len(prompts), BATCH):
            rows = slice(first, first + BATCH)
            cut = {k: v[rows] if isinstance(v, Tensor) else v for k, v in options.items()}
            seeds = range(first, first + len(prompts[rows]))
            generators = [torch.Generator().manual_seed(seed) for seed in seeds]
            found.append(
                pipe(
                    prompts[rows],
                    generator=generators,
                    guidance_scale=GUIDANCE,
                    output_type="pt",
                    **cut,
                ).images
            )
        return torch.cat(found)

    def edited(self, kind: str, plan: Plan) -> Tensor:
        """What a plan makes of the pictures."""
        parts = {k: v for k, v in self.base.components.items() if k != "image_encoder"}
        pipe = KINDS[kind](**parts, requires_safety_checker=False)
        pipe.set_progress_bar_config(disable=True)
        options: dict[str, Any] = {"image": self.pictures, "strength": STRENGTH}
        if kind == "inpainting":
            mask = torch.zeros(len(self.prompts), 1, data.SIZE, data.SIZE)
            mask[..., data.SIZE // 2 :] = 1
            options |= {"mask_image": mask, "height": data.SIZE, "width": data.SIZE}
        morse_engine.accelerate(
            pipe, self.dot if plan.num_dot else None, plan=plan, clean_range=range_of(self.base)
        )
        try:
            return self.run(pipe, [wanted(prompt) for prompt in self.prompts], **options)
        finally:
            morse_engine.restore(pipe)


def measured(edits: Edits, kind: str) -> list[dict]:
    """A row for each plan."""
    speeds = {
        row["batch_size"]: row["dot_speed"] for row in json.loads(speed_file(MINIATURE).read_text())
    }
    full = edits.edited(kind, Plan.spread(FULL, 0))
    draws, rows = Bootstrap(len(full)), []
    about = {**machine(), "commit": commit(Path(__file__).parent), "date": now()[:10]}
    for variant, plans in PLANS.items():
        for plan in plans:
            mean, low, high = draws.interval(rms(2 * edits.edited(kind, plan) - 1, 2 * full - 1))
            left = part(plan)
            cost = {f"lsd_at_{n}": left.lsd(speed) for n, speed in speeds.items()}
            row = {"bench": "miniature edits", "kind": kind, "variant": variant}
            row |= {"plan": str(plan), "part": str(left), **cost, "strength": STRENGTH}
            row |= {"guidance": GUIDANCE, "solver": "ddim", "images": len(full)}
            row |= {"value": mean, "low": low, "high": high, "unit": f"rms to {FULL} Dash steps"}
            rows.append(row | about)
            print(
                f"{kind}, {variant}, {left}: rms {mean:.4f} ({low:.4f} .. {high:.4f})", flush=True
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--rows", type=Path, default=RESULTS / "miniature-edits.json")
    options = parser.parse_args()
    edits = Edits(options.images)
    write_rows(options.rows, [row for kind in KINDS for row in measured(edits, kind)])


if __name__ == "__main__":
    main()
