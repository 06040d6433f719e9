"""Captured steps without a GPU: a stand-in for torch's graphs over the fake driver.

Replaying a captured step calls the Python function, so that a test sees each step; or, `recorded`,
does the operations that the capture has seen, as a GPU does, whatever Python would say by now. In
the one-launch loop the fake driver does the same, and the loop's own kernels, on the same memory,
decide which step comes next.
"""

from fake_cuda import FakeCuda, Stream
from morse_engine.runtime import graphs, native


class Log(list):
    """Names of the steps made; `cuda` is the state that captures have left."""

    cuda: FakeCuda


def install(monkeypatch, fake, *, recorded: bool = False) -> Log:
    """Make `graphs` capture on the CPU; returns the log of steps made."""
    log = Log()
    log.cuda = FakeCuda()
    log.cuda.install(monkeypatch)
    real = graphs.capture

    def capture(name, step, *args):
        graph = real(name, step, *args)
        run = graph.run if recorded else step

        def logged():
            log.append(name)
            run()

        graph.run = logged
        graph.raw_cuda_graph = lambda: fake.step_graph(logged, name)
        return graph

    monkeypatch.setattr(graphs, "capture", capture)
    monkeypatch.setattr(graphs, "own_stream", lambda device: Stream())
    monkeypatch.setattr(graphs, "reason", lambda device: "")
    monkeypatch.setattr(native, "reason", lambda: "")
    driver = native.Driver
    monkeypatch.setattr(native, "Driver", lambda: driver(fake.library), raising=False)
    return log
