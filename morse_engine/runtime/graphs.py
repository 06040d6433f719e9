"""Captured steps: the two steps of one memory layout as CUDA graphs, launched one by one or as one.

    host     one launch a step, in the order of the plan, without waiting
    device   one launch a run: begin -> WHILE { pick -> SWITCH { Dash | Dot } -> next } -> end,
             composed by the C++ extension (`native`) from the same two graphs

Both read the same memory (`steps.Steps`), so plan, solver, seeds, guidance scale and conditioning
change without a new capture, and both make the same bits. `GraphCache` keeps the captures of
several layouts within a budget of bytes.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from ..sampling.request import Request
from ..system.errors import Refused, Unavailable
from . import native
from .steps import Layout, Steps

WARM_UPS = (
    3  # torch asks for eleven with DistributedDataParallel, else lazy initialisation needs one
)


def reason(device: torch.device) -> str:
    """Why steps cannot be captured on this device; "" if they can."""
    if device.type != "cuda":
        return f"the models are on {device}, captured steps need a CUDA GPU"
    if torch.cuda.memory.get_allocator_backend() != "native":
        return (
            "torch's allocator is cudaMallocAsync, whose graphs hold memory nodes; unset "
            "PYTORCH_CUDA_ALLOC_CONF=backend:cudaMallocAsync"
        )
    return ""


def capture(name: str, step: Callable[[], None], pool, device: torch.device):
    """`step` as a `torch.cuda.CUDAGraph` that is not instantiated yet.

    Raises:
        Unavailable: the step draws from torch's generator, whose numbers would be the same in each
            replay, or does something that cannot be captured.
    """
    with torch.cuda.device(device):
        generator = torch.cuda.default_generators[torch.cuda.current_device()]
        before = generator.get_offset()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                step()
        torch.cuda.current_stream().wait_stream(side)
        if generator.get_offset() != before:
            raise Unavailable(
                f"the {name} step draws random numbers from torch's generator, which a captured "
                "step would repeat: call eval() on the models, or use backend='eager'"
            )
        graph = torch.cuda.CUDAGraph(keep_graph=True)
        try:
            # Other threads may go on using the GPU meanwhile.
            with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
                step()
        except torch.OutOfMemoryError:
            raise  # a RuntimeError too; the ledger makes room and tries again
        except RuntimeError as error:
            raise Unavailable(
                f"the {name} step cannot be captured into a CUDA graph ({error}); a model must not "
                "wait for the GPU or copy from the host in its forward; use backend='eager'"
            ) from error
    return graph


class StepGraphs:
    """The steps of one layout, captured in one pool of memory.

    Args:
        steps: the steps and their memory, with a plan loaded.

    Attributes:
        loop: the one-launch loop, once `compose` has made it.
        choice, why: the faster backend and how that is known, from `choose`.
        capture_s: seconds for warm-up, capture and composition.
        num_bytes: device memory: static, of the pool, of the executable graphs.
        replays: launches so far, of a step by the host or of the loop.
    """

    def __init__(self, steps: Steps):
        self.steps, self.replays = steps, 0
        self.device = steps.layout.device
        started, free = time.perf_counter(), _free_bytes(self.device)
        pool = torch.cuda.graph_pool_handle() if self.device.type == "cuda" else None
        functions = {"-": ("Dash", steps.dash_step)}
        if steps.layout.with_dot:
            functions["."] = ("Dot", steps.dot_step)
        self._begin = capture("first", steps.begin, pool, self.device)
        self._begin.instantiate()
        self._graphs = {
            symbol: capture(name, step, pool, self.device)
            for symbol, (name, step) in functions.items()
        }
        self.loop: native.LoopGraph | None = None
        self._in_loop = None  # the plan that the loop knows
        self.choice, self.why = "host", ""
        self._end = torch.cuda.Event() if self.device.type == "cuda" else None
        self._instantiated = False  # what the host launches
        self.num_bytes = steps.num_bytes + max(0, free - _free_bytes(self.device))
        self.capture_s = time.perf_counter() - started

    def compose(self) -> None:
        """Make the one-launch loop of the two steps.

        Raises:
            Unavailable: no driver, or a node that a loop cannot hold; the message says which.
        """
        started, free = time.perf_counter(), _free_bytes(self.device)
        handles = {symbol: graph.raw_cuda_graph() for symbol, graph in self._graphs.items()}
        with self.turn():  # the device's context is current
            self.loop = native.LoopGraph(
                native.Driver(),
                handles["-"],
                handles.get(".", 0),
                self.steps.state.step.data_ptr(),
                self.steps.layout.capacity,
            )
        self.num_bytes += max(0, free - _free_bytes(self.device))
        self.capture_s += time.perf_counter() - started

    def start(self, request: Request) -> None:
        """Fill the memory for a run of the plan that `steps` has loaded."""
        self.steps.fill(request)
        self._begin.replay()
        if self.loop is not None and self._in_loop != self.steps.plan:
            self.loop.set_plan(str(self.steps.plan), _stream(self.device))
            self._in_loop = self.steps.plan

    def _instantiate(self) -> None:
        """Make what the host launches; the loop has its own copies of the steps."""
        if not self._instantiated:
            free = _free_bytes(self.device)
            for graph in self._graphs.values():
                graph.instantiate()
            self._instantiated = True
            self.num_bytes += max(0, free - _free_bytes(self.device))

    def both_steps(self) -> tuple[Callable[[], None], Callable[[], None] | None]:
        """Launches of a Dash and of a Dot step, to be timed; fewer in all than the capacity."""
        self._instantiate()
        dot = self._graphs.get(".")
        return self._graphs["-"].replay, dot.replay if dot else None

    def launch(self, i: int, until: int) -> None:
        """The host launches steps i to until - 1, one by one."""
        self._instantiate()
        for symbol in self.steps.plan.morse[i:until]:
            self._graphs[symbol].replay()
        self.replays += until - i

    def launch_loop(self, until: int) -> None:
        """The device runs all steps from where the run is to until - 1, in one launch."""
        self.loop.launch(_stream(self.device), until)
        self.replays += 1

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Within it the current stream has the memory: after what other streams did with it."""
        if self.device.type != "cuda":
            yield
            return
        with torch.cuda.device(self.device):
            stream = torch.cuda.current_stream()
            stream.wait_event(self._end)
            try:
                yield
            finally:
                self._end.record(stream)

    def raise_errors(self) -> None:
        """Raise what went wrong on the device, if anything did."""
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).query()

    def choose(self, fill: Callable[[], None]) -> str:
        """Which backend is faster here, "host" or "device"; sets `choice` and `why`.

        Both make the first steps of a run twice, the second time by the clock, and have to agree
        bit for bit. Long runs are not measured whole: 8 steps show what a launch costs.

        Args:
            fill: fills the memory for a run.
        """
        until = min(8, len(self.steps.plan))
        launches = {
            "host": lambda: self.launch(0, until),
            "device": lambda: self.launch_loop(until),
        }
        ms, x = {}, {}
        for backend, launch in launches.items():
            for _ in range(2):
                fill()
                wait(self.device)
                started = time.perf_counter()
                launch()
                wait(self.device)
                ms[backend] = 1e3 * (time.perf_counter() - started)
            x[backend] = self.steps.state.x.clone()
        self.choice = min(ms, key=ms.get)
        self.why = ", ".join(f"{name} {value:.3f} ms" for name, value in ms.items())
        self.why += f" for {until} steps"
        if not torch.equal(*x.values()):
            self.choice, self.why = (
                "host",
                "the one-launch loop gave other bits than single launches",
            )
        return self.choice

    @property
    def launches(self) -> dict[str, int] | None:
        """Nodes of each step's graph, by name; None where the loop was not composed."""
        if self.loop is None:
            return None
        counts = self.loop.num_nodes
        return {name: counts[name.lower()] for name in ("Dash", "Dot") if counts[name.lower()]}


