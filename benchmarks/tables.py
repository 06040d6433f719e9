"""The result tables of the README, from the rows that `quality.py` wrote.

    python benchmarks/tables.py

They take the place of what is between the two marks in README.md: the speed-ups at every batch
size, the smallest first, and the distances at the smallest. The plot goes into docs/images. The
words around the tables stand in the README, outside of the marks.
"""

import argparse
import json
import shutil
import statistics
import textwrap
from pathlib import Path

from morse_engine.evaluation import verdict
from morse_engine.evaluation.speedup import SpeedUp
from morse_engine.evaluation.verdict import BEST, DASH, MORSE, RIVAL
from morse_engine.sampling import schedulers
from morse_engine.system.files import whole

ROWS = Path("benchmarks/results/quality.json")
README, IMAGES = Path("README.md"), Path("docs/images")
BEGIN, END = "<!-- results -->\n", "<!-- /results -->\n"


def tables(rows: list[dict], gains: list[dict]) -> str:
    """All tables, as Markdown."""
    batches = list(dict.fromkeys(row["batch_size"] for row in rows if row["variant"] == MORSE))
    first = batches[0]
    parts = [about(rows), averages(gains, batches)]
    parts.append(f"Frechet distance to real digits at a budget in LSD, **batch {first}**:")
    parts.append(distances(verdict.at_batch(rows, first), gains, first))
    return "\n\n".join(parts) + "\n"


def about(rows: list[dict]) -> str:
    """What was measured, on what."""
    machines = " and ".join(dict.fromkeys(row["cpu"] for row in rows))
    speeds = {row["batch_size"]: row["dot_speed"] for row in rows if row["variant"] == MORSE}
    measured = ", ".join(f"{speed:.1f} at batch {size}" for size, speed in speeds.items())
    counts: dict[str, list[str]] = {}
    for solver in dict.fromkeys(row["solver"] for row in rows):
        mine = [row for row in rows if row["solver"] == solver]
        sets = len({row["set"] for row in mine})
        words = f"{sets} {'set' if sets == 1 else 'sets'} of {mine[0]['images']:,} images"
        counts.setdefault(words, []).append(schedulers.title(solver))
    points = "; ".join(f"{words} a point: {', '.join(names)}" for words, names in counts.items())
    words = (
        f"`python benchmarks/quality.py` on {machines}: N = {measured}. {points}. "
        f"Rows are in `{ROWS}`."
    )
    return textwrap.fill(words, 100, break_long_words=False, break_on_hyphens=False)


def number(found: SpeedUp | dict) -> str:
    """A mean speed-up with its interval, and whether it is only a bound."""
    if isinstance(found, dict):
        found = SpeedUp(**{name: found[name] for name in SpeedUp.__dataclass_fields__})
    return str(found).replace("95 %: ", "").replace(" .. ", " to ")


def averages(gains: list[dict], batches: list[int]) -> str:
    """A row for each solver and batch size: the mean speed-ups over the three rivals."""
    lines = ["| speed-up of Morse | batch | same sampler | best sampler | free steps |"]
    lines.append("|---|---|---|---|---|")
    for batch_size in batches:
        mine = [g for g in gains if (g["batch_size"], g["variant"]) == (batch_size, MORSE)]
        for solver in dict.fromkeys(g["solver"] for g in mine):
            over = {g["over"]: number(g) for g in mine if g["solver"] == solver}
            cells = " | ".join(over.get(name, "") for name in (DASH, BEST, RIVAL))
            lines.append(f"| {schedulers.title(solver)} | {batch_size} | {cells} |")
    return "\n".join(lines)


def distances(rows: list[dict], gains: list[dict], batch_size: int) -> str:
    """The distances of each solver and variant at each budget, and Morse's plans."""
    budgets = sorted({row["budget_lsd"] for row in rows if row["variant"] == MORSE})
    lines = ["| | " + " | ".join(f"{lsd:g}" for lsd in budgets) + " | most steps |"]
    lines.append("|---" * (len(budgets) + 2) + "|")
    for solver in dict.fromkeys(row["solver"] for row in rows if row["variant"] == MORSE):
        name, mine = schedulers.title(solver), [row for row in rows if row["solver"] == solver]
        for variant in (DASH, RIVAL, MORSE):
            cells = [mean(mine, variant, lsd) for lsd in budgets]
            steps = max(row["budget_lsd"] for row in mine if row["variant"] == DASH)
            full = mean(mine, DASH, steps) + f" ({steps})" if variant == DASH else ""
            lines.append(f"| {name}, {verdict.NAMES[variant]} | {' | '.join(cells)} | {full} |")
        plans = [plan(mine, lsd) for lsd in budgets]
        lines.append(f"| its plan | {' | '.join(plans)} | |")
        for gain in gains:
            if (gain["solver"], gain["variant"], gain["over"]) != (solver, MORSE, DASH):
                continue
            if gain["batch_size"] == batch_size:
                ratios = [ratio(gain, lsd) for lsd in budgets]
                lines.append(f"| speed-up | {' | '.join(ratios)} | |")
    return "\n".join(lines)


def mean(rows: list[dict], variant: str, budget: float) -> str:
    """The mean distance over the sets; empty where nothing was measured."""
    same = [r["value"] for r in rows if (r["variant"], r["budget_lsd"]) == (variant, budget)]
    text = f"{statistics.fmean(same):.3f}" if same else ""
    return f"**{text}**" if variant == MORSE and text else text


def plan(rows: list[dict], budget: float) -> str:
    """Morse's plan at a budget."""
    found = (r["plan"] for r in rows if (r["variant"], r["budget_lsd"]) == (MORSE, budget))
    return "".join(f"`{morse}`" for morse in dict.fromkeys(found))


def ratio(gain: dict, budget: float) -> str:
    """A speed-up at a budget, with `>=` where it is only a bound."""
    if budget not in gain["budgets"]:
        return ""
    i = gain["budgets"].index(budget)
    sign = ">= " if gain["lower_bounds"][i] else "<= " if gain["upper_bounds"][i] else ""
    return f"{sign}{gain['per_budget'][i]:.2f}x"


def put(page: Path, text: str) -> None:
    """Write the text between the two marks of a page."""
    before, _, rest = page.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    with whole(page) as new:
        new.write_text(f"{before}{BEGIN}{text}{END}{after}")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=Path, default=ROWS)
    parser.add_argument("--readme", type=Path, default=README)
    parser.add_argument("--images", type=Path, default=IMAGES, help="the folder for the plot")
    args = parser.parse_args(arguments)
    every = json.loads(args.rows.read_text())
    rows = [row for row in every if row["bench"] == "quality"]
    gains = [row for row in every if row["bench"] == "quality speed-up"]
    put(args.readme, tables(rows, gains))
    shutil.copy(args.rows.with_suffix(".png"), args.images / "quality.png")
    print(f"wrote {args.readme} and {args.images / 'quality.png'}")


if __name__ == "__main__":
    main()
