"""Calls timed in turns, so that a change of clock or load meets all of them.

    wall   the host's clock, from an idle device to an idle device
    gpu    CUDA events around several calls in a row, so that the host is ahead; divided by them

On a CPU both are the host's clock.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch


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
        most: calls in a row at most, with the clock "gpu"; as many as take about 20 ms.
        prepare: called before each look at the clock, untimed.
    """

    function: Callable[[], object]
    clock: str = "wall"
    most: int = 16
    prepare: Callable[[], object] | None = None

    def ms(self, in_a_row: int, device: torch.device) -> float:
        """Milliseconds of one call, the mean of some in a row."""
        if self.prepare is not None:
            self.prepare()
        cuda = device.type == "cuda"
        if not (cuda and self.clock == "gpu"):
            synchronize(device)
            started = time.perf_counter()
            for _ in range(in_a_row):
                self.function()
            synchronize(device)
            return 1e3 * (time.perf_counter() - started) / in_a_row
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        synchronize(device)
        begin.record()
        for _ in range(in_a_row):
            self.function()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / in_a_row


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def in_turns(
    calls: dict[str, Call],
    device: torch.device,
    *,
    seconds: float = 2.0,
    least: int = 5,
    most: int = 20,
) -> dict[str, list[float]]:
    """Milliseconds of each call in each round, after two untimed ones.

    Args:
        seconds: about how long all of it may take; the number of rounds follows from it.
        least, most: rounds; two on a CPU, where the benchmarks are only tried out.
    """
    if device.type == "cpu":
        least = most = 2
    in_a_row, round_ms = {}, 0.0
    for name, call in calls.items():
        call.ms(1, device)
        ms = max(call.ms(1, device), 1e-3)
        in_a_row[name] = min(call.most, max(1, int(20 / ms))) if call.clock == "gpu" else 1
        round_ms += ms * in_a_row[name]
    rounds = min(most, max(least, int(1e3 * seconds / round_ms)))
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(call.ms(in_a_row[name], device))
    return times
