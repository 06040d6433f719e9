"""The images of many seeds."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..sampling import noise
from ..sampling.loop import sample
from ..sampling.plan import Plan
from ..sampling.solver import SolverTable


def sample_many(
    dash: Callable,
    dot: Callable | None,
    plan: Plan,
    table: SolverTable,
    seeds: Sequence[int],
    shape: Sequence[int],
    batch_size: int = 100,
    *,
    device: torch.device | str = "cpu",
    progress: bool = False,
    on_step: Callable[[int, int], None] | None = None,
    told: Callable[[list[int]], dict] = lambda seeds: {},
    guidance_scale: float | None = None,
    guided_dot: bool = False,
    **cond: Any,
) -> Tensor:
    """The images of many seeds, sampled in batches by the eager loop.

    Args:
        dash, dot, plan, table: as for `sampling.loop.sample`; dot may be None if the plan has no
            Dot steps.
        seeds: one whole number per image; an image depends on its seed alone, not on the batch.
        shape: `(C, H, W)`.
        device: where the models are.
        progress: show a progress bar.
        on_step: called as `on_step(i, size)` after step i of each batch of `size` images.
        told: what both models are given by keyword for the images of these seeds.
        guidance_scale, guided_dot: as for `sampling.loop.sample`; what `told` returns is then of
            twice as many rows, those without the condition first.
        cond: the same for all images.

    Returns:
        `[len(seeds), C, H, W]` float32 on the CPU.
    """
    from rich.progress import track

    seeds = [int(seed) for seed in seeds]
    batches = [seeds[i : i + batch_size] for i in range(0, len(seeds), batch_size)]
    images = []
    for batch in track(batches, description=f"sampling {plan}", disable=not progress):
        size, after = len(batch), None
        if on_step is not None:
            after = lambda i, n, size=size: on_step(i, size)  # noqa: E731
        start = noise.normal(batch, noise.INITIAL, shape, device=device)
        x = sample(
            dash, dot, plan, table, start, batch, cond | told(batch), guidance_scale,
            guided_dot=guided_dot, on_step=after,
        )  # fmt: skip
        images.append(x.cpu())
    return torch.cat(images)
