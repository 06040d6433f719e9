"""Captured steps without a GPU: Python and C++ for real, the graphs are functions.

test_graphs_gpu.py has those with real graphs, test_choice.py what "auto" takes.
"""

import gc
import threading
import weakref

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, EulerAncestralDiscreteScheduler

import fake_capture
import morse_engine
from captured import BACKENDS, PLAN, compiled
from fake_cuda import BLOCK, EXEC
from models import randomised, tiny_unet
from morse_engine import Dot
from morse_engine.engine import Sampler
from morse_engine.runtime import graphs
from morse_engine.runtime.captures import Captures
from morse_engine.sampling.solver import SolverTable
from tolerances import assert_close


@pytest.fixture
def models():
    unet = tiny_unet()
    return unet, randomised(Dot(unet))


@pytest.fixture
def fake(fake, monkeypatch):
    return fake, fake_capture.install(monkeypatch, fake)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("plan", ["-", "-.", "-..-.-.", "--.--...-", "-" * 20])
def test_captured_steps_are_the_specification(models, fake, backend, plan):
    _, log = fake
    eager, ours = compiled(models, "eager", plan=plan), compiled(models, backend, plan=plan)
    for seed in (3, 4):
        log.clear()
        assert_close("steps", ours(batch_size=2, seed=seed), eager(batch_size=2, seed=seed))
        steps = [name for name in log if name not in ("noise", "first")]
        assert steps == ["Dash" if symbol == "-" else "Dot" for symbol in plan]
    assert ours.report().captures == 1


