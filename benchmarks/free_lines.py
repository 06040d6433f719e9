"""On which line free steps go on: by the timestep, or by the noise, on the three bundled models.

    python benchmarks/free_lines.py [--models digits icons miniature] [--images 48]
    python benchmarks/free_lines.py --models miniature --sheet docs/images/karras.png

A row is one model, solver, plan and line, "value" the mean over images of the rms distance of x
(pixels of a range of 2, or latents) to 50 Dash steps of the same solver and seeds, with the 95 %
interval of a bootstrap. The miniature is asked for its coarse prompts at guidance 3. Rows are kept
as they are made; a run that was stopped goes on. A sheet shows pictures of some seeds, by Karras'
sigmas: all steps, few alone, and with a free step behind each.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

import morse_engine
from morse_engine import zoo
from morse_engine.evaluation.bootstrap import Bootstrap
from morse_engine.evaluation.figures import picture_grid
from morse_engine.evaluation.prompted import Prompted
from morse_engine.integrations.latents import range_of
from morse_engine.sampling import noise, schedulers
from morse_engine.sampling.plan import Plan
from morse_engine.sampling.probe import Column
from morse_engine.sampling.solver import SolverTable
from morse_engine.system.files import write_rows
from morse_engine.system.machine import commit, machine, now
from morse_engine.zoo.icons import data
from morse_engine.zoo.miniature import captions

ROWS = Path(__file__).parent / "results/free-lines.json"
FULL, BATCH, GUIDANCE, FIRST_SEED = 50, 16, 3.0, 70_000
SHEET = (4, 6)  # Dash steps
DASH_STEPS, SOLVERS = (4, 6, 8), ("dpm-karras", "dpm", "ddim")
KARRAS = "-karras"

#: What a call at noise sigma and timestep t has for its place.
LINES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "timestep": lambda sigma, t: t,
    "log sigma": lambda sigma, t: sigma.log(),
    **{
        f"log({c} + sigma)": lambda sigma, t, c=c: (c + sigma).log()  # type: ignore[misc]
        for c in (1, 3, 10)
    },
}


class Model(NamedTuple):
    """A bundled Dash: its sampler with a solver, what a call is given for seeds, x as pictures."""

    config: Any
    compile: Callable[[Any], Any]
    told: Callable[[Sequence[int]], dict]
    pictures: Callable[[Tensor], Tensor] = lambda x: x


def digits() -> Model:
    unet = zoo.digits_dash()
    compile = lambda s: morse_engine.compile(unet, scheduler=s, plan="-", clean_range=(-1, 1))  # noqa: E731
    return Model(zoo.digits_scheduler("ddim").config, compile, lambda seeds: {})


def icons() -> Model:
    unet = zoo.icons_dash()
    compile = lambda s: morse_engine.compile(unet, scheduler=s, plan="-", clean_range=(-1, 1))  # noqa: E731
    told = lambda seeds: {"class_labels": data.labels_of(seeds)}  # noqa: E731
    return Model(zoo.icons_scheduler("ddim").config, compile, told)


def miniature() -> Model:
    pipe = zoo.miniature_pipeline()
    subject = Prompted("miniature", pipe, None, captions.coarse(), guidance_scale=GUIDANCE)

    def compile(scheduler: Any) -> Any:
        held = range_of(pipe)
        return morse_engine.compile(pipe.unet, scheduler=scheduler, plan="-", clean_range=held)

    def told(seeds: Sequence[int]) -> dict:
        return {"guidance_scale": GUIDANCE, **subject.told(seeds)}

    return Model(pipe.scheduler.config, compile, told, subject.pictures)


MODELS = {"digits": digits, "icons": icons, "miniature": miniature}


def made(model: Model, solver: str, plan: Plan, line: str | None, seeds: range) -> Tensor:
    """x of these images; a line of None is that of the package."""
    scheduler = schedulers.make(solver.removesuffix(KARRAS), model.config)
    if solver.endswith(KARRAS):
        scheduler = type(scheduler).from_config(scheduler.config, use_karras_sigmas=True)
    sampler = model.compile(scheduler)
    table = SolverTable.for_calls(scheduler, len(plan)).with_range(sampler.models.clean_range)
    if line is not None:
        sigmas = -table.rows[:, Column.V]  # of models that predict the noise
        table = replace(table, places=LINES[line](sigmas, table.timesteps.double()))
    run, parts = sampler.with_table(plan, table), []
    for first in range(seeds.start, seeds.stop, BATCH):
        part = range(first, first + BATCH)
        x = noise.normal(list(part), noise.INITIAL, sampler.models.shape)
        parts.append(run(x, **model.told(part)))
    return torch.cat(parts)


def sheet(model: Model, path: Path) -> None:
    """Pictures of nine seeds, by the line of the package."""
    seeds, columns = range(FIRST_SEED, FIRST_SEED + BATCH), {}
    shown = {f"All {FULL} steps": "-" * FULL}
    for dash in SHEET:
        shown |= {f"{dash} steps": "-" * dash, f"{dash} and free steps": "-:" * dash}
    for heading, morse in shown.items():
        x = made(model, SOLVERS[0], Plan(morse), None, seeds)[:9]
        code = morse if len(morse) < FULL else ""
        columns[f"{heading}\n{code}"] = model.pictures(x).clamp(-1, 1)
    picture_grid(columns, path, title="DPM-Solver++ with Karras' sigmas, the same seeds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--solvers", nargs="+", choices=SOLVERS, default=SOLVERS)
    parser.add_argument("--images", type=int, default=48, help=f"a multiple of {BATCH}")
    parser.add_argument("--out", type=Path, default=ROWS)
    parser.add_argument("--sheet", type=Path, help="pictures of the first model, no rows")
    options = parser.parse_args()
    if options.images < BATCH or options.images % BATCH:
        parser.error(f"--images {options.images}: give a multiple of {BATCH}")
    if options.sheet:
        return sheet(MODELS[options.models[0]](), options.sheet)
    rows = json.loads(options.out.read_text()) if options.out.exists() else []
    done = {(r["model"], r["solver"], r["plan"], r["variant"]) for r in rows}
    seeds = range(FIRST_SEED, FIRST_SEED + options.images)
    about = machine() | {"commit": commit(Path(__file__).parent)}
    for name, solver in product(options.models, options.solvers):
        model, full = MODELS[name](), None
        for dash, line in product(DASH_STEPS, (None, *LINES)):
            plan = Plan("-" * dash if line is None else "-:" * dash)
            variant = line or "Dash alone"
            if (name, solver, str(plan), variant) in done:
                continue
            if full is None:
                full = made(model, solver, Plan("-" * FULL), None, seeds)
            far = (made(model, solver, plan, line, seeds) - full).square().mean((1, 2, 3)).sqrt()
            value, low, high = Bootstrap(len(far)).interval(far)
            row = {"bench": "free lines", "model": name, "solver": solver, "variant": variant}
            row |= {"plan": str(plan), "cost_lsd": dash, "images": len(far), "value": value}
            row |= {"low": low, "high": high, "unit": f"rms to {FULL} Dash steps"}
            rows.append(row | about | {"date": now()[:10]})
            write_rows(options.out, rows)
            print(name, solver, plan, variant, f"{value:.4f} ({low:.4f} to {high:.4f})", flush=True)
    return None


if __name__ == "__main__":
    main()
