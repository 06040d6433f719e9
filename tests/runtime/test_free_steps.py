"""Free steps in every backend: the bits of the specification, in units of a call."""

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

import fake_capture
import morse_engine
from models import randomised, tiny_text_unet
from morse_engine import Dot, zoo
from morse_engine.runtime import backends
from tolerances import assert_close

PLAN = "-:.::-.:.:"
CALLS = (2, 5, 6, 8, 10)  # steps made after each model call
BACKENDS = ["host", "device"]
SOLVERS = ["ddim", "dpm", "euler", "dpm-sde", "heun"]


@pytest.fixture
def fake(fake, monkeypatch):
    return fake, fake_capture.install(monkeypatch, fake)


def dash(x, t, *, shift=None):
    z = torch.tanh(0.5 * x + t / 2000)
    return z if shift is None else z + shift[:, None, None, None] * x


def dot(x, t, x_s, z_s, t_s, z_p, t_p, *, shift=None):
    return 0.1 * (x - x_s) + 0.2 * (z_s - z_p)


def guided_dot(x, t, x_s, z_s, t_s, z_p, t_p, *, shift, guidance_scale):
    return 0.1 * (x - x_s) + 0.02 * guidance_scale * shift[:, None, None, None] * (z_s - z_p)


guided_dot.guided = True


def compiled(backend, solver="dpm", dot=dot, **options):
    options = {"plan": PLAN, "shape": (3, 8, 8), "clean_range": (-1, 1)} | options
    scheduler = zoo.digits_scheduler(solver)
    if solver == "heun":  # 2n - 1 calls
        options["plan"] = options["plan"].removesuffix(":")
    return morse_engine.compile(dash, dot, scheduler=scheduler, backend=backend, **options)


def guidance():
    return {"guidance_scale": 3.0, "shift": torch.tensor([0.0, 0.0, 0.1, 0.2])}


@pytest.mark.parametrize("backend", ["fused", *BACKENDS])
@pytest.mark.parametrize("solver", SOLVERS)
def test_bits_of_the_specification(solver, backend, request):
    if backend != "fused":
        request.getfixturevalue("fake")
    name = "host" if backend == "fused" else backend
    for of in (None, dot, guided_dot):
        plan = PLAN if of else PLAN.replace(".", "-")
        channels = ((-1, -0.5, -2), (1, 0.5, 0.75))
        options = {"solver": solver, "dot": of, "plan": plan, "clean_range": channels}
        eager, ours = compiled("eager", **options), compiled(name, **options)
        for given in ({}, guidance()):
            if of is guided_dot and not given:
                continue
            call = {"batch_size": 2, "seed": 5} | given
            expected = eager(**call)
            assert expected.isfinite().all()
            assert torch.equal(ours(**call), expected)
            assert torch.equal(ours(**call), expected), "nothing is left of the run before"


@pytest.mark.slow
@pytest.mark.parametrize("guided", [False, True])
def test_bits_of_the_digits(guided):
    unet = zoo.digits_dash()

    def with_shift(x, t, *, shift):
        return unet(x, t).sample + shift[:, None, None, None] * x

    model = with_shift if guided else unet
    given = {"guidance_scale": 2.0, "shift": torch.tensor([0.0, 0.1])} if guided else {}
    for solver in SOLVERS:
        of = {"scheduler": zoo.digits_scheduler(solver), "plan": "-:-::-:-:", "shape": (1, 32, 32)}
        eager, host = (morse_engine.compile(model, backend=b, **of) for b in ("eager", "host"))
        assert torch.equal(host(seed=3, **given), eager(seed=3, **given))