def test_host_and_device_make_the_same_bits(models, fake):
    runs = [compiled(models, backend)(batch_size=3, seed=5) for backend in BACKENDS]
    assert torch.equal(*runs)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_what_changes_without_a_new_capture(models, fake, backend):
    unet, _ = models

    def dash(x, t, *, shift):
        return unet(x, t).sample + shift[:, None, None, None] * x

    def light(x, t, x_s, z_s, t_s, z_p, t_p, *, shift):
        return 0.1 * (x - x_s) + shift[:, None, None, None] * (z_s - z_p)

    options = {"shape": (1, 16, 16), "plan": PLAN}
    ours, eager = (
        morse_engine.compile(dash, light, backend=name, **options) for name in (backend, "eager")
    )
    call = {"batch_size": 2, "shift": torch.tensor([0.0, 0.0, 0.1, 0.2]), "guidance_scale": 3.0}
    changes = [
        {},
        {"seed": 2**63},
        {"guidance_scale": 7.5},
        {"shift": torch.tensor([0.3, 0.0, 0.1, 0.0])},
        {"noise": torch.ones(2, 1, 16, 16)},
    ]
    plans = [PLAN, "-", "-.-.-.-.-.-."]
    schedulers = [None, DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++")]
    for change in changes:
        assert_close("steps", ours(**call | change), eager(**call | change))
    for plan in plans:
        for scheduler in schedulers:
            pair = [s.with_plan(plan, scheduler) for s in (ours, eager)]
            assert_close("steps", pair[0](**call), pair[1](**call))
    assert ours.report().captures == 1
    ours(**call | {"guidance_scale": None, "shift": torch.zeros(2)})
    assert ours.report().captures == 2, "without guidance the models see half as many images"
    # float timesteps are another type for the model
    euler = ours.with_plan(PLAN, EulerAncestralDiscreteScheduler())
    euler(**call)
    assert ours.report().captures == 3


@pytest.mark.parametrize("backend", BACKENDS)
def test_steps_and_segments_are_the_whole_run(models, fake, backend):
    ours = compiled(models, backend)
    whole = ours(batch_size=2, seed=4)
    for sizes in ([1] * 7, [3, 3, 1], [2, 5], [7]):
        run = ours.start(batch_size=2, seed=4)
        for size in sizes:
            run.segment(size)
            assert run.reached == run.i
        assert torch.equal(run.x, whole)


def test_reached_is_not_that_of_the_run_before(models, fake):
    """Between the launch and the device's first look at it."""
    driver, _ = fake
    ours = compiled(models, "device")
    ours(seed=1)
    driver.configure(deferred=True)
    run = ours.start(seed=1)
    run.segment(3)
    assert (run.i, run.reached) == (3, 0)
    driver.run_pending()
    assert run.reached == 3
    run.segment(2)
    assert (run.i, run.reached) == (5, 3)
    driver.run_pending()
    assert run.reached == 5


@pytest.mark.parametrize("backend", BACKENDS)
def test_progress(models, fake, backend):
    seen = []
    ours = compiled(models, backend)
    assert torch.equal(ours(seed=1, on_step=lambda *at: seen.append(at)), ours(seed=1))
    assert seen == [(i, 7) for i in range(7)]


@pytest.mark.parametrize("backend", BACKENDS)
def test_cancel_from_another_thread_stops_within_one_step(models, fake, backend):
    _, log = fake
    unet, _ = models
    reached, go_on = threading.Event(), threading.Event()
    count = 0

    class Slow(torch.nn.Module):
        """Says when the third call begins and waits there."""

        def __init__(self):
            super().__init__()
            self.unet = unet

        def forward(self, x, t):
            nonlocal count
            if log:
                count += 1
                if count == 3:
                    reached.set()
                    assert go_on.wait(30)
            return self.unet(x, t).sample

    ours = morse_engine.compile(Slow(), plan="-" * 9, backend=backend, shape=(1, 16, 16))
    run = ours.start(seed=1)
    log.append("run")
    thread = threading.Thread(target=run.segment)
    thread.start()
    assert reached.wait(30)
    run.cancel()
    go_on.set()
    thread.join(30)
    assert run.reached == 3
    with pytest.raises(RuntimeError, match="cancelled at step 3 of 9"):
        run.step()
    three = ours.start(seed=1)
    three.segment(3)
    assert torch.equal(three.x, _specification(ours, 3))


def _specification(sampler, steps):
    eager = morse_engine.compile(
        sampler.models.unet, plan=sampler.plan, backend="eager", shape=sampler.shape
    ).start(seed=1)
    eager.segment(steps)
    return eager.x


def test_a_callback_that_raises_cancels(models, fake):
    ours = compiled(models, "device")
    with pytest.raises(KeyboardInterrupt):
        ours(seed=1, on_step=lambda i, n: (_ for _ in ()).throw(KeyboardInterrupt))
    assert_close("steps", ours(seed=1), compiled(models, "eager")(seed=1))


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_weights(models, fake, backend):
    _, dot = models
    ours = compiled(models, backend, merge_dot=False)
    ours(seed=1)

    def check(captures):
        eager = compiled(models, "eager", merge_dot=False)
        assert_close("steps", ours(seed=1), eager(seed=1))
        assert ours.report().captures == captures

    with torch.no_grad():
        dot.gains.bias.add_(0.1)
    check(1)
    dot.gains.bias = torch.nn.Parameter(dot.gains.bias.detach() + 0.1)
    check(2)
    assert ours.report().recaptured_because == "gains.bias was replaced"
    with torch.no_grad():
        dot.gains.weight.data = dot.gains.weight.data.clone()
    check(3)
    assert ours.report().recaptured_because == "gains.weight was moved"
    dot.refine.act = type(dot.refine.act)(dot.refine.conv1.out_channels, 32).requires_grad_(False)
    check(4)
    assert ours.report().recaptured_because == "layers were exchanged or added"
    check(4)


def test_ledger(models, fake):
    ours = compiled(models, "device", graph_memory=1 << 40)
    for batch_size in (1, 2, 3, 1, 2):
        ours(batch_size=batch_size)
    report = ours.report()
    assert (report.captures, report.evicted, len(ours.captures)) == (3, 0, 3)
    static = sum(made.steps.num_bytes for made in ours.captures._kept.values())
    # Four graphs in each pool, two of them instantiated; the loop has its own copies of the others.
    assert report.graph_bytes == static + 3 * (4 * BLOCK + 2 * EXEC)
    ours.captures.budget = report.graph_bytes - 1
    ours(batch_size=1)
    assert (ours.report().evicted, len(ours.captures)) == (1, 2)
    ours(batch_size=2), ours(batch_size=1)
    assert ours.report().captures == 3, "3 was the least recently used"
    ours.captures.budget = 0
    ours(batch_size=1)
    assert len(ours.captures) == 1
    ours.free()
    assert ours.report().graph_bytes == 0
    assert_close("steps", ours(), compiled(models, "eager")())


def test_no_memory_for_a_capture_drops_the_others(models, fake, monkeypatch):
    ours = compiled(models, "host")
    ours(batch_size=1), ours(batch_size=2)
    capture, failures, half_made = graphs.capture, ["once"], []

    def fail_once(name, step, *args):
        if failures:
            half_made.append(weakref.ref(step.__self__))
            raise torch.OutOfMemoryError(failures.pop())
        assert half_made[-1]() is None, "what failed is gone before the second try"
        return capture(name, step, *args)

    dropped = [weakref.ref(made) for made in ours.captures._kept.values()]
    monkeypatch.setattr(graphs, "capture", fail_once)
    eager = compiled(models, "eager")
    assert_close("steps", ours(batch_size=3), eager(batch_size=3))
    assert (ours.report().evicted, len(ours.captures)) == (2, 1)
    assert not any(made() for made in dropped), "their memory is free for the second try"
    ours.free()
    failures.append("alone")
    with pytest.raises(torch.OutOfMemoryError, match="alone"):
        ours()


def test_with_backend_shares_the_captures(models, fake):
    host = compiled(models, "host")
    device, eager = host.with_backend("device"), host.with_backend("eager")
    assert torch.equal(host(batch_size=2, seed=5), device(batch_size=2, seed=5))
    assert_close("steps", host(batch_size=2, seed=5), eager(batch_size=2, seed=5))
    assert device.report().captures == 1
    with pytest.raises(ValueError, match="fast"):
        host.with_backend("fast")


def test_samplers_that_take_turns_load_their_table_once(models, fake, monkeypatch):
    """A load is more than a hundred launches, and copies that the host waits for."""
    host = compiled(models, "host")
    samplers = [host, host.with_backend("device"), host.with_plan(PLAN, host.scheduler)]
    rows, loads = SolverTable.for_plan, []
    monkeypatch.setattr(SolverTable, "for_plan", lambda *args: loads.append(args) or rows(*args))
    for _ in range(3):
        for sampler in samplers:
            sampler(seed=1)
    assert len(loads) == 1
    other = host.with_plan("-.-.-.-")
    for sampler in (other, host, other, host):
        sampler(seed=1)
    assert len(loads) == 5, "of another plan, or a capture would make its image"


@pytest.mark.slow
def test_nothing_grows_over_many_runs(models, fake):
    driver, _ = fake
    ours = compiled(models, "device", plan="-.")
    ours()
    before = driver.live()
    for seed in range(200):
        ours(seed=seed)
    assert driver.live() == before
    ours.free()
    gc.collect()
    assert driver.live()["execs"] == 0


@pytest.mark.slow
def test_a_budget_is_spent_with_the_measured_speed(models, fake, monkeypatch):
    measured, measure = [], Sampler.measure
    monkeypatch.setattr(
        Sampler,
        "measure",
        lambda *args, **options: measured.append(measure(*args, **options)) or measured[-1],
    )
    ours = compiled(models, "host", plan=4.0)
    (speed,) = measured
    assert ours.plan.lsd(speed.dot_speed) <= 4
    assert ours.measure(batch_size=2).dot_speed > 0


@pytest.mark.slow
def test_report(models, fake):
    ours = compiled(models, "device")
    ours(batch_size=2)
    report = ours.report(measure=True, batch_size=2)
    assert report.backend == "device"
    assert report.launches == {"Dash": 1, "Dot": 1}
    assert report.capture_s > 0
    assert report.dot_speed == pytest.approx(report.lsd_ms / report.dot_ms)
    for word in ("device", "captures", "nodes: Dash 1, Dot 1", "captured steps"):
        assert word in str(report)


def test_budget_of_the_ledger():
    with pytest.raises(ValueError, match="-1"):
        Captures(None, -1)
