"""A second look at what a search would choose, by images that took no part in the choice.

Of some hundred plans the best are ahead by luck too: on the bundled miniature, plans that a climb
had found by 64 pictures of 16 prompts were up to 2.4 times as far from the full run as so many Dash
steps when other prompts were asked (docs/fidelity.md). So a plan keeps the score by which it is
ahead of what a budget buys without a search only if it is surely ahead on other images as well.
"""

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import product

from torch import Tensor

from ..sampling.budget import fits
from ..sampling.plan import Plan
from .partial import Partial
from .score import share_nearer

TRIED = 3  # plans that are looked at again, of each budget and N
SURE = 0.9  # of the draws of a bootstrap
TIMES = 2  # as many images as at first
FIRST = 0.8  # of the work is the first look


class Second:
    """Whether plans are nearer to the full run than others, nearly surely: `second(plan, others)`.

    Args:
        features: `(plan, first, last)` -> `[last - first, F]`, of these images of a plan.
        num_images: of the first look, which are not looked at again.
        full: the full run, as a plan.
        kept: where features are kept, and taken from.
    """

    def __init__(
        self,
        features: Callable[[Plan, int, int], Tensor],
        num_images: int,
        full: Plan,
        kept: Partial,
    ):
        self._make, self._kept, self._full = features, kept, full
        self._images = num_images, (1 + TIMES) * num_images

    def features(self, plan: Plan) -> Tensor:
        """Of a plan, as an earlier search may have left them; names of files are short."""
        name = hashlib.sha256(str(plan).encode()).hexdigest()[:16]
        return self._kept.images(f"second-{name}", lambda: self._make(plan, *self._images))

    def __call__(self, plan: Plan, others: Collection[Plan]) -> bool:
        """Whether its score is below that of each other in nine of ten draws of the images."""
        full, mine = self.features(self._full), self.features(plan)
        return all(share_nearer(mine, self.features(other), full) >= SURE for other in others)


def confirm(
    scores: Mapping[Plan, float],
    budgets: Sequence[float],
    speeds: Sequence[float],
    rivals: Callable[[float], list[Plan]],
    sure: Callable[[Plan, Collection[Plan]], bool],
    on_plan: Callable[[Plan, float, float], None],
) -> dict[Plan, float]:
    """The scores, those that luck may have made set back behind what they may not be worse than.

    Args:
        scores: of the first look, by plan.
        budgets, speeds: those of the search, from the least to the most.
        rivals: of a budget, Dash alone and then with free steps behind each of its steps.
        sure: as `Second`.
        on_plan: told, for each budget and N, the plan that is bought, its score, and the part done.
    """
    rounds = list(product(budgets, (None, *speeds)))
    kept, proven = dict(scores), dict[float, set[Plan]]()
    for done, (lsd, n) in enumerate(rounds, 1):
        within = [plan for plan in kept if fits(plan, lsd, n)]
        if ahead := _alone([plan for plan in rivals(lsd) if plan in kept], kept, sure):
            least = min(kept[plan] for plan in ahead)
            better = sorted((p for p in within if kept[p] < least), key=kept.__getitem__)
            _prove(better, kept, ahead, proven.setdefault(lsd, set()), sure)
        bought = min(within, key=kept.__getitem__, default=None)
        if bought is not None:
            on_plan(bought, kept[bought], FIRST + (1 - FIRST) * done / len(rounds))
    return kept


def _alone(
    rivals: Sequence[Plan],
    kept: dict[Plan, float],
    sure: Callable[[Plan, Collection[Plan]], bool],
) -> list[Plan]:
    """Dash alone, and what of its free steps is surely ahead of it; the others are set back."""
    for plan in rivals[1:]:
        if kept[plan] < kept[rivals[0]] and not sure(plan, rivals[:1]):
            kept[plan] = _behind(kept[rivals[0]])
    return [plan for plan in rivals if kept[plan] <= kept[rivals[0]]]


def _prove(
    plans: Sequence[Plan],
    kept: dict[Plan, float],
    rivals: Sequence[Plan],
    proven: set[Plan],
    sure: Callable[[Plan, Collection[Plan]], bool],
) -> None:
    """Look at the plans, the best ones first, until one is surely ahead; set the others back.

    Args:
        proven: those that are known to be ahead at this budget; what is found is added.
    """
    behind, tried, found = _behind(min(kept[plan] for plan in rivals)), 0, False
    for plan in plans:
        if plan not in proven and not found and tried < TRIED:
            tried += 1
            if sure(plan, rivals):
                proven.add(plan)
        found |= plan in proven
        if plan not in proven:
            kept[plan] = behind


def _behind(score: float) -> float:
    """Next to a score, in the digits that scores have."""
    return float(f"{score * 1.001:.4g}")
