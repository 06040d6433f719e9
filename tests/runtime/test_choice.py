"""Which way "auto" takes: the faster one of those that work, and a loop that fails costs little."""

import warnings

import pytest
import torch
from torch import nn

import fake_capture
from captured import BACKENDS, compiled
from models import randomised, tiny_unet
from morse_engine import Dot
from morse_engine.runtime import backends, graphs
from tolerances import assert_close


@pytest.fixture
def models():
    unet = tiny_unet()
    return unet, randomised(Dot(unet))


@pytest.fixture
def fake(fake, monkeypatch):
    return fake, fake_capture.install(monkeypatch, fake)


def test_auto_measures_and_picks(models, fake, monkeypatch):
    monkeypatch.setattr(backends, "captures_by_itself", lambda device: True)
    ours = compiled(models, "auto")
    assert_close("steps", ours(seed=1), compiled(models, "eager")(seed=1))
    report = ours.report()
    assert report.backend in BACKENDS
    assert "host" in report.why
    assert "device" in report.why
    assert "for 7 steps" in report.why


def test_auto_without_a_loop_is_host(models, fake, monkeypatch):
    driver, _ = fake
    monkeypatch.setattr(backends, "captures_by_itself", lambda device: True)
    driver.refuse("conditional")
    driver.fail("cuMemHostAlloc", 3)
    ours = compiled(models, "auto")
    assert_close("steps", ours(seed=1), compiled(models, "eager")(seed=1))
    assert ours.report().backend == "host"
    for part in ("layout switch, two_ifs: cuGraphAddNode", "layout unrolled: cuMemHostAlloc"):
        assert part in ours.report().why
    assert ours.report().layout is None


def test_the_loop_can_be_forbidden(models, fake, monkeypatch):
    monkeypatch.setattr(backends, "captures_by_itself", lambda device: True)
    monkeypatch.setenv("MORSE_ENGINE_LAYOUT", "none")
    ours = compiled(models, "auto")
    ours(seed=1)
    assert ours.report().backend == "host"
    assert ours.report().why == "no one-launch loop: MORSE_ENGINE_LAYOUT is none"


@pytest.mark.slow
@pytest.mark.parametrize("refused", [(), ("switch",), ("conditional",), ("extern",), ("launch",)])
def test_every_layout_makes_the_bits_of_the_host(models, fake, refused):
    driver, log = fake
    driver.refuse(*refused)
    host, device = compiled(models, "host"), compiled(models, "device")
    expected = host(batch_size=2, seed=5)
    assert torch.equal(device(batch_size=2, seed=5), expected)
    assert_close("steps", expected, compiled(models, "eager")(batch_size=2, seed=5))
    run = device.start(batch_size=2, seed=5)
    for size in (3, 1, 9):
        run.segment(size)
        assert run.reached == run.i
    assert torch.equal(run.x, expected)
    seen = []
    log.clear()
    again = device.with_plan("-.--.")
    assert torch.equal(
        again(seed=1, on_step=lambda *at: seen.append(at)), host.with_plan("-.--.")(seed=1)
    )
    assert seen == [(i, 5) for i in range(5)]
    assert log[:7] == ["noise", "first", "Dash", "Dot", "Dash", "Dash", "Dot"]
    report = device.report()
    layout = "switch" if not refused else "two_ifs" if refused == ("switch",) else "unrolled"
    assert f"loop      {layout}, in one launch" in str(report)
    for name in report.refused:
        assert f"          not {name}: cu" in str(report)
    assert len(report.refused) == ("switch", "two_ifs", "unrolled").index(layout)


def auto(models, monkeypatch):
    monkeypatch.setattr(backends, "captures_by_itself", lambda device: True)
    return compiled(models, "auto")


# The launches of one step, of all, and a timed one; the first is the trial of its layout.
@pytest.mark.parametrize("nth", [2, 3, 5])
def test_auto_with_a_loop_that_fails_is_host(models, fake, monkeypatch, nth):
    driver, _ = fake
    ours = auto(models, monkeypatch)
    driver.fail("cuGraphLaunch", nth, code=702)  # as the fake driver's own after 10^6 turns
    expected = compiled(models, "eager")(seed=1)
    for _ in range(2):
        assert_close("steps", ours(seed=1), expected)
        assert ours.report().backend == "host"
        assert "one-launch loop failed: cuGraphLaunch" in ours.report().why
    assert driver.calls("cuGraphLaunch") == nth, "it is not tried again"


