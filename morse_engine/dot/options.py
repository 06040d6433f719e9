"""The options of a Dot, in ranges that can be built."""

from typing import Any, NamedTuple

from ..system import checks
from ..system.checks import shown
from ..system.errors import Refused

MOST_WIDTHS, MOST_WIDTH, MOST_RANK = 8, 2048, 1024


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
