"""How true the miniature's pictures stay: plans at equal time, by sampler and guidance.

    python benchmarks/fidelity.py --speed
    python benchmarks/fidelity.py [--samplers ddim dpm ...] [--guidance 1 3 5] [--images 128]

The bundled miniature Stable Diffusion with its Dot, prompts that stand for many pictures. Each
point is one plan with one sampler and guidance, from the same seeds. Its picture of a seed is
compared with that of the full run, 50 Dash steps of the same sampler:

    value         `evaluation.score.score` in the features of the bundled judge, all pictures
    rms           of a picture's pixels, of a range of 1, the mean over the pictures
    unlike        1 - cosine of the two pictures in the judge's features, the mean
    to_real       `judge.to_real`: the distance to the icons that Dash was trained on
    prompt_score  cosine of picture and prompt in the judge's space, the mean; it needs no full run

A sampler that adds noise draws other noise in another number of steps: it has no rms and unlike.
What a budget buys at batch 1 and 16 is what `plan="auto"` takes, at the N of
results/miniature-speed.json. The 95 % intervals are of a bootstrap over the pictures, the same draw
for all points. A run that was stopped goes on where it was.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import morse_engine
from morse_engine import Dot, zoo
from morse_engine.dot.fingerprint import fingerprint
from morse_engine.evaluation.partial import Partial
from morse_engine.evaluation.score import score
from morse_engine.evaluation.speedup import speedup
from morse_engine.integrations.latents import range_of
from morse_engine.sampling import schedulers
from morse_engine.sampling.budget import choose
from morse_engine.sampling.solver import SolverTable
from morse_engine.system.files import write_rows
from morse_engine.system.images import eight_bits
from morse_engine.system.machine import commit, machine, now
from morse_engine.zoo.miniature import captions, data, judge

RESULTS = Path(__file__).parent / "results"
SPEED = RESULTS / "miniature-speed.json"
FULL, STEPS, BUDGETS = 50, (3, 4, 5, 6, 8, 10, 12, 16, 20), (3, 4, 5, 6, 8)
BATCHES = 1, 16  # N is theirs
BATCH, FIRST_SEED, DRAWS = 32, 900_000, 200
ALONE, FREE, MORSE = "dash only", "free steps", "morse"
SAMPLERS = {
    "ddim": {},
    "dpm": {},
    "dpm-karras": {"use_karras_sigmas": True},
    "ddpm": {},
    "dpm-sde": {},
    "euler-ancestral": {},
}


@dataclass(frozen=True)
class Point:
    """One plan with one sampler and guidance scale; `batch` is what the N of its cost is of."""

    sampler: str
    guidance: float
    variant: str
    plan: str
    budget: float
    cost: float
    batch: int = 0

    @property
    def made(self) -> tuple[str, float, str]:
        """What its pictures depend on."""
        return self.sampler, self.guidance, self.plan


class Bench:
    """The models, the prompts and what was made so far.

    Args:
        images: of a point.
        partial: keeps the pictures.
    """

    def __init__(self, images: int, partial: Partial):
        self.pipe, self.judge, self.partial = zoo.miniature_pipeline(), judge.load(), partial
        partial.settings({"images": images, "dash": fingerprint(self.pipe.unet)}, dict)
        texts = captions.coarse()
        self.texts = [texts[k % len(texts)] for k in range(images)]
        text, empty = self.pipe.encode_prompt(self.texts, "cpu", 1, True)
        self.text, self.empty = text, empty
        rows = json.loads(SPEED.read_text()) if SPEED.exists() else []
        self.speeds = {row["batch_size"]: row["value"] for row in rows}
        self._seen: dict[tuple, dict[str, Tensor]] = {}

    @cached_property
    def dot(self) -> Dot:
        return zoo.miniature_dot(self.pipe.unet)

    def scheduler(self, sampler: str) -> object:
        name = sampler.removesuffix("-karras")
        made = schedulers.make(name, self.pipe.scheduler.config)
        return type(made).from_config(made.config, **SAMPLERS[sampler])

    def bought(self, sampler: str, guidance: float, budget: float, batch: int) -> Point:
        """What a budget buys at a batch size; without the Dot, where that is 0."""
        known: dict[str, Any] = {"clean_range": range_of(self.pipe)}
        speed = self.speeds[batch] if batch else None
        if batch:
            known |= {"folder": self.dot.folder, "trained": self.dot.solvers}
        plan, _ = choose(budget, self.scheduler(sampler), speed, **known)
        cost = plan.num_dash if speed is None else plan.lsd(speed)
        return Point(sampler, guidance, MORSE if batch else FREE, str(plan), budget, cost, batch)

    @torch.no_grad()
    def pictures(self, point: Point) -> Tensor:
        """`[n, 3, 64, 64]` in [-1, 1]."""
        unet, guided = self.pipe.unet, point.guidance != 1
        sampler = morse_engine.compile(
            unet,
            self.dot if "." in point.plan else None,
            scheduler=self.scheduler(point.sampler),
            plan=point.plan,
            clean_range=range_of(self.pipe),
        )
        made = []
        for first in range(0, len(self.texts), BATCH):
            part = slice(first, first + BATCH)
            text, empty = self.text[part], self.empty[part]
            latents = sampler(
                batch_size=len(text),
                seed=FIRST_SEED + first,
                guidance_scale=point.guidance if guided else None,
                encoder_hidden_states=torch.cat([empty, text]) if guided else text,
            )
            made.append(self.pipe.vae.decode(latents / self.pipe.vae.config.scaling_factor).sample)
        return torch.cat(made).clamp(-1, 1)

    def seen(self, point: Point) -> dict[str, Tensor]:
        """The pictures of a point in 8 bits, made once, their features and prompt scores."""
        if point.made not in self._seen:
            name = "_".join(map(str, point.made)).replace(":", "f")
            pictures = self.partial.images(name, lambda: eight_bits(self.pictures(point)))
            shown = data.to_float(pictures)
            with torch.no_grad():
                features = self.judge.features(shown)
            prompt = self.judge.prompt_score(shown, self.texts)
            self._seen[point.made] = {"pictures": pictures, "features": features, "prompt": prompt}
        return self._seen[point.made]


def points(bench: Bench, sampler: str, guidance: float) -> Iterator[Point]:
    """All of one sampler and guidance, the full run first."""
    for n in (FULL, *STEPS):
        yield Point(sampler, guidance, ALONE, "-" * n, n, n)
    for budget in BUDGETS:
        # Without guidance a guided Dot has nothing to correct.
        for batch in (0, *BATCHES) if guidance != 1 else (0,):
            yield bench.bought(sampler, guidance, budget, batch)


def measure_speed(bench: Bench) -> None:
    """N at each batch size, with guidance, into results/miniature-speed.json."""
    sampler = morse_engine.compile(
        bench.pipe.unet, bench.dot, scheduler=bench.scheduler("ddim"), plan="-."
    )
    rows = []
    for batch in BATCHES:
        cond = torch.cat([bench.empty[:batch], bench.text[:batch]])
        speed = sampler.measure(batch, guidance_scale=3.0, encoder_hidden_states=cond)
        row = {"bench": "miniature speed", "batch_size": batch, "guidance": 3.0, "unit": "N"}
        rows.append(row | {"value": speed.dot_speed, **asdict(speed), **about()})
    write_rows(SPEED, rows)


def rows_of(bench: Bench, found: list[Point]) -> list[dict]:
    """The rows of one sampler and guidance, and the speed-ups between them."""
    full = bench.seen(found[0])
    noisy = SolverTable.for_calls(bench.scheduler(found[0].sampler), 4).uses_noise
    draws = torch.randint(
        len(bench.texts), (DRAWS, len(bench.texts)), generator=torch.Generator().manual_seed(0)
    )
    rows, curves = [], {}
    for point in found:
        seen = bench.seen(point)
        values = [score(seen["features"][draw], full["features"][draw]) for draw in draws]
        curves[point] = values
        row = {"bench": "fidelity", "solver": point.sampler, "guidance": point.guidance}
        row |= {"variant": point.variant, "plan": point.plan}
        row |= {"budget_lsd": point.budget, "cost_lsd": round(point.cost, 3)}
        row |= {"batch_size": point.batch, "images": len(bench.texts)}
        row |= {"unit": "distance to the full run"}
        row |= {"value": score(seen["features"], full["features"]), **band("value", values)}
        row |= {"to_real": judge.to_real(seen["features"]), **mean("prompt_score", seen["prompt"])}
        if not noisy:
            row |= mean("rms", apart(seen["pictures"], full["pictures"]))
            cosine = torch.cosine_similarity(seen["features"], full["features"])
            row |= mean("unlike", 1 - cosine)
        rows.append(row | about())
    return rows + [gain for gain in gains(found, rows, curves)]


def gains(found: list[Point], rows: list[dict], curves: dict) -> Iterator[dict]:
    """Speed-ups at equal distance over Dash alone and over free steps, with intervals."""
    values = {point: row["value"] for point, row in zip(found, rows, strict=True)}

    def curve(chosen: list[Point], draw: int | None) -> list[tuple[float, float]]:
        return [(p.cost, values[p] if draw is None else curves[p][draw]) for p in chosen]

    def those(variant: str, batch: int = 0) -> list[Point]:
        return [p for p in found if (p.variant, p.batch) == (variant, batch) and p.cost < FULL]

    kinds = dict.fromkeys((p.variant, p.batch) for p in found if p.variant != ALONE)
    for kind in kinds:
        for over in (ALONE, FREE):
            if kind[0] == over:
                continue
            mine, theirs = those(*kind), those(over)
            whole_set = speedup(curve(theirs, None), curve(mine, None))
            drawn = [speedup(curve(theirs, k), curve(mine, k)).mean for k in range(DRAWS)]
            row = {"bench": "fidelity", "solver": found[0].sampler, "guidance": found[0].guidance}
            row |= {"variant": kind[0], "batch_size": kind[1], "over": over}
            row |= {"unit": "speed-up", "value": whole_set.mean, "said": str(whole_set)}
            row |= {"per_budget": [round(ratio, 3) for ratio in whole_set.per_budget]}
            yield row | band("value", drawn) | {"images": rows[0]["images"]} | about()


def apart(a: Tensor, b: Tensor) -> Tensor:
    """The rms distance of each picture, of a range of 1."""
    return ((a.float() - b.float()) / 255).square().mean((1, 2, 3)).sqrt()


def band(name: str, values: list[float]) -> dict:
    """The 95 % interval of a bootstrap."""
    low, high = torch.tensor(values).quantile(torch.tensor([0.025, 0.975])).tolist()
    return {f"{name}_low": low, f"{name}_high": high}


def mean(name: str, values: Tensor) -> dict:
    """The mean over the pictures, and half of its 95 % interval."""
    half = 1.96 * values.std() / len(values) ** 0.5
    return {name: round(values.mean().item(), 4), f"{name}_half": round(half.item(), 4)}


def about() -> dict:
    return {**machine(), "commit": commit(Path(__file__).parent), "date": now()[:10]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--speed", action="store_true", help="measure N anew, on a quiet machine")
    parser.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=list(SAMPLERS))
    parser.add_argument("--guidance", type=float, nargs="+", default=[3.0])
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--out", type=Path, default=RESULTS / "fidelity.json")
    options = parser.parse_args()
    bench = Bench(options.images, Partial(options.out.with_suffix(".partial")))
    if options.speed:
        return measure_speed(bench)
    rows = json.loads(options.out.read_text()) if options.out.exists() else []
    for sampler, guidance in product(options.samplers, options.guidance):
        found = list(points(bench, sampler, guidance))
        for point in found:
            bench.seen(point)
            print(*point.made, flush=True)
        mine = {"solver": sampler, "guidance": guidance}
        rows = [row for row in rows if not mine.items() <= row.items()]
        rows += rows_of(bench, found)
        write_rows(options.out, rows)
    return None


if __name__ == "__main__":
    main()