@pytest.fixture
def hangs(fake, monkeypatch):
    """The fake driver, where nothing that is launched happens once the loop is composed."""
    driver, _ = fake
    compose = graphs.native.compose

    def and_hang(*args):
        made = compose(*args)
        driver.configure(deferred=True)
        return made

    monkeypatch.setattr(graphs.native, "compose", and_hang)
    monkeypatch.setattr(graphs, "PATIENCE_S", 0.05)
    monkeypatch.setattr(graphs, "PATIENCE", 0)
    return driver


def test_auto_with_a_loop_that_hangs_is_host(models, hangs, monkeypatch):
    cancel = graphs.native.LoopGraph.cancel
    cancelled = []

    def cancel_that_helps(loop):
        cancel(loop)
        cancelled.append(hangs.run_pending())

    monkeypatch.setattr(graphs.native.LoopGraph, "cancel", cancel_that_helps)
    ours = auto(models, monkeypatch)
    assert_close("steps", ours(seed=1), compiled(models, "eager")(seed=1))
    assert ours.report().backend == "host"
    assert "does not end within 0 s" in ours.report().why
    assert cancelled == [0]


def test_auto_with_a_loop_that_cannot_be_stopped(models, hangs, monkeypatch):
    with pytest.raises(RuntimeError, match=r"cancelled, it does not end.*backend='host'"):
        auto(models, monkeypatch)(seed=1)
    hangs.run_pending()


def test_auto_compares_bits_not_numbers(models, fake, monkeypatch):
    """NaN is the same NaN; and a loop that makes another image is not taken."""
    unet, _ = models
    ours, bias = auto(models, monkeypatch), unet.conv_out.bias.detach().clone()
    torch.nn.init.constant_(unet.conv_out.bias, torch.nan)
    assert ours(seed=1).isnan().all()
    assert "for 7 steps" in ours.report().why
    unet.conv_out.bias.data.copy_(bias)
    launch_loop = graphs.StepGraphs.launch_loop

    def wrong(self, until):
        launch_loop(self, until)
        self.steps.state.x[0, 0, 0, 0] += 1e-3

    monkeypatch.setattr(graphs.StepGraphs, "launch_loop", wrong)
    ours.free()
    assert_close("steps", ours(seed=1), compiled(models, "eager")(seed=1))
    assert (ours.report().backend, "other bits" in ours.report().why) == ("host", True)


def test_auto_without_captures_is_eager_and_says_so(models, fake, monkeypatch):
    monkeypatch.setattr(backends, "captures_by_itself", lambda device: True)

    def fail(*args):
        raise RuntimeError("the Dash step cannot be captured: because")

    monkeypatch.setattr(graphs, "capture", fail)
    ours = compiled(models, "auto")
    with pytest.warns(UserWarning, match="cannot be captured") as found:
        x = ours(seed=1)
    assert found[0].filename == __file__, "the line of the caller"
    again = compiled(models, "auto")
    with pytest.warns(UserWarning, match="cannot be captured") as found:
        again.start(seed=1)
    assert found[0].filename == __file__
    assert torch.equal(x, compiled(models, "eager")(seed=1))
    assert (ours.report().backend, ours.report().captures) == ("eager", 1)
    with pytest.raises(RuntimeError, match="cannot be captured"):
        compiled(models, "host")(seed=1)


@pytest.mark.slow
def test_a_layout_without_captures_does_not_make_the_next_one_eager(models, fake, monkeypatch):
    monkeypatch.setattr(backends, "captures_by_itself", lambda device: True)
    capture, tried = graphs.capture, []

    def fail_at_batch_2(name, step, *args):
        batch = len(step.__self__.state.x)
        tried.append(batch)
        if batch == 2:
            raise RuntimeError("this batch cannot be captured")
        return capture(name, step, *args)

    monkeypatch.setattr(graphs, "capture", fail_at_batch_2)
    ours = compiled(models, "auto")
    with pytest.warns(UserWarning, match="this batch"):
        ours(batch_size=2)
    assert (ours.report().backend, ours.report().why) == ("eager", "this batch cannot be captured")
    ours(batch_size=1)
    assert ours.report().backend in BACKENDS
    with warnings.catch_warnings():  # known by now: neither tried nor said again
        warnings.simplefilter("error")
        x = ours(batch_size=2)
    assert torch.equal(x, compiled(models, "eager")(batch_size=2))
    assert tried.count(2) == 1
    models[0].conv_in.bias = nn.Parameter(models[0].conv_in.bias.detach().clone())
    with pytest.warns(UserWarning, match="this batch"):  # other weights, another try
        ours(batch_size=2)
