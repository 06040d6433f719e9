"""The latency of a Dash step (the LSD), of a Dot step, and N."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..sampling.loop import second_half
from ..system.errors import Refused
from ..system.timing import Call, Spread, in_turns

ROW_MS, MOST = 5.0, 64  # what is timed in one piece; captured memory has room for as many steps


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
    guidance_scale: float | None = None,
    guided_dot: bool = False,
) -> Speed:
    """Time calls of Dash and Dot in turns.

    Args:
        dash, dot: the callables of `morse_engine.sampling.loop.sample`, on `device`.
        shape: `(C, H, W)` of an image.
        batch_size: images; with guidance Dash is given each twice.
        repeats: as in `measure_steps`.
        cond, guidance_scale, guided_dot: as in `sample`. A guided Dot is given each image once.

    Raises:
        Refused: repeats is below 3.
    """
    cond = cond or {}
    x = torch.randn((batch_size, *shape), generator=torch.Generator().manual_seed(0)).to(device)
    both = x if guidance_scale is None else torch.cat([x, x])
    t, t_s = torch.tensor(500, device=device), torch.tensor(600, device=device)
    seen, z, told = both, dash(both, t_s, **cond), cond
    if guidance_scale is not None and guided_dot:
        seen, z = x, z[:batch_size]
        told = second_half(cond) | {"guidance_scale": guidance_scale}
    dot_step = None if dot is None else lambda: dot(seen, t, seen, z, t_s, z, t_s, **told)
    dash_step = lambda: dash(both, t_s, **cond)  # noqa: E731
    return measure_steps(dash_step, dot_step, device=x.device, repeats=repeats)


def measure_steps(
    dash_step: Callable[[], object],
    dot_step: Callable[[], object] | None,
    *,
    device: torch.device,
    repeats: int = 20,
    again: Callable[[], object] | None = None,
) -> Speed:
    """Time two steps in turns, so that a change of clock or load meets both.

    On a GPU by its own clock, over steps in a row that take about 5 ms, 64 at most: one that is
    waited for would be charged with its launch.

    Args:
        repeats: timed pairs, after three untimed ones.
        again: called before each row of steps, untimed.

    Raises:
        Refused: repeats is below 3.
    """
    if repeats < 3:
        raise Refused(f"repeats={repeats}: a median with a spread needs at least 3")
    calls, clock = {}, "gpu" if device.type == "cuda" else "wall"
    for name, step in (("lsd_ms", dash_step), ("dot_ms", dot_step)):
        if step is not None:
            calls[name], _ = Call(step, clock, prepare=again).lasting(ROW_MS, device, MOST)
    times = in_turns(calls, device, rounds=repeats, untimed=3)
    if dot_step is not None:
        times["dot_speed"] = [a / b for a, b in zip(*times.values(), strict=True)]
    spreads = {name: Spread.of(values) for name, values in times.items()}
    lsd_ms = spreads["lsd_ms"].value
    dot_ms = spreads["dot_ms"].value if dot_step is not None else None
    bands = {name: (spread.low, spread.high) for name, spread in spreads.items()}
    return Speed(lsd_ms, dot_ms, lsd_ms / dot_ms if dot_ms else None, bands)
