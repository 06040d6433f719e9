"""benchmarks/free_lines.py: which line, of which model, and that it goes on where it was."""

import json
import sys

import pytest
import torch

from morse_engine.sampling.plan import Plan


@pytest.mark.slow
@pytest.mark.parametrize("model", ["digits", "icons", "miniature"])
def test_rows(model, tmp_path, monkeypatch):
    import free_lines

    monkeypatch.setattr(free_lines, "FULL", 4)
    monkeypatch.setattr(free_lines, "BATCH", 2)
    monkeypatch.setattr(free_lines, "DASH_STEPS", (3,))
    out = tmp_path / "rows.json"
    words = ["free_lines", "--models", model, "--solvers", "dpm-karras", "--images", "2"]
    monkeypatch.setattr(sys, "argv", [*words, "--out", str(out)])
    free_lines.main()
    rows = json.loads(out.read_text())
    assert [row["variant"] for row in rows] == ["Dash alone", "not corrected", *free_lines.LINES]
    assert {row["plan"] for row in rows} == {"---", "-:-:-:"}
    values = [row["value"] for row in rows]
    assert all(row["low"] <= row["value"] <= row["high"] for row in rows)
    assert len(set(values)) == len(values), "each line has other images"
    monkeypatch.setattr(free_lines, "made", None)  # all is there: nothing is made
    free_lines.main()
    assert json.loads(out.read_text()) == rows


@pytest.mark.slow
def test_sheet(tmp_path, monkeypatch):
    import free_lines

    monkeypatch.setattr(free_lines, "FULL", 7)
    monkeypatch.setattr(free_lines, "BATCH", 2)
    monkeypatch.setattr(free_lines, "SHEET", (3,))
    drawn = {}
    monkeypatch.setattr(
        free_lines, "picture_grid", lambda columns, path, title: drawn.update(columns)
    )
    words = ["free_lines", "--models", "miniature", "--sheet", str(tmp_path / "sheet.png")]
    monkeypatch.setattr(sys, "argv", words)
    free_lines.main()
    assert [name.split("\n") for name in drawn] == [
        ["All 7 steps", ""],
        ["3 steps", "---"],
        ["3 and free steps", "-:-:-:"],
    ]
    full, alone, free = drawn.values()
    assert full.shape == (9, 3, 64, 64)
    assert not torch.equal(free, alone)
    assert max(images.abs().max() for images in drawn.values()) <= 1


def test_the_line_of_the_package_is_one_of_them(monkeypatch):
    import free_lines

    monkeypatch.setattr(free_lines, "BATCH", 2)
    plan = Plan("--:-:-")
    lines = {"dpm-karras": "log(10 + sigma)", "ddim": "timestep", "unipc": "timestep"}
    for solver, line in lines.items():
        of, about = free_lines.subject("digits", solver), (free_lines.ALONE, line, free_lines.PLAIN)
        ours, same, plain = (free_lines.made(of, plan, asked, 2) for asked in about)
        torch.testing.assert_close(ours, same, rtol=1e-4, atol=1e-4)
        assert (plain - ours).abs().max() > 1e-3
