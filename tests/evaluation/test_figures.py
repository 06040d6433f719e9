"""The figures: what is drawn, and that it is drawn crisply."""

import itertools

import pytest
import torch
from PIL import Image

from morse_engine.evaluation import figures


def test_picture_grid(tmp_path):
    images = torch.rand(5, 1, 8, 8) * 2 - 1
    columns = {"full, 100 steps": images, "Morse, 5 LSD\n" + "-.." * 40: images}
    figures.picture_grid(columns, tmp_path / "grid.png", title="digits")
    assert (tmp_path / "grid.png").stat().st_size > 1000
    with pytest.raises(ValueError, match="one"):
        figures.picture_grid({"a": images, "b": images[1:]}, tmp_path / "grid.png")
    with pytest.raises(ValueError, match="C = 1 or 3"):
        figures.picture_grid({"a": images.expand(-1, 2, -1, -1)}, tmp_path / "grid.png")


def test_picture_grid_keeps_pixels_crisp(tmp_path):
    """Each pixel of an image is a square of whole pixels of the file, not smoothed."""
    x = torch.tensor([[[[-1.0, 1.0], [0.0, 5.0]]]])
    figures.picture_grid({"": x, "more": x}, tmp_path / "grid.png")
    with Image.open(tmp_path / "grid.png") as picture:
        pixels = torch.tensor(list(picture.convert("L").getdata())).view(picture.size[::-1])
    scale = 48  # 96 / 2
    rows = [y for y in range(len(pixels)) if (pixels[y] == 128).sum() >= 2 * scale]
    assert len(rows) == scale
    for y in rows:  # the lower half of both blocks: grey, then white
        (columns,) = torch.where(pixels[y] == 128)
        first, second = columns[: len(columns) // 2], columns[len(columns) // 2 :]
        assert first[-1] - first[0] == second[-1] - second[0] == scale - 1
        assert len(columns) == 2 * scale
    above = pixels[rows[0] - scale : rows[0], first[0] : first[0] + 2 * scale]
    assert (above[:, :scale] == 0).all()
    assert (above[:, scale:] == 255).all()


def row(variant: str, cost: float, value: float, **more) -> dict:
    known = {"solver": "ddim", "variant": variant, "plan": "-" * int(cost), "set": 0}
    known |= {"cost_lsd": cost, "value": value, "images": 9, "model": "m", "cpu": "a CPU"}
    return known | more


def test_quality_plot_draws_every_known_variant(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **kwargs: drawn.append(self))
    rows = [row("dash only", 2, 4.0), row("dash only", 2, 6.0, set=1), row("dash only", 4, 1.0)]
    rows += [row("morse", 2, 2.0), row("another", 2, 2.0), row("morse", 3, 2.0, solver="lcm")]
    figures.quality_plot(rows, tmp_path / "plot.png")
    assert [axes.get_title(loc="left") for axes in drawn[0].axes] == ["DDIM", "LCM"]
    assert [text.get_text() for text in drawn[0].axes[0].get_legend().get_texts()] == [
        *("Dash only", "Morse")
    ]
    line = drawn[0].axes[0].get_lines()[0]
    assert (list(line.get_xdata()), list(line.get_ydata())) == ([2, 4], [5.0, 1.0])
    with pytest.raises(ValueError, match="1 rows, none of a variant"):
        figures.quality_plot([row("another", 2, 2.0)], tmp_path / "plot.png")


def test_equal_rows_make_an_equal_file(tmp_path):
    rows = [row("dash only", 2, 4.0), row("morse", 2, 2.0)]
    for name in ("a.svg", "b.svg"):
        figures.quality_plot(rows, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


@pytest.mark.parametrize("solvers", [["ddim"], ["ddim", "dpm"]])
def test_no_text_lies_on_another(solvers, tmp_path, monkeypatch):
    """Nor beyond the edge, however long the lines are."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **kwargs: drawn.append(self))
    about = {"lsd_ms": 1043.2, "dot_speed": 6.6, "model": "handwritten digits 32 x 32"}
    about |= {"cpu": "a processor whose maker gave it a very long name, 128 cores"}
    rows = [
        row(variant, cost, 20 / cost + k / 9, solver=name, set=k, **about)
        for variant in ("dash only", "morse", "free steps")
        for cost in (2, 4, 9)
        for k in (0, 1, 2)
        for name in solvers
    ]
    figures.quality_plot(rows, tmp_path / "plot.png")
    figure = drawn[0]
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    texts = list(figure.texts)
    for axes in figure.axes:
        texts += [axes._left_title, axes.xaxis.label, axes.yaxis.label]
        for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
            shown = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
            texts += [tick.label1 for tick in shown]
        if axes.get_legend() is not None:
            texts.append(axes.get_legend())
            inside = axes.get_window_extent()
            legend = axes.get_legend().get_window_extent()
            assert legend.y0 > inside.y0
            assert legend.x1 < inside.x1
    boxes = [text.get_window_extent() for text in texts if text.get_visible()]
    boxes = [box for box in boxes if box.width > 1 and box.height > 1]
    page = figure.bbox
    for box in boxes:
        assert page.x0 <= box.x0 < box.x1 <= page.x1
        assert page.y0 <= box.y0 < box.y1 <= page.y1
    for a, b in itertools.combinations(boxes, 2):
        assert not a.overlaps(b), (a, b)
    assert "1,040 ms" in figure.texts[-1].get_text()
    area = sum(axes.get_window_extent().height for axes in figure.axes) / len(figure.axes)
    assert area > 0.55 * page.height, "most of the sheet is plot"


def test_numbers_as_people_write_them():
    found = [figures.plain(value) for value in (0.031234, 4.5, 99.94, 228.5, 1043.2, 120_345.0)]
    assert found == ["0.0312", "4.5", "99.9", "228", "1,040", "120,000"]


def test_the_unit_is_on_the_axis_and_the_full_run_is_no_point(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **kwargs: drawn.append(self))
    unit = "distance to the full run"
    rows = [row("dash only", n, value, unit=unit) for n, value in ((2, 4.0), (4, 1.0), (50, 0.0))]
    figures.quality_plot(rows, tmp_path / "plot.png")
    axes = drawn[0].axes[0]
    assert axes.get_ylabel() == unit
    assert axes.get_lines()[0].get_xdata().tolist() == [2, 4]
    figures.quality_plot([row("dash only", 2, 4.0)], tmp_path / "plot.png")
    assert drawn[1].axes[0].get_ylabel() == "Frechet distance to real images"
