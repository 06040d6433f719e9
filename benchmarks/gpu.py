"""What the engine costs and gains on this GPU: `make gpu`, or `python benchmarks/gpu.py --help`.

Jobs are done in order of importance until the time is over, in a process of their own. Each row is
written when it is measured: the file is a list of objects with the keys of `rows.KEYS`. A job that
is lost while it tries the one-launch loop takes that from the later ones. Other loads on the GPU or
the host spoil the times.
"""

import argparse
import functools
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import isolate
import rows as table
import summary
from paper_models import MODELS

from morse_engine.system.files import write_rows
from morse_engine.system.machine import cuda_missing

OUT = Path(__file__).parent / "results" / "gpu.json"
BENCHES = ("launch", "loop", "kernels", "compiled")


@dataclass(frozen=True)
class Job:
    """One part of the benchmark.

    Attributes:
        needs: seconds without which it is not begun; a guess that no run has confirmed yet.
        limit: seconds after which it is stopped; the rows that it has by then stay.
        no_device: the one-launch loop is left out.
    """

    bench: str
    model: str = "-"
    batch: int = 1
    needs: float = 10
    limit: float = 90
    no_device: bool = False

    def __str__(self) -> str:
        return self.bench if self.model == "-" else f"{self.bench} {self.model} batch {self.batch}"


# By importance.
JOBS = (
    Job("launch", needs=10, limit=60),
    Job("loop", "cifar10", 1, needs=20),
    Job("loop", "church", 8, needs=20),
    Job("kernels", needs=20, limit=75),
    Job("loop", "sd", 1, needs=15),
    Job("compiled", "cifar10", 1, needs=45, limit=120),
    Job("loop", "church", 1, needs=15),
    Job("loop", "cifar10", 8, needs=15),
    Job("loop", "celeba", 1, needs=15),
    Job("loop", "sdxl", 1, needs=25),
    Job("loop", "celeba", 8, needs=15),
    Job("loop", "sd", 8, needs=15),
    Job("compiled", "church", 8, needs=60, limit=150),
    Job("compiled", "sd", 1, needs=60, limit=150),
    Job("loop", "sdxl", 8, needs=35, limit=120),
    Job("compiled", "cifar10", 8, needs=45, limit=120),
    Job("compiled", "celeba", 1, needs=60, limit=150),
    Job("compiled", "church", 1, needs=60, limit=150),
    Job("compiled", "sdxl", 1, needs=90, limit=240),
    Job("compiled", "celeba", 8, needs=60, limit=150),
    Job("compiled", "sd", 8, needs=60, limit=150),
    Job("compiled", "sdxl", 8, needs=90, limit=240),
)


def jobs_for(
    device: str, models: list[str], benches: list[str] | None, batches: list[int]
) -> list[Job]:
    """The jobs that are wanted; without a GPU the loop alone."""
    benches = benches or (["loop"] if device == "cpu" else list(BENCHES))
    known = list(JOBS) + [Job("loop", "tiny", batch, needs=0) for batch in (1, 8)]
    return [
        job
        for job in known
        if job.bench in benches
        and (job.model == "-" or (job.model in models and job.batch in batches))
    ]


def do(job: Job, emit: Callable[[dict], None], device: str) -> None:
    """Do a job, here and now; what fails in it becomes a note.

    Raises:
        rows.Broken: the GPU does not answer any more.
    """
    import torch

    here = torch.device(device)
    out = table.Out(emit, job.model, job.batch, device, job.no_device)
    emit({"about": table.conditions(device)})
    with out.case(job.bench):
        if job.bench == "launch":
            import layouts

            layouts.measure(out, here)
        elif job.bench == "kernels":
            import kernel_times

            kernel_times.measure(out, 0.8 * job.limit)
        else:
            import compiled
            import loop

            {"loop": loop, "compiled": compiled}[job.bench].measure(
                out, MODELS[job.model], job.batch, here
            )
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()
    if device != "cpu":
        table.clean_up()


