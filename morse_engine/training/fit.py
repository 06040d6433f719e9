"""The training loop that Dash and Dot share: optimizer, averaged weights, checkpoints, resume.

Every random number of step k comes from a generator seeded with (seed, k, process), and a
checkpoint holds weights, optimizer, average and step. So a run that was killed and resumed is, on
the same machine, the uninterrupted run bit for bit.

A checkpoint is written with each row of the log, once a minute, and at the end of the running step
after Ctrl-C or SIGTERM.
"""

import json
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ..system.errors import Refused
from ..system.files import whole
from .stop import Stop, leave

if TYPE_CHECKING:
    from rich.progress import Progress

T = TypeVar("T")

PRECISIONS = ("no", "bf16", "fp16")
SAVE_SECONDS = 60.0  # between two checkpoints,
SAVE_SHARE = 0.05  # and more where it would take a larger part of the time than this


def step_generator(seed: int, step: int, process: int = 0) -> torch.Generator:
    """The CPU generator of all random numbers of one training step of one process."""
    word = np.random.SeedSequence((seed, step, process)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(word >> np.uint64(1)))


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
        progress: show a progress bar.

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

    def __post_init__(self) -> None:
        self._require("num_steps", self.num_steps >= 1, "a run needs at least one step")
        self._require("batch_size", self.batch_size >= 1, "a batch needs at least one point")
        self._require("lr", 0 < self.lr < float("inf"), "give a rate above 0")
        self._require("warmup", self.warmup >= 0, "give a number of steps, 0 for none")
        self._require("clip", self.clip > 0, "give a norm above 0, or inf")
        self._require("ema_decay", 0 <= self.ema_decay < 1, "give a decay from 0 to below 1")
        self._require("accumulate", self.accumulate >= 1, "a step needs at least one batch")
        known = f"use one of {', '.join(PRECISIONS)}"
        self._require("mixed_precision", self.mixed_precision in PRECISIONS, known)
        self._require("seed", self.seed >= 0, "give 0 or more")
        self._require("checkpoint_every", self.checkpoint_every >= 1, "give at least one step")

    def _require(self, name: str, holds: bool, fix: str) -> None:
        if not holds:
            raise Refused(f"{name}={getattr(self, name)!r}: {fix}")


class Kept(Protocol):
    """What a checkpoint keeps beside the model; tensors and plain values alone."""

    def state_dict(self) -> dict: ...

    def load_state_dict(self, content: dict, /) -> None: ...


