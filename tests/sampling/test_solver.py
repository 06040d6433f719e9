"""The table against diffusers: each scheduler's own loop, one stand-in model, the same noise."""

import copy
import inspect
import itertools
import math
import warnings
from dataclasses import replace

import pytest
import torch
from diffusers import schedulers

from morse_engine.sampling.solver import Column, SolverTable
from tolerances import assert_close

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers")  # of NumPy
SHAPE = (2, 3, 4, 4)


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


BOTH = [False, True]
EPS, V, X0 = "epsilon", "v_prediction", "sample"
SPACINGS = ["leading", "trailing", "linspace"]
VARIANCES = ["fixed_small", "fixed_small_log", "fixed_large"]
ZERO_SNR = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
MIN = {"final_sigmas_type": "sigma_min"}  # for what is not finite where the noise ends at zero
SDE_3 = {"algorithm_type": "sde-dpmsolver", "solver_order": 3, **MIN}
MULTI, SINGLE, UNIPC = "DPMSolverMultistep", "DPMSolverSinglestep", "UniPCMultistep"
EULER, ANCESTRAL = "EulerDiscrete", "EulerAncestralDiscrete"
PLUS = ["dpmsolver++", "sde-dpmsolver++"]

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


def table_of(kind, num_steps=10, **options):
    ((scheduler, eta),) = (case.values for case in grid(kind, **options))
    return SolverTable.from_scheduler(scheduler, num_steps, eta=eta)


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


def test_two_readings_of_one_scheduler_are_equal():
    """Their fits differ by rounding, which a run in float32 does not see."""
    table = SolverTable.from_scheduler(schedulers.DDIMScheduler(), 4)
    rounded = replace(table, rows=table.rows * (1 + 1e-15))
    assert not torch.equal(rounded.rows, table.rows)
    assert table.equals(rounded)
    assert not table.equals(replace(table, rows=table.rows * (1 + 1e-6)))
    assert not table.equals(replace(table, timesteps=table.timesteps + 1))
