"""Figures: quality against cost, and pictures side by side.

Both are drawn with matplotlib's own canvases (no display, no global state). The colours are those
of Okabe and Ito, which stay apart for colour-blind readers; markers and dashes differ as well.
"""

import textwrap
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from torch import Tensor

from ..sampling import schedulers
from ..system.errors import Refused
from ..system.images import eight_bits, grid
from .verdict import DASH, FRECHET, MORSE, NAMES, REUSE, RIVAL, unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: How a variant is drawn: colour, marker, line style. Other variants are left out.
STYLES = {
    DASH: ("#4d4d4d", "o", "-"),
    MORSE: ("#d55e00", "D", "-"),
    RIVAL: ("#0072b2", "s", "--"),
    REUSE: ("#009e73", "^", ":"),
}
SOFT = "#4d4d4d"


class Curve(NamedTuple):
    """One line of a panel.

    Attributes:
        label: in the legend.
        style: colour, marker, line style.
        points: `[points, 4]`: cost, mean, lowest, highest of its band.
    """

    label: str
    style: tuple[str, str, str]
    points: np.ndarray


class Panel(NamedTuple):
    """What is drawn between two axes."""

    title: str
    y: str
    curves: list[Curve]


def quality_plot(rows: list[dict], path: str | Path) -> None:
    """Draw the distance against the cost in LSD, both logarithmic, one panel per solver.

    Lines are means over the sets of seeds, bands go from the lowest to the highest set. Points of
    distance 0, the full run beside itself, are left out.

    Args:
        rows: as `Experiment.row` makes them; needed are solver, variant, plan, set, cost_lsd,
            value, unit, images, model, and cpu, gpu, lsd_ms, dot_speed for the caption.
        path: of the file to write; its suffix chooses the format (png, svg, pdf).

    Raises:
        Refused: no row of a variant that is drawn.
    """
    y = unit(rows) if rows else FRECHET
    y = f"{FRECHET} to real images" if y == FRECHET else y
    panels = [
        Panel(
            schedulers.title(solver),
            y,
            [Curve(NAMES[variant], STYLES[variant], points) for variant, points in found.items()],
        )
        for solver, found in _curves(rows).items()
    ]
    if not panels:
        raise Refused(f"{len(rows)} rows, none of a variant among {', '.join(STYLES)}")
    draw(panels, _words(rows), path, one_scale=True)


def draw(
    panels: list[Panel], words: tuple[str, str, str], path: str | Path, *, one_scale: bool
) -> None:
    """Draw panels of curves against the cost in LSD, side by side.

    Args:
        words: title, what a point is, and where it was measured.
        path: of the file to write; its suffix chooses the format (png, svg, pdf).
        one_scale: whether the panels have one vertical axis.
    """
    import matplotlib
    from matplotlib.figure import Figure

    apart = 0.06 if one_scale else 0.24
    width = 0.8 + (4.2 if one_scale else 4.6) * len(panels)  # inches
    above, below = _blocks(words, width)
    # Fixed margins: a layout that is solved for rounds differently from run to run.
    over = 0.45 + sum(block.inches for block in above)
    under = 0.65 + sum(block.inches for block in below)
    height = over + 3.2 + under
    left, right = 0.75 / width, 1 - 0.15 / width
    bottom, top = under / height, 1 - over / height
    margins = {"left": left, "right": right, "bottom": bottom, "top": top, "wspace": apart}
    figure = Figure(figsize=(width, height), facecolor="white")
    all_axes = figure.subplots(
        *(1, len(panels)), sharex=True, sharey=one_scale, squeeze=False, gridspec_kw=margins
    )[0]
    for axes, panel in zip(all_axes, panels, strict=True):
        _panel(axes, panel)
        if not one_scale or axes is all_axes[0]:
            axes.set_ylabel(panel.y)
    all_axes[0].legend(frameon=False, fontsize=10)
    for blocks, inches in ((above, height - 0.12), (below, under - 0.6)):
        for block in blocks:
            text = "\n".join(block.lines)
            figure.text(0.15 / width, inches / height, text, va="top", **block.options)
            inches -= block.inches
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    metadata = {"Date": None} if Path(path).suffix == ".svg" else None
    with matplotlib.rc_context({"svg.hashsalt": "morse_engine"}):  # equal rows, equal file
        figure.savefig(path, dpi=150, metadata=metadata)


class _Block(NamedTuple):
    """Lines of text below each other."""

    lines: list[str]
    line_height: float  # inches
    options: dict[str, Any]

    @property
    def inches(self) -> float:
        return self.line_height * len(self.lines)


