"""The ablations of the paper, on the icons: what Dot's parts are worth at equal training.

    python benchmarks/icons_ablations.py --data runs/icons/data --out runs/icons-ablations

needs the rendered pictures of `make zoo-icons`. Every variant is trained for as many steps from the
same pictures and points; then its error on held-out variations is noted, its N, and how far
pictures of two plans are from those of 50 Dash steps of the same seeds. Interrupt it at any time;
the same command goes on.
"""

import argparse
import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from fidelity import FIRST_SEED, RESULTS
from torch import Tensor, nn

import morse_engine
from morse_engine import Dot, Plan, evaluation, train_dot, zoo
from morse_engine.evaluation.bootstrap import Bootstrap
from morse_engine.evaluation.paired import rms
from morse_engine.system.files import write_rows
from morse_engine.system.machine import commit, machine, now
from morse_engine.zoo.icons import data
from morse_engine.zoo.icons import dot as recipe
from morse_engine.zoo.miniature import data as pictures

STEPS, FULL = 600, 50
PLANS = [Plan("-...-..."), Plan("-..-..-..-..")]
SOLVERS = ("ddim", "dpm")


class Blind(Dot):
    """A Dot whose layers see x alone; what is without weights (miss) stays."""

    def features(self, x: Tensor, x_s: Tensor, z_s: Tensor, z_p: Tensor, *rest: Any) -> Tensor:
        nothing = torch.zeros_like(z_s)
        return super().features(x, x, nothing, nothing, *rest)


def own_trunk(dot: Dot, *, fresh: bool) -> Dot:
    """A Dot whose trunk is a copy that is trained whole, from Dash's weights or from new ones."""
    dot.trunk = copy.deepcopy(dot.trunk).requires_grad_(True)
    if fresh:
        for layer in dot.trunk.modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear, nn.GroupNorm, nn.Embedding)):
                layer.reset_parameters()
    return dot


def made(kind: type[Dot] = Dot, **options: Any) -> Callable[[nn.Module], Dot]:
    """A variant that differs in options of `Dot`."""
    shape = {**recipe.SHAPE, **options}
    return lambda unet: kind(unet, zoo.icons_scheduler("ddim"), **shape)


VARIANTS: dict[str, Callable[[nn.Module], Dot]] = {
    "as bundled": made(),
    "without the trajectory": made(Blind),
    "without sharing: new weights in the trunk": lambda unet: own_trunk(
        made(lora_rank=0)(unet), fresh=True
    ),
    "without LoRA: the trunk as it is": made(lora_rank=0),
    "the trunk trained whole": lambda unet: own_trunk(made(lora_rank=0)(unet), fresh=False),
    "all of Dash at a lower resolution, as in the paper": made(widths=(16, 32), cut=0),
}


class Ablations:
    """Dash, its pictures, and where the runs are.

    Args:
        folder: the rendered pictures.
        out: a folder for each run.
        images: pictures of each plan.
    """

    def __init__(self, folder: Path, out: Path, steps: int, images: int):
        self.out, self.steps, self.stage = out, steps, recipe.STAGES[0]
        drawn, icons = pictures.load(folder)
        rows = pictures.chosen(icons)
        chosen = drawn[rows], [icons[row] for row in rows]
        self.data = recipe.varied(*chosen, recipe.SAMPLES, 0)
        self.held_out = recipe.varied(*chosen, recipe.HELD_OUT, 1)
        self.unet = zoo.icons_dash()
        seeds = list(range(FIRST_SEED, FIRST_SEED + images))
        self.batches = [seeds[i : i + 64] for i in range(0, images, 64)]
        self.full = {name: self.drawn(name, Plan.spread(FULL, 0), None) for name in SOLVERS}
        self.draws = Bootstrap(images)

    def sampler(self, solver: str, plan: Plan, dot: Dot | None) -> Any:
        return morse_engine.compile(
            self.unet, dot, plan=plan, scheduler=zoo.icons_scheduler(solver), clean_range=(-1, 1)
        )

    def drawn(self, solver: str, plan: Plan, dot: Dot | None) -> Tensor:
        """`[n, 3, 32, 32]`, the pictures of a plan."""
        sampler = self.sampler(solver, plan, dot)
        found = [sampler(seed=part, class_labels=data.labels_of(part)) for part in self.batches]
        return torch.cat(found).clamp(-1, 1)

    def trained(self, name: str) -> tuple[Dot, float]:
        """A variant after its steps, and its error on held-out variations."""
        torch.manual_seed(0)
        folder = self.out / name.split(":")[0].replace(" ", "-")
        dot = train_dot(
            VARIANTS[name](self.unet), self.unet, self.data, zoo.icons_scheduler("ddpm"), folder,
            schedulers=[zoo.icons_scheduler(solver) for solver in self.stage.solvers],
            num_steps=self.steps, lr=self.stage.lr, checkpoint_every=200, held_out=self.held_out,
        )  # fmt: skip
        log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        return dot.eval(), log[-1]["held_out_loss"]

    def rows(self, name: str) -> list[dict]:
        """A row for each solver and plan."""
        dot, error = self.trained(name)
        labels = torch.zeros(1, dtype=torch.int64)
        speed = self.sampler("ddim", Plan("-.-"), dot).measure(1, class_labels=labels).dot_speed
        numbers = {"error": error, "dot_speed_at_1": speed}
        numbers["trained"] = sum(p.numel() for p in dot.trained_parameters().values())
        return [self.row(name, solver, plan, dot) | numbers for solver in SOLVERS for plan in PLANS]

    def row(self, name: str, solver: str, plan: Plan, dot: Any) -> dict:
        """How far the pictures of a plan are from all steps."""
        value, low, high = self.draws.interval(
            rms(self.drawn(solver, plan, dot), self.full[solver])
        )
        print(f"{name}, {solver}, {plan}: rms {value:.4f} ({low:.4f} .. {high:.4f})", flush=True)
        row = {"bench": "icons ablations", "variant": name, "solver": solver, "plan": str(plan)}
        row |= {"steps": self.steps, "images": len(self.full[solver]), "value": value}
        return row | {"low": low, "high": high, "unit": f"rms to {FULL} Dash steps"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/icons-ablations"))
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--rows", type=Path, default=RESULTS / "icons-ablations.json")
    options = parser.parse_args()
    ablations = Ablations(options.data, options.out, options.steps, options.images)
    about = {**machine(), "commit": commit(Path(__file__).parent), "date": now()[:10]}
    found = []
    for solver in SOLVERS:
        found += [ablations.row("reuse", solver, plan, evaluation.reuse) for plan in PLANS]
        alone = [Plan("-" * n) for n in (3, 4, 5, 6)]
        found += [ablations.row("Dash alone", solver, plan, None) for plan in alone]
    found = [row | about for row in found]
    for name in options.variants:
        found += [row | about for row in ablations.rows(name)]
        write_rows(options.rows, found)


if __name__ == "__main__":
    main()
