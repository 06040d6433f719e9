"""Helpers in k-diffusion, at as many model calls, on the bundled miniature Stable Diffusion.

    python benchmarks/k_diffusion.py [--images 32]

Noise levels of Karras, and of evenly spaced timesteps as ComfyUI's "normal"; guidance 3, coarse
prompts. A row is one schedule, solver and plan; "value" is the mean over pictures of the rms
distance (of a range of 1) to those of 40 model calls, with the 95 % interval of a bootstrap. None
of the helpers is trained: `.` continues the noise on a line, `:` the clean image, both without
bounds, as a host has them by default.
"""

import argparse
import json
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from morse_engine import zoo
from morse_engine.dot.levels import NoiseLevels
from morse_engine.evaluation.bootstrap import Bootstrap
from morse_engine.evaluation.prompted import Prompted
from morse_engine.integrations import k_diffusion
from morse_engine.sampling import noise
from morse_engine.system.files import write_rows
from morse_engine.system.machine import commit, machine, now
from morse_engine.zoo.miniature import captions

ROWS = Path(__file__).parent / "results/k-diffusion.json"
FULL, CALLS, PLANS = 40, (6, 10), ("-", "-.", "-:", "-::")
SCHEDULES, BATCH, GUIDANCE, FIRST_SEED = ("karras", "normal"), 16, 3.0, 70_000
RHO = 7.0  # of Karras' levels


class Host:
    """The miniature as k-diffusion calls a model: it returns the guided clean latents."""

    def __init__(self, num_images: int):
        pipe = zoo.miniature_pipeline()
        subject = Prompted("miniature", pipe, None, captions.coarse(), guidance_scale=GUIDANCE)
        self.pictures, self.unet = subject.pictures, pipe.unet
        self.noise = NoiseLevels.from_scheduler(pipe.scheduler)
        seeds = range(FIRST_SEED, FIRST_SEED + num_images)
        shape = (self.unet.config.in_channels, *2 * (self.unet.config.sample_size,))
        self.starts = noise.normal(list(seeds), noise.INITIAL, shape).split(BATCH)
        parts = [seeds[k : k + BATCH] for k in range(0, num_images, BATCH)]
        self.texts = [subject.told(part)["encoder_hidden_states"] for part in parts]

    def levels(self, schedule: str, steps: int) -> Tensor:
        """The noise levels of a run, the last one 0: float32 `[steps + 1]`."""
        last = self.noise.config["num_train_timesteps"] - 1
        share = torch.linspace(0, 1, steps)
        alpha, sigma = self.noise.at(last * (1 - share))
        even = (sigma / alpha).flatten()
        most, least = even[0] ** (1 / RHO), even[-1] ** (1 / RHO)
        found = (most + share * (least - most)) ** RHO if schedule == "karras" else even
        return torch.cat([found, torch.zeros(1)])

    @torch.no_grad()
    def sample(self, schedule: str, solver: str, plan: str, calls: int) -> Tensor:
        """Pictures `[n, 3, H, W]` in [0, 1] of so many model calls."""
        levels = self.levels(schedule, calls * len(plan))
        run = k_diffusion.sampler(plan, solver=solver)
        made = []
        for start, text in zip(self.starts, self.texts, strict=True):

            def model(x: Tensor, sigma: Tensor, text: Tensor = text) -> Tensor:
                t = self.noise.timestep(sigma[0])
                given = (x / (1 + sigma[0] ** 2).sqrt()).repeat(2, 1, 1, 1)
                without, with_ = self.unet(given, t, encoder_hidden_states=text).sample.chunk(2)
                return x - sigma[0] * (without + GUIDANCE * (with_ - without))

            x = run(model, levels[0] * start, levels, disable=True)
            made.append((self.pictures(x) / 2 + 0.5).clamp(0, 1))
        return torch.cat(made)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=32, help=f"a multiple of {BATCH}")
    parser.add_argument("--out", type=Path, default=ROWS)
    options = parser.parse_args()
    if options.images < BATCH or options.images % BATCH:
        parser.error(f"--images {options.images}: give a multiple of {BATCH}")
    rows = json.loads(options.out.read_text()) if options.out.exists() else []
    done = {(r["schedule"], r["solver"], r["plan"], r["calls"]) for r in rows}
    host = Host(options.images)
    about = machine() | {"commit": commit(Path(__file__).parent)}
    for schedule, solver in product(SCHEDULES, k_diffusion.SOLVERS):
        full = None
        for calls, plan in product(CALLS, PLANS):
            if (schedule, solver, plan, calls) in done:
                continue
            if full is None:
                full = host.sample(schedule, solver, "-", FULL)
            made = host.sample(schedule, solver, plan, calls)
            far = (made - full).square().mean((1, 2, 3)).sqrt()
            value, low, high = Bootstrap(len(far)).interval(far)
            row = {"bench": "k-diffusion", "model": "miniature", "schedule": schedule}
            row |= {"solver": solver, "plan": plan, "calls": calls, "images": len(far)}
            row |= {"value": value, "low": low, "high": high, "unit": f"rms to {FULL} calls"}
            rows.append(row | about | {"date": now()[:10]})
            write_rows(options.out, rows)
            print(schedule, solver, calls, plan, f"{value:.4f} ({low:.4f} to {high:.4f})")


if __name__ == "__main__":
    main()
