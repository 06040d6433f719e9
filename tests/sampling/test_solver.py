"""The table against diffusers: each scheduler's own loop, one stand-in model, the same noise."""

import copy
import inspect

import pytest
import torch
from diffusers import schedulers

from morse_engine.sampling.solver import Column, SolverTable
from solvers import (
    ANCESTRAL,
    EPS,
    EULER,
    MIN,
    MULTI,
    PLUS,
    SINGLE,
    UNIPC,
    X0,
    ZERO_SNR,
    V,
    grid,
)
from tolerances import assert_close

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers")  # of NumPy
SHAPE = (2, 3, 4, 4)


BOTH = [False, True]
SPACINGS = ["leading", "trailing", "linspace"]
VARIANCES = ["fixed_small", "fixed_small_log", "fixed_large"]
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}

CASES = [
    *grid("DDPM", prediction_type=[V, X0], timestep_spacing=SPACINGS, clip_sample_range=0.5),
    *grid("DDPM", steps_offset=1, beta_schedule="squaredcos_cap_v2"),
    *grid("DDPM", variance_type=VARIANCES, clip_sample=BOTH),
    *grid("DDIM", timestep_spacing=SPACINGS, set_alpha_to_one=BOTH, clip_sample_range=2.0),
    *grid("DDIM", prediction_type=V, **ZERO_SNR),
    *grid("DDIM", clip_sample=False, trained_betas=(torch.arange(1000) * 3e-5 + 1e-3).numpy()),
    *grid("DDIM", eta=[0.0, 0.5, 1.0], prediction_type=[X0, V, EPS], clip_sample=BOTH),
    *grid(MULTI, algorithm_type="dpmsolver", solver_order=[1, 2, 3], **MIN),
    *grid(MULTI, algorithm_type="sde-dpmsolver", solver_order=[1, 2], solver_type="heun", **MIN),
    *grid(MULTI, algorithm_type="dpmsolver", use_karras_sigmas=True, euler_at_final=BOTH, **MIN),
    *grid(MULTI, prediction_type=[V, X0], lower_order_final=False, euler_at_final=BOTH, **MIN),
    *grid(MULTI, solver_type="heun", timestep_spacing=SPACINGS),
    *grid(MULTI, use_exponential_sigmas=BOTH, **ZERO_SNR),
    *grid(MULTI, use_beta_sigmas=True),
    *grid(MULTI, **FLOW),
    *grid(MULTI, algorithm_type=PLUS, use_karras_sigmas=BOTH, solver_order=[1, 2, 3]),
    *grid(SINGLE, algorithm_type="dpmsolver", solver_order=[1, 2, 3], **MIN),
    *grid(SINGLE, algorithm_type="sde-dpmsolver++", solver_order=1),
    *grid(SINGLE, prediction_type=V, use_karras_sigmas=True, lower_order_final=True),
    *grid(SINGLE, solver_order=[1, 2, 3], solver_type=["midpoint", "heun"]),
    *grid(EULER, prediction_type=[EPS, V, X0], timestep_spacing=SPACINGS),
    *grid(EULER, prediction_type=V, timestep_type="continuous"),
    *grid(EULER, interpolation_type="log_linear"),
    *grid(EULER, use_exponential_sigmas=BOTH, **ZERO_SNR),
    *grid(EULER, use_beta_sigmas=True),
    *grid(EULER, use_karras_sigmas=True, **MIN),
    *grid(ANCESTRAL, **ZERO_SNR),
    *grid(ANCESTRAL, prediction_type=[V, EPS], timestep_spacing=SPACINGS),
    *grid("LCM", prediction_type=[V, X0, EPS], clip_sample=BOTH, original_inference_steps=100),
    *grid("DEISMultistep", prediction_type=V, use_karras_sigmas=True, lower_order_final=False),
    *grid("DEISMultistep", solver_order=[1, 2, 3]),
    *grid(UNIPC, solver_order=[1, 2, 3], solver_type=["bh1", "bh2"], predict_x0=BOTH, **MIN),
    *grid(UNIPC, solver_order=3, disable_corrector=[[0, 1, 4]]),
    *grid(UNIPC, use_karras_sigmas=True),
    *grid(UNIPC, **FLOW),
    *grid(UNIPC, prediction_type=[V, EPS], solver_order=[1, 2, 3]),
    *grid("PNDM", skip_prk_steps=True, set_alpha_to_one=True, steps_offset=1),
    *grid("PNDM", skip_prk_steps=True, prediction_type=[V, EPS], timestep_spacing=SPACINGS),
    *grid("HeunDiscrete", use_karras_sigmas=True, timestep_spacing=SPACINGS),
    *grid("HeunDiscrete", prediction_type=[V, X0, EPS], clip_sample=BOTH),
    *grid("FlowMatchEulerDiscrete", use_karras_sigmas=True),
    *grid("FlowMatchEulerDiscrete", stochastic_sampling=[True, False], shift=[1.0, 3.0]),
    *grid("ScoreSdeVp"),
    *grid("ScoreSdeVe", sigma_max=[50.0, 1348.0]),
]
ONE_EACH = list({type(case.values[0]): case for case in CASES}.values())  # the last of each class
# These cast x to float32 in step(). (So does stochastic flow matching, which then draws float32.)
CASTING = (MULTI, EULER, ANCESTRAL, "FlowMatchEulerDiscrete")


