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
    assert [row["variant"] for row in rows] == ["Dash alone", *free_lines.LINES, "corrected"]
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


def test_what_the_package_does(monkeypatch):
    """Behind a last Dash its line alone; before another Dash step its line, corrected."""
    import free_lines

    monkeypatch.setattr(free_lines, "BATCH", 2)
    lines = {"dpm-karras": "log(10 + sigma)", "ddim": "timestep", "unipc": "timestep"}
    for solver, line in lines.items():
        of = free_lines.subject("digits", solver)
        for morse, same in (("---::", True), ("--:-:-", False)):
            variants = (free_lines.CORRECTED, line)
            ours, plain = (free_lines.made(of, Plan(morse), v, 2) for v in variants)
            assert torch.allclose(ours, plain, rtol=1e-4, atol=1e-4) == same
