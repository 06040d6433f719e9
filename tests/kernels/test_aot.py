"""The kernels compile for every supported architecture without a GPU, and none spills."""

import pytest

pytest.importorskip("triton", reason="the kernels are written in Triton")

from morse_engine.kernels import aot


def test_refuses_under_the_interpreter(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(RuntimeError, match="unset it"):
        next(aot.compile_all())
