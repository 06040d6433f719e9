"""How near pictures are to those of all steps: intervals, speed-ups, and what is said of them."""

import pytest
import torch

from morse_engine.evaluation import near_verdict, nearness
from morse_engine.evaluation.bootstrap import Bootstrap
from morse_engine.evaluation.near_plot import near_plot
from morse_engine.evaluation.nearness import RMS, UNLIKE, Near

NUM = 40


def near(variant, budget, far, plan="-", batch=16, **row) -> Near:
    """Pictures that are `far` from all steps, each by its own factor around 1."""
    factor = torch.linspace(0.8, 1.2, NUM)
    about = {"variant": variant, "budget_lsd": budget, "cost_lsd": budget, "plan": plan}
    about |= {"batch_size": batch, "dot_speed": 6.0, "lsd_ms": 12.0, "dot_ms": 2.0, "images": NUM}
    about |= {"model": "m", "solver": "ddim", "cpu": "a CPU", "date": "today", "value": 1.0}
    values = {RMS: far * factor, UNLIKE: far * factor / 10, "prompt_score": factor / 2}
    return Near(about | row, values)


def points(morse, free=8.0, plan="-."):
    """Dash alone: 10 - n at n LSD; free steps and Morse at 4 LSD."""
    return [
        *(near("dash only", n, 10.0 - n, "-" * n) for n in (2, 4, 6, 8)),
        near("free steps", 2, free + 1, "-:"),
        near("free steps", 4, free, "-:-:"),
        near("morse", 4, morse, plan),
        near("morse", 4, morse, plan, batch=1, dot_speed=3.0),
    ]


def test_intervals_hold_the_mean_and_shrink_with_the_images():
    torch.manual_seed(1)
    widths = []
    for count in (20, 320):
        values = torch.randn(count) + 3
        value, low, high = Bootstrap(count).interval(values)
        assert value == pytest.approx(float(values.mean()))
        assert low < value < high
        standard = float(values.std()) / count**0.5
        assert high - low == pytest.approx(2 * 1.96 * standard, rel=0.25)
        widths.append(high - low)
    assert widths[1] < widths[0] / 2.5
    assert Bootstrap(20).interval(torch.full((20,), 2.0)) == (2, 2, 2)


def test_gain_is_the_speed_up_and_its_draws_are_paired():
    found = points(morse=4.0)  # Dash alone is there at 6 LSD
    gain = nearness.gain(found, "morse", RMS, 16)
    assert gain.mean == pytest.approx(1.5)
    # All of these pictures differ by the same factor: so do the draws, and the ratio stays.
    assert (gain.low, gain.high) == pytest.approx((1.5, 1.5))
    over = nearness.gain(found, "morse", UNLIKE, 16, over="free steps")
    assert over.lower_bounds == [True]
    less = nearness.nearer(found, "morse", RMS, 16, "free steps")[4]
    assert less.value == pytest.approx(4.0)
    assert 0 < less.low < less.value < less.high


@pytest.mark.parametrize(
    ("morse", "said"),
    [
        (4.0, "Beside free steps Morse is ahead by pixels, >= 1.00x"),
        (8.5, "Beside free steps Morse is BEHIND by pixels, 0.75x"),
        (8.0, "Beside free steps Morse is not certain to be ahead by pixels, 1.00x"),
    ],
)
def test_verdict_says_where_morse_stands(morse, said):
    found = points(morse)
    if morse == 4.0:  # a bound by as good as any: give free steps a point to be compared with
        found.append(near("free steps", 6, 4.0, "-:-:-:"))
        said = "Beside free steps Morse is ahead by pixels, 1.50x"
    text = near_verdict.verdict(found, 16)
    assert said in text
    assert "free steps alone, without a Dot, reach" in text
    assert ("1.50x by pixels and 1.50x by features" in text) == (morse == 4.0)


def test_verdict_of_plans_without_a_dot_says_so():
    text = near_verdict.verdict(points(8.0, plan="-:-:"), 16)
    assert text.endswith("No plan with Dot steps is known to be better, so Morse has none here.")


def test_a_line_for_each_batch_size():
    assert near_verdict.in_short(points(4.0), 16).startswith(
        "At batch 16, where a Dot step takes 1/6.0 of a Dash step, at budgets of 4 LSD"
    )
    assert "takes 1/3.0 of a Dash step" in near_verdict.in_short(points(4.0), 1)


def test_what_is_said_of_one_budget():
    text = near_verdict.at_budget(points(4.0), 4, 16)
    value, low, high = points(4.0)[-2].interval(RMS)
    assert f"Morse {value:.3f} ({low:.3f} .. {high:.3f})" in text
    assert "free steps 8.000" in text
    assert "Dash only 6.000" in text
    assert "nearer than free steps by 4.000" in text


def test_table():
    found = points(4.0)
    names = near_verdict.headings(found)
    assert names[-3:] == ("rms to all steps", "unlike all steps", "prompt score")
    cells = near_verdict.cells(found)
    assert len(cells) == len(found)
    assert {len(row) for row in cells} == {len(names)}
    assert [row[0] for row in cells if row[1] == "4"] == [
        *("Dash only", "Morse, batch 16", "Morse, batch 1", "free steps")
    ]
    assert "batch 1: 1 LSD = 12 ms, a Dot step 2 ms, N = 3.0" in near_verdict.caption(found)


def test_rows():
    row = points(4.0)[-1].as_row()
    assert row["bench"] == "nearness"
    for name in (RMS, UNLIKE, "prompt_score"):
        assert row[f"{name}_low"] < row[name] < row[f"{name}_high"]
    gains = nearness.speedup_rows(points(4.0), (16, 1))
    assert len(gains) == 2 * 2 * 3
    assert {(g["variant"], g["over"], g["by"]) for g in gains} == {
        (variant, over, by)
        for variant, over in (
            ("morse", "dash only"), ("morse", "free steps"), ("free steps", "dash only")
        )
        for by in (RMS, UNLIKE)
    }  # fmt: skip


def test_plot_has_a_line_for_each_batch_and_no_full_run(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **kwargs: drawn.append(self))
    found = [*points(4.0), near("dash only", 50, 0.0)]
    near_plot(found, (16, 1), tmp_path / "plot.png")
    left, right = drawn[0].axes
    names = [text.get_text() for text in left.get_legend().get_texts()]
    assert names == ["Dash only", "free steps", "Morse at batch 16", "Morse at batch 1"]
    assert left.get_lines()[0].get_xdata().tolist() == [2, 4, 6, 8]
    assert right.get_lines()[2].get_ydata().tolist() == pytest.approx([0.4])
