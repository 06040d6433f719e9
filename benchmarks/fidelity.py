"""How true the miniature's pictures stay: plans at equal time, by sampler, guidance and Dot.

    python benchmarks/fidelity.py [--part samplers guidance ...] [--images 128]

The bundled miniature Stable Diffusion, its bundled Dots, prompts that stand for many pictures. Each
point is one plan with one sampler and guidance, from the same seeds. Its picture of a seed is
compared with that of the full run, 50 Dash steps of the same sampler:

    value         `evaluation.score.score` in the features of the bundled judge, all pictures
    rms           of a picture's pixels, of a range of 1, the mean over the pictures
    unlike        1 - cosine of the two pictures in the judge's features, the mean
    prompt_score  cosine of picture and prompt in the judge's space, the mean; it needs no full run

A sampler that adds noise draws other noise in another number of steps: it has no rms and unlike.
What a budget buys at batch 1 and 16 is what `plan="auto"` takes, at the N of
results/miniature-speed.json. The 95 % intervals are of a bootstrap over the pictures, the same draw
for all points. A run that was stopped goes on where it was.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

import morse_engine
from morse_engine import zoo
from morse_engine.evaluation.score import score
from morse_engine.evaluation.speedup import speedup
from morse_engine.integrations.latents import range_of
from morse_engine.sampling import schedulers
from morse_engine.sampling.budget import choose
from morse_engine.sampling.plan import Plan
from morse_engine.sampling.solver import SolverTable
from morse_engine.system.files import whole, write_rows
from morse_engine.system.machine import commit, machine, now
from morse_engine.zoo.miniature import captions, judge

RESULTS = Path(__file__).parent / "results"
SPEED = RESULTS / "miniature-speed.json"
FULL, STEPS, BUDGETS = 50, (3, 4, 5, 6, 8, 10, 12, 16, 20), (3, 4, 5, 6, 8)
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
    """One plan with one sampler, guidance scale and Dot; `batch` is what its N is of."""

    sampler: str
    guidance: float
    variant: str
    plan: str
    budget: float
    cost: float
    dot: str = ""
    batch: int = 0

    @property
    def made(self) -> tuple:
        """What its pictures depend on."""
        dot = self.dot if "." in self.plan else ""
        return self.sampler, self.guidance, dot, self.plan


class Bench:
    """The models, the prompts and what was made so far.

    Args:
        images: of a point.
        folder: of what was made.
    """

    def __init__(self, images: int, folder: Path):
        self.pipe, self.judge, self.folder = zoo.miniature_pipeline(), judge.load(), folder
        texts = captions.coarse()
        self.texts = [texts[k % len(texts)] for k in range(images)]
        text, empty = self.pipe.encode_prompt(self.texts, "cpu", 1, True)
        self.text, self.empty = text, empty
        self.speeds = {
            (r["dot"], r["batch_size"]): r["value"] for r in json.loads(SPEED.read_text())
        }

    @cached_property
    def dots(self) -> dict:
        return {kind: zoo.miniature_dot(self.pipe.unet, kind) for kind in ("guided", "branches")}

    def scheduler(self, sampler: str) -> object:
        name = sampler.removesuffix("-karras")
        made = schedulers.make(name, self.pipe.scheduler.config)
        return type(made).from_config(made.config, **SAMPLERS[sampler])

    def bought(self, sampler: str, guidance: float, budget: float, dot: str, batch: int) -> Point:
        """What a budget buys; without a Dot, where `dot` is empty, Dash and free steps."""
        known = {"clean_range": range_of(self.pipe)}
        if dot:
            helper = self.dots[dot]
            known |= {"folder": helper.folder, "trained": helper.solvers}
        speed = self.speeds[dot, batch] if dot else None
        plan, _ = choose(budget, self.scheduler(sampler), speed, **known)
        cost = plan.num_dash if speed is None else plan.lsd(speed)
        variant = MORSE if dot else FREE
        return Point(sampler, guidance, variant, str(plan), budget, cost, dot, batch)

    @torch.no_grad()
    def pictures(self, point: Point) -> Tensor:
        """`[n, 3, 64, 64]` in [-1, 1]."""
        unet, guided = self.pipe.unet, point.guidance != 1
        sampler = morse_engine.compile(
            unet,
            self.dots[point.dot] if "." in point.plan else None,
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
        """The pictures of a point (8 bits), their features and prompt scores, made once."""
        name = "_".join(map(str, point.made)).replace(":", "f")
        file = self.folder / f"{name}.pt"
        if not file.exists():
            pictures = self.pictures(point)
            with torch.no_grad():
                features = self.judge.features(pictures)
            kept = {
                "pictures": ((pictures + 1) * 127.5).round().to(torch.uint8),
                "features": features,
                "prompt": self.judge.prompt_score(pictures, self.texts),
            }
            with whole(file) as path:
                torch.save(kept, path)
        return torch.load(file, weights_only=True)


def points(bench: Bench, sampler: str, guidance: float, dots: list[str]) -> Iterator[Point]:
    """All of one sampler and guidance, the full run first."""
    for n in (FULL, *STEPS):
        yield Point(sampler, guidance, ALONE, "-" * n, n, n)
    for budget in BUDGETS:
        yield bench.bought(sampler, guidance, budget, "", 0)
        for dot in dots:
            for batch in (1, 16):
                yield bench.bought(sampler, guidance, budget, dot, batch)


def cases(part: str) -> list[tuple[str, float, list[str]]]:
    """(sampler, guidance, Dots) of a part. A guided Dot has nothing to correct without guidance."""
    if part == "samplers":
        return [(sampler, 3.0, ["guided"]) for sampler in SAMPLERS]
    if part == "guidance":
        both = [("ddim", 5.0, ["guided"]), ("dpm", 5.0, ["guided"])]
        return both + [("ddim", 1.0, ["branches"]), ("dpm", 1.0, ["branches"])]
    return [("ddim", 3.0, ["guided", "branches"]), ("dpm", 3.0, ["guided", "branches"])]


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
        row |= {"variant": point.variant, "dot": point.dot, "plan": point.plan}
        row |= {"budget_lsd": point.budget, "cost_lsd": round(point.cost, 3)}
        row |= {"batch_size": point.batch, "images": len(bench.texts)}
        row |= {"unit": "distance to the full run"}
        row |= {"value": score(seen["features"], full["features"]), **band("value", values)}
        row |= mean("prompt_score", seen["prompt"])
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

    def those(variant: str, dot: str = "", batch: int = 0) -> list[Point]:
        named = (variant, dot, batch)
        return [p for p in found if (p.variant, p.dot, p.batch) == named and p.cost < FULL]

    kinds = dict.fromkeys((p.variant, p.dot, p.batch) for p in found if p.variant != ALONE)
    for kind in kinds:
        for over in (ALONE, FREE):
            if kind[0] == over:
                continue
            mine, theirs = those(*kind), those(over)
            whole_set = speedup(curve(theirs, None), curve(mine, None))
            drawn = [speedup(curve(theirs, k), curve(mine, k)).mean for k in range(DRAWS)]
            row = {"bench": "fidelity", "solver": found[0].sampler, "guidance": found[0].guidance}
            row |= {"variant": kind[0], "dot": kind[1], "batch_size": kind[2], "over": over}
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
    parser.add_argument("--part", nargs="+", default=["samplers", "guidance", "dots"])
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--out", type=Path, default=RESULTS / "fidelity.json")
    options = parser.parse_args()
    folder = options.out.with_suffix(".partial")
    folder.mkdir(parents=True, exist_ok=True)
    bench = Bench(options.images, folder)
    rows = json.loads(options.out.read_text()) if options.out.exists() else []
    for part in options.part:
        for sampler, guidance, dots in cases(part):
            found = list(points(bench, sampler, guidance, dots))
            for point in found:
                bench.seen(point)
                print(part, *point.made, flush=True)
            rows = [
                r
                for r in rows
                if (r["part"], r["solver"], r["guidance"]) != (part, sampler, guidance)
            ]
            rows += [{"part": part, **row} for row in rows_of(bench, found)]
            write_rows(options.out, rows)


if __name__ == "__main__":
    main()
