"""`dash_update` and `residual_up_update` against their references, with and without free steps."""

from contextlib import nullcontext

import pytest
import torch

from kernel_inputs import (
    DEVICE,
    DTYPES,
    ROWS,
    SHAPES,
    check_all,
    check_dash_update,
    check_residual_up_update,
    clone,
    randn,
    residual_inputs,
    row,
    state,
    with_line,
)
from morse_engine import kernels
from morse_engine.kernels import solver_step
from morse_engine.sampling.solver import Column

pytest.importorskip("triton", reason="the kernels are written in Triton")


@pytest.fixture(autouse=True)
def _kernels_run():
    with nullcontext() if DEVICE == "cuda" else kernels.interpreter():
        yield


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_dash_update_shapes(shape, dtype):
    check_dash_update(shape, dtype, rows="third order", step=3, guidance=None, keep="guided")


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("step", [0, 2])
@pytest.mark.parametrize(
    ("guidance", "keep"),
    [(None, None), (None, "guided"), (4.5, "guided"), (4.5, "branches"), (0.0, None)],
)
def test_dash_update(rows, step, guidance, keep):
    check_dash_update(
        (2, 3, 6, 4), torch.float32, rows=rows, step=step, guidance=guidance, keep=keep
    )


@pytest.mark.parametrize("free", [None, 2])
@pytest.mark.parametrize("slots", [1, 2])
def test_dash_update_with_a_short_history(slots, free):
    options = {"step": 1, "guidance": None, "keep": None, "free": free}
    check_dash_update((1, 1, 4, 4), torch.float32, rows="first order", slots=slots, **options)


FREE_STEPS = [
    *((rows, free, step, None, None) for rows in ROWS for free, step in ((1, 2), (6, 3))),
    *(("third order", free, step, 4.5, "guided") for free, step in ((0, 0), (1, 0), (3, 1))),
    *(("third order", free, step, 4.5, "branches") for free, step in ((0, 1), (2, 2))),
    ("third order", 2, 1, None, "guided"),
]


