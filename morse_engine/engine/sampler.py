"""`compile(unet, dot)`: from two models, a scheduler and a plan to a sampler that makes images."""

import threading
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from .. import kernels
from ..dot.dot import Dot
from ..runtime import backends, graphs
from ..runtime.backends import BACKENDS, check_backend, unavailable
from ..runtime.graphs import GraphCache, StepGraphs
from ..runtime.models import Models, weight_bytes
from ..runtime.run import EagerRun, FusedRun, GraphRun, Run
from ..runtime.speed import Speed, measure_speed, measure_steps
from ..runtime.steps import Layout, Steps, cond_layout
from ..runtime.weights import Weights
from ..sampling import noise as philox
from ..sampling.budget import DEFAULT_BUDGET, DEFAULT_DASH_STEPS, plan_of
from ..sampling.loop import walk
from ..sampling.plan import DASH, Plan
from ..sampling.request import Request
from ..sampling.solver import SolverTable
from ..system.errors import Refused, Unavailable
from .report import Report

CAPACITY = 1024  # steps that captured memory has room for; longer plans double it


def compile(
    unet: Callable[..., Tensor],
    dot: Callable[..., Tensor] | None = None,
    *,
    scheduler=None,
    plan: "Plan | str | float | None" = None,
    backend: str = "auto",
    dot_speed: float | None = None,
    shape: Sequence[int] | None = None,
    merge_dot: bool = True,
    inductor: bool = False,
    graph_memory: int | None = None,
) -> "Sampler":
    """Make a sampler that runs `plan` with Dash `unet` and the residual model `dot`.

    Args:
        unet: a diffusers `UNet2DModel` or `UNet2DConditionModel`, or any
            `eps(x, timestep, **cond) -> Tensor`.
        dot: a `Dot` of this unet, or any
            `eta(x, timestep, x_s, z_s, timestep_s, z_p, timestep_p, **cond) -> Tensor`.
        scheduler: a diffusers scheduler; default: DDIM with trailing steps on 1,000 linear betas.
        plan: Morse code such as `"-..-..-.."`, a `Plan`, or a budget in LSD (latency of one Dash
            step). Default: a budget of 10 LSD with a Dot, 50 Dash steps without.
        backend: "eager", the specification in plain PyTorch; "host", the same two steps with fused
            kernels over static memory, on a GPU each captured once as a CUDA graph and launched in
            the order of the plan (on a CPU the kernels' references run, nothing is captured);
            "device", one launch for the whole run. "auto" is eager on a CPU; on a GPU it measures
            host and device at the first run of each batch size and takes the faster one.
        dot_speed: N, Dot steps that fit in one LSD; only used to spend a budget. Default: measured
            here at batch 1, with this backend.
        shape: `(C, H, W)` of one sample; default: from the unet's config.
        merge_dot: add Dot's LoRA into a private copy of its trunk: faster, and the trunk's weights
            are in memory once more. The copy is made here: a Dot changed later needs a new compile.
        inductor: run both models through torch.compile (minutes at the first run of a shape).
        graph_memory: bytes that the captured graphs of all shapes may take on a GPU, least recently
            used dropped first. Default: a quarter of the GPU's memory.

    Returns:
        a `Sampler`.

    Raises:
        Refused: plan, scheduler, unet and dot do not fit each other.
        Unavailable: the backend is not available; the message says why.
    """
    if backend not in ("auto", *BACKENDS):
        raise Refused(f"backend={backend!r}: choose auto, {', '.join(BACKENDS)}")
    if not callable(unet):
        raise Refused(f"unet is a {type(unet).__name__}, not a model or callable")
    config = getattr(unet, "config", None)
    if getattr(config, "out_channels", None) != getattr(config, "in_channels", None):
        raise Refused(
            f"unet has {config.in_channels} input and {config.out_channels} output channels: "
            "models that also predict a variance are not supported"
        )
    if isinstance(dot, Dot):
        dot.check_dash(unet)
        if merge_dot:
            dot = dot.merged()
    elif dot is not None and not callable(dot):
        raise Refused(f"dot is a {type(dot).__name__}, not a Dot or callable")
    if shape is None and config is not None and getattr(config, "sample_size", None):
        size = config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        shape = (config.in_channels, height, width)
    shape = tuple(shape) if shape is not None else None

    models = Models(unet, dot, inductor=inductor)
    if backend != "auto":
        check_backend(backend, models.device)
    if backend == "auto" and not backends.captures_by_itself(models.device):
        backend = "eager"
    if scheduler is None:
        from diffusers import DDIMScheduler

        scheduler = DDIMScheduler(timestep_spacing="trailing")
    shared = _Shared(GraphCache(graph_memory))
    if plan is None:
        plan = DEFAULT_BUDGET if dot is not None else DASH * DEFAULT_DASH_STEPS
    if isinstance(plan, (int, float)):

        def measured() -> float:
            if shape is None:
                raise Refused("a budget in LSD needs dot_speed=, or shape=(C, H, W) to measure it")
            probe = Sampler(models, scheduler, Plan("-.-."), shape, backend, shared)
            return probe.measure().dot_speed

        speed = None if dot is None else measured if dot_speed is None else dot_speed
        plan = plan_of(plan, scheduler, speed)
    elif isinstance(plan, str):
        plan = Plan(plan)
    return Sampler(models, scheduler, plan, shape, backend, shared)


