"""A table: its form, how many calls it has, and the schedulers and options that have none."""

import math
from dataclasses import replace

import pytest
import torch
from diffusers import schedulers

from morse_engine.sampling.solver import Column, SolverTable
from solvers import ANCESTRAL, EULER, MIN, MULTI, PLUS, SINGLE, UNIPC, X0, ZERO_SNR, grid, table_of
from tolerances import assert_close

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers")  # of NumPy
SDE_3 = {"algorithm_type": "sde-dpmsolver", "solver_order": 3, **MIN}


@pytest.mark.slow
def test_history_is_no_longer_than_needed():
    for kind in ("DDPM", "DDIM", EULER, ANCESTRAL, "LCM", "FlowMatchEulerDiscrete", "ScoreSdeVp"):
        assert table_of(kind).num_history == 0
    for order in (1, 2, 3):
        for kind in ("DEISMultistep", MULTI, SINGLE):
            assert table_of(kind, solver_order=order).num_history == order - 1
        assert table_of(UNIPC, solver_order=order).num_history == order
    assert table_of(UNIPC, num_steps=1).num_history == 0
    assert table_of("HeunDiscrete").num_history == 1
    assert table_of("PNDM", skip_prk_steps=True).num_history == 3


@pytest.mark.slow
def test_noise_is_added_where_the_scheduler_adds_it():
    for kind in ("DDIM", MULTI, EULER, "HeunDiscrete", UNIPC, "FlowMatchEulerDiscrete"):
        assert not table_of(kind).uses_noise
    tables = [table_of(kind) for kind in ("DDPM", ANCESTRAL, "LCM", "ScoreSdeVp", "ScoreSdeVe")]
    tables += [table_of("DDIM", eta=1.0), table_of(MULTI, algorithm_type="sde-dpmsolver++")]
    for table in tables:
        assert table.uses_noise
        assert [table.adds_noise(i) for i in range(10)] == [True] * 9 + [False]


def test_z_is_a_column_only_where_a_clamp_parts_it_from_m():
    clipped, free = table_of("DDIM"), table_of("DDIM", clip_sample=False)
    assert clipped.rows[:-1, Column.B].all()
    assert not clipped.rows[:, Column.A].any()
    assert not free.rows[:, Column.B].any()
    assert (free.rows[:, Column.HI] == math.inf).all()
    assert not table_of("DDPM").rows[:, Column.B].any()


def test_what_the_model_is_given():
    euler, ddim = table_of(EULER, 3), table_of("DDIM", 4)
    assert euler.timesteps.tolist() == [999.0, 499.5, 0.0]
    assert euler.timesteps.dtype == torch.float32
    assert ddim.timesteps.tolist() == ddim.rows[:, Column.TIMESTEP].tolist() == [750, 500, 250, 0]
    assert ddim.timesteps.dtype == torch.int64
    x = torch.ones(2, 2)
    assert torch.equal(ddim.scale_model_input(0, x), x)
    scaled = x / math.sqrt(1 + euler.init_noise_sigma**2)
    torch.testing.assert_close(euler.scale_model_input(0, x), scaled)
    vp, ve = table_of("ScoreSdeVp", 2), table_of("ScoreSdeVe", 2)
    torch.testing.assert_close(vp.timesteps, torch.tensor([1999.0, 1.999]))
    assert (ddim.init_noise_sigma, vp.init_noise_sigma) == (1, 1)
    assert ve.timesteps[0] == ve.init_noise_sigma == 1348


def test_form_of_a_table():
    table = table_of(MULTI, 7)
    assert len(table) == 7
    assert table.rows.shape == (7, len(Column)) == (7, 17)
    assert table.rows.dtype == torch.float64
    assert repr(table) == "SolverTable(DPMSolverMultistepScheduler(order 2), 7 calls)"
    assert table_of("DDIM", eta=0.5).name == "DDIMScheduler(eta 0.5)"


def test_step_says_what_is_missing():
    x = torch.ones(1, 1, 2, 2)
    with pytest.raises(ValueError, match="call 0 of DDPMScheduler needs noise"):
        table_of("DDPM").step(0, x, x, [])
    table = table_of(MULTI)
    with pytest.raises(ValueError, match=r"call 1 of DPMSolver.* needs 1 earlier estimates"):
        table.step(1, x, x, [])
    assert torch.equal(table.step(1, x, x, [x, 5 * x, 7 * x])[0], table.step(1, x, x, [x])[0])


