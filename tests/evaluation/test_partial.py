"""The finished part of an experiment: what it refuses, and what it makes again."""

import pytest
import torch

from morse_engine import Refused
from morse_engine.evaluation.partial import Partial


def settled(folder, **wanted):
    wanted = {"images": 9, "steps": (2, 3)} | wanted
    return Partial(folder).settings(wanted, lambda: {"lsd_ms": 4.5})


def test_settings_are_those_of_the_first_run(tmp_path):
    assert settled(tmp_path)["lsd_ms"] == 4.5
    assert settled(tmp_path) == {"images": 9, "steps": [2, 3], "lsd_ms": 4.5}
    with pytest.raises(Refused, match=r"made with images=9, this run has 8: delete the folder"):
        settled(tmp_path, images=8)
    with pytest.raises(Refused, match=r"made with dot=None, this run has abc"):
        settled(tmp_path, dot="abc")  # a name that an earlier version did not write


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b"7"])
def test_damaged_settings(content, tmp_path):
    settled(tmp_path)
    (tmp_path / "settings.json").write_bytes(content)
    with pytest.raises(Refused, match=r"settings\.json is damaged .*: delete it"):
        settled(tmp_path)


def test_half_a_row_is_none_and_a_damaged_one_is_refused(tmp_path):
    partial = Partial(tmp_path)
    partial.add({"value": 1})
    with open(tmp_path / "rows.jsonl", "a") as file:
        file.write('{"value": 2')
    assert partial.rows() == [{"value": 1}]
    assert (tmp_path / "rows.jsonl").read_text() == '{"value": 1}\n'
    for line in ("{", "7", "[]x"):
        (tmp_path / "rows.jsonl").write_text(line + "\n")
        with pytest.raises(Refused, match=r"rows\.jsonl is damaged .*: delete it"):
            partial.rows()


def test_damaged_images(tmp_path):
    partial = Partial(tmp_path)
    made = torch.randn(2, 1, 4, 4)
    assert partial.images("full", lambda: made) is made
    assert torch.equal(partial.images("full", lambda: pytest.fail("made again")), made)
    path = tmp_path / "full.pt"
    for content in (b"", b"no tensor", path.read_bytes()[:-20]):
        path.write_bytes(content)
        with pytest.raises(Refused, match=r"full\.pt is damaged .*: delete it, it is made again"):
            partial.images("full", lambda: made)
