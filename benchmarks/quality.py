"""Quality at equal time on the bundled digits: Morse, its free rivals, and Dash with fewer steps.

    python benchmarks/quality.py --out benchmarks/results/quality.json

First the latencies of a Dash and of a Dot step are measured (the machine should be quiet then), and
with them the cost of every plan in LSD. Then each plan is sampled from the same seeds and compared
with the real digits by the Frechet distance in the features of the bundled classifier. A run that
was stopped goes on where it was: finished rows lie in `<out>.partial/`, which may be deleted after.

Printed at the end: all points, and the speed-ups at equal quality, also where they are no gain.
"""

import argparse
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from morse_engine.dot.files import fingerprint
from morse_engine.evaluation import figures, verdict
from morse_engine.evaluation.experiment import Experiment
from morse_engine.evaluation.frechet import Frechet
from morse_engine.evaluation.partial import Partial
from morse_engine.evaluation.verdict import MORSE, REUSE, RIVAL
from morse_engine.runtime.models import Models
from morse_engine.runtime.speed import Speed
from morse_engine.system.files import write_rows
from morse_engine.system.machine import commit, machine

# The reference of rmse_to_full, and the last point of the curve of Dash alone.
FULL_STEPS = {"ddim": 30, "dpm": 20}
STEPS = (3, 4, 5, 6, 8, 10, 12, 20)
RIVALS_UP_TO = 6  # LSD; at larger budgets all variants are close to the full-step images
OUT = Path("benchmarks/results/quality.json")


@dataclass
class Bench:
    """The models, the solvers (name -> diffusers scheduler) and the yardstick of a run."""

    model: str
    models: Models
    schedulers: dict
    frechet: Frechet
    shape: tuple[int, int, int]
    fingerprint: str


def digits_bench() -> Bench:
    """The bundled digit models, on the GPU if there is one."""
    from morse_engine import zoo
    from morse_engine.zoo import digits

    device = "cuda" if torch.cuda.is_available() else "cpu"
    unet = zoo.digits_dash().to(device)
    dot = zoo.digits_dot(unet).merged()  # as compile() runs it
    classifier = zoo.digits_classifier().to(device)
    real, _ = digits.images("train")
    return Bench(
        model="handwritten digits 32 x 32",
        models=Models(unet, dot),
        schedulers={name: zoo.digits_scheduler(name) for name in FULL_STEPS},
        frechet=Frechet(classifier, real),
        shape=tuple(real.shape[1:]),
        fingerprint="-".join(fingerprint(m)[:12] for m in (unet, dot, classifier)),
    )


def experiments(bench: Bench, args: argparse.Namespace, console: Console) -> list[Experiment]:
    """One for each solver, all with the latencies that were measured when the run was begun."""
    partial = Partial(args.out.with_suffix(".partial"))
    about = machine() | {"commit": commit(Path(__file__).parent)}
    common = {"model": bench.model, "num_images": args.images, "batch_size": args.batch_size}
    made = [
        Experiment(
            *(bench.models, bench.shape, bench.schedulers[solver], bench.frechet),
            solver=solver, full_steps=FULL_STEPS[solver], about=about, partial=partial, **common,
        )
        for solver in args.solvers
    ]  # fmt: skip
    device = str(made[0].device)

    def measure() -> dict:
        load, cores = os.getloadavg()[0], os.cpu_count() or 1
        if load > 0.3 * cores and device == "cpu":
            console.print(
                f"[bold]busy machine[/]: load {load:.1f} on {cores} cores, times will be off"
            )
        return asdict(made[0].measure()) | {"load": load}

    wanted = {"images": args.images, "batch_size": args.batch_size, "models": bench.fingerprint}
    settings = partial.settings(wanted | {"device": device}, measure)
    speed = Speed(**{field.name: settings[field.name] for field in fields(Speed)})
    low, high = speed.spreads["dot_speed"]
    console.print(
        f"Dash step {speed.lsd_ms:.2f} ms, Dot step {speed.dot_ms:.2f} ms per batch of "
        f"{args.batch_size}: N = {speed.dot_speed:.2f} ({low:.2f} .. {high:.2f})"
    )
    for experiment in made:
        experiment.speed = speed
    return made


def run(made: list[Experiment], budgets: list[int], sets: int) -> list[dict]:
    """The rows of all points, those of earlier runs among them."""
    options = {"sets": sets, "rivals": (RIVAL, REUSE), "rivals_up_to": RIVALS_UP_TO}
    work = [
        (experiment, point)
        for experiment in made
        # Dash alone has as many steps as each budget too, where a gain of 1.0x would be.
        for point in experiment.points(
            [experiment.full_steps, *STEPS, *budgets], budgets, **options
        )
    ]
    rows, columns = [], (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn()) as bar:
        total = sum(point.cost_lsd * experiment.num_images for experiment, point in work)
        task = bar.add_task("", total=total)
        for experiment, point in work:
            name = f"{experiment.solver}, set {point.set}: {point.variant}, {point.budget_lsd} LSD"
            bar.update(task, description=name)
            rows.append(experiment.row(point, lambda cost: bar.advance(task, cost)))
    return rows


def report(rows: list[dict], console: Console) -> None:
    """Print the points (means over the sets), and the speed-ups also where they are no gain."""
    for solver in dict.fromkeys(row["solver"] for row in rows):
        mine = [row for row in rows if row["solver"] == solver]
        console.print(verdict.table(mine))
        console.print(verdict.verdict(mine), style="bold", highlight=False)
        console.print("Speed-up over Dash alone at equal Frechet distance (1.0x is no gain):")
        for variant in (MORSE, RIVAL, REUSE):
            if verdict.budgets(mine, variant):
                console.print(f"  {verdict.NAMES[variant]}: {verdict.by_budget(mine, variant)}")


def main(arguments: list[str] | None = None, bench: Bench | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=1000, help="per set (default 1000)")
    parser.add_argument("--sets", type=int, default=3, help="3 or more give an interval")
    parser.add_argument("--budgets", type=int, nargs="+", default=[4, 6, 8, 12, 20])
    parser.add_argument("--solvers", nargs="+", choices=list(FULL_STEPS), default=list(FULL_STEPS))
    parser.add_argument("--batch-size", type=int, default=50)
    parser.add_argument("--out", type=Path, default=OUT, help=f"the .json file of the rows ({OUT})")
    args = parser.parse_args(arguments)
    if args.sets < 1 or min(args.budgets) < 1 or len(set(args.budgets)) < len(args.budgets):
        parser.error("--sets and --budgets have to be at least 1, and the budgets different")

    console = Console()
    made = experiments(bench or digits_bench(), args, console)
    rows = run(made, args.budgets, args.sets)
    write_rows(args.out, rows + verdict.speedup_rows(rows))
    report(rows, console)
    for suffix in (".png", ".svg"):
        figures.quality_plot(rows, args.out.with_suffix(suffix))
        console.print(f"wrote {args.out.with_suffix(suffix)}")
    return rows


if __name__ == "__main__":
    main()
