"""Figures: quality against cost, and pictures side by side.

Both are drawn with matplotlib's own canvases (no display, no global state). The colours are those
of Okabe and Ito, which stay apart for colour-blind readers; markers and dashes differ as well.
"""

import math
import textwrap
from collections import defaultdict
from pathlib import Path

import numpy as np
from torch import Tensor

from ..system.errors import Refused

#: How a variant is drawn: colour, marker, line style. Other variants are left out.
STYLES = {
    "dash only": ("#4d4d4d", "o", "-"),
    "morse": ("#d55e00", "D", "-"),
    "extrapolation": ("#0072b2", "s", "--"),
    "reuse": ("#009e73", "^", ":"),
}
LABELS = {"dash only": "Dash only", "morse": "Morse"}
SOLVERS = {"ddim": "DDIM", "dpm": "DPM-Solver++ of order 2"}


def _curves(rows: list[dict]) -> dict[str, dict[str, np.ndarray]]:
    """{solver: {variant: [points, 4]}} with columns cost, mean, lowest, highest over the sets."""
    values = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for row in rows:
        if row["variant"] in STYLES:
            point = (row["cost_lsd"], row["plan"])
            values[row["solver"]][row["variant"]][point].append(row["value"])
    return {
        solver: {
            variant: np.array(
                [(p[0], np.mean(v), min(v), max(v)) for p, v in sorted(variants[variant].items())]
            )
            for variant in STYLES
            if variant in variants
        }
        for solver, variants in values.items()
    }


def _apart(heights: list[float], gap: float) -> list[float]:
    """The heights moved as little as needed to be `gap` apart, in the same order."""
    order = sorted(range(len(heights)), key=heights.__getitem__)
    groups: list[list[int]] = []  # labels that touch are spread around their common centre

    def places(group: list[int]) -> list[float]:
        centre = sum(heights[i] for i in group) / len(group)
        return [centre + (k - (len(group) - 1) / 2) * gap for k in range(len(group))]

    for i in order:
        groups.append([i])
        while len(groups) > 1 and places(groups[-1])[0] - places(groups[-2])[-1] < gap:
            groups[-2:] = [groups[-2] + groups[-1]]
    moved = list(heights)
    for group in groups:
        for i, height in zip(group, places(group), strict=True):
            moved[i] = height
    return moved


def _label_lines(axes, curves: dict[str, np.ndarray], x_label: float) -> None:
    """Name each line at the right, with a thin leader from its last point."""
    names = list(curves)
    ends = [(curves[n][-1, 0], math.log10(curves[n][-1, 1])) for n in names]
    bottom, top = (math.log10(y) for y in axes.get_ylim())
    places = _apart([y for _, y in ends], 0.055 * (top - bottom))
    for name, (x, y), place in zip(names, ends, places, strict=True):
        axes.annotate(
            LABELS.get(name, name),
            xy=(x, 10**y),
            xytext=(x_label, 10**place),
            color=STYLES[name][0],
            va="center",
            fontsize=9,
            fontweight="bold" if name == "morse" else "normal",
            arrowprops={"arrowstyle": "-", "color": STYLES[name][0], "lw": 0.5, "alpha": 0.6},
        )


