"""On which line free steps go on, and what it is worth that Dash steps correct them.

    python benchmarks/free_lines.py [--models digits icons miniature] [--images 48]
    python benchmarks/free_lines.py --models miniature --sheet docs/images/karras.png

A row is one of the three bundled models, a solver, a plan and a line, on which nothing is
corrected, or what the package does: its line, corrected by Dash steps. "value" is the mean over
images of the rms distance of x (pixels of a range of 2, or latents) to 50 Dash steps of the same
solver and seeds, with the 95 % interval of a bootstrap. The miniature is asked for its coarse
prompts at guidance 3. Rows are kept as they are made; a run that was stopped goes on. A sheet shows
pictures of some seeds, by Karras' sigmas: all steps, few alone, and with a free step behind each.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path

from fidelity import ICONS, KARRAS, MINIATURE, subject_of
from torch import Tensor

from morse_engine import zoo
from morse_engine.evaluation.bootstrap import Bootstrap
from morse_engine.evaluation.figures import picture_grid
from morse_engine.evaluation.many import sample_many
from morse_engine.evaluation.subject import Subject
from morse_engine.runtime.models import Models
from morse_engine.sampling.plan import Plan
from morse_engine.sampling.probe import Column
from morse_engine.sampling.solver import SolverTable
from morse_engine.system.files import write_rows
from morse_engine.system.machine import commit, machine, now
from morse_engine.zoo import digits

ROWS = Path(__file__).parent / "results/free-lines.json"
FULL, BATCH, GUIDANCE, FIRST_SEED = 50, 16, 3.0, 70_000
SHEET = (4, 6)  # Dash steps
DASH_STEPS, SOLVERS = (4, 6, 8), ("dpm-karras", "dpm", "ddim", "unipc")
DIGITS = "digits"
MODELS = (DIGITS, ICONS, MINIATURE)
ALONE, CORRECTED = "Dash alone", "corrected"

#: What a call at noise sigma and timestep t has for its place.
LINES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "timestep": lambda sigma, t: t,
    "log sigma": lambda sigma, t: sigma.log(),
    **{
        f"log({c} + sigma)": lambda sigma, t, c=c: (c + sigma).log()  # type: ignore[misc]
        for c in (1, 3, 10)
    },
}


def subject(model: str, solver: str, guidance: float = GUIDANCE) -> Subject:
    """A bundled model with a solver; the miniature with guidance."""
    if model != DIGITS:
        return subject_of(model, solver, guidance)
    made = zoo.digits_scheduler(solver.removesuffix(KARRAS))
    made = type(made).from_config(made.config, use_karras_sigmas=solver.endswith(KARRAS))
    models = Models(zoo.digits_dash(), None, clean_range=(-1, 1))
    return Subject(DIGITS, models, (1, digits.SIZE, digits.SIZE), made)


def made(of: Subject, plan: Plan, variant: str, num_images: int) -> Tensor:
    """x of so many images by a line without corrections; as the package does if it is none."""
    table = SolverTable.for_calls(of.scheduler, len(plan)).with_range(of.known["clean_range"])
    if variant in LINES:
        sigmas = -table.rows[:, Column.V]  # of models that predict the noise
        table = replace(table, places=LINES[variant](sigmas, table.timesteps.double()))
        rows = table.for_plan(plan).rows
        rows[:, : Column.U] = table.rows[:, : Column.U]  # the solver's own
        table = replace(table, rows=rows, plan=plan)
    return drawn(of, plan, table, num_images)


def drawn(of: Subject, plan: Plan, table: SolverTable, num_images: int) -> Tensor:
    """x of so many images."""
    return sample_many(
        *(of.models.dash, None, plan, table, range(FIRST_SEED, FIRST_SEED + num_images)),
        *(of.shape, BATCH), told=of.told, guidance_scale=of.guidance_scale,
    )  # fmt: skip


def sheet(model: str, path: Path) -> None:
    """Pictures of nine seeds, by the line of the package."""
    of, columns = subject(model, SOLVERS[0]), {}
    shown = {f"All {FULL} steps": "-" * FULL}
    for dash in SHEET:
        shown |= {f"{dash} steps": "-" * dash, f"{dash} and free steps": "-:" * dash}
    for heading, morse in shown.items():
        code = morse if len(morse) < FULL else ""
        x = made(of, Plan(morse), ALONE, 9)
        columns[f"{heading}\n{code}"] = of.pictures(x).clamp(-1, 1)
    picture_grid(columns, path, title="DPM-Solver++ with Karras' sigmas, the same seeds")


def whole_batches(text: str) -> int:
    """A number of images, as argparse reads it."""
    count = int(text)
    if count < BATCH or count % BATCH:
        raise argparse.ArgumentTypeError(f"{text}: give a multiple of {BATCH}")
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--solvers", nargs="+", choices=SOLVERS, default=SOLVERS)
    parser.add_argument("--images", type=whole_batches, default=48)
    parser.add_argument("--out", type=Path, default=ROWS)
    parser.add_argument("--sheet", type=Path, help="pictures of the first model, no rows")
    options = parser.parse_args()
    if options.sheet:
        return sheet(options.models[0], options.sheet)
    rows = json.loads(options.out.read_text()) if options.out.exists() else []
    done = {(r["model"], r["solver"], r["plan"], r["variant"]) for r in rows}
    about = machine() | {"commit": commit(Path(__file__).parent)}
    for name, solver in product(options.models, options.solvers):
        of, full = subject(name, solver), None
        for dash, variant in product(DASH_STEPS, (ALONE, *LINES, CORRECTED)):
            plan = Plan("-" * dash if variant == ALONE else "-:" * dash)
            if (name, solver, str(plan), variant) in done:
                continue
            if full is None:
                full = made(of, Plan("-" * FULL), ALONE, options.images)
            far = (made(of, plan, variant, options.images) - full).square().mean((1, 2, 3)).sqrt()
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
