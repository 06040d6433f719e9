"""What is said about rows: a sentence, a table, speed-ups."""

import pytest

from morse_engine.evaluation import verdict
from morse_engine.evaluation.speedup import SpeedUp


def fake_rows(morse: list[float], rival: float = 8.0) -> list[dict]:
    """Dash alone: distance 10 - n at n LSD; Morse: the given distances at 2, 4 ... LSD."""
    about = {"solver": "ddim", "model": "m", "images": 9, "dot_speed": 6.0, "set": 0}
    about |= {"batch_size": 1}

    def row(variant, budget, value):
        cost = {"cost_lsd": budget, "budget_lsd": budget, "ms_per_image": 2.0 * budget}
        return {"variant": variant, "value": value, "plan": "-", **cost, **about}

    return [
        *(row("dash only", n, 10.0 - n) for n in (1, 2, 4, 8)),
        *(row("morse", 2 * (i + 1), value) for i, value in enumerate(morse)),
        row("free steps", 2, rival),
    ]


@pytest.mark.parametrize(
    ("morse", "said"),
    [
        (
            [6.0, 2.0],
            "Morse is 2.00x as fast as Dash alone (on average over budgets of 2 and 4 LSD",
        ),
        (
            [4.0, 6.5],
            "Morse is 1.94x as fast as Dash alone (on average over budgets of 2 and 4 LSD",
        ),
        ([8.0], "Morse brings no gain here: 1.00x"),
        ([8.5], "Morse brings no gain here: 0.75x"),
        ([1.0], "Morse is >= 4.00x as fast"),
    ],
)
def test_verdict(morse, said):
    text = verdict.verdict(fake_rows(morse))
    assert said in text
    assert "free steps alone, without a Dot, reach 1.00x" in text
    assert ("more than Morse" in text) == (morse == [8.5])


def test_verdict_names_the_budgets_without_a_gain():
    assert "with no gain at 4 LSD" in verdict.verdict(fake_rows([4.0, 6.5]))
    assert "no gain" not in verdict.verdict(fake_rows([4.0, 5.0]))


def test_a_busy_machine_is_no_clock():
    found = fake_rows([6.0])
    assert "2.00x by the clock" in verdict.verdict(found)
    found[0]["ms_per_image"] *= 3
    assert verdict.unsteady(found) == pytest.approx(3.0)
    assert "clock" not in verdict.verdict(found)
    about = {"batch_size": 1, "lsd_ms": 2.0, "dot_ms": 0.5}
    assert "busy with other work" in verdict.caption([row | about for row in found])


def test_the_clock_is_of_the_batch_that_was_sampled():
    """Costs at another batch size follow from its latencies alone."""
    found = [row | {"sampled_in": 25} for row in fake_rows([6.0])]
    assert "clock" not in verdict.verdict(found)
    about = {"lsd_ms": 2.0, "dot_ms": 0.5}
    assert verdict.cells([row | about for row in found])[2][3] == ""


def test_gain_by_the_clock():
    found = fake_rows([6.0])
    for row in found:
        row["ms_per_image"] *= 2 if row["variant"] == "morse" else 1
    assert isinstance(verdict.gain(found, "morse"), SpeedUp)
    assert verdict.gain(found, "morse").mean == pytest.approx(2.0)
    assert verdict.gain(found, "morse", "ms_per_image").mean == pytest.approx(1.0)


def test_short_plan():
    assert verdict.short("-.." * 13) == "-.." * 13
    assert verdict.short("-" + "." * 39) == "-" + "." * 39
    text = verdict.short("-..." * 15)
    assert text == "-..." * 7 + " and 32 more"
    assert len(text) == 40


def three_sets(*each: list[float]) -> list[dict]:
    """Three sets of seeds, in which Morse has these distances."""
    return [row | {"set": k} for k, morse in enumerate(each) for row in fake_rows(morse)]


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        (([8.5], [8.6], [8.4]), "Morse brings no gain here: 0.75x (95 %: 0.63 .. 0.88)"),
        (
            ([4.0, 6.5], [6.0, 6.5], [8.0, 6.5]),
            "fast as Dash alone (on average over budgets of 2 and 4 LSD, 1.44x (95 %: "
            "0.56 .. 3.41) by the clock), which is not certain: the interval includes 1.0x, with "
            "no gain at 4 LSD; free steps",
        ),
        (([6.0, 2.0], [6.1, 2.0], [5.9, 2.0]), "is 2.00x (95 %: 1.94 .. 2.06) as fast as"),
    ],
)
def test_verdicts_over_sets_are_plain(sets, words):
    text = verdict.verdict(three_sets(*sets))
    assert words in text
    assert ("not certain" in text) == ("not certain" in words)


