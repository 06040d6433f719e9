"""The latency of a Dash step (the LSD), of a Dot step, and N."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..system.errors import Refused
from ..system.timing import Call, Spread, in_turns


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
    cond: dict | None = None,
) -> Speed:
    """Time calls of Dash and Dot in turns.

    Args:
        dash, dot: the callables of `morse_engine.sampling.loop.sample`, on `device`.
        shape: `(C, H, W)` of an image.
        repeats: as in `measure_steps`.
        cond: what both are given by keyword.

    Raises:
        Refused: repeats is below 3.
    """
    cond = cond or {}
    x = torch.randn((batch_size, *shape), generator=torch.Generator().manual_seed(0)).to(device)
    t, t_s = torch.tensor(500, device=device), torch.tensor(600, device=device)
    z = dash(x, t_s, **cond)
    dot_step = None if dot is None else lambda: dot(x, t, x, z, t_s, z, t_s, **cond)
    return measure_steps(lambda: dash(x, t_s, **cond), dot_step, device=x.device, repeats=repeats)


def measure_steps(
    dash_step: Callable[[], object],
    dot_step: Callable[[], object] | None,
    *,
    device: torch.device,
    repeats: int = 20,
    in_a_row: int = 1,
) -> Speed:
    """Time two steps in turns, so that a change of clock or load meets both.

    Args:
        repeats: timed pairs, after three untimed ones.
        in_a_row: calls of a step between two looks at the clock, for steps so short that waiting
            for the device would count.

    Raises:
        Refused: repeats is below 3.
    """
    if repeats < 3:
        raise Refused(f"repeats={repeats}: a median with a spread needs at least 3")
    calls = {"lsd_ms": Call(dash_step, in_a_row=in_a_row)}
    if dot_step is not None:
        calls["dot_ms"] = Call(dot_step, in_a_row=in_a_row)
    times = in_turns(calls, device, rounds=repeats, untimed=3)
    if dot_step is not None:
        times["dot_speed"] = [a / b for a, b in zip(*times.values(), strict=True)]
    spreads = {name: Spread.of(values) for name, values in times.items()}
    lsd_ms = spreads["lsd_ms"].value
    dot_ms = spreads["dot_ms"].value if dot_step is not None else None
    bands = {name: (spread.low, spread.high) for name, spread in spreads.items()}
    return Speed(lsd_ms, dot_ms, lsd_ms / dot_ms if dot_ms else None, bands)
