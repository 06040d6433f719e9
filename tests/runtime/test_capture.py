"""A capture leaves torch as it was and shares nothing, on a stand-in for torch's state on a GPU."""

import ctypes
import gc
import threading
import time
from types import SimpleNamespace

import pytest
import torch

import fake_capture
import morse_engine
from fake_cuda import FakeCuda, Stream
from models import tiny_unet
from morse_engine.runtime import capture as capturing
from morse_engine.runtime.capture import NotCaptured, capture
from morse_engine.system.errors import Unavailable

CPU = torch.device("cpu")


@pytest.fixture
def cuda(monkeypatch):
    fake = FakeCuda()
    fake.install(monkeypatch)
    return fake


@pytest.fixture
def x():
    return torch.ones(3)


def waits(x):
    return lambda: x.mul_(float(x[0]))


def test_a_graph_is_what_the_step_did(cuda, x):
    graph = capture("Dash", lambda: x.mul_(2), None, CPU)
    graph.instantiate()
    x.fill_(1)
    graph.replay(), graph.replay()
    assert x.tolist() == [4, 4, 4]


def test_each_sampler_has_a_stream_and_memory_for_products_of_its_own(fake, monkeypatch):
    """Two graphs with one workspace write into each other's products, if they run side by side."""
    cuda = fake_capture.install(monkeypatch, fake).cuda
    samplers = [morse_engine.compile(tiny_unet(), plan="--", backend="host") for _ in range(2)]
    for sampler in samplers:
        sampler()
    graphs = list(cuda.graphs)
    streams = {graph.pool_id: graph.stream for graph in graphs}
    assert len(streams) == len(set(streams.values())) == 2
    assert all(streams[graph.pool_id] is graph.stream for graph in graphs)
    assert cuda.current_stream() not in streams.values()
    assert cuda.side not in streams.values()
    assert all(graph.workspace == graph.pool_id for graph in graphs)
    assert not cuda.workspaces, "nobody gets what lies in the pool of a graph"


def test_captures_of_two_threads_take_turns(cuda):
    made = []

    def make():
        made.append(capture("Dash", lambda: time.sleep(0.02), None, CPU))

    threads = [threading.Thread(target=make) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(made) == 2
    assert not cuda.overlapped


@pytest.mark.parametrize("enabled", [True, False])
def test_no_garbage_is_collected_within(cuda, x, enabled):
    (gc.enable if enabled else gc.disable)()
    try:
        capture("Dash", lambda: x.add_(1), None, CPU)
        assert gc.isenabled() == enabled
        with pytest.raises(NotCaptured):
            capture("Dash", waits(x), None, CPU)
        assert gc.isenabled() == enabled
    finally:
        gc.enable()
    assert not cuda.collected


def test_a_capture_that_fails_leaves_torch_as_it_was(cuda, x):
    here = cuda.current_stream()
    with pytest.raises(NotCaptured, match=r"Dash step cannot be captured.*stream is capturing"):
        capture("Dash", waits(x), None, CPU)
    assert cuda.current_stream() is here
    assert not cuda.recording, "the allocator recycles again"
    cuda.draw()
    assert not cuda.workspaces
    assert capture("Dash", lambda: x.add_(1), None, CPU).tape.calls


@pytest.mark.parametrize("error", [KeyboardInterrupt, torch.OutOfMemoryError, TypeError])
def test_other_errors_pass_through(cuda, error):
    here, calls = cuda.current_stream(), []

    def step():
        calls.append(1)
        if len(calls) > capturing.WARM_UPS:
            raise error

    with pytest.raises(error):
        capture("Dash", step, None, CPU)
    assert cuda.current_stream() is here
    assert not cuda.recording
    cuda.draw()


def test_a_step_that_draws_is_refused(cuda, x):
    with pytest.raises(NotCaptured, match="Dot step draws random numbers"):
        capture("Dot", lambda: x.copy_(torch.randn(3)), None, CPU)
    assert not cuda.graphs


def test_a_stream_of_the_driver_lives_as_long_as_the_object(cuda, monkeypatch):
    destroyed = []

    def create(handle, flags):
        assert flags == 1, "work on the legacy stream must not end a capture"
        ctypes.cast(handle, ctypes.POINTER(ctypes.c_void_p))[0] = 77
        return 0

    driver = SimpleNamespace(
        cuStreamCreate=create, cuStreamDestroy_v2=lambda handle: destroyed.append(handle.value)
    )
    monkeypatch.undo()
    cuda.install(monkeypatch, streams=False)
    monkeypatch.setattr(capturing, "_driver", lambda: driver)
    given = []

    class External(Stream):
        def __init__(self, handle, device):
            given.append(handle)

    monkeypatch.setattr(torch.cuda, "ExternalStream", External)
    stream = capturing.own_stream(CPU)
    assert given == [77]
    assert not destroyed
    del stream
    assert destroyed == [77]
    driver.cuStreamCreate = lambda *_: 2
    with pytest.raises(Unavailable, match="cuStreamCreate failed with error 2"):
        capturing.own_stream(CPU)
