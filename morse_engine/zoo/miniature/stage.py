"""One training of the miniature: steps, averaged weights, checkpoints, throughput, time left."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from ...system.errors import Unavailable
from ...system.files import whole
from ...system.lock import alone

Model = TypeVar("Model", bound=nn.Module)


class Stage(Generic[Model]):
    """A training that goes on from its checkpoint, and then ends as if it had not been stopped.

    A step's random numbers depend on the seed and the number of the step alone, and the rate on
    the number of the step and the end of the training: warm-up over `warm_up` steps, then `lr`, and
    over the last fifth of the steps down to zero. AdamW; gradients are clipped at norm 1. The
    averaged weights (EMA) lag behind by up to 1 / (1 - `ema`) steps, less in the beginning.

    Args:
        model: what is trained, moved to `device`; starts from its present weights where there is no
            checkpoint.
        loss: `loss(model, generator, step)` is the mean loss of a batch, a tensor, and a dictionary
            of numbers to show. The generator is one of the CPU: batches are the same everywhere.
        file: the checkpoint, written every `every` seconds and at the end.
        num_steps: the end. With a larger number a finished training goes on.
        batch_size: pictures in a step, to show the throughput.
        device: of the training; its checkpoint goes on on another one, too.
        bf16: the loss is computed under autocast to bfloat16; weights and averages are float32.
    """

    def __init__(
        self,
        model: Model,
        loss: Callable[[nn.Module, torch.Generator, int], tuple[Tensor, dict[str, float]]],
        file: Path,
        *,
        num_steps: int,
        batch_size: int,
        lr: float,
        ema: float = 0.999,
        warm_up: int = 200,
        every: float = 90.0,
        seed: int = 0,
        device: str | torch.device = "cpu",
        bf16: bool = False,
    ):
        from diffusers.training_utils import EMAModel

        self.device, self.bf16 = torch.device(device), bf16
        self.model, self.loss, self.file = model.to(self.device), loss, file
        self.num_steps, self.batch_size, self.lr = num_steps, batch_size, lr
        self.warm_up, self.every, self.seed = warm_up, every, seed
        self.optimizer = torch.optim.AdamW(model.parameters(), lr, (0.9, 0.99), weight_decay=0.01)
        self.ema = EMAModel(model.parameters(), decay=ema, foreach=True)
        self.step = 0
        if file.exists():
            self._restore()

    def run(self, seconds: float | None = None) -> bool:
        """Train to the end, or for so many seconds; True at the end. A kill costs `every` s.

        Raises:
            Unavailable: another process trains in the folder, or the loss is not finite.
        """
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with alone(self.file.parent):
            return self._run(seconds)

    def _run(self, seconds: float | None) -> bool:
        began = saved = shown = time.monotonic()
        first, mean = self.step, dict[str, float]()
        self.model.train()
        while self.step < self.num_steps:
            for name, number in self._step().items():
                mean[name] = mean.get(name, number) * 0.98 + number * 0.02
            now = time.monotonic()
            if now - saved > self.every:
                self._save()
                saved = now
            if now - shown > 15 or self.step == self.num_steps:
                self._show(mean, (now - began) / (self.step - first))
                shown = now
            if seconds is not None and now - began > seconds:
                break
        if self.step > first:
            self._save()
        return self.step >= self.num_steps

    def averaged(self) -> Model:
        """The model with its averaged weights, on the CPU, in evaluation mode; training ends so."""
        self.ema.copy_to(self.model.parameters())
        return self.model.eval().cpu()

    def rate(self, step: int) -> float:
        """The learning rate of a step: warm-up, `lr`, a straight line down over the last fifth."""
        left = (self.num_steps - step) / (0.2 * self.num_steps)
        return self.lr * min(1.0, (step + 1) / self.warm_up, left)

    def _step(self) -> dict[str, float]:
        generator = torch.Generator().manual_seed((self.seed << 32) + self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(self.step)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            loss, numbers = self.loss(self.model, generator, self.step)
        if not torch.isfinite(loss):
            raise Unavailable(
                f"the loss of step {self.step} is {loss.item()}: start {self.file.parent} again "
                f"with a rate below {self.lr:g}"
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.ema.step(self.model.parameters())
        self.step += 1
        return {"loss": loss.item()} | numbers

    def _show(self, mean: dict[str, float], seconds: float) -> None:
        numbers = "  ".join(f"{name} {number:.4f}" for name, number in mean.items())
        left = (self.num_steps - self.step) * seconds / 60
        print(
            f"{self.file.parent.name}: step {self.step} of {self.num_steps}, "
            f"{self.step * self.batch_size / 1e3:.1f}k samples, "
            f"{self.batch_size / seconds:.1f} a second, {left:.0f} min left  {numbers}",
            flush=True,
        )

    def _save(self) -> None:
        state = {
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.state_dict(),
        }
        with whole(self.file) as path:
            torch.save(state, path)

    def _restore(self) -> None:
        state = torch.load(self.file, map_location="cpu", weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.ema.load_state_dict(state["ema"])
        self.ema.to(self.device)
        self.step = state["step"]
