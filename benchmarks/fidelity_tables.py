"""The tables of docs/fidelity.md and docs/icons.md, from rows, and the searches beside the Dots.

    python benchmarks/fidelity_tables.py

They take the place of what is between the two marks of each page.
"""

import json

from fidelity import (
    BUDGETS,
    CLIPPED,
    FULL,
    ICONS,
    KARRAS,
    MINIATURE,
    RESULTS,
    SAMPLERS,
    Path,
    speed_file,
)
from guidance_curve import table as guidance
from tables import put

from morse_engine.evaluation.verdict import DASH, MORSE, RIVAL, at_batch
from morse_engine.sampling import budget as budgets_of
from morse_engine.sampling import schedulers
from morse_engine.zoo import icons
from morse_engine.zoo.miniature import DOT

PAGE = Path(__file__).parents[1] / "docs/fidelity.md"
ICONS_PAGE = PAGE.with_name("icons.md")
KINDS = ((RIVAL, DASH, 1), (MORSE, DASH, 1), (MORSE, DASH, 16))


def title(sampler: str) -> str:
    if sampler == CLIPPED:
        return "DDIM, clipped"
    name = schedulers.title(sampler.removesuffix(KARRAS))
    return f"{name}, Karras" if sampler.endswith(KARRAS) else name


def gains(rows: list[dict]) -> str:
    """The average speed-ups over Dash alone, of each sampler and guidance scale."""
    lines = ["| sampler | guidance | by | free steps | Morse, batch 1 | Morse, batch 16 |"]
    lines.append("|---|---|---|---|---|---|")
    order = {sampler: k for k, sampler in enumerate((*SAMPLERS, CLIPPED))}
    found = [row for row in rows if row["unit"] == "x"]
    found.sort(key=lambda row: (order[row["solver"]], row["guidance"]))
    for sampler, scale, by in dict.fromkeys((r["solver"], r["guidance"], r["by"]) for r in found):
        mine = {
            (row["variant"], row["over"], row["batch_size"]): row["said"]
            for row in found
            if (row["solver"], row["guidance"], row["by"]) == (sampler, scale, by)
        }
        cells = " | ".join(mine.get(kind, "").replace("95 %: ", "") for kind in KINDS)
        names = {"value": "score", "unlike": "1 - cosine", "to_real": "to real icons"}
        lines.append(f"| {title(sampler)} | {scale:g} | {names.get(by, by)} | {cells} |")
    return "\n".join(lines).replace(" .. ", " to ")


def points(rows: list[dict], guidance: float) -> str:
    """Every point of DDIM at a guidance."""
    lines = ["| | plan | LSD | score | rms | 1 - cosine | to real icons | prompt score |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    mine = [
        r
        for r in rows
        if (r["solver"], r["guidance"], r["unit"] == "x") == ("ddim", guidance, False)
    ]
    for row in at_batch(mine, 1):
        if row["variant"] == DASH and row["budget_lsd"] not in (*BUDGETS, 10, 20, FULL):
            continue
        plan = "" if row["variant"] == DASH else f"`{row['plan']}`"
        rms = f"{row['rms']:.3f} ({row['rms_low']:.3f} to {row['rms_high']:.3f})"
        lines.append(
            f"| {row['variant']} | {plan} | {row['cost_lsd']:.3g} | {row['value']:.2f} | {rms} | "
            f"{row['unlike']:.3f} | {row['to_real']:.2f} | {row['prompt_score']:.3f} |"
        )
    return "\n".join(lines)


def searched(solver: str, dot: Path, speed: Path) -> str:
    """The best score of each family within a budget, by the search that lies beside the Dot."""
    scores = budgets_of.read(dot)[solver].scores
    speeds = {row["batch_size"]: row["value"] for row in json.loads(speed.read_text())}
    kinds = {
        "Dash alone": (1, lambda plan: plan.num_dash == len(plan)),
        "free steps": (1, lambda plan: plan.num_free and not plan.num_dot),
        "with Dot, batch 1": (1, lambda plan: plan.num_dot),
        "with Dot, batch 16": (16, lambda plan: plan.num_dot),
    }
    lines = [f"| LSD | {' | '.join(kinds)} |", "|---" * (1 + len(kinds)) + "|"]
    for lsd in BUDGETS:
        cells = []
        for size, belongs in kinds.values():
            within = (p for p in scores if belongs(p) and p.lsd(speeds[size]) <= lsd)
            plan = min(within, key=lambda p: scores[p], default=None)
            cells.append("" if plan is None else f"{scores[plan]:.2f} `{plan}`")
        lines.append(f"| {lsd} | {' | '.join(cells)} |")
    return "\n".join(lines)


