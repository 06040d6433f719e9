"""The images of many seeds."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..sampling import noise
from ..sampling.loop import sample
from ..sampling.plan import Plan
from ..sampling.solver import SolverTable
from ..system import checks
from ..system.errors import Refused


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

    Raises:
        Refused: no seeds, a number out of range, or a plan and a table that do not fit each other.
    """
    from rich.progress import track

    batch_size = checks.integer("batch_size", batch_size, 1)
    checks.function("dash", dash, "the model")
    if dot is not None:
        checks.function("dot", dot, "what makes Dot steps, or None", 7)
    if on_step is not None:
        checks.function("on_step", on_step, "a function of two numbers, or None", 2)
    checks.function("told", told, "a function of seeds", 1)
    checks.flag("progress", progress)
    checks.flag("guided_dot", guided_dot)
    if guidance_scale is not None:
        guidance_scale = checks.number("guidance_scale", guidance_scale)
    if not checks.is_list(seeds) or not len(seeds):
        raise Refused(f"seeds={checks.shown(seeds)}: give a list of whole numbers, one an image")
    seeds = [checks.integer("a seed", seed, 0, 2**64 - 1) for seed in seeds]
    shape = checks.sizes("shape", shape, "(C, H, W)")
    if not isinstance(plan, Plan) or not isinstance(table, SolverTable) or len(plan) != len(table):
        raise Refused(
            f"plan is {checks.kind(plan)} and table {checks.kind(table)}: give a Plan, and a "
            "SolverTable with a row for each of its steps"
        )
    if plan.num_dot and dot is None:
        raise Refused(f"{checks.shown(str(plan))} has Dot steps, but there is no dot")
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
