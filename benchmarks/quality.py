"""Quality at equal time on the bundled digits: Morse, its free rivals, and Dash with fewer steps.

    python benchmarks/quality.py --out benchmarks/results/quality.json

First the latencies of a Dash and of a Dot step are measured (the machine should be quiet then), and
with them the cost of every plan in LSD. Then each plan is sampled from the same seeds and compared
with the real digits by the Frechet distance in the features of the bundled classifier. A run that
was stopped goes on where it was: finished rows lie in `<out>.partial/`, which may be deleted after.

Printed at the end: all points, and the speed-ups at equal quality, also where they are no gain.
"""

import argparse
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from torch import Tensor

from morse_engine import evaluation
from morse_engine.dot.files import fingerprint
from morse_engine.engine.sampler import Models
from morse_engine.evaluation import figures
from morse_engine.runtime.speed import measure_speed
from morse_engine.sampling.plan import Plan
from morse_engine.sampling.solver import SolverTable
from morse_engine.system.files import whole
from morse_engine.system.machine import machine

# The reference of rmse_to_full, and the last point of the curve of Dash alone.
FULL_STEPS = {"ddim": 30, "dpm": 20}
STEPS = {name: (3, 4, 5, 6, 8, 10, 12, 20) for name in ("ddim", "dpm")}
# Dot steps per Dash step from a budget in LSD on; chosen on 200 images of seeds not measured here.
# Near the best that a solver can do, more Dot steps bring nothing, but their errors add up.
DOTS_PER_DASH = {"ddim": {0: 2.5, 6: 4.0, 8: 7.5, 10: 1.5, 20: 0.75}, "dpm": {0: 1.0}}
RIVALS_UP_TO = 6  # LSD; at larger budgets all variants are close to the full-step images
OUT = Path("benchmarks/results/quality.json")
RIVALS = ("morse", "extrapolation", "reuse")


@dataclass(frozen=True)
class Job:
    """One plan, sampled from one set of seeds: one row of the result."""

    solver: str
    variant: str
    plan: str
    budget_lsd: int
    cost_lsd: float
    set: int


@dataclass
class Bench:
    """The models, the solvers (name -> diffusers scheduler) and the yardstick of a run."""

    model: str
    dash: Callable[..., Tensor]
    dot: Callable[..., Tensor]
    schedulers: dict
    frechet: evaluation.Frechet
    shape: tuple[int, int, int]
    fingerprint: str
    device: str = "cpu"


def digits_bench() -> Bench:
    """The bundled digit models, on the GPU if there is one."""
    from morse_engine import zoo
    from morse_engine.zoo import digits

    device = "cuda" if torch.cuda.is_available() else "cpu"
    unet = zoo.digits_dash().to(device)
    dot = zoo.digits_dot(unet).merged()  # as compile() runs it
    models, classifier = Models(unet, dot), zoo.digits_classifier().to(device)
    real, _ = digits.images("train")

    return Bench(
        model="handwritten digits 32 x 32",
        dash=models.dash,
        dot=models.dot,
        schedulers={name: zoo.digits_scheduler(name) for name in STEPS},
        frechet=evaluation.Frechet(classifier, real),
        shape=tuple(real.shape[1:]),
        fingerprint="-".join(fingerprint(m)[:12] for m in (unet, dot, classifier)),
        device=device,
    )


def about() -> dict:
    """The machine, the versions, the driver and the commit that the rows were made with."""

    def output(*command: str) -> str | None:
        try:
            return subprocess.check_output(
                command, text=True, stderr=subprocess.DEVNULL, cwd=Path(__file__).parent
            ).strip()
        except (OSError, subprocess.CalledProcessError):
            return None

    found, driver = machine(), None
    if found["gpu"]:
        driver = output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    commit = output("git", "rev-parse", "--short=12", "HEAD")
    if commit and output("git", "status", "--porcelain", "--untracked-files=no"):
        commit += "+changes"
    return found | {"driver": driver and driver.splitlines()[0], "commit": commit}


# -- what is to be done, and doing it ----------------------------------------------------------


