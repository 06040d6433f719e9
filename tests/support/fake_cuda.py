"""What a capture does to torch's state on a GPU, without one: streams, pools, the generator.

It behaves as torch 2.11, in which a capture that fails leaves all three behind. Tensors are those
of the CPU, and work is done when it is asked for; what is under test is the state.
"""

import gc
import itertools
import threading
import time
import weakref
from contextlib import contextmanager

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from morse_engine.runtime import capture

BLOCK = 1 << 20  # bytes of a capture in its pool
EXEC = 1 << 10  # of a graph that is instantiated
OTHERS = 1 << 24  # what others take meanwhile


class Tape(TorchDispatchMode):
    """Operations as a graph holds them: every address, number and function as it was."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("operation not permitted when stream is capturing")
        out = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, out))
        return out

    def replay(self):
        for func, args, kwargs, out in self.calls:
            now = func(*args, **kwargs)
            for mine, new in zip(tree_leaves(out), tree_leaves(now), strict=True):
                if isinstance(mine, torch.Tensor) and mine.data_ptr() != new.data_ptr():
                    mine.copy_(new)


class Stream:
    def __init__(self, device=None, **_):
        self.cuda_stream = 0 if device == "default" else id(self)

    def wait_stream(self, stream):
        pass

    def wait_event(self, event):
        pass

    def query(self):
        return True

    def synchronize(self):
        pass


class Event:
    waits = 0  # of all of them

    def __init__(self, **_):
        self.at = 0.0

    def record(self, stream=None):
        self.at = time.perf_counter()

    def synchronize(self):
        Event.waits += 1

    def elapsed_time(self, end):
        return 1e3 * (end.at - self.at)


class Generator:
    """Of the GPU: its offset is told by the state of the CPU's."""

    def get_offset(self):
        return hash(torch.get_rng_state().numpy().tobytes())


class Graph:
    """What is used of `torch.cuda.CUDAGraph`."""

    def __init__(self, cuda):
        self.cuda, self.tape, self.instantiated = cuda, None, False
        self.pool_id = self.stream = self.workspace = None

    def instantiate(self):
        self.instantiated = True
        self.cuda.free -= EXEC

    def replay(self):
        assert self.instantiated
        self.run()

    def run(self):
        with torch.inference_mode(False), torch.no_grad():
            self.tape.replay()


class FakeCuda:
    """The state of a process.

    Attributes:
        graphs: all that were captured and live.
        overlapped: whether two captures were ever under way at once.
        collected: whether garbage could be collected within a capture.
        recording: pools that the allocator records for.
        spoiled: whether the generator is in the state of capture.
        workspaces: pool in which the memory for matrix products of a stream lies.
    """

    def __init__(self):
        self.graphs = weakref.WeakSet()
        self.overlapped = self.collected = self.spoiled = False
        self.recording, self.workspaces, self.segments = set(), {}, []
        self.free, self.side = 1 << 40, Stream()
        self._pools, self._default = itertools.count(1), Stream("default")
        self._here, self._underway = threading.local(), 0

    def install(self, monkeypatch, *, streams=True):
        cuda = {
            "CUDAGraph": lambda keep_graph=False: Graph(self), "graph": self.graph,
            "Event": Event, "Stream": Stream,
            "current_device": lambda: 0, "current_stream": self.current_stream,
            "default_generators": [Generator()], "device": self.device, "empty_cache": lambda: None,
            "graph_pool_handle": lambda: (0, next(self._pools)),
            "mem_get_info": lambda device=None: (self.free, 1 << 40),
            "memory_snapshot": lambda: self.segments, "set_stream": self.set_stream,
            "stream": self.stream, "synchronize": lambda device=None: None,
        }  # fmt: skip
        for name, value in cuda.items():
            monkeypatch.setattr(torch.cuda, name, value)
        for name in ("_cuda_endAllocateToPool", "_cuda_clearCublasWorkspaces"):
            monkeypatch.setattr(torch._C, name, getattr(self, name), raising=False)
        if streams:
            monkeypatch.setattr(capture, "own_stream", Stream)
        monkeypatch.setattr(capture, "_warm_up_stream", lambda device: self.side)

    def current_stream(self, device=None):
        return getattr(self._here, "stream", self._default)

    def set_stream(self, stream):
        self._here.stream = stream

    @contextmanager
    def device(self, device):
        yield

    @contextmanager
    def stream(self, stream):
        before = self.current_stream()
        self.set_stream(stream)
        try:
            yield
        finally:
            self.set_stream(before)

    @contextmanager
    def graph(self, graph, pool=None, stream=None, capture_error_mode="global"):
        """`torch.cuda.graph`: its end restores nothing if the capture was spoiled."""
        assert capture_error_mode == "thread_local"
        pool, before = pool or (0, next(self._pools)), self.current_stream()
        self.set_stream(stream)
        self.overlapped |= self._underway > 0
        self.collected |= gc.isenabled()
        self._underway += 1
        self.recording.add(pool)
        self.spoiled = True
        graph.pool_id, graph.stream, graph.tape = pool, stream, Tape()
        failed = None
        try:
            with graph.tape, torch.inference_mode(False):
                yield
        except BaseException as error:
            failed = error
        self._underway -= 1
        if isinstance(failed, RuntimeError) and not isinstance(failed, torch.OutOfMemoryError):
            raise RuntimeError(f"operation failed due to a previous error: {failed}") from failed
        graph.workspace = self.workspaces.setdefault(stream, pool)
        self.recording.discard(pool)
        self.spoiled = False
        self.graphs.add(graph)
        self.segments.append({"segment_pool_id": pool, "total_size": BLOCK})
        self.free -= OTHERS
        self.set_stream(before)
        if failed is not None:
            raise failed

    def _cuda_endAllocateToPool(self, device, pool):
        if pool not in self.recording:
            raise RuntimeError("not currently recording to mempool_id")
        self.recording.discard(pool)

    def _cuda_clearCublasWorkspaces(self):
        self.workspaces.clear()

    def draw(self):
        """What `torch.randn` does on a GPU."""
        if self.spoiled:
            raise RuntimeError("Offset increment outside graph capture encountered unexpectedly")