def edits(rows: list[dict]) -> str:
    """Image to image and inpainting: every plan with what its part costs."""
    lines = ["| | | steps made | LSD at batch 1, 16 | rms |", "|---|---|---|---|---|"]
    for row in rows:
        cost = f"{row['lsd_at_1']:.3g}, {row['lsd_at_16']:.3g}" if "." in row["part"] else ""
        rms = f"{row['value']:.4f} ({row['low']:.4f} to {row['high']:.4f})"
        cells = row["kind"], row["variant"], f"`{row['part']}`", cost or f"{row['lsd_at_1']:g}", rms
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def ablations(rows: list[dict]) -> str:
    """Each variant of a Dot: its error, its N, and rms of the plans with each solver."""
    kinds = list(dict.fromkeys((row["solver"], row["plan"]) for row in rows if "." in row["plan"]))
    heads = [f"{title(solver).partition(' of')[0]} `{plan}`" for solver, plan in kinds]
    lines = [f"| | numbers trained | error | N | {' | '.join(heads)} |"]
    lines.append("|---" * (4 + len(kinds)) + "|")
    for name in dict.fromkeys(row["variant"] for row in rows if "." in row["plan"]):
        mine = {(row["solver"], row["plan"]): row for row in rows if row["variant"] == name}
        cells = [
            f"{mine[k]['value']:.4f} ({mine[k]['low']:.4f} to {mine[k]['high']:.4f})" for k in kinds
        ]
        row, about = mine[kinds[0]], ["", "", ""]
        if "error" in row:
            about = [f"{row['trained']:,}", f"{row['error']:.5f}", f"{row['dot_speed_at_1']:.1f}"]
        lines.append(f"| {' | '.join([name, *about, *cells])} |")
    return "\n".join(lines)


def branches(rows: list[dict]) -> str:
    """Each plan with each Dot of the miniature, by guidance."""
    lines = ["| guidance | | plan | LSD at batch 1, 16 | rms |", "|---" * 5 + "|"]
    for row in rows:
        cost = (
            f"{row['lsd_at_1']:.3g}, {row['lsd_at_16']:.3g}"
            if "." in row["plan"]
            else f"{row['lsd_at_1']:g}"
        )
        rms = f"{row['value']:.4f} ({row['low']:.4f} to {row['high']:.4f})"
        lines.append(
            f"| {row['guidance']:g} | {row['variant']} | `{row['plan']}` | {cost} | {rms} |"
        )
    return "\n".join(lines)


def consistency(rows: list[dict]) -> str:
    """The student beside DDIM, then with its Dot."""
    lines = ["| | steps | calls, LSD | to real pictures | prompt score |", "|---" * 5 + "|"]
    for row in rows:
        name = "DDIM, two calls a step" if row["solver"] == "ddim" else "LCM"
        steps = f"`{row['plan']}`" if "plan" in row else row["steps"]
        cost = row["lsd"] if "plan" in row else row["calls"]
        cells = name, steps, f"{cost:.3g}", f"{row['value']:.4f}", f"{row['prompt_score']:.3f}"
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def tables(rows: list[dict], guidance: float, dot: Path, model: str) -> str:
    """What both pages have: the speed-ups, the points and the search of DDIM."""
    return (
        f"Average speed-up over Dash alone at budgets of {', '.join(map(str, BUDGETS))} LSD "
        f"(1.0x is no gain), with 95 % intervals:\n\n{gains(rows)}\n\n"
        f"DDIM at guidance {guidance:g}, Morse at batch 1:\n\n{points(rows, guidance)}\n\n"
        f"The best plan of each kind, by the search's score (DDIM, 64 seeds):\n\n"
        f"{searched('ddim', dot, speed_file(model))}\n\n"
    )


def miniature() -> str:
    """With the tables of guidance scales and of editing."""
    rows = _read("fidelity.json")
    return tables(rows, 3.0, DOT, MINIATURE) + (
        f"Prompt score and distance to real icons by guidance scale (DDIM):\n\n{guidance(rows)}\n\n"
        f"Editing (`benchmarks/miniature_edits.py`, rms to 52 Dash steps, DDIM, guidance 3, "
        f"three quarters of a run):\n\n{edits(_read('miniature-edits.json'))}\n\n"
        f"A Dot of each branch of the guidance (`benchmarks/miniature_branches.py`, rms to 50 Dash "
        f"steps, DDIM):\n\n{branches(_read('miniature-branches.json'))}\n\n"
        f"A latent consistency model (`benchmarks/miniature_lcm.py`):\n\n"
        f"{consistency(_read('miniature-lcm.json'))}\n"
    )


def classes() -> str:
    """Of the icons, which have no guidance (1)."""
    return tables(_read("icons.json"), 1.0, icons.DOT, ICONS) + (
        f"The same with DPM-Solver++ of order 2:\n\n"
        f"{searched('dpm', icons.DOT, speed_file(ICONS))}\n\n"
        f"The ablations of the paper (`benchmarks/icons_ablations.py`, 400 steps each, rms to 50 "
        f"Dash steps):\n\n{ablations(_read('icons-ablations.json'))}\n"
    )


def _read(name: str) -> list[dict]:
    return json.loads((RESULTS / name).read_text())


def main() -> None:
    put(PAGE, miniature())
    put(ICONS_PAGE, classes())


if __name__ == "__main__":
    main()
