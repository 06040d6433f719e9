"""The free steps of a run whose steps are made by a diffusers scheduler."""

from contextlib import suppress
from math import isfinite
from typing import Any

from torch import Tensor

from ..sampling import probe
from ..sampling.clean import clean, places
from ..sampling.correction import corrections
from ..sampling.free import Line, Range, bounds, slopes
from ..sampling.plan import Plan
from ..sampling.solver import SolverTable, no_free_steps
from ..system.errors import Refused
from .tables import Tables


class FreeSteps:
    """The line that free steps go on, and x where Dash steps behind them correct them.

    Args:
        inner: the scheduler, set to the steps of the plan.
        plan: of all steps.
        clean_range: of the clean images.

    Raises:
        Refused: what the model says of the image is not known.
    """

    def __init__(self, inner: Any, plan: Plan, clean_range: Range):
        name, kind = probe.check(inner, 1, 0.0), probe.kind_of(inner)
        of_x, of_z = zip(*(clean(kind, inner, i) for i in range(len(plan))), strict=True)
        if not all(map(isfinite, of_x)):
            raise Refused(no_free_steps(plan, name))
        self._clean = list(zip(of_x, of_z, strict=True))
        self._plan, self._places, self._range = plan, places(kind, inner), clean_range
        self._slopes: list[float] = []  # from place `_first` on
        self._line: Line | None = None
        self._table: SolverTable | None = None
        self._first = 0  # the place that the run began with
        self._history: list[Tensor] = []

    def begin(self, tables: Tables, inner: Any, first: int, eta: float, as_read: bool) -> None:
        """A run begins at place `first`: its slopes, and what its Dash steps correct.

        Args:
            as_read: whether the scheduler's steps are those of its table. Where they are not, or
                have none, they may add noise, and nothing can be corrected.
        """
        part, table = Plan(self._plan.morse[first:]), None
        if as_read:
            with suppress(Refused):
                table = tables(inner, first, eta)
        noisy = table is None or table.uses_noise
        self._slopes, self._first = slopes(part, self._places[first:], noisy), first
        if table is not None and corrections(table.rows, table.places, part):
            self._table = table.for_plan(part)

    def say(self, i: int, x: Tensor, z: Tensor) -> None:
        """Keep what the call at place i says of the image."""
        u, v = self._clean[i]
        self._line = Line.after(self._line, u * x.float() + v * z.float())

    def z(self, i: int, x: Tensor) -> Tensor:
        """z of the free step at place i."""
        assert self._line is not None  # a plan begins with Dash
        u, v = self._clean[i]
        x_0 = self._line.at(self._slopes[i - self._first], *bounds(self._range, self._line.a))
        return ((x_0 - u * x.float()) / v).to(x.dtype)

    def step(self, i: int, x: Tensor, z: Tensor, out: Any) -> Any:
        """What the scheduler returned for the step at place i, with x after it as corrected.

        Where something is corrected all steps are the table's: a scheduler that goes on from an x
        it saved, as UniPC does, would undo it.
        """
        if self._table is None:
            return out
        at = i - self._first
        x_next, m = self._table.step(at, x.float(), z.float(), self._history)
        self._history = [m, *self._history][: self._table.num_history]
        x_next = x_next.to(x.dtype)
        if isinstance(out, tuple):
            return (x_next, *out[1:])
        out["prev_sample"] = x_next
        return out
