"""The training loop that Dash and Dot share: optimizer, averaged weights, checkpoints, resume.

Every random number of step k comes from a generator seeded with (seed, k, process), and a
checkpoint holds weights, optimizer, average and step. So a run that was killed and resumed is, on
the same machine, the uninterrupted run bit for bit.

A checkpoint is written with each row of the log, once a minute, and at the end of the running step
after Ctrl-C or SIGTERM. A step whose loss is not finite ends the run, and is in no checkpoint.
"""

import math
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ..system import checks
from ..system.errors import Refused
from ..system.files import output_folder
from ..system.lock import alone
from . import checkpoint, identity, trackers
from .log import Log
from .progress import Watch
from .recipe import Recipe
from .stop import Stop, leave

T = TypeVar("T")

SAVE_SECONDS = 60.0  # between two checkpoints,
SAVE_SHARE = 0.05  # and more where it would take a larger part of the time than this


def step_generator(seed: int, step: int, process: int = 0) -> torch.Generator:
    """The CPU generator of all random numbers of one training step of one process."""
    word = np.random.SeedSequence((seed, step, process)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(word >> np.uint64(1)))


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
        out_dir: folder of `checkpoint.pt`, `log.jsonl`, `log.html` and `preview.png`; one process
            works in it at a time.
        recipe: the numbers of the run.
        before_step: called with (fit, step) before each step, for data that depends on the model.
        state: a further object that is kept in the checkpoint.
        about: what the run follows from beside the recipe, name -> plain value; a checkpoint of a
            run with another value is refused.
        preview: `preview(model) -> [n, C, H, W]` or None, pictures for each row of the log.

    Raises:
        Refused, Unavailable: a tracker that is not there.
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
        about: dict | None = None,
        preview: Callable[[nn.Module], Tensor | None] = lambda model: None,
    ):
        from accelerate import Accelerator
        from diffusers.optimization import get_cosine_schedule_with_warmup
        from diffusers.training_utils import EMAModel

        trackers.check(recipe.report_to)
        self.bare_model, self.loss, self.validate, self.preview = model, loss, validate, preview
        self.recipe, self.before_step, self.state = recipe, before_step, state
        self.identity = identity.of_recipe(recipe) | (about or {})
        self.out_dir = output_folder(checks.path("out_dir", out_dir))
        self.log = Log(self.out_dir, recipe.num_steps)
        self.accelerator = Accelerator(
            mixed_precision=recipe.mixed_precision,
            log_with=recipe.report_to,
            project_dir=None if recipe.report_to is None else self.out_dir,
        )
        self.params = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(self.params, recipe.lr, betas=(0.9, 0.99), weight_decay=0.0)
        steps = recipe.num_steps
        self.schedule = get_cosine_schedule_with_warmup(optimizer, min(recipe.warmup, steps), steps)
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.ema = EMAModel(self.params, decay=recipe.ema_decay)
        self.ema.to(self.accelerator.device)
        self.step, self.began = 0, time.monotonic()
        self.next_save = self.began + SAVE_SECONDS
        self.recent: list[float] = []  # losses since the last row of the log
        self.seconds = 0.0  # that earlier processes have worked on this run

    # -- checkpoints ---------------------------------------------------------------------------

    @property
    def checkpoint(self) -> Path:
        return self.out_dir / "checkpoint.pt"

    def save(self) -> None:
        """Write `checkpoint.pt`, whole or not at all.

        Raises:
            OSError: it cannot be written; the one before is as it was.
        """
        if not self.accelerator.is_main_process:
            return
        scaler, began = self.accelerator.scaler, time.monotonic()
        content = {
            "step": self.step,
            "num_steps": self.recipe.num_steps,
            "seed": self.recipe.seed,
            "params": [p.detach() for p in self.params],
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "ema": self.ema.state_dict(),
            "state": self.state.state_dict() if self.state is not None else None,
            "scaler": scaler.state_dict() if scaler is not None else None,
            "identity": self.identity,
            "recent": self.recent,
            "seconds": self._elapsed(),
        }
        checkpoint.write(self.checkpoint, content)
        now = time.monotonic()
        self.next_save = now + max(SAVE_SECONDS, (now - began) / SAVE_SHARE)

    def resume(self) -> bool:
        """Continue from `checkpoint.pt` if there is one; True if it was found.

        Raises:
            Refused: the checkpoint is damaged or belongs to another run; the first difference, of
                recipe, data or model, is named.
        """
        if not self.checkpoint.exists():
            return False
        content = checkpoint.read(self.checkpoint, self.identity)
        with checkpoint.readable(self.checkpoint), torch.no_grad():
            if [p.shape for p in self.params] != [p.shape for p in content["params"]]:
                raise Refused(
                    f"{self.checkpoint} is of another model: use another folder, or delete it"
                )
            for p, value in zip(self.params, content["params"], strict=True):
                p.copy_(value)
            self.optimizer.load_state_dict(content["optimizer"])
            self.schedule.load_state_dict(content["schedule"])
            self.ema.load_state_dict(content["ema"])
            self.ema.to(self.accelerator.device)
            if self.state is not None:
                self.state.load_state_dict(content["state"])
            if self.accelerator.scaler is not None and content.get("scaler"):
                self.accelerator.scaler.load_state_dict(content["scaler"])
            self.step = content["step"]
            if not isinstance(self.step, int) or not 0 <= self.step <= self.recipe.num_steps:
                raise ValueError(f"step={self.step}")
            self.recent = [float(loss) for loss in content.get("recent", [])]
            self.seconds = float(content.get("seconds", 0.0))
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
            Refused: the checkpoint is damaged or of another run, or a loss is not finite.
            Unavailable: another process works in the folder.
            OSError: a file cannot be written.
            KeyboardInterrupt, SystemExit: after Ctrl-C, after SIGTERM; the step is saved.
        """
        main = self.accelerator.is_main_process
        with alone(self.out_dir) if main else nullcontext():
            self.resume()
            if main:
                self.log.forget_after(self.step)
            self.bare_model.train()
            self._steps()
        self.ema.copy_to(self.params)
        if not all(p.isfinite().all() for p in self.params):
            raise Refused(
                f"the trained weights hold NaN or infinite values: train in another folder, at a "
                f"lower rate than lr={self.recipe.lr:g}"
            )
        # The wrapper of mixed precision would survive in copies of the model, bound to this one.
        self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        vars(self.bare_model).pop("forward", None)
        return self.bare_model.eval()

    def _steps(self) -> None:
        recipe, num_steps = self.recipe, self.recipe.num_steps
        if recipe.report_to is not None:
            config = {name: str(value) for name, value in self.identity.items()}
            self.accelerator.init_trackers("morse_engine", config)
        images = recipe.batch_size * recipe.accumulate * self.accelerator.num_processes
        shown = recipe.progress and self.accelerator.is_main_process
        self.began = time.monotonic()
        watch = Watch(num_steps, self.step, images, shown=shown)
        with watch.running(), Stop() as stop:
            while self.step < num_steps:
                self.before_step(self, self.step)
                self.recent.append(self._one_step())
                self.step += 1
                watch.step(self.step, self.recent[-1])
                told = self._told(stop)
                in_log = self.step % recipe.checkpoint_every == 0 or self.step == num_steps
                if in_log:
                    watch.row(self.step, self._add_row())
                if in_log or told or time.monotonic() > self.next_save:
                    self.save()
                if told:
                    self.accelerator.wait_for_everyone()  # the first to leave may end the others
                    where = f"step {self.step} of {num_steps} is saved in {self.checkpoint}"
                    leave(told, f"stopped: {where}; the same run continues from there")
        for tracker in self.accelerator.trackers:
            tracker.finish()

    def _one_step(self) -> float:
        """The mean loss of the step's batches."""
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
        norm = accelerator.clip_grad_norm_(self.params, recipe.clip)
        mean = float(torch.stack(losses).mean())
        # The scaler of half precision leaves out steps whose gradient has overflown.
        gradient = 0.0 if norm is None or accelerator.scaler is not None else float(norm)
        self._require_finite({"loss": mean, "norm of the gradient": gradient}, self.step + 1)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.step(self.params)
        return mean

    def _require_finite(self, numbers: dict, step: int) -> None:
        for name, value in numbers.items():
            if isinstance(value, float) and not math.isfinite(value):
                kept = f"{self.checkpoint} of an earlier step is kept"
                raise Refused(
                    f"at step {step} the {name} is {value}: the run ends here, "
                    + (kept if self.checkpoint.exists() else "no checkpoint was written yet")
                    + f". Try a lower rate than lr={self.recipe.lr:g} in another folder"
                )

    def _told(self, stop: Stop) -> int:
        """The signal that a process was sent, 0 for none: all must end with the same step."""
        if self.accelerator.num_processes == 1:
            return stop.signal
        told = torch.tensor([stop.signal], device=self.accelerator.device)
        return int(self.accelerator.gather(told).max())

    def _elapsed(self) -> float:
        """Seconds of this run, those of earlier processes among them."""
        return self.seconds + time.monotonic() - self.began

    def _add_row(self) -> float:
        """A row in the log; its loss, the mean since the last one."""
        loss, self.recent = statistics.fmean(self.recent), []
        row = {"step": self.step, "loss": loss, "seconds": round(self._elapsed(), 1)}
        row |= self.averaged(lambda: self.validate(self.bare_model))
        self._require_finite(row, self.step)
        preview = self.averaged(lambda: self.preview(self.bare_model))
        if self.accelerator.is_main_process:
            self.log.add(row, preview)
        self.accelerator.log({k: v for k, v in row.items() if isinstance(v, float)}, self.step)
        return loss
