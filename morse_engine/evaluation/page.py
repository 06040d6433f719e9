"""The page that the demo writes: one HTML file that needs nothing else."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Template

#: The same lines as at the beginning of the README.
EIGHT_LINES = """\
import morse_engine
from morse_engine import zoo

unet = zoo.digits_dash()  # Dash: a diffusers UNet2DModel
dot = zoo.digits_dot(unet)  # Dot: trained once for this Dash
sampler = morse_engine.compile(unet, dot, plan="-..-..-..-..")  # 4 Dash, 8 Dot steps
images = sampler(batch_size=16, seed=0)  # [16, 1, 32, 32] in [-1, 1]
print(sampler.report(measure=True, batch_size=16))
"""


def render(
    *,
    title: str,
    verdict: str,
    basis: str,
    alone: str,
    pictures: dict[str, bytes],
    plot: bytes,
    headings: Sequence[str],
    cells: Sequence[Sequence[str]],
    marked: str,
    caption: str,
    machine: dict,
) -> str:
    """The whole page of pixel models, `digits.html` filled in.

    Args:
        verdict: the sentence below the headline.
        basis: what it rests on, as `basis` says it.
        alone: what holds at batch 1.
        pictures: heading -> PNG file; the heading's first line is the method, others are notes.
        plot: a PNG file on white.
        headings, cells: of the table; rows whose first cell begins with `marked` stand out.
        machine: what the numbers depend on; values that are None are left out.
    """
    return _template("digits.html").render(
        title=title, verdict=verdict, basis=basis, lines_of_batches=[alone], pictures=pictures,
        plot=plot, plot_width="44rem", headings=headings, cells=cells, marked=marked,
        caption=caption, machine=machine, lines=EIGHT_LINES,
    )  # fmt: skip


def render_prompted(
    *,
    title: str,
    verdict: str,
    basis: str,
    batches: Sequence[str],
    seeds: Sequence[dict],
    at_budget: str,
    brightest: float,
    costs: str,
    elsewhere: str,
    plot: bytes,
    headings: Sequence[str],
    cells: Sequence[Sequence[str]],
    marked: str,
    caption: str,
    machine: dict,
    lines: str,
) -> str:
    """The whole page of a model that draws what it is asked, `prompted.html` filled in.

    Args:
        batches: a line for each batch size.
        seeds: of each seed `prompt`, and `cells` as `beside.cells` makes them.
        at_budget: a line about the budget of the pictures.
        brightest: the difference that is drawn brightest, of a range of 1.
        costs: what the cost in LSD is that of.
        elsewhere: which other model shows more, as a command.
        lines: of Python, the same in short.
        verdict, basis, plot, headings, cells, marked, caption, machine: as for `render`.
    """
    return _template("prompted.html").render(
        title=title, verdict=verdict, basis=basis, lines_of_batches=batches, seeds=seeds,
        at_budget=at_budget, brightest=brightest, costs=costs, elsewhere=elsewhere, plot=plot,
        plot_width="none", headings=headings, cells=cells, marked=marked, caption=caption,
        machine=machine, lines=lines,
    )  # fmt: skip


def _template(name: str) -> "Template":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    environment.filters["data"] = _data
    return environment.get_template(name)


def basis(rows: Sequence[dict]) -> str:
    """What the verdict on some rows rests on: batch, images, seeds, and the interval or none."""
    row, num_sets = rows[0], len({row["set"] for row in rows})
    interval = (
        "no interval: three sets of seeds or more give one"
        if num_sets < 3
        else f"the interval is that of the mean of {num_sets} sets of seeds, 95 %"
    )
    return f"Batch {row['batch_size']}, {row['images']:,} images a point; {interval}."


def _data(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