@pytest.mark.slow
@pytest.mark.parametrize("guided", [None, False, True])
def test_a_dot_whose_last_block_makes_them(fake, guided):
    """Its rows of times are computed at once, those of the specification one by one."""
    unet = tiny_text_unet()
    helper = randomised(Dot(unet, guided=bool(guided)))
    given = {"batch_size": 2, "seed": 5, "encoder_hidden_states": torch.randn(2, 5, 8)}
    if guided is not None:
        given |= {"guidance_scale": 2.0, "encoder_hidden_states": torch.randn(4, 5, 8)}
    of = {"plan": PLAN, "scheduler": DPMSolverMultistepScheduler(), "clean_range": (-1, 1)}
    eager, host, device = (
        morse_engine.compile(unet, helper, backend=b, **of) for b in ("eager", *BACKENDS)
    )
    x = host(**given)
    assert_close("steps", x, eager(**given))
    assert torch.equal(device(**given), x)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_call_and_its_free_steps_are_one_launch(fake, backend):
    _, log = fake
    ours = compiled(backend)
    ours()
    log.clear()
    ours()
    assert log == ["noise", "first", "Dash", "Dot", "Dash", "Dot", "Dot"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_segments(fake, backend):
    ours = compiled(backend)
    whole = ours(seed=4)
    run = ours.start(seed=4)
    for made in CALLS:
        assert run.step() == made == run.i == run.reached
    assert torch.equal(run.x, whole)
    run = ours.start(seed=4)
    assert [run.segment(4), run.segment(2), run.segment(1)] == [5, 8, 10]
    assert torch.equal(run.x, whole)
    run = ours.start(seed=4)
    for k in (1, 4, 5, 9):
        run.reach(k)
        assert k <= run.reached
        assert run.reached in CALLS
    assert torch.equal(run.x, whole)


@pytest.mark.parametrize("backend", ["eager", "fused", *BACKENDS])
def test_progress_and_cancel(request, backend):
    if backend not in ("eager", "fused"):
        request.getfixturevalue("fake")
    ours, seen = compiled("host" if backend == "fused" else backend), []
    assert torch.equal(ours(seed=1, on_step=lambda *at: seen.append(at)), ours(seed=1))
    assert seen == [(made - 1, 10) for made in CALLS]
    if backend == "device":  # on the fake driver it is over before it is watched
        return
    run = ours.start(seed=1)
    with pytest.raises(RuntimeError, match="cancelled at step 5 of 10"):
        run.watch(lambda i, n: i == 4 and run.cancel())


def test_the_slope_of_a_run_is_not_that_of_another_plan():
    ours = compiled("host")
    for plan in ("-:.::-.:.:", "-....", "-::::::::::::.", "-:.:"):
        both = [s.with_plan(plan, zoo.digits_scheduler("ddim")) for s in (ours, compiled("eager"))]
        assert torch.equal(both[0](seed=1), both[1](seed=1))
    wider = compiled("host", clean_range=(-3, 3))
    assert not torch.equal(ours(seed=1), wider(seed=1))


def test_plans_without_free_steps_have_no_memory_for_them():
    ours = compiled("host", plan="-.-.")
    ours()
    state = ours.captures._steps.state
    assert (state.clean, state.bounds, state.advance) == (None, None, None)


def test_equal_tables_are_loaded_once(monkeypatch):
    ours = compiled("host")
    ours(seed=1)
    steps, loads = ours.captures._steps, []
    monkeypatch.setattr(steps.dot, "load", lambda: loads.append("load"))
    steps.load(ours.plan, ours.table.with_range(ours.table.clean_range))
    assert not loads
    steps.load(ours.plan, ours.table.with_range(((-2.0,), (2.0,))))
    assert loads == ["load"]
    assert steps.state.bounds.tolist() == [[-2.0] * 3, [2.0] * 3]


def test_a_range_of_other_channels_leaves_the_memory_as_it_is():
    ours = compiled("host")
    expected = ours(seed=1)
    steps = ours.captures._steps
    with pytest.raises(ValueError, match="clean_range is of 2 channels, the images have 3"):
        steps.load(ours.plan, ours.table.with_range(((-1.0, -2.0), (1.0, 2.0))))
    assert torch.equal(ours(seed=1), expected)


def test_a_run_over_the_end_of_a_plan_counts_single_steps(fake):
    """As warm-ups and timings do, in memory that a longer plan with free steps was loaded into."""
    ours = compiled("host", plan="-" + 40 * ":" + "." + 30 * ":")
    ours()
    short = ours.with_plan("-:.:", DDIMScheduler())
    run = short.start()
    run.segment()
    steps = run.steps
    for i in range(1, 30):
        steps.dash_step()
        assert int(steps.state.step) == 4 + i


def test_auto_compares_the_first_calls(fake, monkeypatch):
    monkeypatch.setattr(backends, "captures_by_itself", lambda device: True)
    ours = compiled("auto")
    assert torch.equal(ours(seed=1), compiled("eager")(seed=1))
    assert "for 8 steps" in ours.report().why
    assert "other bits" not in ours.report().why
