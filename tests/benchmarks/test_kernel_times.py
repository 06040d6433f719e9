"""The cases of `benchmarks/kernel_times.py`: that they run, and are of the models' shapes."""

from collections import defaultdict
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from morse_engine.kernels import variants
from morse_engine.system import timing

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


class Given(TorchDispatchMode):
    """Shapes of the first argument of each of our ops within it, without the batch."""

    def __init__(self):
        super().__init__()
        self.shapes = defaultdict(set)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "morse_engine":
            self.shapes[func._opname].add(tuple(args[0].shape[1:]))
        return func(*args, **(kwargs or {}))


@pytest.mark.slow
def test_inner_cases_are_of_the_shapes_of_steps():
    import kernel_times
    from paper_models import MODELS
    from shapes import as_on_a_gpu, steps_of

    with as_on_a_gpu(), torch.no_grad(), Given() as given:
        for name in ("cifar10", "church", "sd", "sdxl"):
            steps_of(MODELS[name], channels_last=True).dot_step()
    for name, shapes in kernel_times.SHAPES.items():
        assert set(shapes) <= given.shapes[name], name


def test_every_kernel_has_a_case():
    """philox_normal is part of a start, which is timed as a whole."""
    import kernel_times

    assert {*kernel_times.CASES, "philox_normal"} == set(variants.OPS)
    assert set(kernel_times.SHAPES) <= set(kernel_times.CASES)


def test_kernels(monkeypatch):
    """Every case and its reference run; their times are made up here."""
    pytest.importorskip("triton")
    import kernel_times
    from rows import Out

    def once(function) -> timing.Spread:
        function()
        return timing.Spread(2.0, 1.0, 4.0, 3)

    inner = {"group_norm_silu": (64, 4, 4), "add_layer_norm": (5, 32), "geglu": (5, 64)}
    small = {"DEVICE": "cpu", "IMAGES": ((3, 8, 8),), "BATCHES": (2,), "timed": once}
    small |= {"SHAPES": {name: (shape,) for name, shape in inner.items()}}
    for name, value in small.items():
        monkeypatch.setattr(kernel_times, name, value)
    monkeypatch.setattr(kernel_times, "copy_bandwidth", lambda: 100.0)
    monkeypatch.setattr(kernel_times, "exceeds_l2", lambda num_bytes: num_bytes > 1e9)
    monkeypatch.setattr(kernel_times, "compiled", lambda reference: reference)
    messages: list[dict] = []
    kernel_times.measure(Out(messages.append, "-", 1, "cpu"), 60)
    assert {"note"} & set().union(*messages) == set(), messages
    rows = [message["row"] for message in messages]
    variants = [("ours", "reference"), ("torch.compile",)]
    assert [row["variant"] for row in rows if row["bench"] == "kernel_us"] == [
        f"{name}, {variant}, within L2"
        for some in variants
        for name in kernel_times.CASES
        for variant in some
    ]
    for us, share in zip(rows[::2], rows[1::2], strict=True):
        shape = inner.get(us["variant"].split(", ")[0], (3, 8, 8))
        assert (us["model"], us["batch"], us["value"]) == ("x".join(map(str, shape)), 2, 2.0)
        assert share["low"] * 4 == share["value"] * 2 == share["high"]  # slow is a small share
    messages.clear()
    kernel_times.measure(Out(messages.append, "-", 1, "cpu"), 0)
    assert messages == [{"note": "-, batch 1: kernels: 21 cases did not fit in 0 s"}]
