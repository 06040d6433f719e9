"""Quality at equal time on the bundled digits: Morse, free steps, and Dash with fewer steps.

    python benchmarks/quality.py --out benchmarks/results/quality.json

First the latencies of a Dash and of a Dot step are measured at each batch size (the machine should
be quiet then). They say what budgets buy there, by the table that `plans.py` has made from other
seeds. Then each plan is sampled once, in whatever batches are fast, and compared with the real
digits by the Frechet distance in the features of the bundled classifier, and with the full run's
images of the same seeds. A run that was stopped goes on where it was, plan by plan: finished rows
lie in `<out>.partial/`, which may be deleted after.

Printed at the end for each batch size: all points, and the speed-ups at equal quality over the same
sampler, over the best sampler and over free steps, also where they are no gain.
"""

import argparse
import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from morse_engine.dot.fingerprint import fingerprint
from morse_engine.evaluation import figures, verdict
from morse_engine.evaluation.experiment import Experiment, Point
from morse_engine.evaluation.frechet import Frechet
from morse_engine.evaluation.partial import Partial
from morse_engine.evaluation.subject import Subject
from morse_engine.evaluation.verdict import DASH, LINE, MORSE, REUSE, RIVAL
from morse_engine.runtime.models import Models
from morse_engine.runtime.speed import Speed
from morse_engine.sampling import schedulers
from morse_engine.sampling.solver import SolverTable
from morse_engine.system.files import write_rows
from morse_engine.system.machine import commit, machine

# Of the images that others are compared with.
FULL_STEPS = {"ddim": 30, "dpm": 20, "unipc": 20, "ddpm": 30, "dpm-sde": 30}
FULL_STEPS |= {"euler-ancestral": 30, "vp-sde": 50}
# Dash alone, and with as many steps as each budget, where a gain of 1.0x would be.
STEPS = (3, 4, 5, 6, 8, 10, 12, 20)
RIVALS_UP_TO = 6  # LSD; of the line in z and of reuse
REPEATS = 40  # of each step, to measure N
OUT = Path("benchmarks/results/quality.json")


@dataclass
class Bench:
    """The models, the solvers (name -> diffusers scheduler) and the yardstick of a run."""

    model: str
    models: Models
    schedulers: dict
    frechet: Frechet
    shape: tuple[int, int, int]
    dash: str  # fingerprints: of Dash and of the yardstick
    dot: str


def digits_bench() -> Bench:
    """The bundled digit models, on the GPU if there is one."""
    from morse_engine import zoo
    from morse_engine.zoo import digits

    device = "cuda" if torch.cuda.is_available() else "cpu"
    unet = zoo.digits_dash().to(device)
    dot = zoo.digits_dot(unet)
    classifier = zoo.digits_classifier().to(device)
    real, _ = digits.images("train")
    named = [name for name in FULL_STEPS if name != "vp-sde"]
    # The VP SDE's noise is in continuous time what the digits' betas are in 1,000 steps.
    made = {name: zoo.digits_scheduler(name) for name in named}
    made["vp-sde"] = schedulers.make("vp-sde", {"beta_min": 0.1, "beta_max": 20.0})
    return Bench(
        model="handwritten digits 32 x 32",
        models=Models(unet, dot, clean_range=(-1, 1)),
        schedulers=made,
        frechet=Frechet(classifier, real),
        shape=tuple(real.shape[1:]),
        dash=f"{fingerprint(unet)[:12]}-{fingerprint(classifier)[:12]}",
        dot=fingerprint(dot)[:12],
    )


def experiments(bench: Bench, args: argparse.Namespace, partial: Partial) -> list[Experiment]:
    """One for each solver; those that add noise have no full run to be compared with."""
    about = machine() | {"commit": commit(Path(__file__).parent)}
    made = []
    for solver in args.solvers:
        scheduler, full = bench.schedulers[solver], FULL_STEPS[solver]
        if SolverTable.for_calls(scheduler, 4).uses_noise:
            full = None
        made.append(
            Experiment(
                Subject(bench.model, bench.models, bench.shape, scheduler), bench.frechet,
                solver=solver, num_images=args.images,
                batch_size=args.batch_size, full_steps=full, num_compared=args.compared,
                dot_name=bench.dot, about=about, partial=partial,
            )
        )  # fmt: skip
    return made


def speeds(
    experiment: Experiment, bench: Bench, args: argparse.Namespace, console: Console
) -> dict[int, Speed]:
    """The latencies at each batch size, measured when the run was begun."""
    found = {}
    for batch_size in args.batches:
        kept = Partial(args.out.with_suffix(".partial") / f"batch-{batch_size}")
        device = str(experiment.subject.device)

        def measure(batch_size: int = batch_size, device: str = device) -> dict:
            load, cores = os.getloadavg()[0], os.cpu_count() or 1
            if load > 0.3 * cores and device == "cpu":
                console.print(
                    f"[bold]busy machine[/]: load {load:.1f} on {cores} cores, times will be off"
                )
            experiment.timed_at = batch_size
            return asdict(experiment.measure(REPEATS)) | {"load": load}

        settings = kept.settings({"models": f"{bench.dash}-{bench.dot}", "device": device}, measure)
        found[batch_size] = speed = Speed(**{f.name: settings[f.name] for f in fields(Speed)})
        low, high = speed.spreads["dot_speed"]
        console.print(
            f"batch {batch_size}: a Dash step {speed.lsd_ms:.2f} ms, a Dot step {speed.dot_ms:.2f} "
            f"ms, N = {speed.dot_speed:.2f} ({low:.2f} .. {high:.2f})"
        )
    return found


