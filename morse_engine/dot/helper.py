"""What makes Dot steps: a `Dot`, or any function of the trajectory, in one form for all callers."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..kernels.solver_step import State
from ..sampling.free import Numbers
from ..system.errors import Refused
from ..system.notice import warn
from .family import DASH_ONLY
from .levels import NoiseLevels


class Helper(nn.Module):
    """`eta(x, timestep, x_s, z_s, timestep_s, z_p, timestep_p, **cond)`, made by `as_helper`.

    Attributes:
        guided: whether it corrects the guided estimate; it is then given `guidance_scale` as well.
            Else each branch of the guidance has its own residual.
        fused: whether it makes a step together with the solver, as `Dot.update` does.
        levels: the `NoiseLevels` that its times belong to; None for a function, which takes the
            times of whoever calls it.
        solvers: names of those it was trained with, of `schedulers.name_of`; none if not known.
        clean_range: (lowest, highest) of the images that it was trained on, see `as_range`; None if
            that is not known.
        folder: where it was loaded from; a search of plans leaves its `plans.json` there.
    """

    guided: bool
    fused: bool
    levels: NoiseLevels | None
    solvers: tuple[str, ...] = ()
    clean_range: Any = None
    folder: Path | None = None

    def check_dash(self, unet: Callable[..., Tensor]) -> None:
        """Raise `Refused` if this is the helper of another Dash; a function fits every one."""

    def check_solver(self, name: str) -> None:
        """Warn of a solver that adds noise if it is not among those it was trained with."""
        if self.solvers and name not in self.solvers:
            warn(
                f"{name} adds noise, and this Dot was trained with {', '.join(self.solvers)} "
                "alone: compare images with those of Dash alone. A Dot of digits that never saw "
                "such noise made broken images, of distance 23 where Dash alone has 0.5"
            )

    def merged(self) -> "Helper":
        """The same for inference: a copy that nobody else has, or itself if nothing is gained."""
        return self

    def compiled(self, **options: Any) -> "Helper":
        """The same, run through `torch.compile`; this one stays as it is."""
        raise NotImplementedError


class AnyEta(Helper):
    """A function as a helper. It is guided if its attribute `guided` says so."""

    fused = False

    def __init__(self, function: Callable[..., Tensor], guided: bool):
        super().__init__()
        self.function, self.guided, self.levels = function, guided, None

    def forward(self, *trajectory: Numbers, **cond: Any) -> Tensor:
        return self.function(*trajectory, **for_dot(cond))

    def compiled(self, **options: Any) -> Helper:
        return AnyEta(torch.compile(self.function, **options), self.guided)


def as_helper(dot: Callable[..., Tensor]) -> Helper:
    """A `Dot` as it is; any other `eta(x, timestep, x_s, z_s, ...)` in that form.

    Raises:
        Refused: it cannot be called.
    """
    if isinstance(dot, Helper):
        return dot
    if not callable(dot):
        raise Refused(f"dot is a {type(dot).__name__}, not a Dot or callable")
    return AnyEta(dot, bool(getattr(dot, "guided", False)))


def for_dot(cond: dict) -> dict:
    """The keywords without what Dash alone is given."""
    return {name: value for name, value in cond.items() if name != DASH_ONLY}


def seen(state: State, trajectory: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(x, x_s, z_s, z_p) in a run: each `[B, ...]`, or `[2 B, ...]` where each branch has its own.

    Args:
        trajectory: (x_s, z_s, z_p), x_s `[B, C, H, W]`, the others B or 2 B rows.
    """
    x_s, z_s, z_p = trajectory
    x = state.model_input[: len(z_s)]  # with guidance both halves are the same
    return x, x_s if len(x_s) == len(z_s) else torch.cat([x_s, x_s]), z_s, z_p
