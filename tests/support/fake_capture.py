"""Captured steps without a GPU: a stand-in for torch's graphs over the fake driver.

A "captured" step is the Python function itself. Replaying calls it on CPU tensors; in the
one-launch loop the fake driver calls it, and the loop's own kernels, on the same memory, decide
which step comes next.
"""

import torch

from morse_engine.runtime import graphs, native


class Graph:
    """What `graphs` uses of `torch.cuda.CUDAGraph`."""

    def __init__(self, name, step, fake, log):
        self.name, self.step, self.log = name, step, log
        self.fake = fake
        self.instantiated = False

    def _run(self) -> None:
        self.log.append(self.name)
        with torch.no_grad():
            self.step()

    def raw_cuda_graph(self) -> int:
        return self.fake.step_graph(self._run, self.name)

    def instantiate(self) -> None:
        self.instantiated = True

    def replay(self) -> None:
        assert self.instantiated
        self._run()


def install(monkeypatch, fake) -> list[str]:
    """Make `graphs` capture on the CPU; returns the log of steps made."""
    log: list[str] = []

    def capture(name, step, pool, device):
        for _ in range(graphs.WARM_UPS):
            step()
        return Graph(name, step, fake, log)

    monkeypatch.setattr(graphs, "capture", capture)
    monkeypatch.setattr(graphs, "reason", lambda device: "")
    monkeypatch.setattr(native, "reason", lambda: "")
    driver = native.Driver
    monkeypatch.setattr(native, "Driver", lambda: driver(fake.library), raising=False)
    return log
