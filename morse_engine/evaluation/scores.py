"""The scores of plans, each after a first look that most changes of a plan do not outlast."""

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from ..sampling.plan import Plan
from .score import score, upper_end

WORSE = 1.5  # times what the rivals have at the first look, and a plan is not worth more images


class Scores:
    """How near the images of plans are to the full run's: `scores(plan)`, `scores(plan, rivals)`.

    Args:
        features: `(plan, first, last)` -> `[last - first, F]`, of these images of a plan.
        full: `[n, F]`, of the full run.
        look: how many images are a first look, 2 or more.
        rows: of an earlier run, as `keep` was given them.
        keep: called with each row that is new.

    Attributes:
        looks: `score` of the first `look` images, by plan.
        values: `upper_end` of all images, of the plans that were not dropped.
    """

    def __init__(
        self,
        features: Callable[[Plan, int, int], Tensor],
        full: Tensor,
        look: int,
        rows: Iterable[dict] = (),
        keep: Callable[[dict], None] = lambda row: None,
    ):
        self.features, self.full, self.look, self.keep = features, full, look, keep
        self.looks: dict[Plan, float] = {}
        self.values: dict[Plan, float] = {}
        for row in rows:
            self._take(row)

    def __call__(self, plan: Plan, rivals: Sequence[Plan] = ()) -> float | None:
        """The score of a plan; None of one that is far behind all `rivals` at the first look, or
        makes values that are not finite.

        What was known before does not change what is dropped: a run that goes on drops the same.
        """
        first = None
        if plan not in self.looks:
            first = self.features(plan, 0, self.look)
            self._look(plan, score(first, self.full[: self.look]))
        all_seen = self.look >= len(self.full)
        worst = max((self.looks[rival] for rival in rivals), default=math.inf)
        if self.looks[plan] == math.inf or (self.looks[plan] > WORSE * worst and not all_seen):
            return None
        if plan not in self.values:
            first = self.features(plan, 0, self.look) if first is None else first
            rest = [] if all_seen else [self.features(plan, self.look, len(self.full))]
            found = upper_end(torch.cat([first, *rest]), self.full)
            if not math.isfinite(found):
                self._look(plan, math.inf)
                return None
            self._new({"plan": str(plan), "look": self.looks[plan], "score": float(f"{found:.4g}")})
        return self.values[plan]

    def _look(self, plan: Plan, found: float) -> None:
        found = float(f"{found:.4g}") if math.isfinite(found) else math.inf
        self._new({"plan": str(plan), "look": found, "score": None})

    def _new(self, row: dict) -> None:
        self._take(row)
        self.keep(row)

    def _take(self, row: dict) -> None:
        plan = Plan(row["plan"])
        self.looks[plan] = float(row["look"])
        if row["score"] is not None:
            self.values[plan] = float(row["score"])
