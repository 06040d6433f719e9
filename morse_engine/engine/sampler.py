"""`Sampler`: a plan, a solver and two models, ready to make images."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

from torch import Tensor

from ..runtime.backends import BACKENDS, check_backend, unavailable
from ..runtime.captures import Captures
from ..runtime.models import Models, weight_bytes
from ..runtime.run import EagerRun, Run
from ..runtime.speed import Speed
from ..sampling.plan import Plan
from ..sampling.request import Request
from ..sampling.schedulers import name_of
from ..sampling.solver import SolverTable
from ..system import checks
from ..system.checks import shown
from ..system.errors import Refused
from ..system.notice import warn
from .inputs import check_cond, check_shape
from .report import Report


class Sampler:
    """A plan, a solver and two models, ready to make images. Made by `compile`.

    Captured steps, and the memory that they work on, belong to a sampler and to all that
    `with_plan` makes from it. Runs on one memory take turns, from several threads too. Samplers of
    two calls of `compile` have nothing in common but the weights of Dash.
    """

    def __init__(
        self,
        models: Models,
        scheduler: Any,
        plan: Plan,
        shape: tuple[int, ...] | None,
        backend: str,
        captures: Captures,
        table: SolverTable | None = None,
        why: str = "",
    ):
        if plan.num_dot and models.dot is None:
            raise Refused(f"{plan!r} has {plan.num_dot} Dot steps, but there is no dot")
        if table is None and models.helper is not None and models.helper.levels is not None:
            models.helper.levels.check(scheduler)
        if shape is not None:
            check_shape(models, shape, with_dot=bool(plan.num_dot))
        self.models, self.scheduler, self.plan, self.shape = models, scheduler, plan, shape
        table = SolverTable.for_calls(scheduler, len(plan)) if table is None else table
        helper = models.helper if plan.num_dot and table.uses_noise else None
        if helper is not None and scheduler is not None:
            helper.check_solver(name_of(scheduler))
        known = models.clean_range
        self.table = table if known is None else table.with_range(known)
        self.backend, self.captures, self.why = backend, captures, why

    def with_plan(self, plan: Plan | str, scheduler: Any = None) -> "Sampler":
        """The same models with another plan and, if given, another solver, on the same captures.

        Raises:
            Refused: as `compile`.
        """
        plan = plan if isinstance(plan, Plan) else Plan(plan)
        # The solver's numbers are those of as many calls, whoever makes them.
        table = self.table if scheduler is None and len(plan) == len(self.plan) else None
        if scheduler is None and self.scheduler is None and table is None:
            raise Refused("this sampler was made from a table: give a scheduler, or with_table()")
        if scheduler is not None:
            checks.configured("scheduler", scheduler, "a diffusers scheduler")
        scheduler = self.scheduler if scheduler is None else scheduler
        return Sampler(self.models, scheduler, plan, self.shape, self.backend, self.captures, table)

    def with_table(self, plan: Plan, table: SolverTable) -> "Sampler":
        """The same models and captures with a solver that is a table already, for any image size.

        Raises:
            Refused: plan and table differ in length, or the plan needs a Dot that is not there.
        """
        if not isinstance(plan, Plan) or not isinstance(table, SolverTable):
            raise Refused(f"with_table({shown(plan)}, {shown(table)}): give a Plan and its table")
        if len(plan) != len(table):
            raise Refused(f"{plan!r} has {len(plan)} steps, {table!r} does not")
        return Sampler(self.models, None, plan, None, self.backend, self.captures, table)

    def with_backend(self, backend: str) -> "Sampler":
        """The same, plan and captures too, with another backend: "eager", "host" or "device".

        Raises:
            Refused: another name.
            Unavailable: the backend is not available; the message says why.
        """
        check_backend(backend, self.models.device)
        args = (self.models, self.scheduler, self.plan, self.shape, backend, self.captures)
        return Sampler(*args, self.table, self.why)

    def __call__(
        self,
        noise: Tensor | None = None,
        *,
        batch_size: int | None = None,
        seed: int | Sequence[int] = 0,
        guidance_scale: float | None = None,
        on_step: Callable[[int, int], None] | None = None,
        **cond: Any,
    ) -> Tensor:
        """Sample images; the image of a seed is the same in every batch.

        Args:
            noise: `[B, C, H, W]` float, unit variance (the solver's initial scale is applied here);
                default: drawn from the seeds.
            batch_size: number of images, 65,536 at most; default: that of `noise`, of the list of
                seeds, or 1.
            seed: of the first image (the next ones count up), or one int per image.
            guidance_scale: for classifier-free guidance; tensors in `cond` then have 2 B rows,
                those without the condition first.
            on_step: called as `on_step(i, n)` when step i of n has been made. What it raises
                cancels the run within one step.
            cond: what both models are given by keyword, e.g. `encoder_hidden_states`.

        Returns:
            `[B, C, H, W]` float32 in the range of the training data, not clamped. On a GPU it may
            still be computed when this returns, as with every PyTorch operation.

        Warns:
            of values that are not finite, where looking at them waits for nothing: on a CPU.

        Raises:
            Refused: shapes, batch size and seeds do not agree, the noise is not finite, a keyword
                that the models do not take or lack, or guidance without a condition.
            Unavailable: a model is in train() mode with layers that are random then.
        """
        if on_step is not None:
            checks.function("on_step", on_step, "a function of i and n", 2)
        # Runs on shared memory take turns; eager ones have theirs to themselves.
        with nullcontext() if self.backend == "eager" else self.captures.lock:
            run = self.start(
                noise, batch_size=batch_size, seed=seed, guidance_scale=guidance_scale, **cond
            )
            if on_step is None:
                run.segment()
            else:
                run.watch(on_step)
            return _told(run.x)

    def start(
        self,
        noise: Tensor | None = None,
        *,
        batch_size: int | None = None,
        seed: int | Sequence[int] = 0,
        guidance_scale: float | None = None,
        **cond: Any,
    ) -> Run:
        """Begin a run that the caller takes through its steps; arguments as for a whole run.

        With the backends "host" and "device" it uses the memory of the run before it, which is lost
        to that one; and a weight that moves is noticed here, not between the steps of a run.

        Returns:
            a `Run`: `step()`, `segment(k)`, `watch(on_step)`, `cancel()` and `x`.
        """
        models = self.models
        request = Request.make(
            noise, batch_size, seed, guidance_scale, cond, shape=self.shape, device=models.device
        )
        count = request.shape[0]
        check_shape(models, request.shape[1:], with_dot=bool(self.plan.num_dot))
        check_cond(models, cond, count if request.guidance_scale is None else 2 * count)
        if self.backend == "eager":
            models.check()
            return EagerRun(models, self.plan, self.table, request)
        return self.captures.start(self.plan, self.table, request, self.backend)

    def free(self) -> None:
        """Give back all memory of captured steps; the next run captures again."""
        self.captures.free()

    def measure(
        self, batch_size: int = 1, *, guidance_scale: float | None = None, **cond: Any
    ) -> Speed:
        """Measure LSD, Dot's latency and N at a batch size, as this backend runs them (seconds)."""
        if self.shape is None:
            raise Refused(
                "the model has no config: measuring needs shape=(C, H, W) in compile(), a budget "
                "that or dot_speed="
            )
        with self.captures.lock:
            run = self.start(batch_size=batch_size, guidance_scale=guidance_scale, **cond)
            return run.measure()

    def report(self, *, measure: bool = False, batch_size: int = 1, **cond: Any) -> Report:
        """What runs and why; with `measure=True` also the latencies at `batch_size`."""
        speed = self.measure(batch_size, **cond) if checks.flag("measure", measure) else None
        models, device = self.models, self.models.device
        backend, why = self.backend, ""
        if backend == "auto" and self.captures.last is not None:
            backend, why = self.captures.last
        reasons = {name: unavailable(name, device) for name in BACKENDS}
        return Report(
            backend=backend,
            why=why,
            not_available=[f"{name}: {reason}" for name, reason in reasons.items() if reason],
            plan=self.plan,
            chosen=self.why,
            solver=self.table.name,
            device=str(device or "cpu"),
            dash_bytes=weight_bytes(models.unet),
            dot_bytes=weight_bytes(models.helper, beside=models.unet),
            layouts=models.layouts,
            batch_size=batch_size,
            speed=speed,
            **vars(self.captures.ledger),
        )


def _told(x: Tensor) -> Tensor:
    """The images; of those that are none a warning says so, and the others are not lost."""
    if x.device.type == "cpu" and not (finite := x.isfinite().flatten(1).all(1)).all():
        warn(
            f"{int((~finite).sum())} of {len(x)} images hold NaN or infinite values: the model, "
            "its dtype (half precision overflows) or its conditions are at fault"
        )
    return x
