"""What a terminal shows of a training: loss, images a second, elapsed and remaining time."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class Watch:
    """The line of one run; where there is no terminal, a line for each row of the log.

    Args:
        num_steps: of the whole run.
        done: steps of it that are behind.
        images: in a step, of all processes.
        shown: False shows nothing.
    """

    def __init__(self, num_steps: int, done: int, images: int, *, shown: bool):
        self.num_steps, self.first, self.images, self.shown = num_steps, done, images, shown
        self.began = time.monotonic()
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """Show the line while the block runs."""
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        columns = (
            TextColumn("training"), BarColumn(20), MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}  {task.fields[rate]} images/s"),
            TimeElapsedColumn(), TimeRemainingColumn(),
        )  # fmt: skip
        with Progress(*columns, disable=not self.shown, refresh_per_second=1) as bar:
            if self.shown and bar.console.is_terminal:
                total, done = self.num_steps, self.first
                self._task = bar.add_task("", total=total, completed=done, loss="-", rate="-")
                self._bar = bar
            yield

    def step(self, done: int, loss: float) -> None:
        """A step is done, the number of all of them is `done`."""
        if self._bar is not None and self._task is not None:
            rate = f"{self._rate(done):,.0f}"
            self._bar.update(self._task, completed=done, loss=f"{loss:.4f}", rate=rate)

    def row(self, done: int, loss: float) -> None:
        """The log has a row more."""
        if self.shown and self._bar is None:
            elapsed = time.monotonic() - self.began
            left = elapsed / max(1, done - self.first) * (self.num_steps - done)
            print(
                f"step {done:,} of {self.num_steps:,}: loss {loss:.4f}, {self._rate(done):,.0f} "
                f"images/s, {_clock(elapsed)} elapsed, {_clock(left)} left",
                flush=True,
            )

    def _rate(self, done: int) -> float:
        seconds = time.monotonic() - self.began
        return (done - self.first) * self.images / max(seconds, 1e-9)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
