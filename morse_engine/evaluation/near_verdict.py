"""What is said of pictures beside those of the full run: a sentence, lines, a table."""

from dataclasses import replace
from typing import TYPE_CHECKING

from ..sampling.plan import DOT
from .bootstrap import Interval
from .figures import plain
from .nearness import MEASURES, PROMPT, RMS, UNLIKE, Near, chosen, gain, nearer
from .speedup import SpeedUp
from .verdict import DASH, MORSE, NAMES, RIVAL, listed, short

if TYPE_CHECKING:
    from rich.table import Table

BY = {RMS: "by pixels", UNLIKE: "by features"}
HEADINGS = {RMS: "rms to all steps", UNLIKE: "unlike all steps", PROMPT: "prompt score"}


def verdict(found: list[Near], batch_size: int) -> str:
    """What Morse brings over Dash alone and over free steps, also where it is nothing."""
    morse = _gains(found, MORSE, batch_size, DASH, bounds=False)
    free = _gains(found, RIVAL, batch_size, DASH, bounds=False)
    text = (
        f"For pictures as near to those of all steps Morse is {morse} as fast as Dash alone at "
        f"batch {batch_size}; free steps alone, without a Dot, reach {free}. "
    )
    if not any(DOT in near.row["plan"] for near in chosen(found, MORSE, batch_size)):
        return f"{text}No plan with Dot steps is known to be better, so Morse has none here."
    return text + _beside_free(found, batch_size)


def _gains(
    found: list[Near], variant: str, batch_size: int, over: str, *, bounds: bool = True
) -> str:
    """The speed-ups by each measure, with their intervals or without."""
    gains = {name: gain(found, variant, name, batch_size, over) for name in MEASURES}
    if not bounds:
        gains = {name: replace(found, low=None) for name, found in gains.items()}
    return " and ".join(f"{found} {BY[name]}" for name, found in gains.items())


def _beside_free(found: list[Near], batch_size: int) -> str:
    """Whether Morse is ahead of free steps, by each measure, with its interval."""
    said: dict[str, list[str]] = {}
    for name in MEASURES:
        over = gain(found, MORSE, name, batch_size, over=RIVAL)
        said.setdefault(_side(over), []).append(f"{BY[name]}, {over}")
    whole = ", ".join(f"{words} {' and '.join(by)}" for words, by in said.items())
    return f"Beside free steps Morse is {whole}."


def _side(over: SpeedUp) -> str:
    assert over.low is not None, "a bootstrap gives an interval"
    assert over.high is not None
    return "ahead" if over.low > 1 else "BEHIND" if over.high < 1 else "not certain to be ahead"


def in_short(found: list[Near], batch_size: int) -> str:
    """The speed-ups at a batch size in a line, with what a Dot step costs there."""
    morse = chosen(found, MORSE, batch_size)
    spent = listed([near.row["budget_lsd"] for near in morse])
    speed = morse[0].row["dot_speed"]
    return (
        f"At batch {batch_size}, where a Dot step takes 1/{speed:.1f} of a Dash step, at budgets "
        f"of {spent} LSD: over Dash alone Morse "
        f"{_gains(found, MORSE, batch_size, DASH)}, free steps "
        f"{_gains(found, RIVAL, batch_size, DASH)}; Morse over free steps "
        f"{_gains(found, MORSE, batch_size, RIVAL)}."
    )


def at_budget(found: list[Near], budget: float, batch_size: int) -> str:
    """How far the pictures of one budget are from those of all steps, and how Morse differs."""
    texts = []
    for variant in (MORSE, RIVAL, DASH):
        mine = chosen(found, variant, batch_size)
        near = next(near for near in mine if near.row["budget_lsd"] == budget)
        texts.append(f"{NAMES[variant]} {shown(near.interval(RMS))}")
    less = nearer(found, MORSE, RMS, batch_size, RIVAL)[budget]
    return (
        f"Within {budget:g} LSD at batch {batch_size} the rms to the pictures of all steps is: "
        f"{', '.join(texts)}. Picture by picture Morse is nearer than free steps by {shown(less)}; "
        "below 0 it is farther."
    )


def shown(interval: Interval) -> str:
    """A mean with its interval: 0.031 (0.029 .. 0.033)."""
    return f"{interval.value:.3f} ({interval.low:.3f} .. {interval.high:.3f})"


# -- the table -----------------------------------------------------------------------------------


def headings(found: list[Near]) -> tuple[str, ...]:
    """The columns of `cells`."""
    names = [HEADINGS[name] for name in HEADINGS if name in found[0].values]
    return ("method", "budget, LSD", "plan", "cost, LSD", *names)


def cells(found: list[Near]) -> list[tuple[str, ...]]:
    """The points as text under `headings`, by budget."""
    order = list(NAMES)
    ordered = sorted(
        found,
        key=lambda near: (
            near.row["budget_lsd"], order.index(near.row["variant"]), -near.row["batch_size"]
        ),
    )  # fmt: skip
    return [
        (
            _name(near),
            f"{near.row['budget_lsd']:g}",
            short(near.row["plan"]),
            f"{near.row['cost_lsd']:.2f}",
            *(shown(near.interval(name)) for name in HEADINGS if name in near.values),
        )
        for near in ordered
    ]


def _name(near: Near) -> str:
    variant = near.row["variant"]
    of_batch = f", batch {near.row['batch_size']}" if variant == MORSE else ""
    return f"{NAMES[variant]}{of_batch}"


def caption(found: list[Near]) -> str:
    """Under which conditions the pictures were made, and what the columns are."""
    row = found[0].row
    latencies = {near.row["batch_size"]: near.row for near in found if near.row["variant"] == MORSE}
    each = "; ".join(
        f"batch {size}: 1 LSD = {plain(at['lsd_ms'])} ms, a Dot step {plain(at['dot_ms'])} ms, "
        f"N = {at['dot_speed']:.1f}"
        for size, at in sorted(latencies.items())
    )
    return (
        f"{row['model']}, {row['solver'].upper()}, {row['images']:,} pictures a point, in brackets "
        f"95 % of a bootstrap over them; {each}"
    )


def table(found: list[Near]) -> "Table":
    """The points as a rich table."""
    from rich.table import Table

    table = Table(title="How near to the pictures of all steps (lower is better)")
    table.caption = caption(found)
    for name in headings(found):
        left = name in ("method", "plan")
        table.add_column(name, justify="left" if left else "right", overflow="fold")
    for texts in cells(found):
        marked = texts[0].startswith(NAMES[MORSE])
        table.add_row(*texts, style="bold" if marked else None)
    return table