def _blocks(words: tuple[str, str, str], width: float) -> tuple[list[_Block], list[_Block]]:
    """What stands above and below the panels of a figure so many inches wide."""

    def block(words: str, an_inch: float, size: float, **options: Any) -> _Block:
        lines = textwrap.wrap(words, int((width - 0.3) * an_inch))  # letters an inch
        return _Block(lines, 1.3 * size / 72, {"fontsize": size, "linespacing": 1.2} | options)

    title, about, caption = words
    above = [block(title, 10.8, 11, fontweight="bold"), block(about, 13, 9, color=SOFT)]
    return above, [block(caption, 14.5, 8, color=SOFT)]


def _curves(rows: list[dict]) -> dict[str, dict[str, np.ndarray]]:
    """{solver: {variant: [points, 4]}} with columns cost, mean, lowest, highest over the sets."""
    values: dict[str, dict[str, dict[tuple[float, str], list[float]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(list))
    )
    for row in rows:
        if row["variant"] in STYLES and row["value"] > 0:
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


def _panel(axes: "Axes", panel: Panel) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set(xscale="log", yscale="log")
    for label, (colour, marker, line), points in panel.curves:
        cost, mean, lowest, highest = points.T
        front = 3 if label.startswith(NAMES[MORSE]) else 2
        axes.fill_between(cost, lowest, highest, color=colour, alpha=0.18, lw=0)
        axes.plot(
            *(cost, mean, line), color=colour, marker=marker, ms=4.5, lw=1.6, zorder=front,
            label=label,
        )  # fmt: skip
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
    axes.set_title(panel.title, loc="left", fontsize=11)
    axes.set_xlabel("cost, LSD (1 = the time of one Dash step)")
    axes.grid(True, which="major", color="#e5e5e5", lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _words(rows: list[dict]) -> tuple[str, str, str]:
    """Title, what a point is, and where it was measured."""
    row, num_sets = rows[-1], len({r["set"] for r in rows})
    about = f"{row['images']:,} images per point; lower is better"
    if num_sets > 1:
        about += f"; line: mean of {num_sets} sets of seeds, band: lowest to highest"
    caption = measured_on(row)
    if "lsd_ms" in row:
        caption += f": a Dash step takes {plain(row['lsd_ms'])} ms per batch"
        if row["dot_speed"] is not None:
            caption += f", a Dot step 1/{row['dot_speed']:.2f} of that"
    return f"Quality at equal time: {row['model']}", about, caption


def measured_on(row: dict) -> str:
    """Where a row was measured."""
    machine = ", ".join(str(row[k]) for k in ("gpu", "cpu") if row.get(k))
    return f"Measured on {machine or 'an unnamed machine'}"


def plain(value: float) -> str:
    """A number with three digits that count, as people write it: 0.0312, 4.5, 1,040."""
    rounded = float(f"{value:.3g}")
    return f"{rounded:,.0f}" if abs(rounded) >= 100 else f"{rounded:g}"


def picture_grid(columns: dict[str, Tensor], path: str | Path, *, title: str = "") -> None:
    """Write the pictures of several methods side by side, the same seeds at the same places.

    Pixels are enlarged and not smoothed. Each method is one block, as square as possible, under its
    heading.

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
    scale, dpi, margin = max(1, round(96 / shape[2])), 144, 0.3  # lengths are in inches
    blocks = [
        eight_bits(grid(images), scale=scale).expand(3, -1, -1).permute(1, 2, 0).numpy()
        for images in columns.values()
    ]
    height, width = (pixels / dpi for pixels in blocks[0].shape[:2])
    headings = [name.split("\n") for name in columns]
    letters = max(8, int(width / 0.068))  # typewriter letters of 8 points in a block
    captions = [[c for line in h[1:] for c in textwrap.wrap(line, letters)] for h in headings]
    above = 0.3 + 0.14 * max(map(len, captions))
    top = margin * (2 if title else 1) + above
    size = len(blocks) * (width + margin) + margin, top + height + margin
    figure = Figure(figsize=size, dpi=dpi, facecolor="white")
    figure.text(margin / size[0], 1 - 0.12 / size[1], title, fontsize=13, va="top")
    # An axes is as large as its block, so that its pixels stay whole.
    all_axes = figure.subplots(1, len(blocks), squeeze=False)[0]
    figure.subplots_adjust(
        margin / size[0], margin / size[1], 1 - margin / size[0], 1 - top / size[1], margin / width
    )
    for axes, block, heading, caption in zip(all_axes, blocks, headings, captions, strict=True):
        axes.imshow(block, interpolation="nearest")
        axes.set_axis_off()
        words = {"x": 0, "va": "top", "transform": axes.transAxes}
        axes.text(y=1 + above / height, s=heading[0], fontweight="bold", **words)
        y = 1 + (above - 0.23) / height
        axes.text(y=y, s="\n".join(caption), fontsize=8, family="monospace", **words)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=dpi)
