"""docs/tutorial.md: all of it runs in order, with smaller numbers and all else as written."""

import json
import re
import shlex
from pathlib import Path

import pytest

from morse_engine import cli

TEXT = (Path(__file__).parents[2] / "docs/tutorial.md").read_text()
SMALLER = {
    "--steps 1000": "--steps 2",
    "--checkpoint-every 100": "--checkpoint-every 2",
    "--batch-size 64": "--batch-size 2",
    "--steps 20": "--steps 2",
    "--num-images 4": "--num-images 1",
    "--budget 6": "--budget 3",
    "range(600)": "range(2)",
}


@pytest.mark.slow
def test_it_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = TEXT
    for written, smaller in SMALLER.items():
        assert written in text
        text = text.replace(written, smaller)
    names: dict = {"__name__": "tutorial"}
    kinds = []
    for kind, source in re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        kinds.append(kind)
        if kind == "python":
            exec(compile(source, f"tutorial.md, block {len(kinds)}", "exec"), names)
            continue
        for line in source.replace("\\\n", " ").splitlines():
            program, *words = shlex.split(line)
            assert program == "morse-engine"
            assert cli.main(words) == 0, line
    assert set(kinds) == {"python", "sh"}
    assert len(list(Path("data").glob("*.png"))) == 15
    assert set(json.loads(Path("my-dot/verdict.json").read_text())) >= {"dot", "rivals", "useful"}
    for folder in "drawn", "full", "quick", "blue-hearts":
        assert (Path(folder) / "grid.png").stat().st_size > 0
    assert (Path("my-dot") / "log.html").exists()
    assert "whole loop" in capsys.readouterr().out  # the report of the accelerated pipeline