class Exact(torch.Tensor):
    """A float64 tensor that the schedulers that cast to float32 cannot round."""

    def to(self, *args, **kwargs):
        return self


def stand_in(x, fraction):
    return torch.tanh(0.7 * x + 0.5 * fraction)


def own_loop(scheduler, num_steps, start, eta):
    """diffusers' own loop: every x, and the unit noise of every step."""
    scheduler = copy.deepcopy(scheduler)
    scheduler.set_timesteps(num_steps)
    kind = type(scheduler).__name__
    if kind == "ScoreSdeVeScheduler":
        scheduler.set_sigmas(num_steps)
    x = start * float(getattr(scheduler, "init_noise_sigma", 1.0))
    xs, noises, count = [], [], len(scheduler.timesteps)
    for i, t in enumerate(scheduler.timesteps):
        noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(i), dtype=x.dtype)
        generator = torch.Generator().manual_seed(i)  # the scheduler draws the same
        if kind == "ScoreSdeVeScheduler":
            z = stand_in(x / scheduler.sigmas[i], i / count)
            out = scheduler.step_pred(z, t, x, generator=generator)
            x = out.prev_sample if i < count - 1 else out.prev_sample_mean
        elif kind == "ScoreSdeVpScheduler":
            z = stand_in(x, i / count)
            x = scheduler.step_pred(z, x, t, generator=generator)[0 if i < count - 1 else 1]
        else:
            scale = getattr(scheduler, "scale_model_input", lambda x, t: x)
            z = stand_in(scale(x, t), i / count)
            takes = inspect.signature(scheduler.step).parameters
            options = {"eta": eta} if "eta" in takes else {}
            if "variance_noise" in takes:  # its own draw would be float32
                options["variance_noise"] = noise.as_subclass(type(x))
            elif "generator" in takes:
                options["generator"] = generator
            x = scheduler.step(z, t, x, **options).prev_sample
        xs.append(x.as_subclass(torch.Tensor))
        noises.append(noise)
    return xs, noises


def table_loop(table, start, noises):
    """The same loop through the table, on its own trajectory: every x and every m."""
    x = start * table.init_noise_sigma
    xs, ms = [], []
    for i, (t, noise) in enumerate(zip(table.timesteps, noises, strict=True)):
        scaled = x / t if "ScoreSdeVe" in table.name else table.scale_model_input(i, x)
        z = stand_in(scaled, i / len(table))
        history = ms[::-1][: table.num_history]
        x, m = table.step(i, x, z, history, noise if table.adds_noise(i) else None)
        xs.append(x)
        ms.append(m)
    return xs, ms


def compare(name, scheduler, num_steps, eta, start):
    """Every x of the two loops, relative to its largest element."""
    table = SolverTable.from_scheduler(scheduler, num_steps, eta=eta)
    expected, noises = own_loop(scheduler, num_steps, start, eta)
    actual, ms = table_loop(table, start.as_subclass(torch.Tensor), noises)
    actual, expected = torch.stack(actual), torch.stack(expected)
    largest = expected.abs().amax(dim=(1, 2, 3, 4), keepdim=True)
    assert_close(name, actual / largest, expected / largest)
    return table, torch.stack(ms)


def compare_exactly(scheduler, num_steps, eta=0.0, scale=1.0):
    start = scale * torch.randn(SHAPE, dtype=torch.float64)
    return compare("solver/float64", scheduler, num_steps, eta, start.as_subclass(Exact))


