"""What the rows of an experiment say: speed-ups, one sentence, and a table.

A row is one plan from one set of seeds, as `Experiment.row` makes it. Functions that speak of "the
rows" take those of one solver.
"""

import statistics
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from .speedup import SpeedUp, speedup_over_sets

if TYPE_CHECKING:
    from rich.table import Table

DASH, MORSE, RIVAL, LINE, REUSE = "dash only", "morse", "free steps", "extrapolation", "reuse"
NAMES = {DASH: "Dash only", MORSE: "Morse", RIVAL: RIVAL, LINE: LINE, REUSE: REUSE}
BEST = "best sampler"  # Dash alone, with whichever of the solvers is best at each cost


def gain(rows: list[dict], variant: str, cost: str = "cost_lsd", over: str = DASH) -> SpeedUp:
    """The speed-up of a variant over another at equal Frechet distance, over its sets of seeds.

    Args:
        rows: of one solver, or with those of Dash alone with others, to compare with the best.
        cost: "cost_lsd", by the latencies measured in turns, or "ms_per_image", by the clock.
        over: Dash alone, or free steps.
    """

    def curve(name: str, k: int) -> list[tuple[float, float]]:
        mine = (row for row in rows if (row["variant"], row["set"]) == (name, k))
        return [(row[cost], row["value"]) for row in mine]

    sets = sorted({row["set"] for row in rows if row["variant"] == variant})
    return speedup_over_sets([curve(over, k) for k in sets], [curve(variant, k) for k in sets])


def budgets(rows: list[dict], variant: str) -> list[float]:
    """The budgets of a variant in LSD, in the order of `gain(...).per_budget`."""
    return list(dict.fromkeys(row["budget_lsd"] for row in rows if row["variant"] == variant))


STEADY = 1.25  # equal work that differs by less in time: nothing else kept the machine busy


def unsteady(rows: list[dict]) -> float:
    """How much the time of one Dash step differs between the points of Dash alone; 1 is steady."""
    times = [row["ms_per_image"] / row["cost_lsd"] for row in rows if row["variant"] == DASH]
    return max(times) / min(times)


def _by_the_clock(rows: list[dict]) -> bool:
    """Whether the images were sampled at the batch size that the costs are of."""
    return all(row.get("sampled_in", row["batch_size"]) == row["batch_size"] for row in rows)


FRECHET = "Frechet distance"


def unit(rows: list[dict]) -> str:
    """What the value of some rows is; lower is better."""
    return rows[0].get("unit", FRECHET)


def verdict(rows: list[dict]) -> str:
    """One sentence: the measured speed-up of Morse, also where it is none, and of its rival.

    Without a Dot that of free steps.
    """
    helper, name, many = MORSE, "Morse", "is"
    if not budgets(rows, MORSE):
        helper, name, many = RIVAL, "free steps", "are"
    morse, spent = gain(rows, helper), budgets(rows, helper)
    where = f"on average over budgets of {listed(spent)} LSD"
    if _by_the_clock(rows) and unsteady(rows) <= STEADY:
        where += f", {gain(rows, helper, 'ms_per_image')} by the clock"
    lost = [b for b, ratio in zip(spent, morse.per_budget, strict=True) if ratio <= 1]
    if morse.mean <= 1:
        brings = "Morse brings" if helper == MORSE else "Free steps bring"
        text = f"{brings} no gain here: {morse} at equal {unit(rows)} ({where})"
    else:
        text = f"At equal {unit(rows)} {name} {many} {morse} as fast as Dash alone ({where})"
        if morse.low is not None and morse.low <= 1:
            text += ", which is not certain: the interval includes 1.0x"
        if lost:
            text += f", with no gain at {listed(lost)} LSD"
    if helper == MORSE and budgets(rows, RIVAL):
        rival = gain(rows, RIVAL)
        text += f"; free steps alone, without a Dot, reach {rival}"
        text += ", more than Morse" if rival.mean > morse.mean else ""
    return text + "."