class Sampler:
    """A plan, a solver and two models, ready to make images. Made by `compile`.

    Captured steps, and the memory that they work on, belong to a sampler and to all that
    `with_plan` makes from it. Runs on one memory take turns, from several threads too. Samplers of
    two calls of `compile` have nothing in common but the weights of Dash.
    """

    def __init__(
        self,
        models: Models,
        scheduler,
        plan: Plan,
        shape: tuple[int, ...] | None,
        backend: str,
        shared: "_Shared",
        table: SolverTable | None = None,
    ):
        if plan.num_dot and models.dot is None:
            raise Refused(f'plan "{plan}" has {plan.num_dot} Dot steps, but there is no dot')
        self.models, self.scheduler, self.plan, self.shape = models, scheduler, plan, shape
        self.table = SolverTable.for_calls(scheduler, len(plan)) if table is None else table
        self.backend = backend
        self._shared = shared

    def with_plan(self, plan: "Plan | str", scheduler=None) -> "Sampler":
        """The same models with another plan and, if given, another solver, on the same captures.

        Raises:
            Refused: as `compile`.
        """
        plan = Plan(plan) if isinstance(plan, str) else plan
        return self._like(
            scheduler if scheduler is not None else self.scheduler, plan, self.backend
        )

    def with_table(self, plan: Plan, table: SolverTable) -> "Sampler":
        """The same models and captures with a solver that is a table already, for any image size.

        Raises:
            Refused: plan and table differ in length, or the plan needs a Dot that is not there.
        """
        if len(plan) != len(table):
            raise Refused(f'plan "{plan}" has {len(plan)} steps, {table!r} does not')
        return Sampler(self.models, None, plan, None, self.backend, self._shared, table)

    def with_backend(self, backend: str) -> "Sampler":
        """The same, plan and captures too, with another backend: "eager", "host" or "device".

        Raises:
            Refused: another name.
            Unavailable: the backend is not available; the message says why.
        """
        check_backend(backend, self.models.device)
        return self._like(self.scheduler, self.plan, backend)

    def _like(self, scheduler, plan: Plan, backend: str) -> "Sampler":
        return Sampler(self.models, scheduler, plan, self.shape, backend, self._shared)

    def __call__(
        self,
        noise: Tensor | None = None,
        *,
        batch_size: int | None = None,
        seed: int | Sequence[int] = 0,
        guidance_scale: float | None = None,
        on_step: Callable[[int, int], None] | None = None,
        **cond,
    ) -> Tensor:
        """Sample images; the image of a seed is the same in every batch.

        Args:
            noise: `[B, C, H, W]` float, unit variance (the solver's initial scale is applied here);
                default: drawn from the seeds.
            batch_size: number of images; default: that of `noise`, of the list of seeds, or 1.
            seed: of the first image (the next ones count up), or one int per image.
            guidance_scale: for classifier-free guidance; tensors in `cond` then have 2 B rows,
                those without the condition first.
            on_step: called as `on_step(i, n)` when step i of n has been made. What it raises
                cancels the run within one step.
            cond: what both models are given by keyword, e.g. `encoder_hidden_states`.

        Returns:
            `[B, C, H, W]` float32 in the range of the training data, not clamped. On a GPU it may
            still be computed when this returns, as with every PyTorch operation.

        Raises:
            Refused: shapes, batch size and seeds do not agree, or the noise is not finite.
        """
        # Runs on shared memory take turns; eager ones have theirs to themselves.
        with nullcontext() if self.backend == "eager" else self._shared.lock:
            run = self.start(
                noise, batch_size=batch_size, seed=seed, guidance_scale=guidance_scale, **cond
            )
            if on_step is None:
                run.segment()
            else:
                run.watch(on_step)
            return run.x

    def start(
        self,
        noise: Tensor | None = None,
        *,
        batch_size: int | None = None,
        seed: int | Sequence[int] = 0,
        guidance_scale: float | None = None,
        **cond,
    ) -> Run:
        """Begin a run that the caller takes through its steps; arguments as for a whole run.

        With the backends "host" and "device" it uses the memory of the run before it, which is lost
        to that one; and a weight that moves is noticed here, not between the steps of a run.

        Returns:
            a `Run`: `step()`, `segment(k)`, `watch(on_step)`, `cancel()` and `x`.
        """
        models = self.models
        models.check()
        request = Request.make(
            noise, batch_size, seed, guidance_scale, cond, shape=self.shape, device=models.device
        )
        if self.backend == "eager" or self._shared.eager_because:
            return self._eager(request)
        with self._shared.lock:
            try:
                if graphs.reason(request.device):
                    return self._fused(request)
                return self._captured(request)
            except _NotCaptured as error:
                if self.backend != "auto":
                    raise Unavailable(str(error)) from error
                self._shared.eager_because = str(error)
        because = self._shared.eager_because
        warnings.warn(f"morse_engine runs eagerly, which is slower: {because}", stacklevel=2)
        return self._eager(request)

    def _eager(self, request: Request) -> EagerRun:
        noise, seeds, shape, guidance_scale, cond, device = request
        if noise is None:
            noise = philox.normal(seeds, philox.INITIAL, shape[1:], device=device)
        models, table = self.models, self.table
        steps = walk(
            models.dash, models.dot, self.plan, table, noise, seeds, cond, guidance_scale,
            models.guided_dot,
        )  # fmt: skip
        return EagerRun(self.plan, threading.RLock(), table.init_noise_sigma * noise, steps)

    def _layout(self, request: Request, capacity: int) -> Layout:
        return Layout(
            request.shape,
            self.models.dtype,
            self.table.timesteps.dtype,
            request.device,
            request.guidance_scale is not None,
            self.models.dot is not None,
            cond_layout(request.cond),
            capacity,
        )

    def _fused(self, request: Request) -> FusedRun:
        """A run with fused steps that are not captured; the memory of the last layout is kept."""
        shared, layout = self._shared, self._layout(request, len(self.plan))
        if shared.steps is None or shared.steps.layout != layout:
            shared.steps = self._make_steps(layout, request.cond)
        shared.steps.load(self.plan, self.table)
        shared.steps.fill(request)
        shared.steps.begin()
        return FusedRun(shared.steps, shared.lock)

    def _captured(self, request: Request) -> GraphRun:
        shared, capacity = self._shared, CAPACITY
        while capacity < len(self.plan):
            capacity *= 2
        if shared.weights is not None and (changed := shared.weights.changed()):
            shared.cache.clear()
            shared.weights, shared.recaptured_because = None, changed
        layout = self._layout(request, capacity)
        made = shared.cache.get(layout, lambda: self._capture(layout, request.cond))
        self._compose(made)
        if shared.weights is None:
            shared.weights = Weights([self.models.unet, self.models.dot_model])

        def fill() -> None:
            made.steps.load(self.plan, self.table)
            made.start(request)

        with made.turn():
            if self.backend == "auto" and made.loop is not None and not made.why:
                made.choose(fill)
            fill()
        backend = made.choice if self.backend == "auto" else self.backend
        return GraphRun(made, backend, shared.lock)

    def _make_steps(self, layout: Layout, cond: dict) -> Steps:
        steps = Steps(self.models.dash, self.models.dot_for_steps, layout, cond)
        steps.load(self.plan, self.table)
        return steps

    def _capture(self, layout: Layout, cond: dict) -> StepGraphs:
        self._shared.captures += 1
        try:
            return StepGraphs(self._make_steps(layout, cond))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise _NotCaptured(str(error)) from error

    def _compose(self, made: StepGraphs) -> None:
        """The one-launch loop, where it is wanted and not there yet."""
        if made.loop is not None or self.backend == "host":
            return
        if self.backend == "device":
            made.compose()
        elif not made.why:
            try:
                made.compose()
            except RuntimeError as error:
                made.why = f"no one-launch loop: {error}"

    def free(self) -> None:
        """Give back all memory of captured steps; the next run captures again."""
        with self._shared.lock:
            self._shared.cache.clear()
            self._shared.steps = None
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def measure(self, batch_size: int = 1, *, guidance_scale: float | None = None, **cond) -> Speed:
        """Measure LSD, Dot's latency and N at a batch size, as this backend runs them (seconds)."""
        if self.shape is None:
            raise Refused("measuring needs shape=(C, H, W) in compile(): the model has no config")
        with self._shared.lock:
            run = self.start(batch_size=batch_size, guidance_scale=guidance_scale, **cond)
            if isinstance(run, EagerRun):
                models, size = self.models, batch_size * (2 if guidance_scale is not None else 1)
                args = (models.dash, models.dot, self.shape)
                with kernels.references():
                    return measure_speed(*args, batch_size=size, device=models.device, cond=cond)
            return measure_steps(*run.both_steps(), device=run.device)

    def report(self, *, measure: bool = False, batch_size: int = 1, **cond) -> Report:
        """What runs and why; with `measure=True` also the latencies at `batch_size`."""
        speed = self.measure(batch_size, **cond) if measure else None
        shared, device = self._shared, self.models.device
        last, backend, why = shared.cache.last, self.backend, ""
        if shared.eager_because:
            backend, why = "eager", shared.eager_because
        elif self.backend == "auto" and last is not None:
            backend, why = last.choice, last.why
        reasons = {name: unavailable(name, device) for name in BACKENDS}
        return Report(
            backend=backend,
            why=why,
            not_available=[f"{name}: {reason}" for name, reason in reasons.items() if reason],
            plan=self.plan,
            solver=self.table.name,
            device=str(device or "cpu"),
            dash_bytes=weight_bytes(self.models.unet),
            dot_bytes=weight_bytes(self.models.dot_model, beside=self.models.unet),
            batch_size=batch_size,
            speed=speed,
            launches=last.launches if last else None,
            replays=last.replays if last else 0,
            capture_s=last.capture_s if last else None,
            graph_bytes=shared.cache.num_bytes,
            captures=shared.captures,
            recaptured_because=shared.recaptured_because,
            evicted=shared.cache.evicted,
        )


class _NotCaptured(RuntimeError):
    """The steps cannot be captured or composed."""


class _Shared:
    """What a sampler and those made from it by `with_plan` have in common."""

    def __init__(self, cache: GraphCache):
        self.cache = cache
        self.lock = threading.RLock()
        self.steps: Steps | None = None  # of the last layout, where nothing is captured
        self.weights: Weights | None = None
        self.captures = 0
        self.recaptured_because: str | None = None
        self.eager_because: str | None = None
