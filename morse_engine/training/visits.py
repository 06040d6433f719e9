"""The points that a sampler visits on its way, kept for training."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..sampling.loop import Trajectory, sample
from ..sampling.plan import Plan
from ..sampling.solver import SolverTable
from .prompts import Prompts

T = TypeVar("T")


class Visits:
    """The last `size` points that the sampler visited with Dot, and what Dash says there.

    A ring of rows `(x, t, x_s, z_s, t_s, z_p, t_p, z)`; z is the target, Dash's own at (x, t). With
    conditions they have the columns of `Prompts` as well: what was asked with, not its tensors.
    """

    NAMES = ("x", "t", *Trajectory._fields, "z")

    def __init__(self, size: int):
        self.size, self.count = size, 0
        self.rows: dict[str, Tensor] = {}

    def add(self, **batch: Tensor) -> None:
        at = torch.arange(self.count, self.count + len(batch["x"])) % self.size
        for name, value in batch.items():
            value = value.detach().cpu()
            if name not in self.rows:
                self.rows[name] = self._empty(value)
            self.rows[name][at] = value
        self.count += len(batch["x"])

    def draw(self, n: int, generator: torch.Generator, device: torch.device) -> dict[str, Tensor]:
        at = torch.randint(min(self.count, self.size), (n,), generator=generator)
        return {name: rows[at].to(device) for name, rows in self.rows.items()}

    def state_dict(self) -> dict:
        """Without the rows that hold nothing yet; a file of a view would have them all."""
        held = min(self.count, self.size)
        return {
            "count": self.count,
            "rows": {n: rows[:held].clone() for n, rows in self.rows.items()},
        }

    def load_state_dict(self, content: dict) -> None:
        self.count = content["count"]
        self.rows = {name: self._empty(rows) for name, rows in content["rows"].items()}
        for name, rows in content["rows"].items():
            self.rows[name][: len(rows)] = rows

    def _empty(self, like: Tensor) -> Tensor:
        return torch.zeros((self.size, *like.shape[1:]), dtype=like.dtype)


def random_run(
    schedulers: Sequence, run_steps: tuple[int, int], generator: torch.Generator
) -> tuple[Plan, SolverTable]:
    """A plan of `run_steps` (least, most) steps and a solver, both drawn.

    Behind each Dash step are 1 to 6 Dot steps, behind each of both no, one or two free steps.

    Returns:
        `(plan, table)`, the table that of one of the diffusers schedulers.
    """

    def pick(choices: Sequence[T]) -> T:
        return choices[int(torch.randint(len(choices), (), generator=generator))]

    num_steps = pick(range(run_steps[0], run_steps[1] + 1))
    dots_per_dash, free_each = pick((1, 2, 3, 4, 6)), pick((0, 1, 2))
    free_each = min(free_each, num_steps // 2 - 1)  # two calls at least
    num_calls = num_steps // (1 + free_each)
    num_dash = max(1, round(num_calls / (1 + dots_per_dash)))
    plan = Plan.spread(num_dash, num_calls - num_dash).with_free(free_each)
    return plan, SolverTable.from_scheduler(pick(schedulers), len(plan))


def visit(
    dot: Callable[..., Tensor] | None,
    prompts: Prompts,
    schedulers: Sequence,
    run_steps: tuple[int, int],
    batch_size: int,
    generator: torch.Generator,
    visits: Visits,
) -> None:
    """Sample `batch_size` images in a random run, and keep every point where Dot was asked.

    With `dot=None` Dash's own answer is the Dot step: the way of a perfect Dot.
    """
    plan, table = random_run(schedulers, run_steps, generator)
    shape, device = (batch_size, *prompts.data.shape[1:]), prompts.device
    start = torch.randn(shape, generator=generator).to(device)
    seeds = torch.randint(2**62, (batch_size,), generator=generator).tolist()
    columns, scale = prompts.run(batch_size, generator)
    asked = prompts.asked(columns)

    def dash(x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        return prompts.unet(x, t, **cond).sample.float()

    def watched(x: Tensor, t: Tensor, *trajectory: Tensor, **_: object) -> Tensor:
        z, last = prompts.dash(x, t, asked), Trajectory(*trajectory)
        one = torch.ones(len(x), dtype=torch.float32, device=device)
        times = {"t": t * one, "t_s": last.t_s * one, "t_p": last.t_p * one}
        visits.add(x=x, z=z, **(last._asdict() | times), **columns)
        return z - last.z_s if dot is None else dot(x, t, *last, **asked.dot)

    guided_dot = prompts.guided
    sample(dash, watched, plan, table, start, seeds, asked.dash, scale, guided_dot=guided_dot)
