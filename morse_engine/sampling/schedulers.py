"""The names of solvers: each is a diffusers class and the options that make it this solver.

Every class that `probe` supports has a name. Where a class can choose its timesteps, they are
spaced "trailing": the first one is the noisiest that the model was trained with, which few steps
need most (Lin et al., arXiv 2305.08891).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from ..system.checks import shown
from ..system.errors import Refused


class Solver(NamedTuple):
    """What a name stands for.

    Attributes:
        title: for figures and texts.
        kind: the diffusers class, without "Scheduler".
        options: those that make it this solver, whatever the model's own config has.
    """

    title: str
    kind: str
    options: dict = {}  # noqa: RUF012 - a default of a tuple, never written to


_TRAILING = {"timestep_spacing": "trailing"}
_DPM = {"algorithm_type": "dpmsolver++", "solver_order": 2, **_TRAILING}
_DPM_SDE = _DPM | {"algorithm_type": "sde-dpmsolver++"}
_SINGLE = {"algorithm_type": "dpmsolver++", "solver_order": 2, "lower_order_final": True}

SOLVERS = {
    "ddim": Solver("DDIM", "DDIM", _TRAILING),
    "ddpm": Solver("DDPM", "DDPM", _TRAILING),
    "dpm": Solver("DPM-Solver++ of order 2", "DPMSolverMultistep", _DPM),
    "dpm-sde": Solver("SDE-DPM-Solver++ of order 2", "DPMSolverMultistep", _DPM_SDE),
    "dpm-single": Solver("single-step DPM-Solver++ of order 2", "DPMSolverSinglestep", _SINGLE),
    "euler": Solver("Euler", "EulerDiscrete", _TRAILING),
    "euler-ancestral": Solver("ancestral Euler", "EulerAncestralDiscrete", _TRAILING),
    "heun": Solver("Heun", "HeunDiscrete", _TRAILING),
    "unipc": Solver("UniPC", "UniPCMultistep", _TRAILING),
    "deis": Solver("DEIS", "DEISMultistep", _TRAILING),
    "lcm": Solver("LCM", "LCM"),
    "pndm": Solver("PNDM", "PNDM", {"skip_prk_steps": True, **_TRAILING}),
    "flow": Solver("Euler of flow matching", "FlowMatchEulerDiscrete"),
    "vp-sde": Solver("VP SDE", "ScoreSdeVp"),
    "ve-sde": Solver("VE SDE", "ScoreSdeVe"),
}

#: The noise of a model whose files say nothing of it: DDPM's, which diffusers' DDPMScheduler has.
LINEAR_BETAS = {
    "beta_schedule": "linear",
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "clip_sample": True,
    "clip_sample_range": 1.0,
}

# Solvers whose noise schedule is of their own kind, by an option that only theirs has. All others
# have betas, and read them off each other's configs.
_OWN_NOISE = {"FlowMatchEulerDiscrete": "shift", "ScoreSdeVp": "beta_min", "ScoreSdeVe": "snr"}


def title(name: str) -> str:
    """The title of a solver; a name that is not in the table is its own."""
    return SOLVERS[name].title if name in SOLVERS else name


def name_of(scheduler: Any) -> str:
    """The name in `SOLVERS` of a scheduler, however its steps are spaced; without one its class."""
    kind, config = type(scheduler).__name__.removesuffix("Scheduler"), scheduler.config
    for name, solver in SOLVERS.items():
        arithmetic = set(solver.options) - set(_TRAILING)
        if solver.kind == kind and all(config.get(o) == solver.options[o] for o in arithmetic):
            return name
    return type(scheduler).__name__


def ranked_as(scheduler: Any) -> str:
    """The name that plans of a scheduler are ranked under: its solver's, and its kind of sigmas.

    With Karras' sigmas, "dpm-karras", the steps lie elsewhere, and other plans are best.
    """
    name = name_of(scheduler)
    for kind in ("karras", "exponential", "beta"):
        if scheduler.config.get(f"use_{kind}_sigmas"):
            return f"{name}-{kind}"
    return name


def _noise(config: Mapping) -> str | None:
    """The class whose own kind of noise this config describes; None for betas."""
    if "beta_start" in config:
        return None
    return next((kind for kind, option in _OWN_NOISE.items() if option in config), None)


def _takes(solver: Solver, noise: str | None) -> bool:
    return noise == (solver.kind if solver.kind in _OWN_NOISE else None)


def check_name(name: Any) -> None:
    """Raise `Refused` for a name that no solver has."""
    if not isinstance(name, str) or name not in SOLVERS:
        raise Refused(f"solver={shown(name)}: choose one of {', '.join(SOLVERS)}")


def make(name: str, config: Mapping) -> Any:
    """The diffusers scheduler of a name, with the noise schedule that a model was trained with.

    Args:
        name: one of `SOLVERS`.
        config: of a scheduler of the model, as `scheduler.config` or its file have it; options
            that it lacks are those of the class.

    Raises:
        Refused: no such name, a solver of another kind of noise schedule, or a damaged config.
    """
    from diffusers import schedulers

    check_name(name)
    solver, noise = SOLVERS[name], _noise(config)
    if not _takes(solver, noise):
        fitting = ", ".join(name for name, solver in SOLVERS.items() if _takes(solver, noise))
        raise Refused(
            f"solver={name!r} is not for the noise that this model was trained with: choose "
            f"{'one of ' if ',' in fitting else ''}{fitting}"
        )
    kind = getattr(schedulers, f"{solver.kind}Scheduler")
    # With this note, diffusers would put the defaults of one class in the place of another's.
    noted = {key: value for key, value in config.items() if key != "_use_default_values"}
    try:
        return kind.from_config(noted, **solver.options)
    except Exception as error:  # whatever diffusers stumbles over in a damaged config
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise Refused(
            f"solver={name!r} cannot be made of the model's noise schedule ({reason}): repair its "
            "scheduler_config.json"
        ) from error
