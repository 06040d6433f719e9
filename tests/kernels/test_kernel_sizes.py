"""The kernels at the sizes of real models, in half precision with guidance, in large batches."""

from contextlib import nullcontext

import pytest
import torch

from kernel_inputs import (
    DEVICE,
    DTYPES,
    check_dash_update,
    check_residual_up_update,
    check_trajectory_down,
    down_inputs,
    residual_inputs,
)
from morse_engine import kernels

pytest.importorskip("triton", reason="the kernels are written in Triton")

LATENTS, PIXELS, MANY = (1, 4, 128, 128), (1, 3, 256, 256), (64, 1, 6, 4)


@pytest.fixture(autouse=True)
def _kernels_run():
    with nullcontext() if DEVICE == "cuda" else kernels.interpreter():
        yield


@pytest.mark.slow
@pytest.mark.parametrize("shape", [LATENTS, PIXELS, MANY])
def test_dash_update(shape):
    options = {"rows": "noisy", "step": 1, "guidance": None, "keep": "branches"}
    check_dash_update(shape, torch.float16, **options)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [LATENTS, MANY])
def test_residual_up_update(shape):
    inputs = residual_inputs(shape, torch.float16, 16)
    check_residual_up_update(shape, torch.float16, inputs, rows="third order", step=3)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [LATENTS, MANY])
def test_trajectory_down(shape):
    check_trajectory_down(down_inputs(shape, torch.float16, 32))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("keep", "copies"), [("guided", 1), ("branches", 2)])
def test_guidance(keep, copies, dtype):
    shape = (3, 4, 6, 10)
    check_dash_update(shape, dtype, rows="third order", step=3, guidance=2.5, keep=keep)
    inputs = residual_inputs(shape, dtype, 16, copies)
    check_residual_up_update(shape, dtype, inputs, rows="noisy", step=1, guidance=2.5)
