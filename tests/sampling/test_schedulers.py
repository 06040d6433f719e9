"""The names of solvers: all that are supported, and what is made of a name."""

import math

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, schedulers

from morse_engine import Plan, Refused, zoo
from morse_engine.sampling import probe
from morse_engine.sampling.loop import sample
from morse_engine.sampling.schedulers import LINEAR_BETAS, SOLVERS, make, name_of, title
from morse_engine.sampling.solver import SolverTable
from tolerances import assert_close

ONLY = torch.linspace(-0.9, 0.9, 48).view(1, 3, 4, 4)  # the one image of the models below


def own(name: str) -> dict:
    """The config of the class itself, with noise of its own kind."""
    return dict(getattr(schedulers, f"{SOLVERS[name].kind}Scheduler")().config)


def of_betas(x, t):
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    kept = (1 - betas).cumprod(0)[round(float(t))]
    return (x - kept.sqrt() * ONLY) / (1 - kept).sqrt()


def of_flow(x, t):
    return (x - ONLY) / (float(t) / 1000)


def of_vp(x, t):
    t = float(t) / 1999
    log_kept = -0.5 * t**2 * (20 - 0.1) - 0.1 * t
    return (x - math.exp(log_kept / 2) * ONLY) / math.sqrt(1 - math.exp(log_kept))


def of_ve(x, sigma):
    return (ONLY - x) / float(sigma) ** 2


MODELS = {"flow": of_flow, "vp-sde": of_vp, "ve-sde": of_ve}


def test_every_supported_class_has_a_name():
    assert {solver.kind for solver in SOLVERS.values()} == set(probe._SUPPORTED)
    assert len({solver.title for solver in SOLVERS.values()}) == len(SOLVERS)


# That of VP takes Euler's steps in t, of a stiff equation: a few of them go astray with any model.
RUNS = [(name, n) for name in SOLVERS for n in ([400] if name == "vp-sde" else [5, 19])]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "num_calls"), RUNS)
def test_a_whole_run_of_every_name(name, num_calls):
    """A model that knows one image: each solver has to arrive there, from any noise."""
    model = MODELS.get(name, of_betas)
    noise = {} if name in MODELS else LINEAR_BETAS
    table = SolverTable.for_calls(make(name, own(name) | noise), num_calls)
    start, plan = torch.randn(2, 3, 4, 4), Plan.spread(num_calls, 0)
    x = sample(lambda x, t: model(x, t).float(), None, plan, table, start, seeds=[0, 1])
    assert_close("solver/one image", x, ONLY.expand_as(x))


@pytest.mark.parametrize("name", SOLVERS)
def test_the_config_of_a_model_counts(name):
    """Its noise and what it predicts; the solver's own options are those of the name."""
    config = own(name) | {"num_train_timesteps": 500, "algorithm_type": "dpmsolver"}
    made = make(name, config | {"beta_end": 0.03, "timestep_spacing": "leading"})
    assert made.config.num_train_timesteps == 500
    assert made.config.get("beta_end", 0.03) == 0.03
    for option, value in SOLVERS[name].options.items():
        assert made.config[option] == value


def test_the_schedulers_of_the_digits():
    """As they were written out once, and how large an image may be, which free steps go by."""
    clipped = {"clip_sample": True, "clip_sample_range": 1.0}
    written = {
        "ddim": DDIMScheduler(timestep_spacing="trailing"),
        "dpm": DPMSolverMultistepScheduler(
            timestep_spacing="trailing", beta_start=1e-4, beta_end=0.02
        ),
    }
    for name, scheduler in written.items():
        made = zoo.digits_scheduler(name)
        options = [{k: v for k, v in s.config.items() if k[0] != "_"} for s in (made, scheduler)]
        assert options[0] == options[1] | clipped
        rows = [SolverTable.from_scheduler(s, 8).rows for s in (made, scheduler)]
        assert_close("solver/repeated", *rows)


def test_titles():
    assert title("dpm") == "DPM-Solver++ of order 2"
    assert title("my own") == "my own"


def test_refused():
    with pytest.raises(ValueError, match=r"solver='dmp': choose one of ddim, ddpm, dpm,"):
        make("dmp", {})
    for name in MODELS:
        with pytest.raises(ValueError, match=f"'{name}' is not for .* one of ddim, .*lcm, pndm$"):
            make(name, DDPMScheduler().config)
        with pytest.raises(ValueError, match=f"'ddim' is not for the noise .* choose {name}$"):
            make("ddim", own(name))


@pytest.mark.parametrize("name", SOLVERS)
def test_a_scheduler_is_known_by_its_name(name):
    assert name_of(make(name, own(name))) == name


@pytest.mark.parametrize(
    "config", [{"beta_schedule": "none"}, {"num_train_timesteps": "x"}, {"beta_end": None}]
)
def test_a_damaged_schedule(config):
    with pytest.raises(Refused, match="repair its"):
        make("ddim", LINEAR_BETAS | config)
