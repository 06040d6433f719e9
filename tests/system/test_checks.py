"""Values of arguments, and warnings that point at the caller."""

import itertools
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from morse_engine import Refused
from morse_engine.system import checks
from morse_engine.system.notice import warn


@pytest.mark.parametrize("value", [3, np.int8(3), np.uint64(3), torch.tensor(3), np.array(3)])
def test_integers(value):
    found = checks.integer("n", value, 0, 5)
    assert (type(found), found) == (int, 3)


@pytest.mark.parametrize(
    "value", [3.0, "3", None, True, np.bool_(True), torch.tensor(True), torch.tensor([3]), [3]]
)
def test_no_integers(value):
    with pytest.raises(Refused, match=r"n=.*: has to be an integer"):
        checks.integer("n", value, 0)


def test_ranges_are_named():
    with pytest.raises(Refused, match="n=6: has to be from 0 to 5"):
        checks.integer("n", 6, 0, 5)
    with pytest.raises(Refused, match="n=-1: has to be at least 0"):
        checks.integer("n", -1, 0)


@pytest.mark.parametrize(
    "value", [2.5, np.float32(2.5), torch.tensor(2.5), torch.tensor(2.5).half()]
)
def test_numbers(value):
    assert checks.number("a", value) == checks.positive("a", value) == 2.5


@pytest.mark.parametrize("value", [np.nan, np.inf, 10**400, "2", None, True, 1j, torch.ones(2)])
def test_no_numbers(value):
    with pytest.raises(Refused, match=r"a=.*: has to be a finite number"):
        checks.number("a", value)


@pytest.mark.parametrize(
    ("value", "listed"),
    [
        ([1], True), ((1,), True), (range(2), True), (np.array([1]), True), (torch.ones(1), True),
        ("1", False), (b"1", False), ({1}, False), ({1: 2}, False), (iter([1]), False),
        (itertools.count(), False), (torch.tensor(1), False), (np.zeros((1, 1)), False), (1, False),
    ],
)  # fmt: skip
def test_rows_of_values(value, listed):
    assert checks.is_list(value) == listed


def test_long_values_are_cut():
    for value in ("x" * 10**6, ["x"] * 10**6, b"x" * 10**6, 10**3000, {"a": "x" * 1000}):
        assert len(checks.shown(value)) < 150
    assert checks.shown(torch.zeros(2, 3)) == "a tensor [2, 3] torch.float32"
    assert checks.shown("-..") == "'-..'"


def test_functions():
    assert checks.function("f", len, "a function") is len
    for wrong in (None, 3, int):
        with pytest.raises(Refused, match=r"f is .*: pass a function of a"):
            checks.function("f", wrong, "a function of a", 1)
    for wrong in (lambda: None, lambda a, b: None):
        with pytest.raises(Refused, match="f cannot be called"):
            checks.function("f", wrong, "a function of a", 1)


def test_paths():
    assert checks.path("p", "a/b") == checks.path("p", Path("a/b")) == Path("a/b")
    for wrong in ("", "a\0", None, 3, b"a", "x" * 256, "a/" + "x" * 256):
        with pytest.raises(Refused, match=r"p=.*: has to be a path"):
            checks.path("p", wrong)


def test_a_warning_points_outside_of_the_package():
    """Through any number of frames of the package; a generator of it is one of them."""
    inside = {"__name__": "morse_engine.somewhere", "warn": warn}
    exec("def one(): warn('said')\ndef two(): one()", inside)
    for call in (inside["one"], inside["two"]):
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            call()
        assert found[0].filename == __file__


@pytest.mark.parametrize(
    "value",
    [
        torch.zeros(2, 3, device="meta"),
        torch.zeros(2, 3).to_sparse(),
        torch.zeros(2, 3).to(torch.float8_e4m3fn),
    ],
)
def test_tensors_without_values_to_look_at(value):
    with pytest.raises(Refused, match="pass a dense tensor"):
        checks.tensor("x", value, "[B, C]")
