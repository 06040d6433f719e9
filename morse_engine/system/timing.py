"""Calls timed in turns, so that a change of clock or load meets all of them.

    wall   the host's clock, from an idle device to an idle device
    gpu    CUDA events around several calls in a row, so that the host is ahead; divided by them

On a CPU both are the host's clock. All times are in ms.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

IN_A_ROW_MS, MOST_IN_A_ROW = 20, 16  # what `in_turns_for` puts between two looks at the GPU's clock


class Spread(NamedTuple):
    """Median and 20 % and 80 % quantiles of n values."""

    value: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        if len(values) < 2:
            return cls(values[0], values[0], values[0], len(values))
        fifths = statistics.quantiles(values, n=5, method="inclusive")
        return cls(statistics.median(values), fifths[0], fifths[-1], len(values))


@dataclass(frozen=True)
class Call:
    """What is timed, and by which clock.

    Attributes:
        in_a_row: calls between two looks at the clock, for those so short that waiting for the
            device would count.
        prepare: called before each look at the clock, untimed.
    """

    function: Callable[[], object]
    clock: str = "wall"
    in_a_row: int = 1
    prepare: Callable[[], object] | None = None

    def ms(self, device: torch.device) -> float:
        """Milliseconds of one call, the mean of those in a row."""
        if self.prepare is not None:
            self.prepare()
        synchronize(device)
        if device.type == "cuda" and self.clock == "gpu":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            self._in_a_row()
            end.record()
            end.synchronize()
            return begin.elapsed_time(end) / self.in_a_row
        started = time.perf_counter()
        self._in_a_row()
        synchronize(device)
        return 1e3 * (time.perf_counter() - started) / self.in_a_row

    def lasting(self, ms: float, device: torch.device, most: int) -> "tuple[Call, float]":
        """The same, by the clock "gpu" as often in a row as takes about `ms`, and ms of one call.

        Args:
            most: calls in a row; two are made to find out.
        """
        self.ms(device)
        one = max(self.ms(device), 1e-3)
        count = min(most, max(1, int(ms / one))) if self.clock == "gpu" else 1
        return replace(self, in_a_row=count), one

    def _in_a_row(self) -> None:
        for _ in range(self.in_a_row):
            self.function()


def synchronize(device: torch.device) -> None:
    """Until the device has done what was asked of it on this stream; others may go on."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()


def in_turns(
    calls: dict[str, Call], device: torch.device, *, rounds: int, untimed: int = 0
) -> dict[str, list[float]]:
    """Milliseconds of each call in each of the rounds that follow the `untimed` ones."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for i in range(untimed + rounds):
        for name, call in calls.items():
            ms = call.ms(device)
            if i >= untimed:
                times[name].append(ms)
    return times


def in_turns_for(
    seconds: float,
    calls: dict[str, Call],
    device: torch.device,
    *,
    least: int = 5,
    most: int = 20,
) -> dict[str, list[float]]:
    """As `in_turns`, with as many rounds as fit in about `seconds`, after two untimed calls.

    Calls by the clock "gpu" are made in a row until they take about 20 ms, 16 at most.

    Args:
        least, most: rounds, whatever they take.
    """
    fitted, round_ms = {}, 0.0
    for name, call in calls.items():
        fitted[name], ms = call.lasting(IN_A_ROW_MS, device, MOST_IN_A_ROW)
        round_ms += ms * fitted[name].in_a_row
    rounds = min(most, max(least, int(1e3 * seconds / round_ms)))
    return in_turns(fitted, device, rounds=rounds)
