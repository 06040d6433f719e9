"""What a benchmark has to say: rows of numbers, and notes about what was not measured."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from morse_engine.system.machine import commit, machine, now

CONDITIONS = ("gpu", "driver", "torch", "triton", "commit", "date")
KEYS = ("bench", "model", "variant", "batch", "value", "unit", "low", "high", "n", *CONDITIONS)
UNITS = {
    "loop_overhead": "us/step",
    "step_ms": "ms",
    "dot_speed": "Dot steps per Dash step",
    "run_ms": "ms",
    "start": "us",
    "capture_s": "s",
    "capture_bytes": "bytes",
    "launch_us": "us",
    "kernel_us": "us",
    "kernel_share": "share of copy bandwidth",
}


class Broken(RuntimeError):
    """The device answers no more in this process."""


class Out:
    """Where one job writes its rows and notes.

    Args:
        emit: takes `{"row": {...}}`, `{"note": "..."}` or `{"doing": "..."}`.
        no_device: the one-launch loop is to be left out: an earlier job was lost with it.
    """

    def __init__(
        self,
        emit: Callable[[dict], None],
        model: str,
        batch: int,
        device: str,
        no_device: bool = False,
    ):
        self.emit, self.model, self.batch, self.device = emit, model, batch, device
        self.no_device = no_device

    def row(self, bench: str, variant: str, spread, *, model: str = "", batch: int = 0) -> None:
        value, low, high, n = spread
        row = {
            "bench": bench,
            "model": model or self.model,
            "variant": variant,
            "batch": batch or self.batch,
            "value": float(value),
            "unit": UNITS[bench],
            "low": float(low),
            "high": float(high),
            "n": int(n),
        }
        self.emit({"row": row})

    def note(self, text: str) -> None:
        self.emit({"note": f"{self.model}, batch {self.batch}: {text}"})

    @contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """Say what is going on, for whoever has to know it when this process is lost."""
        self.emit({"doing": what})
        try:
            yield
        finally:
            self.emit({"doing": ""})

    @contextmanager
    def case(self, name: str) -> Iterator[None]:
        """What fails inside becomes a note, and the benchmark goes on behind it.

        Raises:
            Broken: the GPU cannot be used any more after the failure.
        """
        try:
            yield
        except Exception as error:
            self.note(f"{name}: {one_line(error)}")
            if self.device != "cpu":
                clean_up()


def clean_up() -> None:
    """Free what is left of a failed case, and see that the GPU still answers."""
    import gc

    import torch

    gc.collect()
    try:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    except RuntimeError as error:
        raise Broken(one_line(error)) from error


def one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = f"{type(error).__name__}: {lines[0] if lines else ''}"
    return text if len(text) <= 300 else text[:297] + "..."


def conditions(device: str) -> dict[str, str | None]:
    """What a number depends on besides the code."""
    found = machine() | {"commit": commit(Path(__file__).parent), "date": now()}
    if device == "cpu":
        found |= {"gpu": None, "driver": None}
    return {name: found[name] for name in CONDITIONS}