def work_of(
    experiment: Experiment, at: dict[int, Speed], args: argparse.Namespace
) -> list[tuple[int, Point]]:
    """(batch size whose latencies are meant, point), each once; set by set."""
    steps = args.steps or [*STEPS, *args.budgets, *filter(None, [experiment.full_steps])]
    work: list[tuple[int, Point]] = []
    for batch_size, speed in at.items():
        experiment.speed = speed
        rivals = (RIVAL, LINE, REUSE) if args.functions else (RIVAL,)
        points = experiment.points(
            steps,
            args.budgets,
            sets=args.sets,
            rivals=rivals,
            rivals_up_to={LINE: RIVALS_UP_TO, REUSE: RIVALS_UP_TO},
        )
        known = {point for _, point in work}
        work += [(batch_size, p) for p in points if p.variant == MORSE or p not in known]
    return sorted(work, key=lambda pair: (pair[1].set, pair[1].variant != DASH))


def run(made: list[Experiment], at: dict[int, Speed], args: argparse.Namespace) -> list[dict]:
    """The rows of all points, those of earlier runs among them."""
    work = [(experiment, *pair) for experiment in made for pair in work_of(experiment, at, args)]
    work.sort(key=lambda job: job[2].set)
    rows, columns = [], (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn()) as bar:
        total = sum(point.cost_lsd * experiment.num_images for experiment, _, point in work)
        task = bar.add_task("", total=total)
        for experiment, batch_size, point in work:
            name = f"{experiment.solver}, set {point.set}: {point.variant}, {point.budget_lsd} LSD"
            bar.update(task, description=name)
            experiment.timed_at, experiment.speed = batch_size, at[batch_size]
            rows.append(experiment.row(point, lambda cost: bar.advance(task, cost)))
    return rows


def report(rows: list[dict], console: Console) -> None:
    """Print the points (means over the sets), and the speed-ups also where they are no gain."""
    for batch_size in dict.fromkeys(row["batch_size"] for row in rows if row["variant"] == MORSE):
        for solver in dict.fromkeys(row["solver"] for row in rows):
            every = verdict.at_batch(rows, batch_size)
            mine = [row for row in every if row["solver"] == solver]
            if not verdict.budgets(mine, MORSE):
                continue
            console.print(verdict.table(mine))
            console.print(verdict.verdict(mine), style="bold", highlight=False)
            console.print("Speed-up over Dash alone at equal Frechet distance (1.0x is no gain):")
            for variant in (MORSE, RIVAL, LINE, REUSE):
                if verdict.budgets(mine, variant):
                    console.print(f"  {verdict.NAMES[variant]}: {verdict.by_budget(mine, variant)}")
            console.print(f"  over free steps: {verdict.gain(mine, MORSE, over=RIVAL)}")
            if best := verdict.beside_the_best(every, solver):
                console.print(f"  over the best sampler alone: {verdict.gain(best, MORSE)}")


def main(arguments: list[str] | None = None, bench: Bench | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=1000, help="per set (default 1000)")
    parser.add_argument("--compared", type=int, default=250, help="of them, with the full run's")
    parser.add_argument("--sets", type=int, default=3, help="3 or more give an interval")
    parser.add_argument("--budgets", type=int, nargs="+", default=[3, 4, 5, 6, 7, 8])
    parser.add_argument("--steps", type=int, nargs="+", help="of Dash alone (default: up to all)")
    solvers = list(FULL_STEPS)
    parser.add_argument("--solvers", nargs="+", choices=solvers, default=solvers)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 100], help="N is theirs")
    parser.add_argument("--batch-size", type=int, default=25, help="of sampling")
    parser.add_argument("--functions", action="store_true", help="also the line in z, and reuse")
    parser.add_argument("--out", type=Path, default=OUT, help=f"the .json file of the rows ({OUT})")
    args = parser.parse_args(arguments)
    if args.sets < 1 or min(args.budgets) < 1 or len(set(args.budgets)) < len(args.budgets):
        parser.error("--sets and --budgets have to be at least 1, and the budgets different")

    console, bench = Console(), bench or digits_bench()
    partial = Partial(args.out.with_suffix(".partial"))
    partial.settings({"models": bench.dash}, dict)
    made = experiments(bench, args, partial)
    rows = run(made, speeds(made[0], bench, args, console), args)
    before = json.loads(args.out.read_text()) if args.out.exists() else []
    kept = [r for r in before if r["bench"] == "quality" and r["solver"] not in args.solvers]
    rows = sorted(kept + rows, key=lambda row: solvers.index(row["solver"]))
    write_rows(args.out, rows + verdict.speedup_rows(rows))
    report(rows, console)
    # Distances of fewer images are biased, and would lie beside the others.
    most = max(row["images"] for row in rows)
    first = [r for r in verdict.at_batch(rows, args.batches[0]) if r["images"] == most]
    for suffix in (".png", ".svg"):
        figures.quality_plot(first, args.out.with_suffix(suffix))
        console.print(f"wrote {args.out.with_suffix(suffix)}")
    return rows


if __name__ == "__main__":
    main()