def test_no_rival_is_not_spoken_of():
    rows = [row for row in fake_rows([6.0]) if row["variant"] != "free steps"]
    assert verdict.verdict(rows).endswith("by the clock).")


def test_speedup_rows_of_two_solvers():
    rows = three_sets([6.0, 2.0], [6.1, 2.0], [5.9, 2.0])
    rows += [row | {"solver": "dpm", "set": 0, "commit": "1"} for row in fake_rows([6.0])]
    line = [r for r in rows if r["variant"] == "free steps" and r["set"] == 0]
    rows += [row | {"variant": "extrapolation"} for row in line]  # which has one set
    found = verdict.speedup_rows(rows)
    each = [("morse", "dash only"), ("morse", "free steps"), ("morse", "best sampler")]
    each += [("free steps", "dash only"), ("free steps", "best sampler")]
    each += [("extrapolation", "dash only")]
    expected = [(solver, *pair) for solver in ("ddim", "dpm") for pair in each]
    assert [(row["solver"], row["variant"], row["over"]) for row in found] == expected
    assert [row["sets"] for row in found] == [3] * 5 + [1] * 7
    first = found[0]
    assert first["value"] == first["mean"] == pytest.approx(2.0)
    assert first["low"] < 2 < first["high"]
    assert (first["budgets"], first["bench"], first["unit"]) == ([2, 4], "quality speed-up", "x")
    assert (first["batch_size"], len(first["per_budget"])) == (1, 2)
    assert found[5]["low"] is None
    assert "commit" not in first
    assert found[6]["commit"] == "1"


def test_the_best_sampler_is_the_best_at_each_cost():
    rows = fake_rows([6.0])  # distance 8 costs 2 LSD, distance 6 costs 4
    better = [row | {"solver": "dpm", "value": row["value"] - 2} for row in fake_rows([3.0])]
    found = verdict.speedup_rows(rows + better)
    over = {row["over"]: row["value"] for row in found if row["solver"] == "ddim"}
    gains = {
        row["over"]: row["value"]
        for row in found
        if (row["solver"], row["variant"]) == ("ddim", "morse")
    }
    assert over.keys() == {"dash only", "free steps", "best sampler"}
    fewer = [row | {"images": 8} for row in better]  # which are biased otherwise
    alone = verdict.speedup_rows(rows + fewer)
    assert "best sampler" not in {row["over"] for row in alone}
    more = [row | {"images": 10} for row in better]
    assert "best sampler" not in {row["over"] for row in verdict.speedup_rows(rows + more)}
    assert gains["dash only"] == pytest.approx(2.0)
    assert gains["best sampler"] == pytest.approx(1.0)  # which has 6 at 2 LSD
    assert gains["free steps"] == pytest.approx(1.0)  # a lower bound: they have one point


def test_each_batch_size_has_its_own_cost():
    small, large = fake_rows([6.0]), fake_rows([6.0])
    rows = small + [
        r | {"batch_size": 8, "cost_lsd": 1.0} for r in large if r["variant"] == "morse"
    ]
    assert len(verdict.at_batch(rows, 1)) == len(small)
    found = {
        row["batch_size"]: row["value"]
        for row in verdict.speedup_rows(rows)
        if (row["variant"], row["over"]) == ("morse", "dash only")
    }
    assert found == {1: pytest.approx(2.0), 8: pytest.approx(4.0)}


def test_by_budget_marks_the_bounds():
    assert verdict.by_budget(fake_rows([1.0, 6.0]), "morse") == ">= 4.00x at 2 LSD, 1.00x at 4 LSD"
    assert verdict.by_budget(fake_rows([9.5]), "morse") == "<= 0.50x at 2 LSD"


def test_cells_are_means_over_the_sets():
    about = {"batch_size": 1, "lsd_ms": 2.0, "dot_ms": 0.5}
    one = [row | about for row in fake_rows([6.0])]
    assert verdict.headings(one)[-1] == "Frechet distance"
    assert verdict.cells(one)[2] == ("Morse", "2", "-", "4.00", "6.000")
    more = {"rmse_to_full": 0.25, "agreement": 0.5}
    several = [row | about | more for row in three_sets([6.0], [7.0], [8.0])]
    assert verdict.headings(several)[-2:] == ("rmse to all steps", "same digit as with all steps")
    cells = ("Morse", "2", "-", "4.00", "7.000 (sd 1.000)", "0.2500", "0.5000")
    assert verdict.cells(several)[2] == cells
    assert len(verdict.cells(several)) == len(verdict.cells(one))
    assert "one set of seeds" in verdict.caption(one)
    assert "means of 3 sets of seeds" in verdict.caption(several)