@pytest.mark.parametrize(("rows", "free", "step", "guidance", "keep"), FREE_STEPS)
def test_free_steps_behind_a_dash_update(rows, free, step, guidance, keep):
    options = {"rows": rows, "step": step, "guidance": guidance, "keep": keep, "free": free}
    check_dash_update((2, 3, 6, 4), torch.float32, **options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_free_steps_behind_a_dash_update_of_shapes(shape, dtype):
    options = {"rows": "third order", "guidance": 2.0, "step": 3, "free": 2}
    check_dash_update(shape, dtype, keep="branches", **options)


def test_free_steps_behind_a_dash_update_of_channels_last_models():
    options = {"rows": "noisy", "step": 1, "guidance": 2.0, "keep": "branches", "free": 2}
    check_dash_update((2, 3, 4, 6), torch.float16, channels_last=True, **options)


def test_free_steps_read_the_estimates_before_them():
    """Of a slot that they write themselves afterwards, and of one that the call does not read."""
    st = state((1, 1, 4, 4), step=4 - 1, free=3)
    later = [row(C3=1.0, A=0.0, C0=0.0), row(C2=1.0, A=0.0, C0=0.0), row(C1=1.0, A=0.0, C0=0.0)]
    # Row 3 reads nothing, row 4 the estimate of row 1 (slot 1), row 5 that of row 3 ...
    st.rows[4:] = torch.tensor([with_line(numbers, SLOPE=0.5) for numbers in later])
    z, expected = randn(1, 1, 4, 4), solver_step.State(*clone(st))
    kernels.dash_update_ref(z, None, expected)
    kernels.dash_update(z, *st, None, None, None)
    check_all(torch.float32, st, expected)
    assert int(st.advance) == 4


def test_dash_update_of_channels_last_models():
    options = {"rows": "noisy", "step": 1, "guidance": 2.0, "keep": "branches"}
    st = state((2, 3, 4, 6), guidance=2.0)
    z = randn(4, 3, 4, 6).to(memory_format=torch.channels_last)
    with pytest.raises(ValueError, match="z_s has strides"):
        kernels.dash_update(z, *st, st.x.clone(), z.clone(), z.clone())
    check_dash_update((2, 3, 4, 6), torch.float16, channels_last=True, **options)


def test_dash_update_with_other_dtypes_of_the_state():
    st = state((2, 1, 6, 6), rows="third order", step=3)
    st = st._replace(
        x=st.x.half(),
        history=st.history.half(),
        timestep=torch.zeros(1, device=DEVICE),
        step=st.step.long(),
    )
    z, expected = randn(2, 1, 6, 6), solver_step.State(*clone(st))
    kernels.dash_update_ref(z, None, expected)
    kernels.dash_update(z, *st, None, None, None)
    check_all(torch.float16, st, expected)


def test_a_table_of_one_row():
    st = state((1, 1, 4, 4))
    st = st._replace(rows=st.rows[:1].clone())
    z, expected = randn(1, 1, 4, 4), solver_step.State(*clone(st))
    kernels.dash_update_ref(z, None, expected)
    kernels.dash_update(z, *st, None, None, None)
    check_all(torch.float32, st, expected)


def test_an_overflow_of_the_model_is_clamped_as_in_the_specification():
    st = state((1, 1, 4, 4), rows="first order")
    st.rows[0, Column.LO], st.rows[0, Column.HI] = -1.0, 1.0
    z = randn(1, 1, 4, 4)
    z[0, 0, 1, 2] = torch.inf
    expected = solver_step.State(*clone(st))
    kernels.dash_update_ref(z, None, expected)
    kernels.dash_update(z, *st, None, None, None)
    assert expected.x.isfinite().all()
    check_all(torch.float32, st, expected)


@pytest.mark.parametrize("free", [None, 2])
def test_nan_stays_nan_through_the_clamp(free):
    st = state((1, 1, 4, 4), rows="clamped", free=free)
    z = randn(1, 1, 4, 4)
    z[0, 0, 1, 2] = torch.nan
    kernels.dash_update(z, *st, None, None, None)
    assert st.x.isnan().sum() == 1
    assert st.x[0, 0, 1, 2].isnan()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "width"), list(zip(SHAPES, (16, 16, 5, 40), strict=True)))
def test_residual_up_update_shapes(shape, width, dtype):
    inputs = residual_inputs(shape, dtype, width)
    check_residual_up_update(shape, dtype, inputs, rows="third order", step=3)


@pytest.mark.slow
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize(("guidance", "copies"), [(None, 1), (3.5, 1), (3.5, 2)])
def test_residual_up_update(rows, guidance, copies):
    shape = (2, 3, 6, 4)
    inputs = residual_inputs(shape, torch.float32, 16, copies, rows_of_mix=2 * copies)
    check_residual_up_update(shape, torch.float32, inputs, rows=rows, step=1, guidance=guidance)


@pytest.mark.slow
@pytest.mark.parametrize("rows", ["noisy", "third order"])
@pytest.mark.parametrize("free", [0, 1, 4])
@pytest.mark.parametrize(("guidance", "copies"), [(None, 1), (3.5, 1), (3.5, 2)])
def test_free_steps_behind_a_residual_up_update(rows, free, guidance, copies):
    shape = (2, 3, 6, 4)
    inputs = residual_inputs(shape, torch.float32, 16, copies, rows_of_mix=2 * copies)
    options = {"rows": rows, "step": 1, "guidance": guidance, "free": free}
    check_residual_up_update(shape, torch.float32, inputs, **options)


def test_residual_up_update_of_channels_last_models():
    for shape, width in (((2, 3, 6, 4), 24), ((1, 5, 20, 16), 16)):  # the second: two blocks
        inputs = residual_inputs(shape, torch.float16, width, channels_last=True)
        check_residual_up_update(shape, torch.float16, inputs, rows="noisy", step=2)
        check_residual_up_update(shape, torch.float16, inputs, rows="noisy", step=2, free=2)
