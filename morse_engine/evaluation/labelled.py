"""Models with classes as the subject of an experiment."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from ..runtime.models import Models
from .subject import Subject


class Labelled(Subject):
    """Models of pixels that are told a class; the image of a seed is of the class of the seed.

    Args:
        name, models, shape, scheduler: as for `Subject`.
        labels_of: seeds -> their classes, int64 `[n]`.
        words: what the image of each class is to show.
        scale: pictures are shown so many times as large, each pixel a square.
    """

    def __init__(
        self,
        name: str,
        models: Models,
        shape: Sequence[int],
        scheduler: Any,
        *,
        labels_of: Callable[[Sequence[int]], Tensor],
        words: Sequence[str],
        scale: int = 1,
    ):
        super().__init__(name, models, shape, scheduler)
        self._labels_of, self._words, self._scale = labels_of, words, scale

    def told(self, seeds: Sequence[int]) -> dict:
        return {"class_labels": self._labels_of(seeds).to(self.device)}

    def prompts(self, seeds: Sequence[int]) -> list[str]:
        return [self._words[label] for label in self._labels_of(seeds).tolist()]

    def pictures(self, x: Tensor) -> Tensor:
        return nn.functional.interpolate(x, scale_factor=self._scale) if self._scale > 1 else x
