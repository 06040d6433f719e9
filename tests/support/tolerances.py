"""The one table of tolerances: a row a comparison, a reason a row."""

from typing import NamedTuple

import torch
from torch import Tensor


class Tolerance(NamedTuple):
    """|actual - expected| <= atol + rtol * |expected|, element by element."""

    rtol: float
    atol: float
    reason: str


TOLERANCES = {
    "noise/definition": Tolerance(
        2.0**-23, 0.0, "float64 log and cos of numpy and torch: at most one float32 rounding"
    ),
    "noise/cuda": Tolerance(
        2.0**-23, 0.0, "float64 log and cos differ in the last bit: at most one float32 rounding"
    ),
    "solver/float64": Tolerance(
        0.0, 1e-8, "of the largest x: the table leaves out the 1e-10 of noise of DDPM's last step"
    ),
    "solver/rounding": Tolerance(
        0.0, 1e-5, "of the largest x: diffusers casts x to float32 in each step, the table does not"
    ),
    "solver/float32": Tolerance(
        0.0, 1e-5, "of the largest x: float32 rounding of ten steps in another order of sums"
    ),
    "solver/repeated": Tolerance(
        1e-9, 1e-11, "LAPACK does not sum in the same order in each run: float64 rounding"
    ),
    "solver/one image": Tolerance(
        0.0, 0.2, "what is left of unit noise: 0.06 by PNDM, 0.1 by 400 steps of VP's, else 0.03"
    ),
    "model_batch": Tolerance(
        1e-4, 1e-5, "convolutions sum in another order for another batch size: float32 rounding"
    ),
    "lora_merge": Tolerance(
        1e-4, 1e-5, "W x + B (A x) against (W + B A) x: float32 rounding through some 20 layers"
    ),
    "private trunk": Tolerance(
        1e-4, 1e-5, "as lora_merge; q, k, v in one product, sums of biases: float32 rounding"
    ),
    "run_batch": Tolerance(
        1e-3,
        1e-4,
        "as model_batch, carried through a run of 6 steps whose rows amplify x by up to 50",
    ),
    "run_merge": Tolerance(1e-3, 1e-4, "as lora_merge, carried through a run of 6 steps"),
    "levels": Tolerance(
        1e-4, 2e-4, "x_0 from x at t = 999 divides float32 rounding by alpha = 0.006"
    ),
    "levels/miss": Tolerance(
        1e-4, 1e-3, "as levels, and eps from x at t = 0 divides by sigma = 0.01"
    ),
    "exact_ode": Tolerance(
        1e-5, 1e-5, "a run in float32 against the same formula written out in float64"
    ),
    "k_diffusion": Tolerance(
        1e-4, 1e-5, "z = (x - D) / sigma and back: float32 rounding of x at sigma = 15, 12 steps"
    ),
    "k_diffusion/dot": Tolerance(
        1e-3, 1e-3, "as run_batch; and the timestep found back from sigma is off by 1e-3"
    ),
    "levels/timestep": Tolerance(
        0.0, 2e-3, "alpha_bar near 1 has steps of 6e-8, a timestep there changes it by 1e-4"
    ),
    "float16": Tolerance(
        2e-3, 1e-4, "kept in float16, one rounding to 11 bits; below 6e-5 fewer of them"
    ),
    "philox_normal": Tolerance(
        2e-6, 2e-6, "log, cos and the angle in float32 against float64: a few units of the last bit"
    ),
    "kernel/float32": Tolerance(
        2e-5, 2e-5, "float32 arithmetic on both sides, sums in another order, normals as above"
    ),
    "kernel/float16": Tolerance(2e-3, 2e-3, "one rounding to 11 bits may fall to the other side"),
    "kernel/bfloat16": Tolerance(
        2e-2, 2e-2, "Triton's interpreter truncates to bfloat16 where others round, also on the way"
    ),
    "steps/float16": Tolerance(
        0.0, 1e-2, "of the largest x: the models round to 11 bits, at other places in the two runs"
    ),
    "pipelines": Tolerance(
        0.0, 2e-5, "of the largest latent: float32 rows sum in another order than step(), 6 steps"
    ),
    "pipelines/free": Tolerance(
        0.0, 2e-4, "as pipelines; a call's clean image is x - sigma z: roundings of z grow by sigma"
    ),
    "pipelines/bfloat16": Tolerance(
        0.0, 0.06, "the pipeline rounds its latents to 8 bits in each of 6 steps, the run does not"
    ),
    "miniature/standardised": Tolerance(
        1e-3, 1e-4, "latents of a fresh VAE deviate little: float32 rounding, divided by that"
    ),
    "miniature/student": Tolerance(
        1e-4, 1e-5, "one more addition of zero before layers of float32, attention in another order"
    ),
    "miniature/half": Tolerance(1e-3, 1e-6, "one rounding to 11 bits"),
    "steps": Tolerance(
        1e-3, 1e-4, "kernel/float32 in each of 7 steps, whose rows may amplify x: as run_batch"
    ),
}


def assert_close(name: str, actual: Tensor, expected: Tensor):
    """Asserts that two tensors agree in dtype, shape and, within row `name`, in value."""
    row = TOLERANCES[name]
    torch.testing.assert_close(
        actual,
        expected,
        rtol=row.rtol,
        atol=row.atol,
        check_device=False,
        msg=lambda message: f"{name} ({row.reason}): {message}",
    )
