"""The figure of how near plans come to the full run: distance against cost, with intervals."""

from pathlib import Path

import numpy as np

from .figures import STYLES, Curve, Panel, draw, measured_on
from .nearness import MEASURES, RMS, UNLIKE, Near, chosen
from .verdict import DASH, MORSE, NAMES, RIVAL

TITLES = {RMS: "pixels", UNLIKE: "features of the judge"}
Y = {RMS: "rms to the pictures of all steps", UNLIKE: "1 - cosine to those of all steps"}
OTHER_BATCHES = ("#cc79a7", "v", "--")  # of Morse at the smaller batch


def near_plot(found: list[Near], batches: tuple[int, ...], path: str | Path) -> None:
    """Draw the mean distance against the cost in LSD, both logarithmic, one panel a measure.

    Bands are the 95 % intervals of a bootstrap over the pictures.

    Args:
        batches: batch sizes whose costs of Morse are drawn; the first one stands out.
        path: of the file to write; its suffix chooses the format (png, svg, pdf).
    """
    panels = [Panel(TITLES[name], Y[name], _curves(found, name, batches)) for name in MEASURES]
    row = found[0].row
    about = (
        f"{row['images']:,} pictures a point, the same seeds; lower is better; bands: 95 % of a "
        "bootstrap over the pictures"
    )
    title = f"Distance to all steps at equal time: {row['model']}"
    draw(panels, (title, about, f"{measured_on(row)}."), path, one_scale=False)


def _curves(found: list[Near], name: str, batches: tuple[int, ...]) -> list[Curve]:
    curves = []
    for variant in (DASH, RIVAL):
        curves.append(_curve(NAMES[variant], STYLES[variant], chosen(found, variant, 0), name))
    for batch_size in batches:
        style = STYLES[MORSE] if batch_size == batches[0] else OTHER_BATCHES
        label = f"{NAMES[MORSE]} at batch {batch_size}"
        curves.append(_curve(label, style, chosen(found, MORSE, batch_size), name))
    return curves


def _curve(label: str, style: tuple[str, str, str], mine: list[Near], name: str) -> Curve:
    """Without the full run, whose distance is 0."""
    points = [(near.row["cost_lsd"], *near.interval(name)) for near in mine]
    return Curve(label, style, np.array([p for p in points if p[1] > 0]))
