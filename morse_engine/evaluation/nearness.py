"""How near the pictures of plans come to those of the full run, image by image.

    rms            of pixels, of a range of 1
    unlike         1 - cosine in the features of the yardstick
    prompt score   by a judge, where there is one; it needs no full run

Each is a mean over the images; intervals are of a bootstrap over them.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from .bootstrap import Bootstrap, Interval, between
from .paired import Paired, rms, unlike
from .speedup import SpeedUp, speedup
from .verdict import DASH, MORSE, RIVAL

RMS, UNLIKE, PROMPT = "rms", "unlike", "prompt_score"
MEASURES = (RMS, UNLIKE)  # those that are distances


@dataclass(frozen=True)
class Near:
    """The pictures of one plan beside those of the full run.

    Attributes:
        row: of the plan, as `Experiment.row` makes it.
        values: by the names above, `[n]`.
    """

    row: dict
    values: dict[str, Tensor]

    @classmethod
    def of(
        cls,
        row: dict,
        images: Tensor,
        full: Tensor,
        yardstick: Paired,
        judge: Any = None,
        prompts: list[str] | None = None,
    ) -> "Near":
        """Compare `[n, C, H, W]` pictures with those of the full run.

        Args:
            judge, prompts: what says how well each picture shows its prompt, and the n prompts.
        """
        seen = [yardstick.features(pictures) for pictures in (images, full)]
        values = {RMS: rms(images, full), UNLIKE: unlike(*seen)}
        if judge is not None:
            values[PROMPT] = judge.prompt_score(images, prompts)
        return cls(row, values)

    def at(self, labels: dict) -> "Near":
        """The same pictures with other labels: what they cost somewhere else."""
        return Near(self.row | labels, self.values)

    def interval(self, name: str) -> Interval:
        """The mean of a value over the images."""
        return _bootstrap(len(self.values[name])).interval(self.values[name])

    def as_row(self) -> dict:
        """The row with each mean and its bounds, `rms`, `rms_low`, `rms_high` and so on."""
        row = {k: v for k, v in self.row.items() if k not in (PROMPT, "rmse_to_full", UNLIKE)}
        row["bench"] = "nearness"
        for name in self.values:
            row[name], row[f"{name}_low"], row[f"{name}_high"] = self.interval(name)
        return row


@cache
def _bootstrap(num_images: int) -> Bootstrap:
    return Bootstrap(num_images)


def chosen(found: Iterable[Near], variant: str, batch_size: int) -> list[Near]:
    """Those of a variant, by their cost; what Morse costs depends on the batch size."""
    mine = [
        near
        for near in found
        if near.row["variant"] == variant
        and (variant != MORSE or near.row["batch_size"] == batch_size)
    ]
    return sorted(mine, key=lambda near: near.row["cost_lsd"])


def gain(found: list[Near], variant: str, name: str, batch_size: int, over: str = DASH) -> SpeedUp:
    """The speed-up of a variant over another for pictures as near to those of the full run.

    Its interval is that of the mean over the budgets, from whole curves of the same draws.

    Args:
        name: `RMS` or `UNLIKE`.
    """
    base, ours = (chosen(found, kind, batch_size) for kind in (over, variant))
    base_means, our_means = _means(base, name), _means(ours, name)

    def at(draw: int) -> SpeedUp:
        return speedup(_curve(base, base_means[:, draw]), _curve(ours, our_means[:, draw]))

    draws = [at(draw) for draw in range(our_means.shape[1])]
    whole, (_, low, high) = draws[0], between(torch.tensor([draw.mean for draw in draws]))
    return replace(whole, low=low, high=high)


def _means(curve: list[Near], name: str) -> Tensor:
    """The means of a curve's points over all images and over each draw, `[points, 1 + draws]`."""
    values = [near.values[name] for near in curve]
    return torch.stack([_bootstrap(len(one)).means(one) for one in values])


def _curve(curve: list[Near], means: Tensor) -> list[tuple[float, float]]:
    costs = [near.row["cost_lsd"] for near in curve]
    return list(zip(costs, means.tolist(), strict=True))


def speedup_rows(found: list[Near], batches: Iterable[int]) -> list[dict]:
    """The speed-ups of Morse and free steps by each measure, as rows beside those of points."""
    pairs, last = ((MORSE, DASH), (MORSE, RIVAL), (RIVAL, DASH)), found[-1].row
    rows = []
    for batch_size in batches:
        for name in MEASURES:
            for variant, over in pairs:
                got = gain(found, variant, name, batch_size, over)
                row = {"bench": "nearness speed-up", "model": last["model"], "by": name}
                row |= {"solver": last["solver"], "variant": variant, "over": over}
                row |= {"batch_size": batch_size, "images": last["images"], "unit": "x"}
                rows.append(row | {"value": got.mean, **asdict(got), "date": last["date"]})
    return rows


def nearer(
    found: list[Near], variant: str, name: str, batch_size: int, over: str
) -> dict[float, Interval]:
    """How much nearer a variant is than another, image by image, by the budgets that both have."""
    mine, theirs = (
        {near.row["budget_lsd"]: near.values[name] for near in chosen(found, kind, batch_size)}
        for kind in (variant, over)
    )
    return {
        budget: _bootstrap(len(values)).interval(theirs[budget] - values)
        for budget, values in mine.items()
        if budget in theirs
    }
