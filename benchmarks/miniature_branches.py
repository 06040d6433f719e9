"""A Dot of each branch of the guidance beside the guided one, on the miniature.

    python -m morse_engine.zoo.miniature.dot --per-branch --steps 1500 --out runs/miniature
    python benchmarks/miniature_branches.py --dot runs/miniature/dot-branches/dot

The bundled Dot corrects the guided estimate, in one pass a step. A Dot of each branch corrects the
two that it is made of, in two passes of one batch, and the guidance scale multiplies its errors.
The same plans with each, the N of each measured in turns (the machine should be quiet), and rms to
50 Dash steps of the same seeds, with intervals of a bootstrap over the pictures.
"""

import argparse
from pathlib import Path

from fidelity import FIRST_SEED, FULL, RESULTS
from torch import Tensor

from morse_engine import Dot, Plan, zoo
from morse_engine.evaluation.bootstrap import Bootstrap
from morse_engine.evaluation.experiment import Experiment, Point
from morse_engine.evaluation.paired import Paired, rms
from morse_engine.evaluation.prompted import Prompted
from morse_engine.evaluation.verdict import DASH, MORSE, RIVAL
from morse_engine.integrations.latents import range_of
from morse_engine.runtime.speed import Speed
from morse_engine.sampling import schedulers
from morse_engine.system.files import write_rows
from morse_engine.system.machine import commit, machine, now
from morse_engine.zoo.miniature import captions, judge

SCALES, BATCHES = (3.0, 5.0), (1, 16)
WITH_DOT = [Plan("-." * 4), Plan("-.." * 3), Plan("-:.:" * 3)]
WITHOUT = {
    DASH: [Plan.spread(n, 0) for n in (3, 4, 5, 6)],
    RIVAL: [Plan("-:" * n) for n in (3, 4, 5, 6)],
}
GUIDED, BRANCHES = "guided", "of each branch"


def subject(folder: Path | None, scale: float) -> Prompted:
    """The miniature with the Dot in a folder, or the bundled one."""
    pipe = zoo.miniature_pipeline()
    pipe.scheduler = schedulers.make("ddim", pipe.scheduler.config)
    dot = zoo.miniature_dot(pipe.unet) if folder is None else Dot.from_pretrained(folder, pipe.unet)
    return Prompted(
        *("miniature Stable Diffusion 64 x 64", pipe, dot, captions.coarse()),
        guidance_scale=scale, latents=range_of(pipe),
    )  # fmt: skip


def drawn(model: Prompted, plan: Plan, images: int) -> Tensor:
    """`[n, 3, 64, 64]`, the pictures of a plan."""
    bench = Experiment(
        model, Paired(judge.load()), solver="ddim", num_images=images, batch_size=32,
        seed=FIRST_SEED, full_steps=FULL, judge=None,
    )  # fmt: skip
    return bench.sample(Point(MORSE, plan, len(plan), len(plan)), images)[0]


def rows(folder: Path, images: int) -> list[dict]:
    """A row for each plan with each Dot and guidance scale."""
    kinds, speeds, found = {GUIDED: None, BRANCHES: folder}, {}, []
    for kind, place in kinds.items():
        for size in BATCHES:
            speeds[kind, size] = measured = subject(place, SCALES[0]).measure(size, 40)
            print(f"{kind}, batch {size}: N = {measured.dot_speed:.2f}", flush=True)
    for scale in SCALES:
        models = {kind: subject(place, scale) for kind, place in kinds.items()}
        full, draws = drawn(models[GUIDED], Plan.spread(FULL, 0), images), Bootstrap(images)
        work = [(kind, GUIDED, plan) for kind, plans in WITHOUT.items() for plan in plans]
        work += [(f"Dot, {kind}", kind, plan) for kind in kinds for plan in WITH_DOT]
        for variant, kind, plan in work:
            mean, low, high = draws.interval(rms(drawn(models[kind], plan, images), full))
            row = {"bench": "miniature branches", "solver": "ddim", "guidance": scale}
            row |= {"variant": variant, "plan": str(plan), "images": images, "value": mean}
            row |= {"low": low, "high": high, "unit": f"rms to {FULL} Dash steps"}
            for size in BATCHES:
                row |= costs(plan, speeds[kind, size], size)
            found.append(row)
            print(
                f"{scale:g}, {variant}, {plan}: rms {mean:.4f} ({low:.4f} .. {high:.4f})",
                flush=True,
            )
    about = {**machine(), "commit": commit(Path(__file__).parent), "date": now()[:10]}
    return [row | about for row in found]


def costs(plan: Plan, speed: Speed, size: int) -> dict:
    """What a plan costs at a batch size, in LSD."""
    assert speed.dot_speed is not None
    return {f"lsd_at_{size}": plan.lsd(speed.dot_speed), f"dot_speed_at_{size}": speed.dot_speed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dot", type=Path, required=True, help="the Dot of each branch")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--rows", type=Path, default=RESULTS / "miniature-branches.json")
    options = parser.parse_args()
    write_rows(options.rows, rows(options.dot, options.images))


if __name__ == "__main__":
    main()
