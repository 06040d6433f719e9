"""A CUDA driver without a GPU, for tests of the one-launch loop.

It is a shared library, built with the C++ compiler on first use, that morse_engine's C++ code loads
in place of libcuda. "Device memory" is ordinary memory: the data_ptr() of a CPU tensor serves as a
device address. A kernel node of a step graph calls a Python function; the bookkeeping kernels of
the loop are the real ones, compiled for the CPU.

    fake = fake_driver.load()                   # skips the test where there is no C++ compiler
    dash = fake.step_graph(lambda: step.add_(1))
    loop = native.LoopGraph(native.Driver(fake.library), dash, 0, step.data_ptr(), 1000)
"""

import ctypes
import hashlib
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest
from filelock import FileLock

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
CSRC = ROOT / "csrc"

# In the order of CUgraphNodeType.
NODE_TYPES = [
    *("kernel", "memcpy", "memset", "host", "graph", "empty", "wait_event", "event_record"),
    *("ext_semas_signal", "ext_semas_wait", "mem_alloc", "mem_free", "batch_mem_op", "conditional"),
]
MEMORY = {"host": 1, "device": 2, "array": 3, "unified": 4}


def compiler() -> str:
    """The C++ compiler; skips the test where there is none."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    for name in names:
        if found := shutil.which(name):
            return found
    pytest.skip(f"no C++ compiler ({', '.join(names)})")


@cache
def _build() -> str:
    """The library, in build/ under a name that says what it was made from: made once, by whichever
    worker comes first."""
    sources = sorted(HERE.glob("*.cpp"))
    command = [compiler(), "-std=c++17", "-O1", "-Wall", "-Wextra", "-shared", "-fPIC"]
    command += [f"-I{CSRC / 'include'}", f"-I{CSRC}", *map(str, sources)]
    made_from = hashlib.sha256(" ".join(command).encode())
    for path in [*sources, *HERE.glob("*.h"), *sorted(CSRC.rglob("*.h")), *CSRC.glob("*.cu")]:
        made_from.update(path.read_bytes())
    library = ROOT / "build" / f"fake_driver_{made_from.hexdigest()[:16]}.so"
    library.parent.mkdir(exist_ok=True)
    with FileLock(library.with_suffix(".lock")):
        if not library.exists():
            unfinished = library.with_suffix(".part")
            done = subprocess.run([*command, "-o", unfinished], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            assert done.stderr == "", done.stderr
            unfinished.rename(library)
    return str(library)


def load() -> "FakeDriver":
    """The fake driver in its first state: CUDA 12.8, a current context, nothing allocated."""
    return FakeDriver(_build())


class FakeDriver:
    """The controls of the fake. There is one state in a process; making a FakeDriver resets it.

    Work is done when it is enqueued. With `deferred`, it waits for run_pending() or a
    synchronisation, so that launches queue as on a GPU.
    """

    def __init__(self, library: str):
        self.library = library
        self.error: BaseException | None = None  # what a step function raised
        self._keep = []
        self._lib = lib = ctypes.CDLL(library)
        self._callback = ctypes.CFUNCTYPE(ctypes.c_int)
        pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
        lib.fake_graph.restype = lib.fake_pinned.restype = pointer
        lib.fake_dump.restype = lib.fake_kernels_found.restype = text
        lib.fake_destroy.argtypes = [pointer]
        lib.fake_pinned.argtypes = [ctypes.c_size_t]
        lib.fake_add_kernel.argtypes = [pointer, text, self._callback, number]
        lib.fake_add_node.argtypes = [pointer, number]
        lib.fake_add_child.argtypes = [pointer, pointer]
        lib.fake_add_memcpy.argtypes = [pointer, number, pointer, number, pointer]
        lib.fake_fail.argtypes = [text, number, number]
        lib.fake_overwrite.argtypes = [ctypes.c_size_t, number]
        lib.fake_calls.argtypes = lib.fake_refuse.argtypes = [text]
        lib.fake_reset()
        self._setting = {"version": 12080, "context": 1, "deferred": 0, "body_defaults": 0}

    def configure(self, **setting: int) -> None:
        """version (12040 is CUDA 12.4; for Drivers made afterwards), context (is one current),
        deferred, body_defaults (conditional defaults apply at each start of a body, too)."""
        assert setting.keys() <= self._setting.keys(), setting
        self._setting.update(setting)
        self._lib.fake_set(*(int(value) for value in self._setting.values()))

    def graph(self) -> int:
        """A new, empty graph: its CUgraph handle."""
        return self._lib.fake_graph()

    def step_graph(self, function, name: str = "step") -> int:
        """A graph of one kernel node that calls `function()`, which adds 1 to the step."""
        graph = self.graph()
        self.add_kernel(graph, name, function)
        return graph

    def add_kernel(self, graph: int, name: str, function=None, cooperative: bool = False) -> None:
        """A kernel node after the last node; it calls `function()`.

        An exception of `function` fails the launch and is kept in `error`.
        """

        def call() -> int:
            try:
                if function is not None:
                    function()
            except BaseException as error:
                self.error = error
                return 1
            return 0

        self._keep.append(self._callback(call))
        self._lib.fake_add_kernel(graph, name.encode(), self._keep[-1], cooperative)

    def add_node(self, graph: int, node_type: str) -> None:
        """A node of one of NODE_TYPES that does nothing."""
        self._lib.fake_add_node(graph, NODE_TYPES.index(node_type))

    def add_child(self, graph: int, child: int) -> None:
        """A child graph node with a copy of `child`."""
        self._lib.fake_add_child(graph, child)

    def add_memcpy(self, graph: int, source: tuple[str, int], target: tuple[str, int]) -> None:
        """A memcpy node; each side is ("host" | "device" | "array" | "unified", address)."""
        (from_type, start), (to_type, end) = source, target
        self._lib.fake_add_memcpy(graph, MEMORY[from_type], start, MEMORY[to_type], end)

    def pinned(self, size: int = 64) -> int:
        """The address of pinned host memory of `size` bytes."""
        return self._lib.fake_pinned(size)

    def destroy(self, graph: int) -> None:
        """Destroy a graph that graph() or step_graph() made."""
        self._lib.fake_destroy(graph)

    def fail(self, call: str, nth: int = 1, code: int = 2) -> None:
        """The nth call of `call` from the last reset returns `code` (2: out of memory)."""
        self._lib.fake_fail(call.encode(), nth, code)

    def refuse(self, *what: str) -> None:
        """Be a driver that does not do something.

        "conditional": no conditional nodes; "switch": no SWITCH; "extern": PTX with an extern does
        not load; "upload": no cuGraphUpload; "launch": no launch of a graph with conditional nodes.
        """
        for name in what:
            assert name in ("conditional", "switch", "extern", "upload", "launch"), name
            self._lib.fake_refuse(name.encode())

    def overwrite(self, offset: int, value: int) -> None:
        """Put a byte into the only device allocation."""
        assert self.live()["device_allocations"] == 1
        self._lib.fake_overwrite(offset, value)

    def calls(self, call: str) -> int:
        """How often `call` was called."""
        return self._lib.fake_calls(call.encode())

    def run_pending(self) -> int:
        """Do what is enqueued; the first error code, or 0."""
        return self._lib.fake_run_pending()

    def live(self) -> dict[str, int]:
        """How many objects exist."""
        counts = (ctypes.c_int * 5)()
        self._lib.fake_live(counts)
        names = ("graphs", "execs", "device_allocations", "host_allocations", "modules")
        return dict(zip(names, counts, strict=True))

    def dump(self) -> str:
        """The graph that was instantiated last: a line a node, bodies and child graphs indented."""
        return self._lib.fake_dump().decode()

    def kernels_found(self) -> set[str]:
        """Names of the kernels that were looked up in loaded PTX."""
        return set(self._lib.fake_kernels_found().decode().split())
