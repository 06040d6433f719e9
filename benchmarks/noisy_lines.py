"""With a solver that adds noise: what free steps bring with and without the first line.

    python benchmarks/noisy_lines.py [--models digits icons miniature] [--images 256]

A row is one of the three bundled models, a solver, a guidance scale, a plan and a variant: Dash
alone, free steps on the line through the last two calls whichever they are, or as the package has
them, with no line through the first two (`sampling/free.py`). Another number of steps draws other
noise, so images are compared as sets: "value" is `evaluation/score.py` between them and those of 50
Dash steps of the same seeds, in the features of the bundled judge, of digits in their classifier's.
Rows are kept as they are made; a run that was stopped goes on.
"""

import argparse
import json
from dataclasses import replace
from itertools import product
from pathlib import Path

import torch
from fidelity import ICONS, MINIATURE
from free_lines import DIGITS, FULL, MODELS, drawn, subject, whole_batches
from torch import Tensor

from morse_engine import zoo
from morse_engine.evaluation.score import score, upper_end
from morse_engine.evaluation.subject import Subject
from morse_engine.sampling.free import slopes
from morse_engine.sampling.plan import Plan
from morse_engine.sampling.probe import Column
from morse_engine.sampling.solver import SolverTable
from morse_engine.system.files import write_rows
from morse_engine.system.machine import commit, machine, now
from morse_engine.zoo.miniature import judge

ROWS = Path(__file__).parent / "results/noisy-lines.json"
SOLVERS, DASH_STEPS = ("ddpm", "dpm-sde"), (3, 4, 5, 6, 8)
GUIDANCE = {DIGITS: (1.0,), ICONS: (1.0,), MINIATURE: (1.0, 3.0, 5.0)}
ALONE, EVERY, PACKAGE = "Dash alone", "every line", "no first line"


def images(of: Subject, plan: Plan, variant: str, count: int) -> Tensor:
    """`[count, c, h, w]` in [-1, 1]."""
    table = SolverTable.for_calls(of.scheduler, len(plan)).with_range(of.known["clean_range"])
    table = table.for_plan(plan)
    if variant == EVERY:
        rows = table.rows.clone()
        rows[:, Column.SLOPE] = torch.tensor(slopes(plan, table.places, noisy=False))
        table = replace(table, rows=rows)
    return of.pictures(drawn(of, plan, table, count)).clamp(-1, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--solvers", nargs="+", choices=SOLVERS, default=SOLVERS)
    parser.add_argument("--images", type=whole_batches, default=256)
    parser.add_argument("--out", type=Path, default=ROWS)
    options = parser.parse_args()
    rows = json.loads(options.out.read_text()) if options.out.exists() else []
    done = {
        tuple(r[key] for key in ("model", "solver", "guidance", "plan", "variant")) for r in rows
    }
    about = machine() | {"commit": commit(Path(__file__).parent)}
    for name, solver in product(options.models, options.solvers):
        see = zoo.digits_classifier().features if name == DIGITS else judge.load().features
        for guidance in GUIDANCE[name]:
            of, full = subject(name, solver, guidance), None
            for dash, variant, behind in product(DASH_STEPS, (ALONE, EVERY, PACKAGE), (0, 1, 2)):
                plan = Plan("-" * dash).with_free(behind)
                label = (name, solver, guidance, str(plan), variant)
                if (variant == ALONE) != (behind == 0) or label in done:
                    continue
                with torch.no_grad():
                    if full is None:
                        full = see(images(of, Plan("-" * FULL), ALONE, options.images))
                    seen = see(images(of, plan, variant, options.images))
                row = {"bench": "noisy lines", "model": name, "solver": solver, "plan": str(plan)}
                row |= {"guidance": guidance, "variant": variant, "cost_lsd": dash}
                row |= {"images": options.images, "value": score(seen, full)}
                row |= {"high": upper_end(seen, full), "unit": f"score to {FULL} Dash steps"}
                rows.append(row | about | {"date": now()[:10]})
                write_rows(options.out, rows)
                print(*label, f"{row['value']:.3g}", flush=True)


if __name__ == "__main__":
    main()
