"""The training loop that Dash and Dot share: optimizer, averaged weights, checkpoints, resume.

Every random number of step k comes from a generator seeded with (seed, k, process), and a
checkpoint holds weights, optimizer, average and step. So a run that was killed and resumed is, on
the same machine, the uninterrupted run bit for bit.
"""

import json
import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..system.errors import Refused


def step_generator(seed: int, step: int, process: int = 0) -> torch.Generator:
    """The CPU generator of all random numbers of one training step of one process."""
    word = np.random.SeedSequence((seed, step, process)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(word >> np.uint64(1)))


def stratified(batch_size: int, generator: torch.Generator) -> Tensor:
    """One uniform number in each of `batch_size` equal parts of [0, 1), in random order: `[B]`.

    Time steps drawn this way cover the schedule in every batch, which lowers the variance of the
    gradient at no cost.
    """
    u = torch.rand(batch_size, generator=generator)
    return (torch.randperm(batch_size, generator=generator) + u) / batch_size


class Fit:
    """The training loop: AdamW, cosine learning rate, gradient clipping, EMA, checkpoints, resume.

    Args:
        model: the module to train; only parameters that require gradients are trained and stored.
        loss: `loss(model, generator) -> scalar`, called `accumulate` times per step and process.
        out_dir: folder of `checkpoint.pt` and `log.jsonl`.
        num_steps: length of the whole run; part of the cosine schedule.
        ema_decay: decay of the running average of the weights that the run returns.
        mixed_precision: "no", "bf16" or "fp16", as accelerate has them.
        accumulate: batches whose gradients are averaged in a step; they are those that as many
            times the processes would draw.
        validate: `validate(model) -> dict of numbers`, called with the averaged weights.
        before_step: called with (step, swap) before each step, for data that depends on the model.
        state: a further object with `state_dict`/`load_state_dict`, kept in the checkpoint.
        progress: show a progress bar.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[[nn.Module, torch.Generator], Tensor],
        out_dir: str | Path,
        *,
        num_steps: int,
        lr: float,
        ema_decay: float = 0.999,
        warmup: int = 200,
        clip: float = 1.0,
        seed: int = 0,
        mixed_precision: str = "no",
        accumulate: int = 1,
        checkpoint_every: int = 500,
        validate: Callable[[nn.Module], dict] | None = None,
        before_step: Callable[["Fit", int], None] | None = None,
        state=None,
        progress: bool = True,
    ):
        from accelerate import Accelerator
        from diffusers.optimization import get_cosine_schedule_with_warmup
        from diffusers.training_utils import EMAModel

        if num_steps < 1:
            raise Refused(f"num_steps={num_steps}: a run needs at least one step")
        if accumulate < 1:
            raise Refused(f"accumulate={accumulate}: a step needs at least one batch")
        self.out_dir = Path(out_dir)
        self.out_dir.mkdir(parents=True, exist_ok=True)
        self.accelerator = Accelerator(mixed_precision=mixed_precision)
        self.params = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(self.params, lr=lr, weight_decay=0.0, betas=(0.9, 0.99))
        schedule = get_cosine_schedule_with_warmup(optimizer, min(warmup, num_steps), num_steps)
        self.bare_model, self.loss, self.num_steps = model, loss, num_steps
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.schedule = schedule
        self.ema = EMAModel(self.params, decay=ema_decay)
        self.ema.to(self.accelerator.device)
        self.clip, self.seed, self.checkpoint_every = clip, seed, checkpoint_every
        self.accumulate = accumulate
        self.validate, self.before_step, self.state = validate, before_step, state
        self.step, self.progress = 0, progress

    # -- checkpoints ---------------------------------------------------------------------------

    @property
    def checkpoint(self) -> Path:
        return self.out_dir / "checkpoint.pt"

    def save(self) -> None:
        """Write `checkpoint.pt` whole or not at all (temporary file, then rename)."""
        if not self.accelerator.is_main_process:
            return
        content = {
            "step": self.step,
            "num_steps": self.num_steps,
            "seed": self.seed,
            "params": [p.detach() for p in self.params],
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "ema": self.ema.state_dict(),
            "state": self.state.state_dict() if self.state is not None else None,
        }
        partial = self.checkpoint.with_suffix(".partial")
        torch.save(content, partial)
        os.replace(partial, self.checkpoint)

    def resume(self) -> bool:
        """Continue from `checkpoint.pt` if there is one; True if it was found.

        Raises:
            Refused: the checkpoint belongs to another run (length, seed or model differ).
        """
        if not self.checkpoint.exists():
            return False
        device = self.accelerator.device
        content = torch.load(self.checkpoint, map_location=device, weights_only=True)
        for name in ("num_steps", "seed"):
            if content[name] != getattr(self, name):
                raise Refused(
                    f"{self.checkpoint} is of a run with {name}={content[name]}, this one has "
                    f"{getattr(self, name)}: use another folder, or delete the checkpoint"
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
        if self.state is not None:
            self.state.load_state_dict(content["state"])
        self.step = content["step"]
        return True

    # -- the loop ------------------------------------------------------------------------------

    def averaged(self, function: Callable[[], object]):
        """Call `function()` while the model holds the averaged weights."""
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
        """Train to the end, from the checkpoint if there is one; returns the averaged model."""
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        self.resume()
        self.bare_model.train()
        main = self.accelerator.is_main_process
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        bar = Progress(*columns, TimeRemainingColumn(), disable=not (self.progress and main))
        started, recent = time.perf_counter(), []
        with bar:
            task = bar.add_task("training", total=self.num_steps, completed=self.step)
            while self.step < self.num_steps:
                if self.before_step is not None:
                    self.before_step(self, self.step)
                recent.append(self._one_step())
                self.step += 1
                bar.update(task, completed=self.step)
                last = self.step == self.num_steps
                if self.step % self.checkpoint_every == 0 or last:
                    row = {"step": self.step, "loss": float(torch.stack(recent).mean())}
                    row["seconds"] = round(time.perf_counter() - started, 1)
                    if self.validate is not None:
                        row |= self.averaged(lambda: self.validate(self.bare_model))
                    bar.update(task, description=f"training, loss {row['loss']:.4f}")
                    recent = []
                    if main:
                        with open(self.out_dir / "log.jsonl", "a") as log:
                            log.write(json.dumps(row) + "\n")
                    self.save()
        self.ema.copy_to(self.params)
        # The wrapper of mixed precision would survive in copies of the model, bound to this one.
        self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        vars(self.bare_model).pop("forward", None)
        return self.bare_model.eval()

    def _one_step(self) -> Tensor:
        losses = []
        for k in range(self.accumulate):
            process = self.accelerator.process_index + k * self.accelerator.num_processes
            generator = step_generator(self.seed, self.step, process)
            last = k == self.accumulate - 1
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                with self.accelerator.autocast():
                    loss = self.loss(self.model, generator)
                self.accelerator.backward(loss / self.accumulate)
            losses.append(loss.detach())
        self.accelerator.clip_grad_norm_(self.params, self.clip)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.step(self.params)
        return torch.stack(losses).mean()
