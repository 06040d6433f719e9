"""The captures of a sampler and of all that are made from it: a memory each, one lock, one ledger.

    layout known     -> its capture; the run of another plan or solver is written into its memory
    layout new       -> captured now, the least recently used dropped where the budget is exceeded
    models changed   -> all captured anew, and the ledger says what changed
    not capturable   -> this layout runs eagerly with backend "auto", and is refused otherwise

On a CPU nothing is captured: the fused steps run one by one, on the memory of the last layout.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..sampling.plan import Plan
from ..sampling.request import Request
from ..sampling.solver import SolverTable
from ..system.errors import Refused
from ..system.notice import warn
from . import graphs
from .capture import NotCaptured
from .graphs import StepGraphs
from .models import Models, own_dtype
from .run import DeviceRun, EagerRun, FusedRun, HostRun, Run
from .steps import Layout, Steps, cond_layout
from .weights import Weights

CAPACITY = 1024  # steps that captured memory has room for; longer plans double it
BEHIND = 64  # of them behind the plan, for warm-ups and timings, which may go over its end


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """What was captured, and what it costs.

    Attributes:
        launches: nodes of the captured Dash and Dot step, by name.
        replays: launches of captured steps (host) or of whole runs and segments (device).
        capture_s: seconds that the last capture took, with its warm-up.
        graph_bytes: device memory of all captures.
        captures: how many captures were made.
        recaptured_because: what had changed in the models when all captures were made anew.
        evicted: captures that were dropped for lack of memory.
        layout: of the one-launch loop; None where there is none.
        refused: why that is not in another layout, by name.
    """

    launches: dict[str, int] | None
    replays: int
    capture_s: float | None
    graph_bytes: int
    captures: int
    recaptured_because: str | None
    evicted: int
    layout: str | None
    refused: dict[str, str]


class Captures:
    """Starts runs of fused steps, captured where the device can.

    Args:
        models: of all samplers that share these captures.
        budget: bytes of device memory that all captures may take together; the one in use is kept
            whatever it takes. None: a quarter of the device's memory.

    Attributes:
        lock: runs on shared memory take turns.
        last: backend and reason of the last run with "auto"; None before any.
    """

    def __init__(self, models: Models, budget: int | None = None):
        if budget is not None and budget < 0:
            raise Refused(f"graph_memory={budget}: bytes, 0 keeps only the capture in use")
        self.models, self.budget = models, budget
        self.lock = threading.RLock()
        self.last: tuple[str, str] | None = None
        self._kept: OrderedDict[Layout, StepGraphs] = OrderedDict()
        self._refused: dict[Layout, str] = {}
        self._steps: Steps | None = None  # of the last layout, where nothing is captured
        self._weights: Weights | None = None
        self._recaptured_because: str | None = None
        self._made = self._evicted = 0

    def start(self, plan: Plan, table: SolverTable, request: Request, backend: str) -> Run:
        """Begin a run by "host", "device" or the faster of the two, "auto".

        Raises:
            Unavailable: a model is not fit for a run (`Models.check`); or the steps cannot be
                captured or composed; with "auto" the run is eager then, with a warning at the first
                one of its layout.
        """
        with self.lock, own_dtype(request.device):
            if why := graphs.reason(request.device):
                if backend == "auto":
                    self.last = "host", why
                self.models.check()
                return self._fused(plan, table, request)
            self._watch_weights()
            capacity = CAPACITY
            while capacity < len(plan) + BEHIND:
                capacity *= 2
            layout = self._layout(plan, table, request, capacity)
            if backend == "auto" and layout in self._refused:
                return self._eager(plan, table, request, self._refused[layout])
            before = self._made
            try:
                made = self._get(layout, lambda: self._steps_for(layout, plan, table, request))
            except NotCaptured as error:
                if backend != "auto":
                    raise
                self._refused[layout] = why = str(error)
                warn(f"morse_engine runs eagerly, which is slower: {why}")
                return self._eager(plan, table, request, why)
            finally:
                # After a forward, which may still make buffers, or count something of its own.
                if self._weights is None or self._made != before:
                    self._weights = self._now()
            return self._captured(made, plan, table, request, backend)

    def _layout(self, plan: Plan, table: SolverTable, request: Request, capacity: int) -> Layout:
        return Layout(
            request.shape,
            self.models.dtype,
            table.timesteps.dtype,
            request.device,
            request.guidance_scale is not None,
            self.models.dot is not None,
            plan.num_free > 0,
            cond_layout(request.cond),
            capacity,
        )

    def _steps_for(self, layout: Layout, plan: Plan, table: SolverTable, request: Request) -> Steps:
        models = self.models
        steps = Steps(models.dash, models.helper, layout, request.cond)
        steps.load(plan, table)
        return steps

    # -- the three ways to run -----------------------------------------------------------------

    def _eager(self, plan: Plan, table: SolverTable, request: Request, why: str) -> Run:
        self.last = "eager", why
        return EagerRun(self.models, plan, table, request)

    def _fused(self, plan: Plan, table: SolverTable, request: Request) -> Run:
        layout = self._layout(plan, table, request, len(plan))
        if self._steps is None or self._steps.layout != layout:
            self._steps = self._steps_for(layout, plan, table, request)
        self._steps.load(plan, table)
        self._steps.fill(request)
        if request.noise is None:
            self._steps.draw()
        self._steps.begin()
        return FusedRun(self._steps, self.lock)

    def _captured(
        self, made: StepGraphs, plan: Plan, table: SolverTable, request: Request, backend: str
    ) -> Run:
        if backend == "device":
            made.compose()
        with made.turn():
            if backend == "auto":
                made.choose(lambda: made.start(plan, table, request))
            made.start(plan, table, request)
        if backend == "auto":
            backend = made.choice
            self.last = backend, made.why
        return {"host": HostRun, "device": DeviceRun}[backend](made, self.lock)

    # -- the ledger ----------------------------------------------------------------------------

    def _now(self) -> Weights:
        unet, helper = self.models.unet, self.models.helper
        own = self.models.own_helper
        return Weights([unet], [helper]) if own else Weights([unet, helper])

    def _watch_weights(self) -> None:
        """Forget all captures if something of the models changed that is fixed in them.

        Raises:
            Unavailable: the models are not fit for a run; one of unchanged ones is not asked again.
        """
        if self._weights is not None and (changed := self._weights.changed()):
            self._clear()
            self._recaptured_because = changed
        if self._weights is None:
            self.models.check()

    def _get(self, layout: Layout, steps: Callable[[], Steps]) -> StepGraphs:
        """The capture of this layout, made if there is none."""
        if layout not in self._kept:
            made = None
            try:
                made = self._capture(steps)
            except torch.OutOfMemoryError:
                if not self._kept:
                    raise
            if made is None:  # not in the handler, whose traceback holds the half-made capture
                self._evicted += len(self._kept)
                self._drop_all()
                made = self._capture(steps)
            self._kept[layout] = made
        self._kept.move_to_end(layout)
        self._fit(layout.device)
        return self._kept[layout]

    def _capture(self, steps: Callable[[], Steps]) -> StepGraphs:
        self._made += 1
        try:
            return StepGraphs(steps())
        except (torch.OutOfMemoryError, NotCaptured):
            raise
        except RuntimeError as error:  # of the model itself, in a warm-up
            raise NotCaptured(str(error)) from error

    def _fit(self, device: torch.device) -> None:
        budget = self.budget
        if budget is None:
            if device.type != "cuda":
                return
            budget = torch.cuda.get_device_properties(device).total_memory // 4
        while len(self._kept) > 1 and self._num_bytes > budget:
            graphs.wait_for_all(device)  # it may be running
            self._kept.popitem(last=False)
            self._evicted += 1

    def _drop_all(self) -> None:
        for device in {layout.device for layout in self._kept}:
            graphs.wait_for_all(device)
        self._kept.clear()

    def _clear(self) -> None:
        self._drop_all()
        self._refused.clear()
        self._steps = self._weights = None

    def free(self) -> None:
        """Give back all memory; the next run captures again."""
        with self.lock:
            self._clear()
            self.last = None
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    @property
    def _num_bytes(self) -> int:
        return sum(made.num_bytes for made in self._kept.values())

    @property
    def ledger(self) -> Ledger:
        """What was captured so far; launches, replays and seconds are those of the last capture."""
        last = next(reversed(self._kept.values()), None)
        return Ledger(
            launches=last.launches if last else None,
            replays=last.replays if last else 0,
            capture_s=last.capture_s if last else None,
            graph_bytes=self._num_bytes,
            captures=self._made,
            recaptured_because=self._recaptured_because,
            evicted=self._evicted,
            layout=last.loop.layout if last and last.loop else None,
            refused=last.refused if last else {},
        )

    def __len__(self) -> int:
        return len(self._kept)
