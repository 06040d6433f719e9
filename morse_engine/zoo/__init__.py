"""The models that ship with the package: a Dash, a Dot and a classifier for handwritten digits.

See `MODEL_CARD.md` in this folder for data, recipe and results; `python -m morse_engine.zoo.train`
makes all of it anew.
"""

from pathlib import Path

from ..dot.dot import Dot
from ..system.errors import Refused

WEIGHTS = Path(__file__).parent / "weights"


def digits_dash():
    """The Dash: a `UNet2DModel` of 1.0 M parameters for images `[B, 1, 32, 32]` in [-1, 1]."""
    from diffusers import UNet2DModel

    return UNet2DModel.from_pretrained(WEIGHTS / "dash", low_cpu_mem_usage=False).eval()


def digits_dot(unet) -> Dot:
    """The Dot of `digits_dash()`."""
    return Dot.from_pretrained(WEIGHTS / "dot", unet)


def digits_classifier():
    """The classifier whose 64 features the Frechet distance of digits is taken in."""
    from .classifier import load_classifier

    return load_classifier(WEIGHTS / "classifier.safetensors")


def digits_scheduler(solver: str = "ddim"):
    """The noise schedule of `digits_dash()` with a solver: "ddim" or "dpm" (DPM-Solver++ 2M)."""
    from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

    if solver == "ddim":
        return DDIMScheduler(timestep_spacing="trailing")
    if solver == "dpm":
        return DPMSolverMultistepScheduler(
            timestep_spacing="trailing", beta_start=1e-4, beta_end=0.02
        )
    raise Refused(f'solver={solver!r}: choose "ddim" or "dpm"')
