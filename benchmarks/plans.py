"""The plans that budgets buy, ranked on the bundled digits: the table that ships with the package.

    python benchmarks/plans.py

The candidates of `evaluation/survey.py`, at the speeds and budgets named, are sampled from 64
seeds, of solvers that add noise those without Dot steps from 256, and scored by the distance to the
full run's images (`evaluation/score.py`) in the features of the classifier of digits; the upper end
of its interval, which a search takes, is beside it. Rows go to `results/plans.json`, and
`morse_engine/sampling/plans.json` is made of them. Images are kept in `<out>.partial/`, so a run
that was stopped goes on where it was, and one with other plans has only those to sample. Solvers
that are not named keep their rows.

Printed at the end: how well these scores, and those of features that need no training, rank the
plans that `quality.py` has compared with real images.
"""

import argparse
import json
from pathlib import Path

from quality import FULL_STEPS, Bench, digits_bench
from rich.console import Console
from rich.progress import track

from morse_engine.evaluation.many import sample_many
from morse_engine.evaluation.partial import Partial
from morse_engine.evaluation.score import Pyramid, score, upper_end
from morse_engine.evaluation.search import IMAGES, NOISY_IMAGES, SEED
from morse_engine.evaluation.survey import candidates
from morse_engine.evaluation.verdict import LINE, REUSE
from morse_engine.sampling import budget
from morse_engine.sampling.budget import Ranking
from morse_engine.sampling.plan import DASH, DOT, FREE, Plan
from morse_engine.sampling.solver import SolverTable
from morse_engine.system.files import write_rows
from morse_engine.system.machine import commit, machine, now

OUT = Path("benchmarks/results/plans.json")
QUALITY = Path("benchmarks/results/quality.json")

ALONE = (10, 12, 15, 20)  # Dash steps, for budgets beyond the candidates'


def rows_of(bench: Bench, solver: str, args: argparse.Namespace, partial: Partial) -> list[dict]:
    """A row for each candidate."""
    scheduler, full = bench.schedulers[solver], Plan(DASH * FULL_STEPS[solver])
    noisy = SolverTable.for_calls(scheduler, len(full)).uses_noise
    count = args.images or (NOISY_IMAGES if noisy else IMAGES)
    dot_speeds = [] if noisy else args.speeds
    see = {"classifier": bench.frechet.extractor.features, "pyramid": Pyramid(bench.shape[0])}

    def described(plan: Plan) -> dict:
        def make():
            table = SolverTable.for_calls(scheduler, len(plan))
            if bench.models.clean_range is not None:
                table = table.with_range(bench.models.clean_range)
            models, seeds = bench.models, range(SEED, SEED + count)
            return sample_many(models.dash, models.dot, plan, table, seeds, bench.shape, 16)

        # A Dot that was trained anew makes other images.
        made_by = bench.dot if plan.num_dot else "dash"
        letters = str(plan).translate(str.maketrans({DASH: "a", DOT: "o", FREE: "f"}))
        images = partial.images(f"{solver}-{count}-{made_by}-{letters}", make)
        shown = images.float().clamp(-1, 1)
        return {name: features(shown).detach() for name, features in see.items()}

    every = [p for lsd in args.budgets for n in (None, *dot_speeds) for p in candidates(lsd, n)]
    if args.dots is not None and not noisy:
        every = [p for p in every if not p.num_dot] + [
            Plan(morse) for morse in args.dots.split(",")
        ]
    every += [Plan(DASH * n) for n in ALONE] + [full]
    plans = [p for p in dict.fromkeys(every) if budget.possible(p, scheduler, (-1, 1))]
    reference, about, found = described(full), machine(), []
    for plan in track(plans, description=f"{solver}, {len(plans)} plans"):
        mine = described(plan)
        scores = {name: score(mine[name], reference[name]) for name in see}
        row = {"bench": "plan score", "model": bench.model, "solver": solver, "plan": str(plan)}
        row |= {"images": count, "first_seed": SEED, "full_steps": len(full)}
        row |= {"unit": "distance to the full run", "value": scores["classifier"]}
        row |= {"by_pyramid": scores["pyramid"], "dot": bench.dot}
        row |= {"upper_end": upper_end(mine["classifier"], reference["classifier"])}
        row |= {"budgets": args.budgets, "dot_speeds": dot_speeds}
        keys = ("cpu", "gpu", "torch")
        row |= {key: about[key] for key in keys} | {"commit": commit(budget.TABLE), "date": now()}
        found.append(row)
    return found


def table(rows: list[dict], folder: Path) -> None:
    """Write the rankings that the rows say."""
    rankings = {}
    for solver in dict.fromkeys(row["solver"] for row in rows):
        mine = [row for row in rows if row["solver"] == solver]
        scores = {Plan(row["plan"]): float(f"{row['value']:.3g}") for row in mine}
        lsd, speeds = mine[0]["budgets"], mine[0]["dot_speeds"]
        dots = (min(speeds), max(speeds)) if speeds else None
        rankings[solver] = Ranking(scores, tuple(sorted(lsd)), dots)
    budget.write(folder, rankings)


def agreement(rows: list[dict], quality: list[dict], console: Console) -> None:
    """Print how well the scores rank plans by their Frechet distance to real images."""
    from scipy.stats import spearmanr

    for solver in dict.fromkeys(row["solver"] for row in rows):
        distances: dict[str, list[float]] = {}
        for row in quality:
            functions = row["bench"] != "quality" or row["variant"] in (LINE, REUSE)
            if row["solver"] == solver and not functions:
                distances.setdefault(row["plan"], []).append(row["value"])
        both = [row for row in rows if row["solver"] == solver and row["plan"] in distances]
        if len(both) < 3:
            continue
        real = [sum(distances[row["plan"]]) / len(distances[row["plan"]]) for row in both]
        found = [spearmanr([row[by] for row in both], real)[0] for by in ("value", "by_pyramid")]
        console.print(
            f"{solver}: rank correlation with the Frechet distance over {len(both)} plans: "
            f"{found[0]:.2f} by the classifier, {found[1]:.2f} by the pyramid"
        )


def main(arguments: list[str] | None = None, bench: Bench | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, help="seeds of a plan")
    parser.add_argument("--budgets", type=int, nargs="+", default=[2, 3, 4, 5, 6, 7, 8])
    parser.add_argument("--speeds", type=float, nargs="*", default=[2, 3.5, 7], help="N")
    parser.add_argument("--dots", help="of the plans with Dot steps these alone, -.-.,-..-..")
    parser.add_argument("--solvers", nargs="*", choices=list(FULL_STEPS), default=list(FULL_STEPS))
    parser.add_argument("--out", type=Path, default=OUT, help=f"the .json file of the rows ({OUT})")
    parser.add_argument("--table", type=Path, default=budget.TABLE, help="the folder of the table")
    args = parser.parse_args(arguments)

    partial = Partial(args.out.with_suffix(".partial"))
    rows = json.loads(args.out.read_text()) if args.out.exists() else []
    bench = bench or digits_bench() if args.solvers else None
    for solver in args.solvers:
        rows = [row for row in rows if row["solver"] != solver]
        rows += rows_of(bench, solver, args, partial)
        write_rows(args.out, rows)
    table(rows, args.table)
    quality = json.loads(QUALITY.read_text()) if QUALITY.exists() else []
    agreement(rows, quality, Console())
    return rows


if __name__ == "__main__":
    main()
