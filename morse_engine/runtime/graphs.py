"""Captured steps: the two steps of one memory layout as CUDA graphs, launched one by one or as one.

    host     one launch a step, in the order of the plan, without waiting
    device   one launch a run: begin -> WHILE { choose -> SWITCH { Dash | Dot } } -> end,
             composed by the C++ extension (`native`) from the same two graphs

Both read the same memory (`steps.Steps`), so plan, solver, seeds, guidance scale and conditioning
change without a new capture, and both make the same bits. `captures.Captures` keeps those of
several layouts.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from ..sampling.plan import DASH, DOT, FREE, Plan
from ..sampling.request import Request
from ..sampling.solver import SolverTable
from ..system.errors import Unavailable
from ..system.timing import Call, in_turns, synchronize
from . import native
from .capture import capture, own_stream
from .steps import Steps


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


POLL_S = 2e-4  # how often a host that follows the loop asks how far it is
PATIENCE_S, PATIENCE = 10.0, 50  # what a loop's first launches may take: s, times the host's


class StepGraphs:
    """The steps of one layout, captured in one pool of memory.

    Args:
        steps: the steps and their memory, with a plan loaded.

    Attributes:
        loop: the one-launch loop, once `compose` has made it.
        refused: why not in the layouts that were tried before, by name.
        choice, why: the faster backend and how that is known, from `choose`.
        capture_s: seconds for warm-up, capture and composition.
        num_bytes: device memory: static, of the pool, of the executable graphs.
        replays: launches so far, of a step by the host or of the loop.
    """

    def __init__(self, steps: Steps):
        self.steps, self.replays = steps, 0
        self.device = steps.layout.device
        started = time.perf_counter()
        with torch.cuda.device(self.device):
            self._pool = torch.cuda.graph_pool_handle()
            self._end = torch.cuda.Event()
        self._stream = own_stream(self.device)  # kept: its address names it, to torch's caches too
        functions = {DASH: ("Dash", steps.dash_step)}
        if steps.layout.with_dot:
            functions[DOT] = ("Dot", steps.dot_step)
        where = self._pool, self.device, self._stream
        self._draw = capture("noise", steps.draw, *where)
        self._begin = capture("first", steps.begin, *where)
        self._graphs = {
            symbol: capture(name, step, *where) for symbol, (name, step) in functions.items()
        }
        self.loop: native.LoopGraph | None = None
        self.refused: dict[str, str] = {}
        self._in_loop: Plan | None = None  # the plan that the loop knows
        self.choice, self.why = "host", ""
        self.num_bytes = steps.num_bytes + _pool_bytes(self._pool)
        self._instantiated = False  # what the host launches
        with self._counted():
            self._draw.instantiate()
            self._begin.instantiate()
        self.capture_s = time.perf_counter() - started

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Device memory that is taken within belongs to the executable graphs."""
        free = _free_bytes(self.device)
        yield
        self.num_bytes += max(0, free - _free_bytes(self.device))

    def compose(self) -> None:
        """Make the one-launch loop of the two steps, if it is not there yet.

        Raises:
            Unavailable: no driver, or a node that a loop cannot hold; the message says which, for
                each layout of the loop.
        """
        if self.loop is not None:
            return
        started, free = time.perf_counter(), _free_bytes(self.device)
        try:
            handles = {symbol: graph.raw_cuda_graph() for symbol, graph in self._graphs.items()}
            with self.turn():  # the device's context is current
                synchronize(self.device)  # the trial's bound is for the loop alone
                made = native.compose(
                    native.Driver(),
                    handles[DASH],
                    handles.get(DOT, 0),
                    self.steps.state.step.data_ptr(),
                    self.steps.layout.capacity,
                    _stream(self.device),
                    self.raise_errors,
                )
            self.loop, self.refused = made.loop, made.refused
        except RuntimeError as error:
            raise Unavailable(str(error)) from error
        self.num_bytes += max(0, free - _free_bytes(self.device))
        self.capture_s += time.perf_counter() - started

    def start(self, plan: Plan, table: SolverTable, request: Request) -> None:
        """Fill the memory for a run of `plan` and make its beginning."""
        self.steps.load(plan, table)
        self.steps.fill(request)
        if request.noise is None:
            self._draw.replay()
        self._begin.replay()
        if self.loop is not None and self._in_loop != plan:
            self.loop.set_plan(str(plan), _stream(self.device))
            self._in_loop = plan

    def _instantiate(self) -> None:
        """Make what the host launches; the loop has its own copies of the steps."""
        if not self._instantiated:
            with self._counted():
                for graph in self._graphs.values():
                    graph.instantiate()
            self._instantiated = True

    def both_steps(self) -> tuple[Callable[[], None], Callable[[], None] | None]:
        """Launches of a Dash and of a Dot step, to be timed; fewer in all than the capacity."""
        self._instantiate()
        dot = self._graphs.get(DOT)
        return self._graphs[DASH].replay, dot.replay if dot else None

    def launch(self, i: int) -> None:
        """The host launches call i of the plan, with the free steps behind it."""
        self._instantiate()
        assert self.steps.plan is not None  # loaded before the capture
        self._graphs[self.steps.plan.morse[i]].replay()
        self.replays += 1

    def launch_loop(self, until: int) -> None:
        """The device runs all steps from where the run is to until - 1, in one launch."""
        assert self.loop is not None  # composed
        self.loop.launch(_stream(self.device), until)
        self.replays += 1

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Within it the current stream has the memory: after what other streams did with it."""
        with torch.cuda.device(self.device):
            stream = torch.cuda.current_stream()
            stream.wait_event(self._end)
            try:
                yield
            finally:
                self._end.record(stream)

    def raise_errors(self) -> None:
        """Raise what went wrong on the device, if anything did."""
        torch.cuda.current_stream(self.device).query()

    def choose(self, start: Callable[[], None]) -> None:
        """Find once which backend is faster here: sets `choice` and `why`.

        Without a loop, or with one that fails, hangs or makes other bits, it is the host.

        Args:
            start: starts a run anew.

        Raises:
            Unavailable: the loop goes on for ever, and so does all that is asked of the GPU.
        """
        if self.why:
            return
        try:
            self.compose()
        except Unavailable as error:
            self.why = f"no one-launch loop: {error}"
            return
        try:
            self.choice, self.why = self._faster(start)
        except Exception as error:  # whatever it is, the host does not need the loop
            self.choice, self.why = "host", f"the one-launch loop failed: {error}"
            self._give_up()

    def _faster(self, start: Callable[[], None]) -> tuple[str, str]:
        """The faster backend and why it is taken.

        Both make the first steps of a run in turns, by the clock once they are warm, and have to
        agree bit for bit. Long runs are not measured whole: 8 steps show what a launch costs.

        Raises:
            RuntimeError: the loop fails, or does not end in time.
        """
        assert self.steps.plan is not None  # loaded before the capture
        plan = self.steps.plan
        until = plan.whole(min(8, len(plan)))
        calls = [i for i in range(until) if plan.morse[i] != FREE]

        def by_host() -> None:
            for i in calls:
                self.launch(i)

        self._instantiate()
        host_ms = Call(by_host, prepare=start).ms(self.device)
        expected = self.steps.state.x.clone()
        limit_s = max(PATIENCE_S, PATIENCE * host_ms / 1e3)
        for end in (plan.whole(1), until):  # a single step first: it shows most of what can hang
            start()
            self.launch_loop(end)
            if not native.ends_within(self.loop, limit_s, self.raise_errors):
                raise RuntimeError(f"it does not end within {limit_s:.0f} s")
        # By bits: NaN is not equal to itself.
        if not torch.equal(self.steps.state.x.view(torch.int32), expected.view(torch.int32)):
            return "host", "the one-launch loop gave other bits than single launches"
        launches = {"host": by_host, "device": lambda: self.launch_loop(until)}
        timed = {name: Call(launch, prepare=start) for name, launch in launches.items()}
        times = in_turns(timed, self.device, rounds=2, untimed=1)
        ms = {name: min(values) for name, values in times.items()}
        said = ", ".join(f"{name} {value:.3f} ms" for name, value in ms.items())
        return min(ms, key=ms.__getitem__), f"{said} for {until} steps"

    def _give_up(self) -> None:
        """Forget the loop, which was cancelled if it hung; if it goes on, nothing else can run."""
        assert self.loop is not None  # composed
        said = f"it does not end within {PATIENCE_S:.0f} s"
        try:
            ended = native.ends_within(self.loop, PATIENCE_S, self.raise_errors)
        except RuntimeError as error:  # the device has failed
            ended, said = False, str(error)
        if not ended:
            raise Unavailable(
                f"{self.why}; and cancelled, {said}: the GPU is not to be had in this process, "
                "start it again with backend='host'"
            )
        self.loop = self._in_loop = None

    @property
    def launches(self) -> dict[str, int] | None:
        """Nodes of each step's graph, by name; None where the loop was not composed."""
        if self.loop is None:
            return None
        counts = self.loop.num_nodes
        return {name: counts[name.lower()] for name in ("Dash", "Dot") if counts[name.lower()]}


def wait_for_all(device: torch.device) -> None:
    """Until the device has done what was asked of it on all streams."""
    torch.cuda.synchronize(device)


def mark(device: torch.device) -> torch.cuda.Event:
    """An event after what was asked of the device on this stream."""
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(device))
    return event


def _stream(device: torch.device) -> int:
    return torch.cuda.current_stream(device).cuda_stream


def _pool_bytes(pool: "torch.cuda._POOL_HANDLE") -> int:
    segments = torch.cuda.memory_snapshot()
    return sum(s["total_size"] for s in segments if tuple(s["segment_pool_id"]) == tuple(pool))


def _free_bytes(device: torch.device) -> int:
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info(device)[0]
