"""Files that are whole or not there."""

import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from morse_engine import Refused
from morse_engine.system.files import output_folder, whole, write_rows, write_tensors


def test_whole(tmp_path):
    path = tmp_path / "a.txt"
    with whole(path) as partial:
        partial.write_text("one")
        assert partial.suffix == ".txt"
        assert not path.exists()
    assert path.read_text() == "one"

    def fail() -> None:
        with whole(path) as partial:
            partial.write_text("two")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert path.read_text() == "one"
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_file_is_readable_as_any_other(tmp_path):
    """Whatever mode its writer gives it."""
    umask = os.umask(0o027)
    try:
        with whole(tmp_path / "a.txt") as partial:
            partial.write_text("one")
            partial.chmod(0o600)
    finally:
        os.umask(umask)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o640


def test_tensors_are_written_without_another_file(tmp_path):
    """One that took the name of `path` would be another, and stay there when it is killed."""
    path, column = tmp_path / "a.safetensors", torch.arange(6.0).view(2, 3)[:, 1]
    path.touch()
    before = path.stat().st_ino
    write_tensors(path, {"column": column})
    assert path.stat().st_ino == before
    assert load_file(path)["column"].tolist() == [1.0, 4.0]
    save_file({"column": column.contiguous()}, tmp_path / "b", metadata={"format": "pt"})
    assert path.read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("path", [None, 5, "", "a\0b", ".", "/"])
def test_what_names_no_file(path):
    with pytest.raises(Refused, match="path="), whole(path):
        pytest.fail("begun")


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(Refused, match="has to name a file"), whole(tmp_path):
        pytest.fail("begun")


def test_output_folder_is_made_and_left_empty(tmp_path):
    folder = output_folder(tmp_path / "a" / "b")
    assert folder.is_dir()
    assert not list(folder.iterdir())
    assert output_folder(folder) == folder


def test_rows_stand_one_a_line(tmp_path):
    path = tmp_path / "rows.json"
    write_rows(path, [{"a": 1}, {"b": [2, None]}])
    assert path.read_text() == '[\n{"a": 1},\n{"b": [2, null]}\n]\n'
    write_rows(path, [])
    assert path.read_text() == "[]\n"
