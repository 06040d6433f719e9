"""What a training leaves to be looked at: log.jsonl, log.html and preview.png."""

import base64
import html
import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..system.errors import Refused
from ..system.files import whole
from ..system.images import grid, save_png

#: Lines of the chart: name in a row, colour. Other numbers of a row stay in log.jsonl.
LINES = {
    "loss": "#d55e00",
    "held_out_loss": "#0072b2",
    "zero_residual": "#8a8a8a",
    "zero_estimate": "#8a8a8a",
}
WIDTH, HEIGHT, LEFT, BELOW = 640, 260, 56, 24  # pixels of the chart


class Log:
    """The rows of one run, each of them once.

    Args:
        folder: where the files are.
        num_steps: of the whole run.
    """

    def __init__(self, folder: Path, num_steps: int):
        self.folder, self.num_steps = folder, num_steps
        self.path = folder / "log.jsonl"

    def rows(self) -> list[dict]:
        """All rows, in the order of their steps; half a row at the end is none.

        Raises:
            Refused: a line that is no row.
        """
        if not self.path.exists():
            return []
        text, found = self.path.read_text("utf-8", errors="replace"), []
        for number, line in enumerate(text[: text.rfind("\n") + 1].splitlines(), 1):
            try:
                found.append(json.loads(line))
                found[-1]["step"] + 0
            except (ValueError, TypeError, KeyError):
                raise Refused(
                    f"{self.path}, line {number}, is damaged: remove it, or move the file away"
                ) from None
        return found

    def forget_after(self, step: int) -> None:
        """Take out rows that the run will write again: their steps are in no checkpoint."""
        if not self.path.exists():
            return
        kept = "".join(json.dumps(row) + "\n" for row in self.rows() if row["step"] <= step)
        if kept != self.path.read_text("utf-8", errors="replace"):
            with whole(self.path) as partial:
                partial.write_text(kept)

    def add(self, row: dict, preview: Tensor | None) -> None:
        """A row, the page with all of them, and pictures `[n, C, H, W]` where there are some."""
        with open(self.path, "a") as log:
            log.write(json.dumps(row) + "\n")
        picture = self.folder / "preview.png"
        if preview is not None and torch.isfinite(preview).all():
            sheet = grid(preview, between=-0.4)  # fits a light and a dark page
            save_png(sheet, picture, scale=max(1, 96 // preview.shape[-1]))
        png = picture.read_bytes() if picture.exists() else b""
        with whole(self.folder / "log.html") as partial:
            partial.write_text(page(self.rows(), self.num_steps, png), "utf-8")


def page(rows: list[dict], num_steps: int, picture: bytes = b"") -> str:
    """The rows as one HTML page that needs nothing else; it loads itself while a run lasts."""
    last = rows[-1]
    done = last["step"] >= num_steps
    numbers = {k: v for k, v in last.items() if isinstance(v, int | float) and k != "step"}
    facts = "".join(
        f"<dt>{html.escape(name.replace('_', ' '))}</dt><dd>{_plain(value)}</dd>"
        for name, value in numbers.items()
    )
    shown = ""
    if picture:
        data = base64.b64encode(picture).decode()
        shown = f'<h2>Preview</h2><img alt="preview" src="data:image/png;base64,{data}">'
    again = "" if done else '<meta http-equiv="refresh" content="20">'
    state = "finished" if done else "running, or stopped"
    return PAGE.format(
        again=again, step=f"{last['step']:,}", of=f"{num_steps:,}", state=state, facts=facts,
        chart=chart(rows, num_steps), picture=shown,
    )  # fmt: skip


def _plain(value: float) -> str:
    """A number as people write it, no 1.2e+04."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def chart(rows: Sequence[dict], num_steps: int) -> str:
    """The numbers of `LINES` over the steps as SVG; the vertical axis is logarithmic."""
    lines = {
        name: [(row["step"], row[name]) for row in rows if row.get(name, 0) > 0] for name in LINES
    }
    values = [value for points in lines.values() for _, value in points]
    if not values:
        return ""
    low, high = math.log10(min(values)), math.log10(max(values))
    low, high = low - 0.05, max(high + 0.05, low + 0.1)

    def at(step: int, value: float) -> str:
        x = LEFT + step / num_steps * (WIDTH - LEFT - 8)
        y = 8 + (high - math.log10(value)) / (high - low) * (HEIGHT - BELOW - 16)
        return f"{x:.1f},{y:.1f}"

    drawn = []
    for k in range(4):  # four lines of the grid, with their values
        value = 10 ** (low + (high - low) * k / 3)
        y = at(0, value).split(",")[1]
        drawn.append(f'<path class="grid" d="M{LEFT},{y}H{WIDTH - 8}"/>')
        drawn.append(f'<text x="{LEFT - 6}" y="{y}" text-anchor="end" dy="4">{value:.3g}</text>')
    end = HEIGHT - 6
    drawn.append(f'<text x="{LEFT}" y="{end}">0</text>')
    right = f'x="{WIDTH - 8}" y="{end}" text-anchor="end"'
    drawn.append(f"<text {right}>{num_steps:,} steps</text>")
    legend = []
    for name, points in lines.items():
        if points:
            colour = LINES[name]
            path = " ".join(at(*point) for point in points)
            drawn.append(f'<polyline points="{path}" stroke="{colour}"/>')
            x, y = at(*points[-1]).split(",")
            drawn.append(f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>')
            legend.append(f'<span style="color:{colour}">&#9632; {name.replace("_", " ")}</span>')
    svg = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(drawn)}</svg>'
    return f"{svg}<p>{' '.join(legend)}</p>"


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
{again}<title>step {step} of {of}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ margin: 0 auto; max-width: 44rem; padding: 1rem; font: 1rem/1.5 system-ui, sans-serif; }}
svg {{ width: 100%; }}
svg text {{ fill: currentColor; font-size: 15px; }}
.grid {{ stroke: #8886; }}
polyline {{ fill: none; stroke-width: 2; }}
dl {{ display: grid; grid-template-columns: max-content 1fr; gap: 0.1rem 1rem; }}
dd {{ margin: 0; }}
img {{ max-width: 100%; image-rendering: pixelated; }}
</style>
</head>
<body>
<h1>Step {step} of {of}</h1>
<p>{state}</p>
{chart}
<dl>{facts}</dl>
{picture}
</body>
</html>
"""