def test_two_readings_of_one_scheduler_are_equal():
    """Their fits differ by rounding, which a run in float32 does not see."""
    table = SolverTable.from_scheduler(schedulers.DDIMScheduler(), 4)
    rounded = replace(table, rows=table.rows * (1 + 1e-15))
    assert not torch.equal(rounded.rows, table.rows)
    assert table.equals(rounded)
    assert not table.equals(replace(table, rows=table.rows * (1 + 1e-6)))
    assert not table.equals(replace(table, timesteps=table.timesteps + 1))


# -- numbers of calls ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options", "num_steps", "num_calls"),
    [("HeunDiscrete", {}, 5, 9), ("HeunDiscrete", {}, 1, 1), (UNIPC, {}, 4, 4)]
    + [("PNDM", {"skip_prk_steps": True}, n, calls) for n, calls in ((10, 11), (1, 1))],
)
def test_for_calls(kind, options, num_steps, num_calls):
    expected = table_of(kind, num_steps, **options)
    table = SolverTable.for_calls(grid(kind, **options)[0].values[0], num_calls)
    assert len(table) == len(table.timesteps) == num_calls
    assert_close("solver/repeated", table.rows, expected.rows)


def test_for_calls_names_the_nearest():
    with pytest.raises(ValueError, match=r"Heun.* cannot make 14 model calls; nearest: 13 or 15"):
        SolverTable.for_calls(schedulers.HeunDiscreteScheduler(), 14)
    with pytest.raises(ValueError, match=r"PNDM.* cannot make 2 model calls; nearest: 1 or 3"):
        SolverTable.for_calls(schedulers.PNDMScheduler(skip_prk_steps=True), 2)
    assert SolverTable.for_calls(schedulers.DDIMScheduler(), 3, eta=1.0).uses_noise


# -- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (schedulers.LMSDiscreteScheduler(), "LMSDiscreteScheduler has .* nearest .*DiscreteSch"),
        (object(), "object has no solver table; the nearest supported one is diffusers'"),
    ],
)
def test_refused_objects(scheduler, message):
    with pytest.raises(ValueError, match=message):
        SolverTable.from_scheduler(scheduler, 5)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("DDIM", {"thresholding": True}, "DDIM.*thresholding=True.* use thresholding=False"),
        ("DDPM", {"variance_type": "learned"}, "='learned' has .*'fixed_small'"),
        ("DDPM", {"variance_type": "learned_range"}, "='learned_range' has .*'fixed_small'"),
        ("DDPM", {"variance_type": "fixed_large_log"}, "='fixed_large_log' has .*'fixed_large'"),
        (MULTI, {"variance_type": "learned_range"}, "='learned_range' has .*None"),
        ("PNDM", {}, "PNDM.*skip_prk_steps=False has .*use skip_prk_steps=True"),
        ("FlowMatchEulerDiscrete", {"use_dynamic_shifting": True}, "ing=True .*a fixed shift"),
        (SINGLE, {"algorithm_type": PLUS[1]}, "Singlestep.*call 1 of 5 is not linear.*use order 1"),
        (MULTI, SDE_3, "order 3.*own step.. fails in call 2 of 5.* lower order"),
        (UNIPC, {"solver_type": "bh1"}, "fails in call 4 of 5.*x is not finite.*'sigma_min'"),
        ("DDIM", ZERO_SNR, "DDIM.*fails in call 0 of 5.*estimate is not finite.*'v_prediction'"),
        ("DDPM", {"eta": 0.5}, "DDPM.* with eta=0.5: use DDIMScheduler"),
        ("DDIM", {"eta": -1.0}, "DDIM.* with eta=-1.0: use DDIMScheduler with an eta from 0"),
        (ANCESTRAL, {"prediction_type": X0}, "fails in call 0 .*prediction_type not implemented"),
    ],
)
def test_refused_options(kind, options, message):
    with pytest.raises(ValueError, match=message):
        table_of(kind, 5, **options)


@pytest.mark.parametrize("num_steps", [0, -1, 1001, 2.5, None])
def test_refused_number_of_steps(num_steps):
    with pytest.raises(ValueError, match=rf"DDIM.*: {num_steps} steps; .* from 1 to .*1000"):
        SolverTable.from_scheduler(schedulers.DDIMScheduler(), num_steps)


def test_refused_by_diffusers():
    with pytest.raises(ValueError, match=r"LCM.* cannot be set to 51 steps: .*original"):
        SolverTable.from_scheduler(schedulers.LCMScheduler(), 51)
    scheduler = schedulers.DDIMScheduler(timestep_spacing="trailing")
    with pytest.raises(ValueError, match=r"DDIM.* at timestep -1; use 60 or 62 steps"):
        SolverTable.from_scheduler(scheduler, 61)
