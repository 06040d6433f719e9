"""A sampler as the tests of captured steps compile it."""

from diffusers import DPMSolverMultistepScheduler

import morse_engine

PLAN = "-..-.-."
BACKENDS = ["host", "device"]


def compiled(models, backend, **options):
    options = {"plan": PLAN, "scheduler": DPMSolverMultistepScheduler()} | options
    return morse_engine.compile(*models, backend=backend, **options)
