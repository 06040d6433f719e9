"""The options of a Dot, in ranges that can be built."""

from typing import Any, NamedTuple

import torch
from torch import nn

from ..system import checks
from ..system.checks import shown
from ..system.errors import Refused

MOST_WIDTHS, MOST_WIDTH, MOST_RANK = 8, 2048, 1024


DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def check_dtype(unet: nn.Module) -> None:
    """Refuse a Dash in a type that no Dot computes in."""
    for parameter in unet.parameters():
        if parameter.is_floating_point() and parameter.dtype not in DTYPES:
            raise Refused(
                f"this Dash is in {parameter.dtype}: a Dot computes in float32, float16 or "
                "bfloat16, so call unet.float() first"
            )


class Options(NamedTuple):
    """What a Dot is made with, beside its Dash and the noise; see `Dot`."""

    widths: tuple[int, ...]
    lora_rank: int
    cut: int | None
    guided: bool

    @classmethod
    def checked(cls, widths: Any, lora_rank: Any, cut: Any, guided: Any) -> "Options":
        """The options, or the first that is of another type or out of range is refused."""
        if not isinstance(widths, (tuple, list)) or not 1 <= len(widths) <= MOST_WIDTHS:
            raise Refused(
                f"widths={shown(widths)}: give 1 to {MOST_WIDTHS} integers, such as (16, 32)"
            )
        return cls(
            tuple(checks.integer("a width", width, 1, MOST_WIDTH) for width in widths),
            checks.integer("lora_rank", lora_rank, 0, MOST_RANK),
            None if cut is None else checks.integer("cut", cut, 0),
            checks.flag("guided", guided),
        )
