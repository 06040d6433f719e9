"""How true the pictures of the bundled models stay: plans at equal time, by sampler and guidance.

    python benchmarks/fidelity.py --speed [--model icons]
    python benchmarks/fidelity.py [--samplers ddim dpm ...] [--guidance 1 3 5] [--images 128]
    python benchmarks/fidelity.py --model icons --samplers ddim dpm

The miniature Stable Diffusion with its Dot, asked with prompts that stand for many pictures; or the
icons of classes with theirs, which have no guidance. Each point is one plan with one sampler and
guidance, from the same seeds, and its picture of a seed is compared with that of 50 Dash steps of
the same sampler (`evaluation/nearness.py`; "value" is `evaluation/score.py`, over all pictures;
"to_real" is `judge.to_real`, of the icons as varied as Dash has learnt them). A sampler that adds
noise draws other noise in another number of steps, so only "value" says something of it.

What a budget buys is what `plan="auto"` takes, at the N of results/MODEL-speed.json. Intervals
are of a bootstrap over the pictures. Pictures are kept, so a run that was stopped goes on.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from morse_engine import zoo
from morse_engine.cli import demo_models
from morse_engine.dot.fingerprint import fingerprint
from morse_engine.evaluation import nearness, verdict
from morse_engine.evaluation.experiment import Experiment, Point
from morse_engine.evaluation.nearness import Near
from morse_engine.evaluation.paired import Paired
from morse_engine.evaluation.partial import Partial
from morse_engine.evaluation.prompted import Prompted
from morse_engine.evaluation.subject import Subject
from morse_engine.evaluation.verdict import DASH, MORSE, RIVAL
from morse_engine.integrations.latents import range_of
from morse_engine.runtime.speed import Speed
from morse_engine.sampling import schedulers
from morse_engine.sampling.plan import Plan
from morse_engine.sampling.solver import SolverTable
from morse_engine.system.files import write_rows
from morse_engine.system.images import eight_bits
from morse_engine.system.machine import commit, machine, now
from morse_engine.zoo import icons, miniature
from morse_engine.zoo.miniature import captions, data, judge

RESULTS = Path(__file__).parent / "results"
MINIATURE, ICONS = "miniature", "icons"
FULL, STEPS, BUDGETS = 50, (2, 3, 4, 5, 6, 8, 10, 12, 16, 20), (3, 4, 5, 6, 8)
BATCHES, FIRST_SEED = (1, 16), 900_000
SAMPLERS = ("ddim", "dpm", "dpm-karras", "ddpm", "dpm-sde", "euler-ancestral")
KARRAS = "-karras"
CLIPPED = "ddim-clipped"  # of the icons alone: as diffusers clips it


def subject_of(model: str, sampler: str, guidance: float) -> Subject:
    """A bundled model with a sampler; without guidance a guided Dot has nothing to correct."""
    karras = {"use_karras_sigmas": True} if sampler.endswith(KARRAS) else {}
    name = sampler.removesuffix(KARRAS)
    if model == ICONS:
        subject = demo_models.icons(torch.device("cpu")).subject
        made = zoo.digits_scheduler("ddim") if name == CLIPPED else zoo.icons_scheduler(name)
        subject.scheduler = type(made).from_config(made.config, **karras)
        return subject
    pipe = zoo.miniature_pipeline()
    made = schedulers.make(name, pipe.scheduler.config)
    pipe.scheduler = type(made).from_config(made.config, **karras)
    dot = zoo.miniature_dot(pipe.unet) if guidance > 1 else None
    return Prompted(
        *("miniature Stable Diffusion 64 x 64", pipe, dot, captions.coarse()),
        guidance_scale=guidance, latents=range_of(pipe),
    )  # fmt: skip


class Bench:
    """A model with one sampler and guidance scale, and what was drawn so far."""

    def __init__(self, model: str, sampler: str, guidance: float, images: int, partial: Partial):
        subject, told = subject_of(model, sampler, guidance), judge.load()
        self.experiment = Experiment(
            subject, Paired(told), solver=sampler, num_images=images, batch_size=32,
            seed=FIRST_SEED, full_steps=FULL, judge=told,
        )  # fmt: skip
        self.speeds = {row["batch_size"]: row for row in json.loads(speed_file(model).read_text())}
        self.judge, self.partial, self.guidance = told, partial, guidance
        self.real = icons.DASH if model == ICONS else miniature.JUDGE  # folders with real.json
        helper = subject.models.helper
        self.has_dot, self.dot = helper is not None, helper and fingerprint(helper)[:12]
        self.prompts = subject.prompts(range(FIRST_SEED, FIRST_SEED + images))
        self.full = self.pictures(Point(DASH, Plan.spread(FULL, 0), FULL, FULL))

    def pictures(self, point: Point) -> Tensor:
        """`[n, 3, 64, 64]` in [-1, 1], of 8 bits."""
        bench = self.experiment
        name = f"{bench.solver}_{self.guidance}_{point.plan}".replace(":", "f")
        if point.plan.num_dot:  # one that was trained anew draws other pictures
            name += f"_{self.dot}"

        def draw() -> Tensor:
            print(bench.solver, self.guidance, point.plan, flush=True)
            return eight_bits(bench.sample(point, bench.num_images)[0])

        return data.to_float(self.partial.images(name, draw))

    def points(self) -> Iterator[tuple[Point, dict]]:
        """All points with their labels; what Morse costs depends on the batch size."""
        bench = self.experiment
        for size in BATCHES if self.has_dot else BATCHES[:1]:
            kept = self.speeds[size]
            bench.timed_at = size
            bench.speed = Speed(kept["lsd_ms"], kept["dot_ms"], kept["dot_speed"])
            if not self.has_dot:
                bench.speed = Speed(kept["lsd_ms"], None, None)
            every = bench.points(STEPS, BUDGETS)
            for point in every if size == BATCHES[0] else filter(is_morse, every):
                if self.has_dot or not is_morse(point):
                    yield point, bench.labels(point)

    def rows(self) -> list[dict]:
        """Each point beside the full run, and the speed-ups."""
        bench, found = self.experiment, []
        noisy = SolverTable.for_calls(bench.subject.scheduler, 4).uses_noise
        about = {"bench": "fidelity", "solver": bench.solver, "guidance": self.guidance}
        about |= {"images": bench.num_images, "model": bench.subject.name}
        about |= {**machine(), "commit": commit(Path(__file__).parent), "date": now()[:10]}
        whole_run = Point(DASH, Plan.spread(FULL, 0), FULL, FULL)
        for point, labels in [*self.points(), (whole_run, bench.labels(whole_run))]:
            images = self.pictures(point)
            row = about | labels | {"unit": bench.yardstick.unit, "set": 0}
            row["value"] = bench.yardstick.distance(images, self.full)
            row["to_real"] = judge.to_real(self.judge.features(images).detach(), self.real)
            parts = images, self.full, bench.yardstick, self.judge, self.prompts
            found.append(Near.of(row, *parts))
        rows = [near.as_row() | {"bench": "fidelity"} for near in found]
        for row in rows if noisy else ():
            for name in nearness.MEASURES:
                for key in (name, f"{name}_low", f"{name}_high"):
                    del row[key]
        return rows + self.gains(found, about, noisy)

    def gains(self, found: list[Near], about: dict, noisy: bool) -> list[dict]:
        """Speed-ups by each measure, at each batch size."""
        gained = []
        kinds = ((RIVAL, DASH), (MORSE, DASH), (MORSE, RIVAL))[: 3 if self.has_dot else 1]
        below = [near for near in found if near.row["cost_lsd"] < FULL]
        for (variant, over), size in product(kinds, BATCHES):
            if variant == RIVAL and size != BATCHES[0]:
                continue
            mine = verdict.at_batch([near.row for near in below], size)
            by = {}
            for name in ("value", "to_real"):
                points = [row | {"value": row[name]} for row in mine]
                by[name] = verdict.gain(points, variant, over=over)
            for name in () if noisy else nearness.MEASURES:
                by[name] = nearness.gain(below, variant, name, size, over)
            labels = {"unit": "x", "variant": variant, "over": over, "batch_size": size}
            for name, gain in by.items():
                row = about | labels | {"by": name, "value": gain.mean, **asdict(gain)}
                gained.append(row | {"budgets": list(BUDGETS), "said": str(gain)})
        return gained


def is_morse(point: Point) -> bool:
    return point.variant == MORSE


def speed_file(model: str) -> Path:
    return RESULTS / f"{model}-speed.json"


def measure_speed(model: str) -> None:
    """N at each batch size, of the miniature with guidance, into results/MODEL-speed.json."""
    rows, guidance = [], None if model == ICONS else 3.0
    subject = subject_of(model, "ddim", 3.0)
    for size in BATCHES:
        speed = subject.measure(size, 40)
        row = {"bench": f"{model} speed", "batch_size": size, "guidance": guidance, "unit": "N"}
        about = {**machine(), "commit": commit(Path(__file__).parent), "date": now()[:10]}
        rows.append(row | {"value": speed.dot_speed, **asdict(speed), **about})
    write_rows(speed_file(model), rows)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=(MINIATURE, ICONS), default=MINIATURE)
    parser.add_argument("--speed", action="store_true", help="measure N anew, on a quiet machine")
    parser.add_argument(
        "--samplers", nargs="+", choices=(*SAMPLERS, CLIPPED), default=list(SAMPLERS)
    )
    parser.add_argument("--guidance", type=float, nargs="+", default=[3.0])
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--out", type=Path, help="default: results/fidelity.json or icons.json")
    options = parser.parse_args(arguments)
    model = options.model
    if options.speed:
        return measure_speed(model)
    out = options.out or RESULTS / ("icons.json" if model == ICONS else "fidelity.json")
    partial = Partial(out.with_suffix(".partial"))
    dash = subject_of(model, "ddim", 3.0).models.unet
    partial.settings({"images": options.images, "dash": fingerprint(dash)}, dict)
    rows = json.loads(out.read_text()) if out.exists() else []
    scales = [1.0] if model == ICONS else options.guidance
    if model == MINIATURE and CLIPPED in options.samplers:
        parser.error(f"{CLIPPED} is for --model {ICONS}")
    for sampler, guidance in product(options.samplers, scales):
        mine = {"solver": sampler, "guidance": guidance}
        rows = [row for row in rows if not mine.items() <= row.items()]
        rows += Bench(model, sampler, guidance, options.images, partial).rows()
        write_rows(out, rows)
    return None


if __name__ == "__main__":
    main()
