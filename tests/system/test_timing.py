"""Calls timed in turns: which are counted, in which order, and how many."""

import time

import pytest
import torch

from morse_engine.system.timing import Call, Spread, in_turns, in_turns_for

CPU = torch.device("cpu")


def test_all_take_turns_and_the_first_rounds_do_not_count():
    made: list[str] = []
    calls = {
        "a": Call(lambda: made.append("a"), in_a_row=2, prepare=lambda: made.append("before")),
        "b": Call(lambda: made.append("b")),
    }
    times = in_turns(calls, CPU, rounds=2, untimed=1)
    assert made == ["before", "a", "a", "b"] * 3
    assert {name: len(values) for name, values in times.items()} == {"a": 2, "b": 2}


def test_a_time_is_that_of_one_call():
    waits = Call(lambda: time.sleep(0.01), in_a_row=3, prepare=lambda: time.sleep(0.05))
    (ms,) = in_turns({"wait": waits}, CPU, rounds=1)["wait"]
    assert 10 <= ms < 40  # three in a row and their preparation would be 80


def test_rounds_follow_from_the_seconds():
    made: list[str] = []

    def wait() -> None:
        made.append("wall")
        time.sleep(0.002)

    times = in_turns_for(0.02, {"wall": Call(wait)}, CPU, least=3, most=9)
    assert 3 <= len(times["wall"]) <= 9
    assert len(made) == len(times["wall"]) + 2  # two untimed
    assert len(in_turns_for(0.0, {"wall": Call(wait)}, CPU, least=4)["wall"]) == 4
    assert len(in_turns_for(9.0, {"wall": Call(lambda: None)}, CPU, most=6)["wall"]) == 6


def test_short_calls_by_the_clock_of_the_gpu_are_made_in_a_row():
    made: list[str] = []
    times = in_turns_for(0.0, {"gpu": Call(lambda: made.append("gpu"), "gpu")}, CPU, least=3)
    assert len(times["gpu"]) == 3
    assert len(made) == 2 + 3 * 16


def test_spread():
    assert Spread.of([3.0, 1.0, 2.0, 5.0, 4.0, 0.0]) == (2.5, 1.0, 4.0, 6)
    assert Spread.of([7.0]) == (7.0, 7.0, 7.0, 1)
    with pytest.raises(IndexError):
        Spread.of([])
