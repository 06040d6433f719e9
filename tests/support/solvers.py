"""A scheduler of every family that has a table, and those of any options."""

import itertools
import warnings

import pytest
from diffusers import schedulers

from morse_engine.sampling.solver import SolverTable

FAMILIES = {
    "ddpm": schedulers.DDPMScheduler(),
    "ddim, clipped": schedulers.DDIMScheduler(timestep_spacing="trailing"),
    "ddim, v": schedulers.DDIMScheduler(prediction_type="v_prediction", clip_sample=False),
    "dpm 2m": schedulers.DPMSolverMultistepScheduler(solver_order=2),
    "dpm 2m sde": schedulers.DPMSolverMultistepScheduler(
        solver_order=2, algorithm_type="sde-dpmsolver++", use_karras_sigmas=True
    ),
    "dpm single": schedulers.DPMSolverSinglestepScheduler(),
    "euler": schedulers.EulerDiscreteScheduler(),
    "euler ancestral": schedulers.EulerAncestralDiscreteScheduler(),
    "lcm": schedulers.LCMScheduler(),
    "deis": schedulers.DEISMultistepScheduler(),
    "unipc": schedulers.UniPCMultistepScheduler(),
    "pndm": schedulers.PNDMScheduler(skip_prk_steps=True),
    "heun": schedulers.HeunDiscreteScheduler(),
    "flow": schedulers.FlowMatchEulerDiscreteScheduler(),
    "vp sde": schedulers.ScoreSdeVpScheduler(),
    "ve sde": schedulers.ScoreSdeVeScheduler(sigma_max=20.0),
}

EPS, V, X0 = "epsilon", "v_prediction", "sample"
ZERO_SNR = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
MIN = {"final_sigmas_type": "sigma_min"}  # for what is not finite where the noise ends at zero
MULTI, SINGLE, UNIPC = "DPMSolverMultistep", "DPMSolverSinglestep", "UniPCMultistep"
EULER, ANCESTRAL = "EulerDiscrete", "EulerAncestralDiscrete"
PLUS = ["dpmsolver++", "sde-dpmsolver++"]


def grid(kind, *, eta=0.0, **options):
    """Test parameters (scheduler, eta) for all combinations of the options given as lists."""
    options = {"eta": eta, **options}
    lists = (value if isinstance(value, list) else [value] for value in options.values())
    params = []
    for values in itertools.product(*lists):
        config = dict(zip(options, values, strict=True))
        name = ",".join(f"{option}={value}" for option, value in config.items())
        eta = config.pop("eta")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # diffusers deprecates "dpmsolver", which still works
            scheduler = getattr(schedulers, f"{kind}Scheduler")(**config)
        params.append(pytest.param(scheduler, eta, id=f"{kind}({name:.120})"))
    return params


def table_of(kind, num_steps=10, **options):
    ((scheduler, eta),) = (case.values for case in grid(kind, **options))
    return SolverTable.from_scheduler(scheduler, num_steps, eta=eta)
