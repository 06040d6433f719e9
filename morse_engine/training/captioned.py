"""Images with what Dash is told about each of them."""

from typing import Any, Protocol, overload

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from ..system import checks
from ..system.errors import Refused

EMPTY = -1  # the row of the empty prompt


class Rows(Protocol):
    """What is read row by row, `[n, ...]`: a tensor, or a `latents.Stored`."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...

    @overload
    def __getitem__(self, rows: Tensor, /) -> Tensor: ...

    @overload
    def __getitem__(self, rows: slice, /) -> "Rows": ...


class Captioned:
    """Images, or latents, with the keywords that Dash is given for each of them.

    Args:
        images: `[n, C, H, W]`.
        cond: keywords of Dash (`encoder_hidden_states`, `added_cond_kwargs`, `class_labels`, ...)
            of n rows each, in dicts of any depth.
        empty: the same keywords, tensors of one row, for the branch of the guidance without the
            condition: those of the empty prompt. None for a Dash that is never run without one.

    Raises:
        Refused: a keyword with another number of rows, or other keywords in `empty`.
    """

    def __init__(self, images: Rows, cond: dict, empty: dict | None = None):
        if not _has_rows(images):
            raise Refused(f"images is {checks.kind(images)}: pass a tensor [n, C, H, W]")
        for name, told in (("cond", cond), ("empty", {} if empty is None else empty)):
            leaves = _leaves(told).items() if isinstance(told, dict) else [(name, told)]
            if bad := [(k, v) for k, v in leaves if not _has_rows(v)]:
                what = f"{bad[0][0]} is {checks.kind(bad[0][1])}"
                raise Refused(f"{what}: {name} is a dict of Dash's keywords, tensors of n rows")
        self.images, self.cond, self.empty = images, cond, empty
        self.shape = tuple(images.shape)
        for name, value in _leaves(cond).items():
            if len(value) != len(images):
                raise Refused(f"{name} has {len(value)} rows for {len(images)} images")
        if empty is not None:
            if odd := _leaves(empty).keys() ^ _leaves(cond).keys():
                raise Refused(f"{', '.join(sorted(odd))}: give it in cond and in empty")
            for name, value in _leaves(empty).items():
                if len(value) != 1:
                    raise Refused(f"{name} of the empty prompt has {len(value)} rows: give one")

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Tensor) -> Tensor:
        return self.images[rows]

    def part(self, rows: slice) -> "Captioned":
        """Some of them, in their order."""
        return Captioned(self.images[rows], tree_map(lambda v: v[rows], self.cond), self.empty)

    def keywords(self, rows: Tensor, device: torch.device, dtype: torch.dtype) -> dict:
        """The keywords of some rows, int64 `[B]`, `EMPTY` among them; fractions in `dtype`."""

        def gather(value: dict | Rows, empty: Any) -> Any:  # both of one form, or empty is None
            if isinstance(value, dict):
                return {k: gather(v, empty and empty[k]) for k, v in value.items()}
            found = value[rows.clamp(min=0)]
            if empty is not None:
                found[rows == EMPTY] = empty.to(found)
            return found.to(device, dtype if found.is_floating_point() else None)

        return gather(self.cond, self.empty)


def _has_rows(value: Any) -> bool:
    return len(getattr(value, "shape", ())) > 0


def _leaves(tree: dict, above: str = "") -> dict[str, Rows]:
    flat: dict[str, Rows] = {}
    for name, value in tree.items():
        name = above + name
        flat |= _leaves(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return flat