def _panel(axes, solver: str, curves: dict[str, np.ndarray], x_range: tuple[float, float]) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter

    axes.set(xscale="log", yscale="log", xlim=(x_range[0] / 1.15, x_range[1] * 4.0))
    for variant, points in curves.items():
        colour, marker, line = STYLES[variant]
        cost, mean, lowest, highest = points.T
        front = 3 if variant == "morse" else 2
        axes.fill_between(cost, lowest, highest, color=colour, alpha=0.18, lw=0)
        axes.plot(cost, mean, line, color=colour, marker=marker, ms=4.5, lw=1.6, zorder=front)
    low, high = x_range
    ticks = [d * 10**p for p in range(-1, 5) for d in (1, 2, 5) if low / 1.1 <= d * 10**p <= high]
    plain = FuncFormatter(lambda v, _: f"{v:g}")
    axes.xaxis.set(major_locator=FixedLocator(ticks), minor_locator=FixedLocator([]))
    axes.xaxis.set_major_formatter(plain)
    axes.yaxis.set(major_locator=LogLocator(subs=(1, 2, 5)), major_formatter=plain)
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_title(SOLVERS.get(solver, solver), loc="left", fontsize=11)
    axes.set_xlabel("cost, LSD (1 = the time of one Dash step)")
    axes.grid(True, which="major", color="#e5e5e5", lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def quality_plot(rows: list[dict], path: str | Path) -> None:
    """Draw the Frechet distance against the cost in LSD, both logarithmic, one panel per solver.

    Lines are means over the sets of seeds, bands go from the lowest to the highest set.

    Args:
        rows: as `benchmarks/quality.py` writes them; needed are solver, variant, plan, set,
            cost_lsd, value (> 0), images, model, and cpu, gpu, lsd_ms, dot_speed for the caption.
        path: of the file to write; its suffix chooses the format (png, svg, pdf).

    Raises:
        Refused: no row of a variant that is drawn.
    """
    import matplotlib
    from matplotlib.figure import Figure

    panels = _curves(rows)
    if not panels:
        raise Refused(f"{len(rows)} rows, none of a variant among {', '.join(STYLES)}")
    costs = [c for curves in panels.values() for points in curves.values() for c in points[:, 0]]
    x_range = (min(costs), max(costs))
    figure = Figure(figsize=(1.2 + 5.2 * len(panels), 5.2), layout="none", facecolor="white")
    width, height = figure.get_size_inches()
    margins = {"left": 0.75 / width, "right": 1 - 0.15 / width, "bottom": 1.0 / height}
    grid = margins | {"top": 1 - 1.1 / height, "wspace": 0.08}
    all_axes = figure.subplots(1, len(panels), sharey=True, squeeze=False, gridspec_kw=grid)[0]
    for axes, (solver, curves) in zip(all_axes, panels.items(), strict=True):
        _panel(axes, solver, curves, x_range)
    for axes, curves in zip(all_axes, panels.values(), strict=True):  # when the y range is final
        _label_lines(axes, curves, x_range[1] * 1.25)
    all_axes[0].set_ylabel("Frechet distance to real images (lower is better)")

    row, num_sets = rows[-1], len({r["set"] for r in rows})
    machine = ", ".join(str(row[k]) for k in ("gpu", "cpu") if row.get(k))
    sets = f"{num_sets} sets of seeds" if num_sets > 1 else "1 set of seeds"
    where = {"ha": "left", "x": margins["left"]}
    figure.text(
        y=1 - 0.2 / height,
        s=f"Image quality at equal time: {row['model']}",
        fontsize=13,
        fontweight="bold",
        va="top",
        **where,
    )
    figure.text(
        y=1 - 0.5 / height,
        s=f"{row['images']:,} images per point, {sets} (line: mean, band: lowest to highest)",
        fontsize=9,
        color="#4d4d4d",
        va="top",
        **where,
    )
    caption = f"Measured on {machine or 'an unnamed machine'}"
    if "lsd_ms" in row:
        caption += (
            f": a Dash step takes {row['lsd_ms']:.3g} ms per batch, "
            f"a Dot step 1/{row['dot_speed']:.2f} of that"
        )
    caption = "\n".join(textwrap.wrap(caption, int(width * 14)))  # 8 points: 14 letters an inch
    figure.text(y=0.15 / height, s=caption, fontsize=8, color="#4d4d4d", **where)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    metadata = {"Date": None} if Path(path).suffix == ".svg" else None
    with matplotlib.rc_context({"svg.hashsalt": "morse_engine"}):  # equal rows, equal file
        figure.savefig(path, dpi=150, metadata=metadata)


def _block(images: Tensor, across: int, scale: int, gap: int) -> np.ndarray:
    """The images in rows of `across` on white, a pixel as `scale` x `scale`: uint8 `[h, w, 3]`."""
    values = ((images.detach().cpu().float().clamp(-1, 1) + 1) * 127.5).round().byte()
    cells = values.permute(0, 2, 3, 1).expand(-1, -1, -1, 3).numpy()
    cells = cells.repeat(scale, axis=1).repeat(scale, axis=2)
    num, h, w, _ = cells.shape
    down = -(-num // across)
    block = np.full((down * (h + gap) - gap, across * (w + gap) - gap, 3), 255, np.uint8)
    for i, cell in enumerate(cells):
        y, x = i // across * (h + gap), i % across * (w + gap)
        block[y : y + h, x : x + w] = cell
    return block


def picture_grid(columns: dict[str, Tensor], path: str | Path, *, title: str = "") -> None:
    """Write the pictures of several methods side by side, the same seeds at the same places.

    Pixels are enlarged by a whole number and not smoothed. Each method is one block, as square as
    possible, under its heading.

    Args:
        columns: heading -> images `[n, C, H, W]` in [-1, 1] (clamped), one shape, C = 1 or 3.
            The heading's first line is set in bold, what follows a line break is a caption in
            typewriter letters ("Morse, 5 LSD\\n-..-..-..").
        path: of the file to write; its suffix chooses the format (png, svg, pdf).
        title: above all blocks.

    Raises:
        Refused: no columns, or images of different or other shapes.
    """
    from matplotlib.figure import Figure

    shapes = {tuple(images.shape) for images in columns.values()}
    if len(shapes) != 1:
        raise Refused(f"columns have shapes {sorted(shapes)}: give one [n, C, H, W] for all")
    (shape,) = shapes
    if len(shape) != 4 or shape[1] not in (1, 3) or 0 in shape:
        raise Refused(f"columns have shape {shape}: give [n, C, H, W] with C = 1 or 3 and n > 0")
    across = math.ceil(math.sqrt(shape[0]))
    scale = max(1, round(96 / shape[2]))
    gap, between, dpi = 2 * scale, 48, 144
    blocks = {name: _block(images, across, scale, gap) for name, images in columns.items()}
    block_h, block_w = next(iter(blocks.values())).shape[:2]

    per_line = max(8, int(block_w / (0.62 * 8 * dpi / 72)))  # typewriter letters of 8 points
    captions = {
        name: [
            line[i : i + per_line]
            for line in name.split("\n")[1:]
            for i in range(0, max(1, len(line)), per_line)
        ]
        for name in blocks
    }
    # Pixels from the top: margin, title, headings, captions, blocks, margin.
    head = between // 2 + (44 if title else 0)
    top = head + 36 + 20 * max(map(len, captions.values()))
    width = between + len(blocks) * (block_w + between)
    height = top + block_h + between // 2
    figure = Figure(figsize=(width / dpi, height / dpi), dpi=dpi, facecolor="white")
    if title:
        figure.text(between / width, 1 - 18 / height, title, fontsize=13, va="top")
    for k, (name, block) in enumerate(blocks.items()):
        x = between + k * (block_w + between)
        bold = {"fontsize": 10, "fontweight": "bold", "va": "top"}
        figure.text(x / width, 1 - head / height, name.split("\n")[0], **bold)
        for i, line in enumerate(captions[name]):
            y = 1 - (head + 30 + 20 * i) / height
            figure.text(x / width, y, line, fontsize=8, family="monospace", va="top")
        figure.figimage(block, x, height - top - block_h)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=dpi)