class Here:
    """Does jobs in this process, where nothing can hang: without a GPU."""

    def __init__(self, do: Callable[[Job, Callable[[dict], None]], None]):
        self.do = do

    def run(self, job: Job, seconds: float) -> Iterator[dict]:
        messages: list[dict] = []
        self.do(job, messages.append)
        yield from messages

    def stop(self) -> None:
        pass


@dataclass
class Found:
    """What a benchmark has so far.

    Attributes:
        skipped: names of jobs that there was no time for.
        no_device: the one-launch loop is left out from here on.
    """

    out: Path
    commit: str | None = None
    no_device: bool = False
    rows: list[dict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        self.notes.append(text)
        print(f"   {text}", flush=True)

    def write(self) -> None:
        write_rows(self.out, self.rows)


def benchmark(jobs: list[Job], runner, minutes: float, found: Found) -> None:
    """Do the jobs; an interrupt ends them, and what is found by then stays."""
    end = time.monotonic() + 60 * minutes
    found.out.parent.mkdir(parents=True, exist_ok=True)
    found.write()  # a path that cannot be written to is found now
    try:
        for job in jobs:
            left = end - time.monotonic()
            if left < job.needs:
                found.skipped.append(f"{job} ({left:.0f} s left, needs about {job.needs:.0f})")
                continue
            started = time.monotonic()
            limit = min(job.limit, left)
            take(replace(job, limit=limit, no_device=found.no_device), runner, found)
            print(f"{job}: {time.monotonic() - started:.0f} s, {len(found.rows)} rows", flush=True)
    except KeyboardInterrupt:
        found.note("interrupted: the jobs behind this are missing")
    finally:
        runner.stop()


def take(job: Job, runner, found: Found) -> None:
    """Have a job done, and add what it says to what is found."""
    about, doing = dict.fromkeys(table.CONDITIONS), ""
    try:
        for message in runner.run(job, job.limit):
            if "about" in message:
                about = message["about"]
                about["commit"] = about["commit"] or found.commit
            elif "doing" in message:
                doing = message["doing"]
            elif "row" in message:
                found.rows.append(message["row"] | about)
                found.write()
            else:
                found.note(message["note"])
    except isolate.Lost as error:
        found.note(f"{job}: {error}" + (f" in {doing}" if doing else ""))
        if doing == "device":
            found.no_device = True
            found.note("device: left out from here on")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    same = [f"{m.name} is the network of {m.same_as}" for m in MODELS.values() if m.same_as]
    names = [m.name for m in MODELS.values() if not m.same_as]
    parser.add_argument("--minutes", type=float, default=6.0, help="for all jobs (default 6)")
    parser.add_argument("--out", type=Path, default=OUT, help="the .json file of the rows")
    parser.add_argument("--device", default="cuda", help="cuda (default), or cpu to try the script")
    parser.add_argument(
        "--model", nargs="+", choices=names, help=f"default: all; {', '.join(same)}"
    )
    parser.add_argument("--batch", nargs="+", type=int, choices=(1, 8), default=[1, 8])
    parser.add_argument("--bench", nargs="+", choices=BENCHES, help="default: all")
    parser.add_argument(
        "--no-device", action="store_true", help="leave the one-launch loop out, as after a hang"
    )
    parser.add_argument("--commit", help="of the code, where this is no git checkout")
    args = parser.parse_args(arguments)
    cpu = args.device == "cpu"
    if not cpu and (missing := cuda_missing()):
        parser.error(missing)
    models = args.model or ([name for name in names if name != "tiny"] if not cpu else ["tiny"])
    jobs = jobs_for(args.device, models, args.bench, args.batch)
    runner = (Here if cpu else isolate.Worker)(functools.partial(do, device=args.device))
    found = Found(args.out, args.commit, args.no_device)
    benchmark(jobs, runner, args.minutes, found)
    notes = list(dict.fromkeys(found.notes))
    if not args.model and not cpu:
        notes += same
    print(summary.text(found.rows, notes, found.skipped, args.out))
    return int(not found.rows)


if __name__ == "__main__":
    sys.exit(main())