@pytest.mark.slow
@pytest.mark.parametrize(("scheduler", "eta"), CASES)
def test_table_is_the_scheduler(scheduler, eta):
    for num_steps in (1, 2, 3, 5, 10):
        table, _ = compare_exactly(scheduler, num_steps, eta)
        assert table.rows.isinf().sum() == table.rows[:, [Column.LO, Column.HI]].isinf().sum()


@pytest.mark.slow
@pytest.mark.parametrize(("scheduler", "eta"), ONE_EACH)
@pytest.mark.parametrize("num_steps", [20, 50, 100])
def test_table_is_the_scheduler_in_long_runs(scheduler, eta, num_steps):
    compare_exactly(scheduler, num_steps, eta)


@pytest.mark.parametrize(
    ("scheduler", "eta"), [case for case in CASES if case.values[0].config.get("clip_sample")]
)
def test_clamp_acts(scheduler, eta):
    high = scheduler.config.clip_sample_range
    table, ms = compare_exactly(scheduler, 5, eta, scale=20.0)
    assert (table.rows[:, Column.LO] == -high).all()
    assert (table.rows[:, Column.HI] == high).all()
    at_bound = ms.abs() == high
    assert not at_bound.all()
    # The stand-in is below one, so as a model of x0 it reaches a smaller bound only.
    assert at_bound.any() or (scheduler.config.prediction_type == X0 and high >= 1)


@pytest.mark.parametrize(
    ("scheduler", "eta"), [case for case in ONE_EACH if case.id.split("(")[0] in CASTING]
)
@pytest.mark.parametrize("num_steps", [1, 5, 20])
def test_table_is_the_scheduler_that_rounds_to_float32(scheduler, eta, num_steps):
    start = torch.randn(SHAPE, dtype=torch.float64)  # not an Exact
    compare("solver/rounding", scheduler, num_steps, eta, start)


@pytest.mark.parametrize(("scheduler", "eta"), ONE_EACH)
def test_table_is_the_scheduler_in_float32(scheduler, eta):
    _, ms = compare("solver/float32", scheduler, 10, eta, torch.randn(SHAPE))
    assert ms.dtype == torch.float32


def test_scheduler_and_random_state_are_untouched():
    scheduler = schedulers.UniPCMultistepScheduler()
    rows = SolverTable.from_scheduler(scheduler, 6).rows
    x = torch.randn(SHAPE)
    scheduler.set_timesteps(9)
    for t in scheduler.timesteps[:4]:
        x = scheduler.step(stand_in(x, 0), t, x).prev_sample
    twin, state = copy.deepcopy(scheduler), torch.get_rng_state()

    assert_close("solver/repeated", SolverTable.from_scheduler(scheduler, 6).rows, rows)
    assert_close("solver/repeated", SolverTable.for_calls(scheduler, 6).rows, rows)

    assert torch.equal(torch.get_rng_state(), state)
    assert scheduler.config == twin.config
    for t in scheduler.timesteps[4:]:  # its run goes on as if nothing had happened
        z = stand_in(x, 0)
        x, y = (s.step(z, t, x).prev_sample for s in (scheduler, twin))
        assert torch.equal(x, y)


@pytest.mark.parametrize(("scheduler", "eta"), ONE_EACH)
def test_default_device_does_not_matter(scheduler, eta):
    with torch.device("meta"):
        table = SolverTable.for_calls(scheduler, 3, eta=eta)
    assert table.rows.device == table.timesteps.device == torch.device("cpu")
    again = SolverTable.for_calls(scheduler, 3, eta=eta)
    assert_close("solver/repeated", table.rows, again.rows)


def test_what_was_changed_after_the_config_counts():
    scheduler = schedulers.FlowMatchEulerDiscreteScheduler()
    scheduler.set_shift(3.0)
    compare_exactly(scheduler, 5)


def test_options_of_another_class_in_the_config_do_not_count():
    pndm = schedulers.PNDMScheduler(skip_prk_steps=False)
    compare_exactly(schedulers.DDIMScheduler.from_config(pndm.config), 3)
    ddim = schedulers.DDIMScheduler(clip_sample=True)
    compare_exactly(schedulers.DPMSolverMultistepScheduler.from_config(ddim.config), 3)
