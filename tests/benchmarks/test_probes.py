"""The questions to a GPU, asked of a CPU: they run to their end and know right from wrong."""

import itertools
import os
from pathlib import Path

import pytest
import torch

import fake_capture
from morse_engine.runtime import native

pytestmark = pytest.mark.slow
CPU = torch.device("cpu")


@pytest.fixture
def probes(monkeypatch, fake):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import probes

    fake_capture.install(monkeypatch, fake)
    monkeypatch.setattr(probes, "captured", lambda step, device, own=True: step)
    monkeypatch.setattr(probes, "in_turns_for", quick)
    probes.wrong.clear()
    return probes


def quick(seconds, calls, device):
    return {name: [call.ms(device) for _ in range(2)] for name, call in calls.items()}


def test_steps(probes, capsys):
    probes.steps(CPU, ("tiny",))
    said = capsys.readouterr().out
    assert probes.wrong == []
    for layout in ("switch", "two_ifs", "unrolled", "nested"):
        assert f"ok: tiny: {layout} is host: largest difference 0" in said
    assert "ok: tiny: host is its steps by hand" in said
    assert "tiny - {'kernel': 1}" in said
    assert native.FORCED not in os.environ


def test_steps_of_a_driver_that_cannot(probes, fake, capsys):
    fake.refuse("conditional")
    probes.steps(CPU, ("tiny",))
    said = capsys.readouterr().out
    assert [line.split(": ")[2] for line in probes.wrong] == [
        f"{layout} runs" for layout in ("two_ifs", "switch", "nested")
    ]
    assert "ok: tiny: unrolled is host" in said


def test_loops(probes, fake, capsys):
    fake.refuse("switch")
    probes.loops(CPU, "tiny")
    lines = capsys.readouterr().out.splitlines()
    names = [line.partition(":")[0] for line in lines if " us a step (" in line]
    assert names == ["host", "unrolled", "two_ifs"]
    (line,) = probes.wrong
    assert line.startswith("WRONG: switch runs: layout switch: cuGraphAddNode")


def test_race(probes, capsys, monkeypatch):
    probes.race(CPU, rounds=3)
    assert probes.wrong == []
    assert "torch's stream: 0 other results of 6" in capsys.readouterr().out

    def damaged(step, device, own=True):
        turns = itertools.count(1)
        return (lambda: step().add_(next(turns))) if own else step

    monkeypatch.setattr(probes, "captured", damaged)
    probes.race(CPU, rounds=3)
    assert probes.wrong == ["WRONG: two captures on streams of their own: 6 other results of 6"]


def test_baked(probes, capsys, monkeypatch):
    pytest.importorskip("peft")
    probes.baked(CPU)
    assert probes.wrong == [], "a replay of the stand-in runs Python again"
    assert capsys.readouterr().out.count("ok: ") == 4
    monkeypatch.setattr(probes, "near", lambda a, b: False)
    probes.baked(CPU)
    assert len(probes.wrong) == 4


@pytest.mark.parametrize("name", ["floor", "formats", "cudnn"])
def test_measurements(probes, capsys, name):
    options = {"floor": {"nodes": 3}}.get(name, {"name": "tiny"})
    probes.PROBES[name](CPU, **options)
    said = capsys.readouterr().out
    assert {"floor": "a node: ", "formats": "tiny Dot, channels_last: ", "cudnn": "same bits"}[
        name
    ] in said


def test_the_status(probes, monkeypatch):
    for right in (True, False):
        monkeypatch.setitem(probes.PROBES, "race", lambda right=right: probes.say("it", right))
        assert probes.main(["race"]) == int(not right)
