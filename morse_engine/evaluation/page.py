"""The page that the demo writes: one HTML file that needs nothing else."""

import base64
from collections.abc import Sequence
from html import escape

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

WHAT = """\
A diffusion model makes an image in steps, and each step costs one run of the model. Morse keeps
the model, called Dash, and takes fewer steps with it. A light helper, Dot, makes the steps in
between: it looks at where Dash was last and corrects Dash's estimate for where the image is now. A
plan says who makes which step, in Morse code: <code>-</code> is a step of Dash, <code>.</code> one
of Dot. Time is counted in LSD: 1 LSD is the time of one Dash step.
"""

STYLE = """\
:root { color-scheme: light dark; --back: #fdfdfc; --text: #1d1d1f; --soft: #5f6368;
  --line: #dddddd; --panel: #f3f3f1; --mark: #a84300; }
@media (prefers-color-scheme: dark) {
  :root { --back: #16181b; --text: #e6e6e3; --soft: #a0a4a9; --line: #35393e; --panel: #202327;
    --mark: #ff9d57; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 60rem; padding: 1.5rem 1rem 3rem; background: var(--back);
  color: var(--text); font: 1rem/1.55 system-ui, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0.5rem 0; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 0.6rem; }
a { color: var(--mark); }
.verdict { font-size: 1.1rem; border-left: 4px solid var(--mark); padding-left: 0.8rem; }
.soft, footer, figcaption { color: var(--soft); font-size: 0.9rem; }
figure { margin: 0; }
figcaption { margin-top: 0.4rem; }
img { display: block; width: 100%; height: auto; border-radius: 8px; background: #ffffff;
  border: 1px solid var(--line); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 0.3rem 0.7rem; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap; }
th:first-child, td:first-child, th:nth-child(3), td:nth-child(3) { text-align: left; }
td:nth-child(3), code, pre { font-family: ui-monospace, monospace; }
tr.marked td { color: var(--mark); font-weight: 600; }
pre { overflow-x: auto; padding: 0.9rem; border-radius: 8px; background: var(--panel);
  font-size: 0.88rem; line-height: 1.45; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.15rem 1rem; margin: 0; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
"""


def render(
    *,
    title: str,
    verdict: str,
    pictures: bytes,
    plot: bytes,
    headings: Sequence[str],
    cells: Sequence[Sequence[str]],
    marked: str,
    caption: str,
    machine: dict,
) -> str:
    """The whole page.

    Args:
        verdict: the sentence below the headline.
        pictures, plot: PNG files.
        headings, cells: of the table; rows whose first cell is `marked` stand out.
        machine: what the numbers depend on; values that are None are left out.
    """
    head = "".join(f"<th>{escape(name)}</th>" for name in headings)
    rows = "\n".join(
        ('<tr class="marked">' if row[0] == marked else "<tr>")
        + "".join(f"<td>{escape(cell)}</td>" for cell in row)
        + "</tr>"
        for row in cells
    )
    facts = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(str(value))}</dd>"
        for name, value in machine.items()
        if value is not None
    )
    return f"""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>
{STYLE}</style>
</head>
<body>
<h1>{escape(title)}</h1>
<p class="verdict">{escape(verdict)}</p>
<p>{WHAT}</p>

<h2>The same seeds</h2>
<figure>
<img alt="digits: all steps, few Dash steps, and Morse" src="{_data(pictures)}">
<figcaption>Each block starts from the same noise. The closer to the left block, the
better.</figcaption>
</figure>

<h2>Quality against cost</h2>
<figure>
<img alt="Frechet distance against cost in LSD, one line a method" src="{_data(plot)}">
<figcaption>Lower is better, and further left is sooner. The speed-up is the distance between the
lines from left to right. Extrapolation is what a straight line through Dash's last two estimates
gives, without any training.</figcaption>
</figure>

<h2>The numbers</h2>
<div class="wide">
<table>
<thead><tr>{head}</tr></thead>
<tbody>
{rows}
</tbody>
</table>
</div>
<p class="soft">{escape(caption)}</p>

<h2>In Python</h2>
<pre>{escape(EIGHT_LINES)}</pre>

<h2>Measured on</h2>
<dl>{facts}</dl>

<footer>
<p>The method: Li, Fan and Yao, Morse: Dual-Sampling for Lossless Acceleration of Diffusion Models,
ICML 2025, <a href="https://arxiv.org/abs/2506.18251">arXiv 2506.18251</a>. This is an independent
implementation.</p>
</footer>
</body>
</html>
"""


def _data(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
