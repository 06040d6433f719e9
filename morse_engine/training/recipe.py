"""The numbers of a training."""

import difflib
import math
from dataclasses import dataclass, fields

from ..system import checks
from ..system.errors import Refused

PRECISIONS = ("no", "bf16", "fp16")
MOST_POINTS = 1 << 20  # of a batch
MOST = (1 << 64) - 1  # of any whole number; seeds go so far


def check_names(recipe: type["Recipe"], options: dict) -> None:
    """Raise `Refused` for an option that a recipe does not have, naming the nearest."""
    known = [field.name for field in fields(recipe)]
    for name in options.keys() - set(known):
        near = difflib.get_close_matches(name, known, 1) or known
        raise Refused(f"{name}={checks.shown(options[name])}: no such option; {', '.join(near)}?")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The numbers of a training run; those of a Dot are `DotRecipe`.

    Args:
        num_steps: length of the whole run, along which the learning rate falls to zero.
        batch_size: points in a batch, of each process.
        lr: the highest learning rate of AdamW.
        warmup: steps in which the rate rises to it, from zero.
        clip: the largest norm of the gradient; a longer one is scaled down.
        ema_decay: decay of the running average of the weights that the run returns.
        accumulate: batches whose gradients are averaged in a step; they are those that as many
            times the processes would draw.
        mixed_precision: "no", "bf16" or "fp16", as accelerate has them.
        seed: fixes every random number of the run.
        checkpoint_every: steps between two rows of the log, each with a checkpoint; the last step
            has one as well.
        progress: show loss, images a second, elapsed and remaining time.
        report_to: also write the rows of the log to this tracker of accelerate ("tensorboard",
            "wandb", ...); None: to none.

    Raises:
        Refused: a number out of its range.
    """

    num_steps: int
    batch_size: int
    lr: float
    warmup: int = 200
    clip: float = 1.0
    ema_decay: float = 0.999
    accumulate: int = 1
    mixed_precision: str = "no"
    seed: int = 0
    checkpoint_every: int = 500
    progress: bool = True
    report_to: str | None = None

    def __post_init__(self) -> None:
        for name in ("num_steps", "batch_size", "warmup", "accumulate", "seed", "checkpoint_every"):
            self._settle_whole(name)
        for name in ("lr", "clip", "ema_decay"):
            self._settle_number(name)
        checks.flag("progress", self.progress)
        self._require("num_steps", self.num_steps >= 1, "a run needs at least one step")
        fits = 1 <= self.batch_size <= MOST_POINTS
        self._require("batch_size", fits, f"a batch has 1 to {MOST_POINTS:,} points")
        self._require("lr", 0 < self.lr < float("inf"), "give a rate above 0")
        self._require("warmup", self.warmup >= 0, "give a number of steps, 0 for none")
        self._require("clip", self.clip > 0, "give a norm above 0, or inf")
        self._require("ema_decay", 0 <= self.ema_decay < 1, "give a decay from 0 to below 1")
        self._require("accumulate", self.accumulate >= 1, "a step needs at least one batch")
        known = f"use one of {', '.join(PRECISIONS)}"
        precision = self.mixed_precision
        holds = isinstance(precision, str) and precision in PRECISIONS
        self._require("mixed_precision", holds, known)
        self._require("seed", self.seed >= 0, "give 0 or more")
        self._require("checkpoint_every", self.checkpoint_every >= 1, "give at least one step")

    def _settle_whole(self, name: str) -> None:
        """What counts as an integer becomes one."""
        value = checks.integer(name, getattr(self, name), -MOST, MOST)
        object.__setattr__(self, name, value)  # of a frozen class

    def _settle_number(self, name: str) -> None:
        """What counts as a number becomes one; infinity is left to what its range says."""
        value = getattr(self, name)
        if not (isinstance(value, float) and math.isinf(value)):
            object.__setattr__(self, name, checks.number(name, value))

    def _require(self, name: str, holds: bool, fix: str) -> None:
        if not holds:
            raise Refused(f"{name}={checks.shown(getattr(self, name))}: {fix}")
