"""A solver is a table: every supported diffusers scheduler, read off as one row per model call.

The form. A row takes x, the model's raw output z and at most three earlier estimates to the next x:

    m      = clamp(P x + Q z, lo, hi)                                the solver's own estimate
    x_next = A x + B z + C0 m + C1 m_1 + C2 m_2 + C3 m_3 + D noise   m_k: the estimate k calls ago

m is what the solver keeps between calls: the (clipped) clean image x0 for DDPM, DDIM, Euler, Heun,
LCM and data-prediction DPM-Solver++ and UniPC, eps for the noise-prediction ones and DEIS, the raw
z for PNDM, flow matching and the two score SDEs.

Why no earlier x is in it. Heun, PNDM, UniPC and single-step DPM-Solver start a step from an x that
they saved calls ago. But that x led to the present one by earlier rows, x' = A x + C0 m + ...,
which can be solved for it: the saved x is linear in the present x and the earlier estimates. So one
x and a few m are the whole state. Two cases resist, and are refused: with fresh noise between the
saved x and now (single-step SDE solvers) that noise would be needed too, and the Runge-Kutta start
of PNDM reaches back twelve calls. Solving divides by A, which costs digits where a step shrinks x
much (Heun with two or three steps): keep x and the estimates in float32 or better.

The numbers come from the scheduler itself, see `probe.py`.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from math import inf
from typing import Any

import torch
from torch import Tensor

from ..system.checks import integer, shown
from ..system.errors import Refused
from . import probe
from .clean import places
from .correction import corrected, corrections
from .free import NO_RANGE, Line, Range, as_range, bounds, slopes
from .plan import Plan
from .probe import HISTORY, Column


@dataclass(frozen=True, eq=False, repr=False)
class SolverTable:
    """A sampler as numbers: one row of linear coefficients per model call.

    Attributes:
        name: e.g. "DPMSolverMultistepScheduler(order 2)".
        rows: float64 CPU `[n, 17]`, columns as in `Column`; lo and hi are infinite without a clamp.
        timesteps: `[n]`, what the model is given as timestep, in diffusers' dtype.
        init_noise_sigma: the run starts at x = init_noise_sigma * unit noise.
        clean_range: of the clean images, for free steps; by the scheduler's `clip_sample` if its
            config has that, else unknown and without bounds.
        places: float64 `[n]`, where the calls lie on the line of free steps, see `clean.py`; by
            default at their timesteps.
        plan: that it was completed for, see `for_plan`.
    """

    name: str
    rows: Tensor
    timesteps: Tensor
    init_noise_sigma: float
    clean_range: Range = NO_RANGE
    places: Tensor = None  # type: ignore[assignment]
    plan: Plan | None = None

    def __post_init__(self) -> None:
        if self.places is None:
            object.__setattr__(self, "places", self.timesteps.cpu().double())

    @classmethod
    def from_scheduler(cls, scheduler: Any, num_steps: int, *, eta: float = 0.0) -> "SolverTable":
        """Reads the table of `num_steps` steps off a diffusers scheduler, which is not modified.

        Args:
            scheduler: one of DDPM, DDIM, DPMSolverMultistep, DPMSolverSinglestep, EulerDiscrete,
                EulerAncestralDiscrete, LCM, DEISMultistep, UniPCMultistep, PNDM, HeunDiscrete,
                FlowMatchEulerDiscrete, ScoreSdeVp, ScoreSdeVe. For the last two z is what
                `step_pred` takes: VP the noise prediction eps (the score is -z / std), VE the score
                itself; VP models are given t * (num_train_timesteps - 1), VE models sigma. As in
                diffusers' pipelines their last step adds no noise; correctors are not run.
            num_steps: as for `set_timesteps`; the number of model calls is `len(table)`.
            eta: the DDIM noise level, 0 (deterministic) to 1; an argument of DDIM's step().

        Raises:
            Refused: a scheduler, an option or a number of steps that has no table.
        """
        name, num_steps = probe.check(scheduler, num_steps, eta), int(num_steps)
        with torch.device("cpu"):  # whatever the default device is
            scheduler = probe.prepare(scheduler, num_steps)
            return cls._read(name, scheduler, eta)

    @classmethod
    def of_prepared(cls, scheduler: Any, first: int = 0, *, eta: float = 0.0) -> "SolverTable":
        """Reads the table off a scheduler as a pipeline has set it, which is not modified.

        Custom timesteps and sigmas, shifts and the like are in it. The run starts at the x that
        call `first` is given, so `init_noise_sigma` is 1.

        Args:
            scheduler: as for `from_scheduler`, after `set_timesteps`, before its first `step`.
            first: index in `scheduler.timesteps` of the first model call; `len(table)` is the
                number of those from there on.

        Raises:
            Refused: as `from_scheduler`.
        """
        name = probe.check(scheduler, 1, eta)
        calls = len(scheduler.timesteps if scheduler.timesteps is not None else ())
        first = integer("first", first, 0, calls - 1)
        with torch.device("cpu"):
            table = cls._read(name, probe.at(scheduler, first), eta, first)
        return replace(table, init_noise_sigma=1.0)

    @classmethod
    def _read(cls, name: str, scheduler: Any, eta: float, first: int = 0) -> "SolverTable":
        timesteps = probe.model_timesteps(scheduler)
        if (timesteps == -1).any():
            n = len(timesteps)
            raise Refused(
                f"{name}: diffusers rounds {n - 1} steps to one too many, at timestep -1; use "
                f"{n - 2} or {n} steps, or another timestep_spacing"
            )
        rows = probe.rows(name, scheduler, timesteps, eta, first)
        sigma = float(getattr(scheduler, "init_noise_sigma", 1.0))
        at = places(probe.kind_of(scheduler), scheduler)[first:]
        return cls(name, rows, timesteps[first:], sigma, range_of(scheduler.config), at)

    @classmethod
    def for_calls(cls, scheduler: Any, num_calls: int, *, eta: float = 0.0) -> "SolverTable":
        """Reads the table with exactly `num_calls` model calls (Heun makes 2n - 1, PNDM n + 1).

        Raises:
            Refused: as `from_scheduler`, or no number of steps makes that many calls.
        """
        probe.check(scheduler, num_calls, eta)
        num_steps = probe.steps_for_calls(scheduler, int(num_calls))
        return cls.from_scheduler(scheduler, num_steps, eta=eta)

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f"SolverTable({self.name}, {len(self)} calls)"

    @cached_property
    def _numbers(self) -> list[list[float]]:
        return self.rows.tolist()  # reading single elements of a tensor takes longer than the step

    def _row(self, i: int) -> list[float]:
        return self._numbers[integer("call", i, 0, len(self) - 1)]

    @property
    def num_history(self) -> int:
        """How many earlier estimates the rows use, 0 to 3."""
        return max((k for k, c in enumerate(HISTORY, 1) if self.rows[:, c].any()), default=0)

    @property
    def uses_noise(self) -> bool:
        """Whether any row adds noise."""
        return bool(self.rows[:, Column.D].any())

    def adds_noise(self, i: int) -> bool:
        """Whether row i adds noise."""
        return self._row(i)[Column.D] != 0

    def scale_model_input(self, i: int, x: Tensor) -> Tensor:
        """x * s_i, what the model is given in call i."""
        scale = self._row(i)[Column.SCALE]
        return x if scale == 1 else x * scale

    def step(
        self, i: int, x: Tensor, z: Tensor, history: list[Tensor], noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Row i in plain arithmetic, in the dtype and on the device of x.

        Args:
            x, z: the noisy sample and the model's raw output, of one shape.
            history: earlier estimates, newest first; may be longer than needed.
            noise: unit normal, needed where `adds_noise(i)`.

        Returns:
            (x_next, m), both shaped as x.

        Raises:
            Refused: there is no such row, x and z are not of one shape, the history is too short,
                or the noise is missing.
        """
        row = self._row(i)
        if not isinstance(x, Tensor) or not isinstance(z, Tensor) or x.shape != z.shape:
            raise Refused(f"x={shown(x)} and z={shown(z)}: have to be tensors of one shape")
        if not isinstance(history, (list, tuple)):
            raise Refused(f"history={shown(history)}: has to be a list of earlier estimates")
        m = row[Column.Q] * z
        if row[Column.P]:
            m = row[Column.P] * x + m
        if row[Column.HI] < inf:
            m = m.clamp(row[Column.LO], row[Column.HI])
        terms: dict[Column, Tensor | None]
        terms = {Column.A: x, Column.B: z, Column.C0: m, Column.D: noise}
        terms |= dict(zip(HISTORY, history, strict=False))
        x_next: Tensor | None = None
        for column in (Column.A, Column.B, Column.C0, *HISTORY, Column.D):
            if row[column] == 0:
                continue
            of = terms.get(column)
            if of is None:
                raise Refused(
                    f"call {i} of {self.name} needs "
                    + ("noise" if column is Column.D else f"{column.name[1]} earlier estimates")
                )
            term = row[column] * of
            x_next = term if x_next is None else x_next + term
        assert x_next is not None  # no row is all zeros
        return x_next, m

    def clean(self, i: int, x: Tensor, z: Tensor) -> Tensor:
        """The clean image that z at x says in call i, U x + V z."""
        row = self._numbers[i]
        return row[Column.U] * x + row[Column.V] * z

    def free(self, i: int, x: Tensor, line: Line) -> Tensor:
        """z of free step i at x, of a table `for_plan`: what says that x0 goes on on the line."""
        row = self._numbers[i]
        x_0 = line.at(row[Column.SLOPE], *bounds(self.clean_range, x))
        return (x_0 - row[Column.U] * x) / row[Column.V]

    def for_plan(self, plan: Plan) -> "SolverTable":
        """The table with what it needs for the free steps of a plan of its length.

        Dash steps behind free ones correct them, see `correction.py`.

        Raises:
            Refused: the plan has free steps, and x holds nothing of the image in some call.
        """
        assert self.plan in (None, plan)  # rows are completed once
        if not plan.num_free or self.plan is not None:
            return self
        if not self.rows[:, Column.U].isfinite().all():
            raise Refused(no_free_steps(plan, self.name))
        rows = corrected(self.rows, corrections(self.rows, self.places, plan))
        rows[:, Column.SLOPE] = torch.tensor(slopes(plan, self.places, self.uses_noise))
        rows[:, Column.FREE] = torch.tensor([plan.free_behind(i) for i in range(len(plan))])
        return replace(self, rows=rows, plan=plan)

    def equals(self, other: "SolverTable") -> bool:
        """Whether a run by either has the same numbers, which it takes in float32.

        Two readings of one scheduler differ by the rounding of their fits.
        """
        return self is other or (
            (self.init_noise_sigma, self.clean_range) == (other.init_noise_sigma, other.clean_range)
            and torch.equal(self.rows.float(), other.rows.float())
            and torch.equal(self.timesteps, other.timesteps)
            and torch.equal(self.places, other.places)
        )

    def up_to(self, count: int) -> "SolverTable":
        """The first calls alone."""
        cut = (self.rows, self.timesteps, self.places)
        rows, timesteps, at = (values[:count] for values in cut)
        return replace(self, rows=rows, timesteps=timesteps, places=at)

    def with_range(self, clean_range: Range) -> "SolverTable":
        """The same for images whose range is known."""
        return replace(self, clean_range=clean_range)


def no_free_steps(plan: Plan, name: str) -> str:
    """Why a plan with free steps is refused where a solver's U is infinite."""
    return (
        f'plan "{plan}" has free steps, which {name} cannot make: its first x holds nothing of the '
        "image; use timestep_spacing='leading' or no free steps"
    )


def range_of(config: Any) -> Range:
    """The range of clean images by a scheduler's config, its own or that of the model's."""
    if not config.get("clip_sample"):
        return NO_RANGE
    return as_range((-(r := config.get("clip_sample_range") or 1.0), r))