def in_short(rows: list[dict]) -> str:
    """The speed-ups of the rows of one batch size in a line, with what a Dot step costs there."""
    row = next(row for row in rows if row["variant"] == MORSE)
    over = f" over Dash alone at budgets of {listed(budgets(rows, MORSE))} LSD"
    free = f", free steps alone {gain(rows, RIVAL)}" if budgets(rows, RIVAL) else ""
    return (
        f"At batch {row['batch_size']}, where a Dot step takes 1/{row['dot_speed']:.1f} of a Dash "
        f"step: Morse {gain(rows, MORSE)}{over}{free}."
    )


def by_budget(rows: list[dict], variant: str) -> str:
    """The speed-up of a variant at each of its budgets, with the bounds marked."""
    found = gain(rows, variant)
    bounds = zip(found.lower_bounds, found.upper_bounds, strict=True)
    signs = [">= " if lower else "<= " if upper else "" for lower, upper in bounds]
    each = zip(budgets(rows, variant), signs, found.per_budget, strict=True)
    return ", ".join(f"{sign}{ratio:.2f}x at {budget:g} LSD" for budget, sign, ratio in each)


def at_batch(rows: list[dict], batch_size: int) -> list[dict]:
    """The rows that tell of one batch size: what Morse costs depends on it, the others do not."""
    return [r for r in rows if r["variant"] != MORSE or r["batch_size"] == batch_size]


def beside_the_best(rows: list[dict], solver: str) -> list[dict]:
    """The rows of a solver, and those of Dash alone of all; `gain` of them is over the best.

    Distances of other numbers of images are left out: they are biased otherwise. So there are none
    for a solver of fewer images than others: the best may be among those.
    """
    images = {row["images"] for row in rows if row["solver"] == solver}
    if images != {max(row["images"] for row in rows)}:
        return []
    alone = [row for row in rows if row["variant"] == DASH and row["images"] in images]
    others = [row for row in rows if row["solver"] == solver and row["variant"] != DASH]
    return alone + others if len({row["solver"] for row in alone}) > 1 else []


def speedup_rows(rows: list[dict]) -> list[dict]:
    """The speed-ups of Morse and of its rivals, as rows beside those of points.

    One for each solver, batch size, variant and what it is compared with (`over`): Dash alone with
    the same solver; the best sampler, if there are several solvers; free steps.
    """
    result = []
    solvers = list(dict.fromkeys(row["solver"] for row in rows))
    helpers = [r for r in rows if r["variant"] == MORSE] or rows
    for batch_size in dict.fromkeys(row["batch_size"] for row in helpers):
        for solver in solvers:
            every = at_batch(rows, batch_size)
            mine = [row for row in every if row["solver"] == solver]
            overs = {DASH: mine, RIVAL: mine}
            if best := beside_the_best(every, solver):
                overs[BEST] = best
            for variant in (MORSE, RIVAL, LINE, REUSE):
                for over, compared in overs.items():
                    has = {row["variant"] for row in mine}
                    if variant not in has or over == variant or over not in {*has, BEST}:
                        continue
                    if variant in (LINE, REUSE) and over != DASH:
                        continue
                    result.append(_speedup_row(compared, solver, variant, over, batch_size))
    return result


def _speedup_row(
    rows: list[dict], solver: str, variant: str, over: str, batch_size: int
) -> dict[str, object]:
    same = [r for r in rows if r["variant"] == variant and r["solver"] == solver]
    found, last = gain(rows, variant, over=DASH if over == BEST else over), same[-1]
    row = {"bench": "quality speed-up", "model": last["model"], "solver": solver}
    row |= {"variant": variant, "over": over, "batch_size": batch_size}
    row |= {"budgets": budgets(same, variant)}
    row |= {"sets": len({r["set"] for r in same}), "images": last["images"], "unit": "x"}
    row |= {"value": found.mean, **asdict(found)}
    named = ("dot_speed", "cpu", "gpu", "torch", "commit", "date")
    return row | {name: last[name] for name in named if name in last}