def all_jobs(
    solvers: list[str], budgets: list[int], num_sets: int, dot_speed: float
) -> Iterator[Job]:
    """All jobs; in each (solver, set) the full-step reference comes first.

    Dash alone is also measured with as many steps as each budget, where a gain of 1.0x would be.
    """
    for solver in solvers:
        for k in range(num_sets):
            full = FULL_STEPS[solver]
            for n in (full, *sorted({*STEPS[solver], *budgets} - {full})):
                yield Job(solver, "dash only", "-" * n, n, n, k)
            for budget in budgets:
                ratio = [r for start, r in DOTS_PER_DASH[solver].items() if start <= budget][-1]
                plan = Plan.from_budget(budget, dot_speed, dots_per_dash=ratio)
                yield Job(solver, "morse", str(plan), budget, plan.lsd(dot_speed), k)
                if k == 0 and budget <= RIVALS_UP_TO:  # one set shows where the free rivals are
                    # Their Dots are charged nothing, so all of the budget goes into Dash steps.
                    free = Plan.spread(budget, 2 * budget)
                    for variant in ("extrapolation", "reuse"):
                        yield Job(solver, variant, str(free), budget, budget, k)


class Partial:
    """The finished part of a run: `settings.json`, `rows.jsonl` and the full-step images."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".gitignore").write_text("*\n")

    def settings(self, wanted: dict, measure: Callable[[], dict]) -> dict:
        """The settings of the run: `wanted` + `measure()` at first, what was written then later.

        Raises:
            RuntimeError: the rows that are there were made with other settings.
        """
        path = self.folder / "settings.json"
        if not path.exists():
            text = json.dumps(wanted | measure(), indent=2) + "\n"
            with whole(path) as new:
                new.write_text(text)
        found = json.loads(path.read_text())
        for name, value in wanted.items():
            if found[name] != value:
                raise RuntimeError(
                    f"{self.folder} was made with {name}={found[name]}, this run has {value}: "
                    "delete the folder or choose another --out"
                )
        return found

    def rows(self) -> list[dict]:
        """The rows that were written whole; the rest of a line that was not is removed."""
        path = self.folder / "rows.jsonl"
        if not path.exists():
            return []
        text = path.read_text()
        lines = text[: text.rfind("\n") + 1]
        if lines != text:
            with whole(path) as new:
                new.write_text(lines)
        return [json.loads(line) for line in lines.splitlines()]

    def add(self, row: dict) -> None:
        """Append a row at once."""
        with open(self.folder / "rows.jsonl", "a") as file:
            file.write(json.dumps(row) + "\n")

    def full_images(self, solver: str, k: int, make: Callable[[], Tensor]) -> Tensor:
        """The full-step images of a set, from the file or made now and written."""
        path = self.folder / f"full-{solver}-{k}.pt"
        if not path.exists():
            images = make()
            with whole(path) as new:
                torch.save(images, new)
            return images
        return torch.load(path, weights_only=True)


def sample_job(bench: Bench, job: Job, num_images: int, batch_size: int) -> Tensor:
    """The images of a job, `[num_images, C, H, W]` in [-1, 1] as they would be shown (clamped).

    Set k has the seeds 100000 k, 100000 k + 1, ...
    """
    plan = Plan(job.plan)
    table = SolverTable.for_calls(bench.schedulers[job.solver], len(plan))
    dash, dot = bench.dash, bench.dot
    if job.variant == "reuse":
        dot = evaluation.reuse
    elif job.variant == "extrapolation":
        dot = evaluation.extrapolate
    seeds = range(job.set * 100_000, job.set * 100_000 + num_images)
    images = evaluation.sample_many(
        dash, dot, plan, table, seeds, bench.shape, batch_size, device=bench.device
    )
    return images.clamp(-1, 1)


def run(bench: Bench, jobs: list[Job], partial: Partial, settings: dict) -> list[dict]:
    """Do the jobs that have no row yet; the rows of all jobs, in their order."""
    num_images, batch_size, done = settings["images"], settings["batch_size"], partial.rows()
    conditions = about()

    def evaluate(job: Job) -> dict:
        images = sample_job(bench, job, num_images, batch_size)
        n = FULL_STEPS[job.solver]
        full = Job(job.solver, "dash only", "-" * n, n, n, job.set)

        def make_full() -> Tensor:
            return images if job == full else sample_job(bench, full, num_images, batch_size)

        full_images = partial.full_images(job.solver, job.set, make_full)
        return {
            "bench": "quality",
            "model": bench.model,
            **asdict(job),
            "images": num_images,
            "unit": "Frechet distance",
            "value": bench.frechet.distance(images),
            "rmse_to_full": evaluation.rmse_to_full(images, full_images),
            "ms_per_image": job.cost_lsd * settings["lsd_ms"] / batch_size,
            **{name: settings[name] for name in ("batch_size", "lsd_ms", "dot_ms", "dot_speed")},
            **conditions,
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }

    rows = {Job(**{name: row[name] for name in Job.__dataclass_fields__}): row for row in done}
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    with Progress(*columns, TimeRemainingColumn()) as bar:
        task = bar.add_task("", total=sum(job.cost_lsd for job in jobs))
        for job in jobs:
            name = f"{job.solver}, set {job.set}: {job.variant}, {job.budget_lsd} LSD"
            bar.update(task, description=name)
            if job not in rows:
                rows[job] = evaluate(job)
                partial.add(rows[job])
            bar.advance(task, job.cost_lsd)
    return [rows[job] for job in jobs]


# -- the report --------------------------------------------------------------------------------


def curves(rows: list[dict], solver: str, variant: str) -> list[list[tuple[float, float]]]:
    """One curve of (cost in LSD, Frechet distance) per set."""
    mine = [r for r in rows if r["solver"] == solver and r["variant"] == variant]
    sets = sorted({r["set"] for r in mine})
    return [[(r["cost_lsd"], r["value"]) for r in mine if r["set"] == k] for k in sets]


def speedup_rows(rows: list[dict]) -> list[dict]:
    """The average speed-up of Morse and of its rivals with each solver, as rows."""
    result = []
    for solver in dict.fromkeys(r["solver"] for r in rows):
        for variant in RIVALS:
            mine = curves(rows, solver, variant)
            if not mine:
                continue
            baselines = curves(rows, solver, "dash only")[: len(mine)]
            gain = evaluation.speedup_over_sets(baselines, mine)
            budgets = [
                r["budget_lsd"]
                for r in rows
                if (r["solver"], r["variant"], r["set"]) == (solver, variant, rows[0]["set"])
            ]
            row = {"bench": "quality speed-up", "model": rows[0]["model"], "solver": solver}
            row |= {"variant": variant, "budgets": budgets, "sets": len(mine), "unit": "x"}
            row |= {"value": gain.mean, **asdict(gain)}
            row |= {name: rows[-1][name] for name in ("cpu", "gpu", "torch", "commit", "date")}
            result.append(row)
    return result


def verdict(row: dict) -> str:
    """In plain words, where there is a gain and where there is none."""
    if row["mean"] <= 1.0:
        text = "no gain: <= 1.0x on average"
    elif row["low"] is None:
        text = "gain on average; no interval (fewer than 3 sets)"
    elif row["low"] <= 1.0:
        text = "not certain: the interval includes 1.0x"
    else:
        text = "gain"
    none = [str(b) for b, r in zip(row["budgets"], row["per_budget"], strict=True) if r <= 1.0]
    return text + (f"; <= 1.0x at {', '.join(none)} LSD" if none else "")


def report(rows: list[dict], gains: list[dict], console: Console) -> None:
    """Print the points (means over the sets) and the speed-ups."""
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        group = row["solver"], row["variant"], row["plan"], row["budget_lsd"]
        groups.setdefault(group, []).append(row)
    for name in dict.fromkeys(row["solver"] for row in rows):
        table = Table(title=f"{rows[0]['model']}, {name}, {rows[0]['images']} images a point")
        table.caption = "means over the sets; budget, cost in LSD; rmse to the full-step images"
        table.add_column("variant", no_wrap=True)
        table.add_column("plan", overflow="fold")
        for column in ("budget", "cost", "Frechet", "sd", "rmse", "ms/image"):
            table.add_column(column, justify="right", no_wrap=True)
        for (solver, variant, plan, budget), same in groups.items():
            if solver != name:
                continue
            value, rmse, ms = (
                torch.tensor([row[column] for row in same], dtype=torch.float64)
                for column in ("value", "rmse_to_full", "ms_per_image")
            )
            numbers = f"{same[0]['cost_lsd']:.2f}", f"{value.mean():.4f}"
            numbers += (f"{value.std():.4f}" if len(same) > 1 else "-",)
            numbers += f"{rmse.mean():.4f}", f"{ms.mean():.2f}"
            plan = plan if len(plan) <= 24 else f"{plan[:12]}... ({len(plan)})"
            table.add_row(variant, plan, str(budget), *numbers)
        console.print(table)
    console.print("Speed-up over Dash alone at equal Frechet distance (1.0x is no gain):")
    for row in gains:
        names = evaluation.SpeedUp.__dataclass_fields__
        gain = evaluation.SpeedUp(**{name: row[name] for name in names})
        bounds = zip(row["lower_bounds"], row["upper_bounds"], strict=True)
        signs = [">= " if low else "<= " if high else "" for low, high in bounds]
        each = zip(row["budgets"], signs, row["per_budget"], strict=True)
        each = ", ".join(f"{sign}{ratio:.2f}x at {budget}" for budget, sign, ratio in each)
        console.print(f"[bold]{row['solver']}, {row['variant']}: {gain}[/] - {verdict(row)}")
        console.print(f"  by budget in LSD: {each}")


def main(arguments: list[str] | None = None, bench: Bench | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=1000, help="per set (default 1000)")
    parser.add_argument("--sets", type=int, default=3, help="3 or more give an interval")
    parser.add_argument("--budgets", type=int, nargs="+", default=[4, 6, 8, 12, 20])
    parser.add_argument("--solvers", nargs="+", choices=list(STEPS), default=list(STEPS))
    parser.add_argument("--batch-size", type=int, default=50)
    parser.add_argument("--out", type=Path, default=OUT, help=f"the .json file of the rows ({OUT})")
    args = parser.parse_args(arguments)
    if args.sets < 1 or min(args.budgets) < 1 or len(set(args.budgets)) < len(args.budgets):
        parser.error("--sets and --budgets have to be at least 1, and the budgets different")

    console, bench = Console(), bench or digits_bench()
    partial = Partial(args.out.with_suffix(".partial"))

    def measure() -> dict:
        load, cores = os.getloadavg()[0], os.cpu_count() or 1
        if load > 0.3 * cores and bench.device == "cpu":
            console.print(
                f"[bold]busy machine[/]: load {load:.1f} on {cores} cores, times will be off"
            )
        like = {"batch_size": args.batch_size, "device": bench.device}
        speed = measure_speed(bench.dash, bench.dot, bench.shape, **like)
        return asdict(speed) | {"load": load}

    wanted = {"images": args.images, "batch_size": args.batch_size, "models": bench.fingerprint}
    settings = partial.settings(wanted | {"device": bench.device}, measure)
    low, high = settings["spreads"]["dot_speed"]
    console.print(
        f"Dash step {settings['lsd_ms']:.2f} ms, Dot step {settings['dot_ms']:.2f} ms per batch of "
        f"{args.batch_size}: N = {settings['dot_speed']:.2f} ({low:.2f} .. {high:.2f})"
    )
    jobs = all_jobs(args.solvers, args.budgets, args.sets, settings["dot_speed"])
    rows = run(bench, list(jobs), partial, settings)
    gains = speedup_rows(rows)
    lines = ",\n".join(json.dumps(row) for row in rows + gains)
    with whole(args.out) as new:
        new.write_text(f"[\n{lines}\n]\n")
    report(rows, gains, console)
    for suffix in (".png", ".svg"):
        figures.quality_plot(rows, args.out.with_suffix(suffix))
        console.print(f"wrote {args.out.with_suffix(suffix)}")
    return rows


if __name__ == "__main__":
    main()