class GraphCache:
    """The captures of a sampler, the least recently used dropped where a budget is exceeded.

    Args:
        budget: bytes of device memory that all captures may take together; the one in use is kept
            whatever it takes. None: a quarter of the device's memory.
    """

    def __init__(self, budget: int | None = None):
        if budget is not None and budget < 0:
            raise Refused(f"graph_memory={budget}: bytes, 0 keeps only the capture in use")
        self.budget = budget
        self.evicted = 0
        self._kept: OrderedDict[Layout, StepGraphs] = OrderedDict()

    def get(self, layout: Layout, make: Callable[[], StepGraphs]) -> StepGraphs:
        """The capture of this layout, made if there is none."""
        if layout not in self._kept:
            try:
                made = make()
            except torch.OutOfMemoryError:
                if not self._kept:
                    raise
                self.evicted += len(self._kept)
                self.clear()
                made = make()
            self._kept[layout] = made
        self._kept.move_to_end(layout)
        self._fit(layout.device)
        return self._kept[layout]

    def _fit(self, device: torch.device) -> None:
        budget = self.budget
        if budget is None:
            if device.type != "cuda":
                return
            budget = torch.cuda.get_device_properties(device).total_memory // 4
        while len(self._kept) > 1 and self.num_bytes > budget:
            _wait_for_all(device)  # it may be running
            self._kept.popitem(last=False)
            self.evicted += 1

    def clear(self) -> None:
        """Drop every capture and its memory."""
        for layout in {layout.device: layout for layout in self._kept}.values():
            _wait_for_all(layout.device)
        self._kept.clear()

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def last(self) -> StepGraphs | None:
        """The capture that was used last; None if there is none."""
        return next(reversed(self._kept.values()), None)

    @property
    def num_bytes(self) -> int:
        """Device memory of all captures."""
        return sum(graphs.num_bytes for graphs in self._kept.values())


def wait(device: torch.device) -> None:
    """Until the device has done what was asked of it on this stream."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()


def _wait_for_all(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def mark(device: torch.device) -> torch.cuda.Event | None:
    """An event after what was asked of the device on this stream; None on a CPU."""
    if device.type != "cuda":
        return None
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(device))
    return event


def _stream(device: torch.device) -> int:
    return torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0


def _free_bytes(device: torch.device) -> int:
    if device.type != "cuda":
        return 0
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info(device)[0]
