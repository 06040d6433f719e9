"""One run of a sampler: whole, in segments, or step by step, with the same bits.

A run knows its plan and where in it it is. What a step does depends on the backend:

    EagerRun    the specification, `loop.walk`
    FusedRun    the two steps of `steps.Steps`, called one by one
    HostRun     the same steps captured (`graphs.StepGraphs`), launched by the host one by one
    DeviceRun   the same captures in the one-launch loop: a segment is one launch
"""

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from .. import kernels
from ..sampling import noise
from ..sampling.loop import walk
from ..sampling.plan import DASH, DOT, Plan
from ..sampling.request import Request
from ..sampling.solver import SolverTable
from ..system.checks import function, integer
from ..system.errors import Unavailable
from ..system.timing import synchronize
from .graphs import POLL_S, StepGraphs, mark
from .models import Models, own_dtype
from .speed import Speed, measure_speed, measure_steps
from .steps import Steps


class Run(ABC):
    """A run that has been started by `Sampler.start`.

    Attributes:
        plan: the order of its steps.
        i: how many of them have been asked for.
        device: where it is.
    """

    def __init__(self, plan: Plan, device: torch.device, lock: threading.RLock):
        self.plan, self.i, self.device = plan, 0, device
        self._lock, self._cancelled = lock, False

    def step(self) -> int:
        """Make the next model call and the free steps behind it; the number of steps made."""
        return self.segment(1)

    def segment(self, k: int | None = None) -> int:
        """Make the next k steps, all that are left by default; returns how many have been made.

        Free steps are made with the model call before them, so it may be some more than k. On a
        GPU this returns before the GPU has done them. With the "device" backend a segment is one
        launch.

        Raises:
            Refused: k is below 1.
            Unavailable: the run is over, was cancelled, or has lost its memory to a later run.
        """
        left = len(self.plan) - self.i
        k = left if k is None else integer("k", k, 1)
        with self._lock:
            self._check()
            if not left:
                raise Unavailable(f"all {len(self.plan)} steps of this run have been made")
            with own_dtype(self.device):
                self._advance(self.plan.whole(self.i + min(k, left)))
        return self.i

    def watch(self, on_step: Callable[[int, int], None]) -> None:
        """Make all steps that are left and call `on_step(i, n)` when step i of n has been made.

        Once for each model call, i the last of the free steps that are made with it.

        An exception from `on_step`, or Ctrl-C, cancels the run within one step and is passed on.
        """
        function("on_step", on_step, "a function of i and n", 2)
        with self._lock:
            while self.i < len(self.plan):
                self.segment(1)
                self._wait()
                on_step(self.i - 1, len(self.plan))

    def reach(self, k: int, stop: Callable[[], bool] = lambda: False) -> None:
        """Return when the first k steps have been made, or soon after `stop()` is true.

        For a caller that follows a run step by step and changes nothing on the way: more steps may
        have been asked for meanwhile, with the "device" backend all of them in one launch.
        """
        k = integer("k", k, 0)
        function("stop", stop, "a function of nothing", 0)
        with self._lock:
            while self.i < k and not stop():
                self.segment(1)
            self._wait()

    def measure(self) -> Speed:
        """Time its Dash and Dot steps, in turns; the run is of no use afterwards."""
        with own_dtype(self.device):
            return self._measure()

    def cancel(self) -> None:
        """Stop within one step; from any thread. x stays what it was after the last step made."""
        self._cancelled = True

    @property
    def reached(self) -> int:
        """How many steps have been made by now; `i` counts those that were asked for."""
        return self.i

    @property
    def x(self) -> Tensor:
        """A copy of x after the steps so far, float32 `[B, C, H, W]`; not clamped.

        Raises:
            Unavailable: a later run of the same sampler has taken the memory.
        """
        with self._lock:
            self._own()
            return self._x()

    def _check(self) -> None:
        self._own()
        if self._cancelled:
            raise Unavailable(f"this run was cancelled at step {self.reached} of {len(self.plan)}")

    def _own(self) -> None:  # noqa: B027 - eager runs have their memory to themselves
        """Raise if another run has taken the memory."""

    def _wait(self) -> None:
        """Until the steps that were asked for have been made."""
        synchronize(self.device)

    @abstractmethod
    def _advance(self, until: int) -> None:
        """Make the steps from i to until - 1."""

    @abstractmethod
    def _x(self) -> Tensor: ...

    @abstractmethod
    def _measure(self) -> Speed: ...


class EagerRun(Run):
    """The specification, a step at a time, on memory of its own."""

    def __init__(self, models: Models, plan: Plan, table: SolverTable, request: Request):
        start, seeds, shape, guidance_scale, cond, device = request
        super().__init__(plan, device, threading.RLock())
        if start is None:
            start = noise.normal(seeds, noise.INITIAL, shape[1:], device=device)
        self._models, self._request = models, request
        self._at = table.init_noise_sigma * start
        self._walk = walk(
            models.dash, models.dot, plan, table, start, seeds, cond, guidance_scale,
            models.guided_dot,
        )  # fmt: skip

    def _measure(self) -> Speed:
        models, (_, _, shape, guidance_scale, cond, device) = self._models, self._request
        with kernels.references():
            return measure_speed(
                models.dash, models.dot, shape[1:], batch_size=shape[0], device=device, cond=cond,
                guidance_scale=guidance_scale, guided_dot=models.guided_dot,
            )  # fmt: skip

    def _advance(self, until: int) -> None:
        while self.i < until and not self._cancelled:
            with kernels.references():
                self._at = next(self._walk)
            self.i += 1

    def _x(self) -> Tensor:
        return self._at.clone()


