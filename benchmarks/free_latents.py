"""Free steps in latents: which bounds keep the line within the images that there are.

    python benchmarks/free_latents.py [--seeds 48] [--sheet FILE.png]

The bundled miniature Stable Diffusion, prompts that leave much open, trailing timesteps. A row is
the rms distance of latents and of decoded pictures ("value", of a range of 1) to the 50-step run of
the same solver, guidance, prompts and starting noise. Rows are kept as they are made; a run that
was stopped goes on.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline
from torch import Tensor

from morse_engine.sampling import noise
from morse_engine.sampling.free import NO_RANGE, Line, Range
from morse_engine.sampling.loop import sample
from morse_engine.sampling.plan import FREE, Plan
from morse_engine.sampling.probe import Column
from morse_engine.sampling.solver import SolverTable
from morse_engine.system.files import whole
from morse_engine.system.machine import now
from morse_engine.zoo.miniature.sheet import save_grid

FOLDER = Path(__file__).parents[1] / "morse_engine/zoo/weights/miniature"
ROWS = Path(__file__).parent / "results/free-latents.json"
PROMPTS = "a 3d animal", "a noto fruit", "a flat face", "a 3d flower"
FULL, DASH_STEPS, ALONE = 50, (4, 6, 8, 12), (4, 6, 8, 12, 16, 20)
FIRST_SEED = 70_000


@dataclass(frozen=True, eq=False, repr=False)
class Bounded(SolverTable):
    """A table whose free steps are held back in another way than by a range, or also.

    Attributes:
        share: of the slope.
        at_most: of the slope.
        by_calls: within what the last two calls have said, by image and channel.
    """

    share: float = 1.0
    at_most: float = inf
    by_calls: bool = False

    def for_plan(self, plan: Plan) -> "SolverTable":
        table = super().for_plan(plan)
        table.rows[:, Column.SLOPE] = (self.share * table.rows[:, Column.SLOPE]).clamp(
            max=self.at_most
        )
        return table

    def free(self, i: int, x: Tensor, line: Line) -> Tensor:
        if not self.by_calls:
            return super().free(i, x, line)
        row, both = self.rows[i].tolist(), torch.stack([line.a, line.b])
        low, high = both.amin((0, 3, 4), True)[0], both.amax((0, 3, 4), True)[0]
        x_0 = line.at(row[Column.SLOPE], low, high)
        return (x_0 - row[Column.U] * x) / row[Column.V]


def variants(latents: dict[str, list[float]]) -> dict[str, dict[str, Any]]:
    """Fields of `Bounded` by name; `latents` are the quantiles beside the VAE."""
    quantiles: Range = tuple(latents["low"]), tuple(latents["high"])
    wide: Range = (
        tuple(a - (b - a) / 4 for a, b in zip(*quantiles, strict=True)),
        tuple(b + (b - a) / 4 for a, b in zip(*quantiles, strict=True)),
    )
    return {
        "no bounds": {},
        "quantiles by channel": {"clean_range": quantiles},
        "quantiles, 1.5 times as wide": {"clean_range": wide},
        "-3 to 3": {"clean_range": ((-3.0,), (3.0,))},
        "-4 to 4": {"clean_range": ((-4.0,), (4.0,))},
        "within the last two calls": {"by_calls": True},
        "half the slope": {"share": 0.5},
        "slope at most 1": {"at_most": 1.0},
        "half the slope, quantiles": {"share": 0.5, "clean_range": quantiles},
    }


class Bench:
    """The miniature, a guidance and the starting noise of all rows."""

    def __init__(self, num_seeds: int):
        self.pipe = StableDiffusionPipeline.from_pretrained(FOLDER)
        self.unet = self.pipe.unet.to(memory_format=torch.channels_last)
        self.seeds = [FIRST_SEED + k for k in range(num_seeds)]
        texts = [PROMPTS[k % len(PROMPTS)] for k in range(num_seeds)]
        self.cond = self.pipe.encode_prompt(texts, "cpu", 1, True)  # with prompt, without
        shape = (self.unet.config.in_channels, *2 * (self.unet.config.sample_size,))
        self.start = noise.normal(self.seeds, noise.INITIAL, shape)

    def table(self, solver: str, num_steps: int) -> SolverTable:
        ddim = type(self.pipe.scheduler)
        kind = {"ddim": ddim, "dpmpp_2m": DPMSolverMultistepScheduler}[solver]
        config = self.pipe.scheduler.config
        scheduler = kind.from_config(config, timestep_spacing="trailing")
        return SolverTable.from_scheduler(scheduler, num_steps)

    def latents(self, solver: str, guidance: float, plan: Plan, **held: Any) -> Tensor:
        table = self.table(solver, len(plan))
        fields = {"clean_range": NO_RANGE} | held
        table = Bounded(table.name, table.rows, table.timesteps, table.init_noise_sigma, **fields)
        text, empty = self.cond
        guided = guidance != 1
        cond = {"encoder_hidden_states": torch.cat([empty, text]) if guided else text}
        scale = guidance if guided else None
        dash = lambda x, t, **cond: self.unet(x, t, **cond).sample  # noqa: E731
        return sample(dash, None, plan, table, self.start, self.seeds, cond, scale)

    @torch.no_grad()
    def pictures(self, latents: Tensor) -> Tensor:
        return (self.pipe.vae.decode(latents).sample / 2 + 0.5).clamp(0, 1)


def cases(latents: dict[str, list[float]]) -> Iterator[tuple[str, Plan, dict[str, Any]]]:
    """(name, plan, fields) of all rows of one solver and guidance."""
    for n in ALONE:
        yield "Dash alone", Plan("-" * n), {}
    for name, held in variants(latents).items():
        for n in DASH_STEPS:
            for each in (1, 2):
                yield name, Plan(("-" + each * FREE) * n), held


def rms(a: Tensor, b: Tensor) -> float:
    return round((a - b).square().mean().sqrt().item(), 4)


def measure(
    num_seeds: int, guidances: list[float], solvers: list[str], only: list[str] | None
) -> None:
    rows = json.loads(ROWS.read_text()) if ROWS.exists() else []
    done = {(r["solver"], r["guidance"], r["variant"], r["plan"]) for r in rows}
    bench = Bench(num_seeds)
    known = json.loads((FOLDER / "vae/latents.json").read_text())
    about = {"bench": "free latents", "model": "miniature Stable Diffusion", "images": num_seeds}
    for guidance in guidances:
        for solver in solvers:
            full: Tensor | None = None
            for name, plan, held in cases(known):
                if (solver, guidance, name, str(plan)) in done or (only and name not in only):
                    continue
                if full is None:
                    full = bench.latents(solver, guidance, Plan("-" * FULL))
                made = bench.latents(solver, guidance, plan, **held)
                numbers = {
                    "latents": rms(made, full),
                    "value": rms(bench.pictures(made), bench.pictures(full)),
                }
                row = about | {"solver": solver, "guidance": guidance, "variant": name}
                row |= {"plan": str(plan), "cost_lsd": plan.num_dash, "unit": "rms to 50 steps"}
                row |= numbers | {"torch": torch.__version__, "date": now()[:10]}
                rows.append(row)
                print(guidance, solver, name, plan, numbers, flush=True)
                with whole(ROWS) as path:
                    lines = ",\n".join(json.dumps(row) for row in rows)
                    path.write_text(f"[\n{lines}\n]\n")


def sheet(path: Path, solver: str, guidance: float, num_dash: int) -> None:
    """A row of pictures each: 50 steps, Dash alone, and every variant with one free step each."""
    bench = Bench(16)
    known = json.loads((FOLDER / "vae/latents.json").read_text())
    plans = [(FULL * "-", {}), (num_dash * "-", {}), (num_dash * 3 // 2 * "-", {})]
    plans += [(num_dash * "-:", held) for held in variants(known).values()]
    rows: list[np.ndarray] = []
    for morse, held in plans:
        pictures = bench.pictures(bench.latents(solver, guidance, Plan(morse), **held))
        rows.append(pictures.permute(0, 2, 3, 1).numpy())
    save_grid(rows, path, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=48)
    parser.add_argument("--guidance", type=float, nargs="+", default=[3.0, 1.0, 5.0])
    parser.add_argument("--solver", nargs="+", default=["ddim", "dpmpp_2m"])
    parser.add_argument("--variant", nargs="+", help="rows of these alone, by name")
    parser.add_argument("--sheet", type=Path, help="pictures only, six Dash steps")
    options = parser.parse_args()
    if options.sheet:
        return sheet(options.sheet, options.solver[0], options.guidance[0], 6)
    return measure(options.seeds, options.guidance, options.solver, options.variant)


if __name__ == "__main__":
    main()
