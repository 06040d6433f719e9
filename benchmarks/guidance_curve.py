"""Distance to real icons against prompt score over guidance scales: the paper's FID-CLIP curve.

    python benchmarks/fidelity.py --samplers ddim --guidance 1 2 3 5 8
    python benchmarks/guidance_curve.py

draws `docs/images/guidance.png` from the rows of DDIM that the first command has written: all 50
steps, and what 4 LSD buy with Dash alone and with free steps. Prompt score is CLIPScore by the
bundled judge, the distance `judge.to_real`. `fidelity_tables.py` has the same as a table.
"""

import json
from pathlib import Path

from fidelity import FULL, RESULTS
from matplotlib.figure import Figure

from morse_engine.evaluation.figures import STYLES
from morse_engine.evaluation.verdict import DASH, MORSE, RIVAL

IMAGE = Path(__file__).parents[1] / "docs/images/guidance.png"
LSD = 4
CURVES = {
    f"all {FULL} steps": (DASH, FULL, STYLES[MORSE]),
    f"{LSD} Dash steps": (DASH, LSD, STYLES[DASH]),
    f"{LSD} Dash steps, free steps": (RIVAL, LSD, STYLES[RIVAL]),
}


def curves(rows: list[dict]) -> dict[str, list[tuple[float, float, float]]]:
    """Label -> (guidance scale, prompt score, distance to real icons), by scale."""
    found: dict[str, dict[float, tuple[float, float, float]]] = {name: {} for name in CURVES}
    for row in rows:
        for name, (variant, cost, _) in CURVES.items():
            if (row["solver"], row["variant"], row.get("cost_lsd")) == ("ddim", variant, cost):
                point = row["guidance"], row["prompt_score"], row["to_real"]
                found[name][row["guidance"]] = point
    return {name: [points[scale] for scale in sorted(points)] for name, points in found.items()}


def table(rows: list[dict]) -> str:
    """Prompt score and distance of each curve at each scale."""
    found = curves(rows)
    scales = sorted({scale for points in found.values() for scale, *_ in points})
    head = "".join(f" {scale:g} |" for scale in scales)
    lines = [f"| guidance |{head}", "|---" * (1 + len(scales)) + "|"]
    for name, points in found.items():
        at = {scale: f"{score:.3f}, {distance:.2f}" for scale, score, distance in points}
        lines.append(f"| {name} | {' | '.join(at.get(scale, '') for scale in scales)} |")
    return "\n".join(lines)


def main() -> None:
    rows = json.loads((RESULTS / "fidelity.json").read_text())
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for name, points in curves(rows).items():
        colour, marker, line = CURVES[name][2]
        scales, scores, distances = zip(*points, strict=True)
        axes.plot(scores, distances, line, color=colour, marker=marker, label=name)
        for scale, x, y in zip(scales, scores, distances, strict=True):
            axes.annotate(
                f"{scale:g}", (x, y), xytext=(4, 4), textcoords="offset points", fontsize=8
            )
    axes.set(
        xlabel="prompt score, higher is better", ylabel="distance to real icons, lower is better"
    )
    axes.set_title("DDIM on the miniature; numbers are guidance scales", fontsize=10)
    axes.grid(True, color="#e5e5e5", lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
    figure.savefig(IMAGE, dpi=150)


if __name__ == "__main__":
    main()
