"""Which layout of the one-launch loop engages where a driver cannot do all; how a wait ends."""

import time

import pytest
import torch

import fake_driver
from morse_engine.runtime import native
from rig import FIRST, LAYOUTS, NOTHING, Rig

NOT_SUPPORTED = "CUDA_ERROR_NOT_SUPPORTED"
# What the driver refuses -> the layout that engages, and what is said of those before it.
FALLBACKS = {
    (): ("switch", ""),
    ("switch",): ("two_ifs", f"cuGraphAddNode: {NOT_SUPPORTED}"),
    ("conditional",): ("unrolled", f"cuGraphAddNode: {NOT_SUPPORTED}"),
    ("launch",): ("unrolled", f"cuGraphLaunch: {NOT_SUPPORTED}"),
    ("extern",): ("unrolled", "Unresolved extern function"),
    ("upload",): ("switch", ""),
}


def composed(fake, capacity=100):
    """Two steps that write down what they make, composed."""
    rig = Rig(fake, FIRST, capacity)
    return rig, rig.composed


@pytest.mark.parametrize("refused", FALLBACKS, ids="+".join)
def test_the_first_layout_that_works_engages(fake, refused):
    fake.refuse(*refused)
    rig, made = composed(fake)
    layout, why = FALLBACKS[refused]
    assert made.loop.layout == layout
    assert list(made.refused) == list(native.LAYOUTS[: native.LAYOUTS.index(layout)])
    assert all(why in reason for reason in made.refused.values())
    for plan in ("-..-.-.", "-", "-" + "." * 80):
        assert rig.run(plan) == plan
        assert (made.loop.progress(), made.loop.done()) == (len(plan), True)
    rig.loop = rig.composed = made = None
    assert fake.live() == {"graphs": 2, **NOTHING}, "layouts that were tried leave nothing"


def test_the_compiler_of_the_driver_is_heard(fake):
    fake.refuse("extern")
    with pytest.raises(RuntimeError) as error:
        Rig(fake, "two_ifs")
    assert str(error.value) == (
        "cuModuleLoadDataEx: CUDA_ERROR_INVALID_PTX (said the fake driver); the driver's compiler "
        "says: Unresolved extern function 'cudaGraphSetConditional'"
    )


def test_a_layout_can_be_forced(fake, monkeypatch):
    for layout in LAYOUTS:
        monkeypatch.setenv(native.FORCED, layout)
        _, made = composed(fake_driver.load())
        assert (made.loop.layout, made.refused) == (layout, {})
    fake = fake_driver.load()
    fake.refuse("conditional")
    monkeypatch.setenv(native.FORCED, "two_ifs")
    with pytest.raises(RuntimeError, match=r"^layout two_ifs: cuGraphAddNode: CUDA_ERROR_NOT"):
        composed(fake)
    monkeypatch.setenv(native.FORCED, "loop")
    with pytest.raises(ValueError, match="MORSE_ENGINE_LAYOUT='loop': use one of switch, two_ifs"):
        composed(fake)
    monkeypatch.setenv(native.FORCED, "none")
    assert native.reason(fake.library) == "MORSE_ENGINE_LAYOUT is none"
    with pytest.raises(RuntimeError, match="MORSE_ENGINE_LAYOUT is none"):
        composed(fake)


def test_no_layout_at_all_says_each_reason_once(fake):
    fake.fail("cuGraphGetNodes", 1)
    fake.refuse("conditional")
    fake.fail("cuMemHostAlloc", 2)
    with pytest.raises(RuntimeError) as error:
        composed(fake)
    assert [line.partition(":")[0] for line in str(error.value).splitlines()] == [
        "layout switch",
        "layout two_ifs",
        "layout unrolled",
    ]
    dash = fake.graph()  # empty: refused by each layout alike
    with pytest.raises(RuntimeError, match=r"layout switch, two_ifs, unrolled: these captured"):
        native.compose(native.Driver(fake.library), dash, 0, 64, 10)


def test_a_trial_that_does_not_end_is_the_last(fake, monkeypatch):
    monkeypatch.setattr(native, "TRIAL_S", 0.05)
    fake.configure(deferred=True)
    # A launch that never begins; the copies to memory are waited for by nobody.
    with pytest.raises(RuntimeError, match="layout switch: a run of no steps did not end") as error:
        composed(fake)
    assert "two_ifs" not in str(error.value)
    fake.run_pending()


def test_a_device_that_fails_is_not_waited_for(fake):
    def look():
        raise RuntimeError("an illegal address")

    rig = Rig(fake, deferred=True)
    rig.loop.set_plan("-")
    rig.loop.launch()
    with pytest.raises(RuntimeError, match="an illegal address"):
        native.ends_within(rig.loop, 60, look)
    fake.run_pending()


def test_an_upload_is_waited_for_and_may_be_refused(fake):
    """Launches come on streams that do not wait for the one of the upload."""
    rig = Rig(fake)
    assert rig.run("-.") == "-."
    with_upload = fake.calls("cuStreamSynchronize")
    fake = fake_driver.load()
    fake.refuse("upload")
    assert Rig(fake).run("-.") == "-."
    assert fake.calls("cuStreamSynchronize") == with_upload - 1


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_wait_has_a_bound_and_cancels(fake, layout):
    rig = Rig(fake, layout, deferred=True)
    rig.loop.set_plan("-..-")
    rig.loop.launch()
    started = time.monotonic()
    assert not native.ends_within(rig.loop, 0.05)
    assert time.monotonic() - started < 5
    fake.run_pending()
    assert native.ends_within(rig.loop, 0.05)
    # A chain cannot skip steps: it is made.
    assert rig.made == ("-..-" if layout == "unrolled" else "")
    assert rig.run("-.") == "" or rig.made == "-."
    fake.run_pending()
    assert rig.made == "-.", "a later run is not cancelled"


@pytest.mark.slow
def test_a_cancelled_run_that_does_not_end_is_left_behind(fake):
    rig = Rig(fake, "switch", deferred=True)
    rig.loop.set_plan("-..-")
    rig.loop.launch()
    rig.loop.cancel()
    before, started = fake.live(), time.monotonic()
    rig.loop = None
    assert 9 < time.monotonic() - started < 30
    assert fake.live() == before, "what the run may still use stays"
    fake.run_pending()


def test_unrolled_runs_from_where_the_step_number_is(fake):
    """Segments, a run of many pieces, and a second run of the same plan after a broken one."""
    rig, plan = Rig(fake, "unrolled"), "-..-.-" * 30
    rig.loop.set_plan(plan)
    for until in (1, 70, 71, 180):
        rig.loop.launch(until=until)
        assert (rig.made, rig.loop.progress()) == (plan[:until], until)
    rig.step.zero_()
    rig.made = ""
    rig.loop.launch(until=100)
    rig.step.zero_()
    rig.made = ""
    rig.loop.launch()
    assert rig.made == plan
    assert rig.step.item() == len(plan)
    rig.made = ""
    rig.step.fill_(1)
    rig.loop.set_plan("-:.")  # no step begins there
    rig.loop.launch()
    assert (rig.made, rig.loop.done()) == ("", True)


def test_a_failed_piece_is_not_a_run(fake):
    rig = Rig(fake, "unrolled")
    fake.fail("cuGraphLaunch")
    with pytest.raises(RuntimeError, match=r"^cuGraphLaunch: "):
        rig.run("-.")
    assert rig.loop.done()
    assert rig.run("-.") == "-."
    assert torch.equal(rig.step, torch.tensor([2], dtype=torch.int32))
