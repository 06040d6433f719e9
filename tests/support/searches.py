"""A sampler that is fast enough to search with, and the options of such a search."""

import torch
from diffusers import DDIMScheduler

import morse_engine
from morse_engine import SolverTable, evaluation


def model(x, timestep, **cond):
    """The noise estimate of a data set of two points, +-0.5."""
    alpha = (1 - float(timestep) / 1000) ** 2 * 0.998 + 0.001
    mean = 0.5 * torch.tanh(0.5 * alpha**0.5 * x / (1 - alpha))
    return (x - alpha**0.5 * mean) / (1 - alpha) ** 0.5


TABLE = SolverTable.for_calls(DDIMScheduler(), 1)
OPTIONS = {"num_images": 32, "batch_size": 16, "full_steps": 40, "dot_speed": 2.0, "tries": 0}


def sampler(scheduler=None, dot=evaluation.extrapolate):
    scheduler = scheduler or DDIMScheduler(timestep_spacing="trailing", clip_sample=True)
    return morse_engine.compile(model, dot, plan="-", shape=(1, 8, 8), scheduler=scheduler)