class _SharedRun(Run):
    """A run on memory that the next run of the same layout takes over."""

    def __init__(self, steps: Steps, lock: threading.RLock):
        assert steps.plan is not None  # loaded
        super().__init__(steps.plan, steps.layout.device, lock)
        self.steps = steps
        # A token, not the run: the memory must not keep the run alive, and with it itself.
        self._token = steps.owner = object()

    @property
    def _owns(self) -> bool:
        return self.steps.owner is self._token

    def _own(self) -> None:
        if not self._owns:
            raise Unavailable(
                "this run has lost its memory: the same sampler, or one made from it by with_plan, "
                "has started another one; finish a run first, or compile a second sampler"
            )

    def _x(self) -> Tensor:
        return self.steps.state.x.clone()

    def _measure(self) -> Speed:
        again = self.steps.state.step.zero_
        return measure_steps(*self.both_steps(), device=self.device, again=again)

    @abstractmethod
    def both_steps(self) -> tuple[Callable[[], None], Callable[[], None] | None]:
        """A Dash and a Dot step at the start of the run again and again, to be timed."""


class FusedRun(_SharedRun):
    """The two steps over static memory, called one by one."""

    def both_steps(self) -> tuple[Callable[[], None], Callable[[], None] | None]:
        steps = self.steps

        def again(step: Callable[[], None]) -> None:
            steps.state.step.zero_()
            step()

        dot_step = (lambda: again(steps.dot_step)) if steps.layout.with_dot else None
        return lambda: again(steps.dash_step), dot_step

    def _advance(self, until: int) -> None:
        steps = {DASH: self.steps.dash_step, DOT: self.steps.dot_step}
        while self.i < until and not self._cancelled:
            steps[self.plan.morse[self.i]]()
            self.i = self.plan.whole(self.i + 1)


class _CapturedRun(_SharedRun):
    """Captured steps. Runs on several streams, from several threads, take turns on the memory."""

    def __init__(self, graphs: StepGraphs, lock: threading.RLock):
        super().__init__(graphs.steps, lock)
        self._graphs = graphs

    def both_steps(self) -> tuple[Callable[[], None], Callable[[], None] | None]:
        return self._graphs.both_steps()

    def _x(self) -> Tensor:
        with torch.no_grad(), self._graphs.turn():
            return super()._x()


class HostRun(_CapturedRun):
    """Captured steps, launched one by one by the host."""

    def __init__(self, graphs: StepGraphs, lock: threading.RLock):
        super().__init__(graphs, lock)
        self._marks: dict[int, torch.cuda.Event] = {}  # where the stream is after k steps

    def _advance(self, until: int) -> None:
        with self._graphs.turn():
            while self.i < until and not self._cancelled:
                self._graphs.launch(self.i)
                self.i = self.plan.whole(self.i + 1)

    def reach(self, k: int, stop: Callable[[], bool] = lambda: False) -> None:
        k = self.plan.whole(k)
        with self._lock:
            # One call ahead of the one that is waited for, so that the GPU has always work.
            while self.i < min(k + 1, len(self.plan)):
                self.segment(1)
                self._marks[self.i] = mark(self.device)
            event = self._marks.pop(k, None)
            if event is not None:
                event.synchronize()
            else:
                self._wait()


class DeviceRun(_CapturedRun):
    """Captured steps in the one-launch loop."""

    def __init__(self, graphs: StepGraphs, lock: threading.RLock):
        super().__init__(graphs, lock)
        assert graphs.loop is not None  # composed
        self._loop, self._before = graphs.loop, 0

    def _advance(self, until: int) -> None:
        with self._graphs.turn():
            self._before = self.reached  # while the device has not begun with this segment
            self._graphs.launch_loop(until)
            self.i = until

    def watch(self, on_step: Callable[[int, int], None]) -> None:
        n = len(self.plan)
        with self._lock:
            seen = self.i
            try:
                self.segment()
                over = False
                while not over:
                    over = self._loop.done()  # before the last look at the progress
                    made = self._loop.progress()
                    while seen < made:
                        seen = self.plan.whole(seen + 1)
                        on_step(seen - 1, n)
                    if not over:
                        self._graphs.raise_errors()
                        time.sleep(POLL_S)
                if seen < n:
                    self._check()  # says that it was cancelled
                    raise Unavailable(f"the device ended this run at step {seen} of {n}")
            except BaseException:
                self.cancel()
                self._wait()
                raise

    def reach(self, k: int, stop: Callable[[], bool] = lambda: False) -> None:
        with self._lock:
            if self.i < len(self.plan):
                self.segment()
            over = False
            while self.reached < k and not over and not stop():
                over = self._loop.done()
                self._graphs.raise_errors()
                time.sleep(POLL_S)

    def cancel(self) -> None:
        super().cancel()
        if self._owns:
            self._loop.cancel()

    @property
    def reached(self) -> int:
        if self._owns and self.i:
            return max(self._loop.progress(), self._before)
        return self.i
