"""The latency of a Dash step (the LSD), of a Dot step, and N."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Speed:
    """Median latency of a Dash and of a Dot step in ms, and N = `dot_speed` = lsd_ms / dot_ms.

    Without a Dot, `dot_ms` and `dot_speed` are None. `spreads` holds the 20 % and 80 % quantiles of
    each measured name.
    """

    lsd_ms: float
    dot_ms: float | None
    dot_speed: float | None
    spreads: dict[str, tuple[float, float]] = field(default_factory=dict)


@torch.no_grad()
def measure_speed(
    dash: Callable[..., Tensor],
    dot: Callable[..., Tensor] | None,
    shape: Sequence[int],
    *,
    batch_size: int = 1,
    repeats: int = 20,
    device: torch.device | str | None = None,
) -> Speed:
    """Time Dash and Dot steps in turns, so that a change of clock or load meets both.

    Args:
        dash, dot: the callables of `morse_engine.sampler.sample`, on `device`.
        shape: `(C, H, W)` of an image.
        repeats: timed pairs, after three untimed ones.

    Raises:
        ValueError: repeats is below 3.
    """
    if repeats < 3:
        raise ValueError(f"repeats={repeats}: a median with a spread needs at least 3")
    x = torch.randn((batch_size, *shape), generator=torch.Generator().manual_seed(0)).to(device)
    t, t_s = torch.tensor(500, device=device), torch.tensor(600, device=device)
    z = dash(x, t_s)
    synchronize = torch.cuda.synchronize if x.is_cuda else lambda: None

    def timed(step: Callable[[], Tensor]) -> float:
        synchronize()
        start = time.perf_counter()
        step()
        synchronize()
        return 1e3 * (time.perf_counter() - start)

    times: dict[str, list[float]] = {"lsd_ms": [], "dot_ms": []}
    for i in range(repeats + 3):
        row = {"lsd_ms": timed(lambda: dash(x, t_s))}
        if dot is not None:
            row["dot_ms"] = timed(lambda: dot(x, t, x, z, t_s, z, t_s))
        if i >= 3:
            for name, value in row.items():
                times[name].append(value)
    if dot is None:
        del times["dot_ms"]
    else:
        times["dot_speed"] = [a / b for a, b in zip(*times.values(), strict=True)]

    def band(values: list[float]) -> tuple[float, float]:
        fifths = statistics.quantiles(values, n=5, method="inclusive")
        return fifths[0], fifths[-1]

    lsd_ms = statistics.median(times["lsd_ms"])
    dot_ms = statistics.median(times["dot_ms"]) if dot is not None else None
    spreads = {name: band(values) for name, values in times.items()}
    return Speed(lsd_ms, dot_ms, lsd_ms / dot_ms if dot_ms else None, spreads)