# -- the table -----------------------------------------------------------------------------------


def headings(rows: list[dict]) -> tuple[str, ...]:
    """The columns of `cells`."""
    names = ("method", "budget, LSD", "plan", "ms / image", unit(rows))
    return names + tuple(COMPARED[column] for column in _compared(rows))


COMPARED = {
    "rmse_to_full": "rmse to all steps",
    "unlike": "unlike all steps",
    "agreement": "same digit as with all steps",
    "prompt_score": "prompt score",
}


def _compared(rows: list[dict]) -> list[str]:
    """The columns of `COMPARED` that some row has."""
    return [column for column in COMPARED if any(column in row for row in rows)]


def cells(rows: list[dict]) -> list[tuple[str, ...]]:
    """The points as text under `headings`, by budget; means where there are several sets."""
    order = list(NAMES)
    points: dict[tuple[str, float, str], list[dict]] = {}
    for row in sorted(rows, key=lambda row: (row["budget_lsd"], order.index(row["variant"]))):
        points.setdefault((row["variant"], row["budget_lsd"], row["plan"]), []).append(row)

    def mean(same: list[dict], column: str, digits: int) -> str:
        values = [row[column] for row in same if column in row]
        return f"{statistics.fmean(values):.{digits}f}" if values else ""

    return [
        (
            NAMES[variant],
            f"{budget:g}",
            short(plan),
            mean(same, "ms_per_image", 2) if _by_the_clock(same) else "",
            _value(same),
            *(mean(same, column, 4) for column in _compared(rows)),
        )
        for (variant, budget, plan), same in points.items()
    ]


def _value(same: list[dict]) -> str:
    """The mean distance; those to the full run become so small that three digits must count."""
    values = [row["value"] for row in same]
    form = ".3f" if unit(same) == FRECHET else ".3g"
    return f"{statistics.fmean(values):{form}}{_deviation(values)}"


def _deviation(values: Sequence[float]) -> str:
    return f" (sd {statistics.stdev(values):.3f})" if len(values) > 1 else ""


def short(plan: str, limit: int = 40) -> str:
    """A plan for a table: whole up to `limit` steps, else its beginning and a count."""
    head = limit - 12
    return plan if len(plan) <= limit else f"{plan[:head]} and {len(plan) - head} more"


def caption(rows: list[dict]) -> str:
    """Under which conditions the rows were measured."""
    row = next((row for row in rows if row["variant"] == MORSE), rows[0])
    factor, num_sets = unsteady(rows), len({row["set"] for row in rows})
    dot = ""
    if row["dot_speed"] is not None:
        dot = f", a Dot step {row['dot_ms']:.3g} ms: N = {row['dot_speed']:.1f}"
    busy = (
        f". This machine was busy with other work: by the clock, equal work differs "
        f"{factor:.1f}-fold; the latencies behind LSD are measured in turns and suffer less"
    )
    sets = "one set of seeds" if num_sets == 1 else f"means of {num_sets} sets of seeds"
    return (
        f"{row['model']}, {row['solver'].upper()}, {row['images']:,} images a point ({sets}), "
        f"batch {row['batch_size']}; 1 LSD = {row['lsd_ms']:.3g} ms a batch{dot}"
        f"{busy if factor > STEADY and _by_the_clock(rows) else ''}"
    )


def table(rows: list[dict]) -> "Table":
    """The points as a rich table."""
    from rich.table import Table

    table = Table(title=f"Quality at equal time (a lower {unit(rows)} is better)")
    table.caption = caption(rows)
    for name in headings(rows):
        left = name in ("method", "plan")
        table.add_column(name, justify="left" if left else "right", overflow="fold")
    for texts in cells(rows):
        table.add_row(*texts, style="bold" if texts[0] == NAMES[MORSE] else None)
    return table


def listed(numbers: Sequence[float]) -> str:
    """Numbers in a sentence: 4, 5 and 8."""
    words = [f"{number:g}" for number in numbers]
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
