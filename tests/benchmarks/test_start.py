"""`benchmarks/start.py`: a row for each model, of captures that are made once."""

import json
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.slow
def test_rows(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import start
    from rows import KEYS

    out = tmp_path / "rows.json"
    start.main(["--model", "tiny", "--repeats", "3", "--out", str(out)])
    start.main(["--model", "tiny-sd", "--repeats", "3", "--out", str(out)])
    rows = json.loads(out.read_text())
    assert [row["model"] for row in rows] == ["tiny", "tiny-sd"]
    for row in rows:
        assert set(KEYS) <= set(row)
        assert (row["bench"], row["unit"], row["n"], row["gpu"]) == ("start", "us", 3, None)
        assert 0 < row["value"] <= row["low"] <= row["high"]