class Fit:
    """The training loop: AdamW, cosine learning rate, gradient clipping, EMA, checkpoints, resume.

    Args:
        model: the module to train; only parameters that require gradients are trained and stored.
        loss: `loss(model, generator) -> scalar`, called `accumulate` times per step and process.
        validate: `validate(model) -> dict of numbers` for the log, called for each of its rows
            with the averaged weights.
        out_dir: folder of `checkpoint.pt` and `log.jsonl`.
        recipe: the numbers of the run.
        before_step: called with (fit, step) before each step, for data that depends on the model.
        state: a further object that is kept in the checkpoint.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[[nn.Module, torch.Generator], Tensor],
        validate: Callable[[nn.Module], dict],
        out_dir: str | Path,
        recipe: Recipe,
        *,
        before_step: Callable[["Fit", int], None] = lambda fit, step: None,
        state: Kept | None = None,
    ):
        from accelerate import Accelerator
        from diffusers.optimization import get_cosine_schedule_with_warmup
        from diffusers.training_utils import EMAModel

        self.bare_model, self.loss, self.validate = model, loss, validate
        self.recipe, self.before_step, self.state = recipe, before_step, state
        self.out_dir = Path(out_dir)
        self.out_dir.mkdir(parents=True, exist_ok=True)
        self.accelerator = Accelerator(mixed_precision=recipe.mixed_precision)
        self.params = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(self.params, recipe.lr, betas=(0.9, 0.99), weight_decay=0.0)
        steps = recipe.num_steps
        self.schedule = get_cosine_schedule_with_warmup(optimizer, min(recipe.warmup, steps), steps)
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.ema = EMAModel(self.params, decay=recipe.ema_decay)
        self.ema.to(self.accelerator.device)
        self.step, self.next_save = 0, time.monotonic() + SAVE_SECONDS

    # -- checkpoints ---------------------------------------------------------------------------

    @property
    def checkpoint(self) -> Path:
        return self.out_dir / "checkpoint.pt"

    def save(self) -> None:
        """Write `checkpoint.pt`, whole or not at all."""
        if not self.accelerator.is_main_process:
            return
        content = {
            "step": self.step,
            "num_steps": self.recipe.num_steps,
            "seed": self.recipe.seed,
            "params": [p.detach() for p in self.params],
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "ema": self.ema.state_dict(),
            "state": self.state.state_dict() if self.state is not None else None,
        }
        began = time.monotonic()
        with whole(self.checkpoint) as partial:
            torch.save(content, partial)
        now = time.monotonic()
        self.next_save = now + max(SAVE_SECONDS, (now - began) / SAVE_SHARE)

    def resume(self) -> bool:
        """Continue from `checkpoint.pt` if there is one; True if it was found.

        Raises:
            Refused: the checkpoint belongs to another run (length, seed or model differ).
        """
        if not self.checkpoint.exists():
            return False
        content = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        for name in ("num_steps", "seed"):
            if content[name] != getattr(self.recipe, name):
                raise Refused(
                    f"{self.checkpoint} is of a run with {name}={content[name]}, this one has "
                    f"{getattr(self.recipe, name)}: use another folder, or delete the checkpoint"
                )
        if [p.shape for p in self.params] != [p.shape for p in content["params"]]:
            raise Refused(
                f"{self.checkpoint} is of another model: use another folder, or delete it"
            )
        with torch.no_grad():
            for p, value in zip(self.params, content["params"], strict=True):
                p.copy_(value)
        self.optimizer.load_state_dict(content["optimizer"])
        self.schedule.load_state_dict(content["schedule"])
        self.ema.load_state_dict(content["ema"])
        self.ema.to(self.accelerator.device)
        if self.state is not None:
            self.state.load_state_dict(content["state"])
        self.step = content["step"]
        return True

    # -- the loop ------------------------------------------------------------------------------

    def averaged(self, function: Callable[[], T]) -> T:
        """What `function()` returns while the model holds the averaged weights."""
        self.ema.store(self.params)
        self.ema.copy_to(self.params)
        self.bare_model.eval()
        try:
            with self.accelerator.autocast():
                return function()
        finally:
            self.bare_model.train()
            self.ema.restore(self.params)

    def run(self) -> nn.Module:
        """Train to the end, from the checkpoint if there is one; returns the averaged model.

        Raises:
            Refused: the checkpoint belongs to another run.
            KeyboardInterrupt, SystemExit: after Ctrl-C, after SIGTERM; the step is saved.
        """
        self.resume()
        self._forget_rows()
        self.bare_model.train()
        num_steps, started, recent = self.recipe.num_steps, time.monotonic(), []
        with self._bar() as bar, Stop() as stop:
            task = bar.add_task("training", total=num_steps, completed=self.step)
            while self.step < num_steps:
                self.before_step(self, self.step)
                recent.append(self._one_step())
                self.step += 1
                bar.update(task, completed=self.step)
                told = self._told(stop)
                in_log = self.step % self.recipe.checkpoint_every == 0 or self.step == num_steps
                if in_log:
                    loss = float(torch.stack(recent).mean())
                    bar.update(task, description=f"training, loss {loss:.4f}")
                    recent = []
                    self._add_row(loss, time.monotonic() - started)
                if in_log or told or time.monotonic() > self.next_save:
                    self.save()
                if told:
                    self.accelerator.wait_for_everyone()  # the first to leave may end the others
                    where = f"step {self.step} of {num_steps} is saved in {self.checkpoint}"
                    leave(told, f"stopped: {where}; the same run continues from there")
        self.ema.copy_to(self.params)
        # The wrapper of mixed precision would survive in copies of the model, bound to this one.
        self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        vars(self.bare_model).pop("forward", None)
        return self.bare_model.eval()

    def _bar(self) -> "Progress":
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        shown = self.recipe.progress and self.accelerator.is_main_process
        return Progress(*columns, TimeRemainingColumn(), disable=not shown)

    def _one_step(self) -> Tensor:
        recipe, accelerator, losses = self.recipe, self.accelerator, []
        for k in range(recipe.accumulate):
            process = accelerator.process_index + k * accelerator.num_processes
            generator = step_generator(recipe.seed, self.step, process)
            last = k == recipe.accumulate - 1
            with nullcontext() if last else accelerator.no_sync(self.model):
                with accelerator.autocast():
                    loss = self.loss(self.model, generator)
                accelerator.backward(loss / recipe.accumulate)
            losses.append(loss.detach())
        accelerator.clip_grad_norm_(self.params, recipe.clip)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.step(self.params)
        return torch.stack(losses).mean()

    def _told(self, stop: Stop) -> int:
        """The signal that a process was sent, 0 for none: all must end with the same step."""
        if self.accelerator.num_processes == 1:
            return stop.signal
        told = torch.tensor([stop.signal], device=self.accelerator.device)
        return int(self.accelerator.gather(told).max())

    # -- the log -------------------------------------------------------------------------------

    @property
    def log(self) -> Path:
        return self.out_dir / "log.jsonl"

    def _add_row(self, loss: float, seconds: float) -> None:
        """A row in `log.jsonl`."""
        row = {"step": self.step, "loss": loss, "seconds": round(seconds, 1)}
        row |= self.averaged(lambda: self.validate(self.bare_model))
        if self.accelerator.is_main_process:
            with open(self.log, "a") as log:
                log.write(json.dumps(row) + "\n")

    def _forget_rows(self) -> None:
        """Take rows out of the log that this run will write again: their steps were not saved."""
        if not self.accelerator.is_main_process or not self.log.exists():
            return
        lines = self.log.read_text().splitlines(keepends=True)
        complete = [line for line in lines if line.endswith("\n")]
        kept = [line for line in complete if json.loads(line)["step"] <= self.step]
        if kept != lines:
            with whole(self.log) as partial:
                partial.write_text("".join(kept))
