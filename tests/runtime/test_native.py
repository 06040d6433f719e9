"""The one-launch loop on the fake driver: its graphs, and the steps that it makes."""

import re
import threading
from pathlib import Path

import pytest

import fake_driver
from morse_engine.runtime import native
from rig import CONDITIONAL, LAYOUTS, Rig

ROOT = Path(__file__).parents[2]


# The shape of each layout


SHAPES = {
    "switch": """\
morse_begin
WHILE
  morse_choose_switch
  SWITCH
   case 0
    graph
      dash
   case 1
    graph
      dot
morse_end
""",
    "two_ifs": """\
morse_begin
WHILE
  morse_choose_two
  IF
    graph
      dash
  IF
    graph
      dot
morse_end
""",
    "nested": """\
morse_begin
WHILE
  morse_pick_two
  WHILE
    graph
      dash
    morse_count_pick_two
  WHILE
    graph
      dot
    morse_count_pick_two
  morse_next
morse_end
""",
    "unrolled": """\
morse_chain_start
graph
  dash
morse_chain_count
graph
  dot
morse_chain_count
morse_chain_end
""",
}
DASH_ALONE = "morse_begin\nWHILE\n  graph\n    dash\n  morse_count_next\nmorse_end\n"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_shape(fake, layout):
    loop = Rig(fake, layout).loop
    loop.set_plan("-.")
    loop.launch()
    assert fake.dump() == SHAPES[layout]
    added = sum(
        not line.strip().startswith(("dash", "dot", "case")) for line in fake.dump().splitlines()
    )
    assert loop.num_nodes == {"root": added, "dash": 1, "dot": 1}
    assert loop.layout == layout
    assert loop.bytes == 16 + 1000
    assert f'layout "{layout}"' in loop.describe()


@pytest.mark.parametrize("layout", CONDITIONAL)
def test_shape_without_dot(fake, layout):
    rig = Rig(fake, layout, dot=False)
    assert fake.dump() == DASH_ALONE
    assert rig.run("---") == "---"
    with pytest.raises(ValueError, match=r"step 1 of the plan is a Dot step.*without a Dot graph"):
        rig.loop.set_plan("-.")


def test_every_kernel_is_in_the_ptx(fake):
    for layout in LAYOUTS:
        Rig(fake, layout).run("-.")
    Rig(fake, "switch", dot=False)
    entries = set(re.findall(r"\.entry (\w+)", (ROOT / "csrc/loop_kernels.ptx.h").read_text()))
    assert fake.kernels_found() == entries


# Runs


@pytest.mark.parametrize("body_defaults", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_makes_the_steps_of_the_plan(fake, layout, body_defaults):
    rig = Rig(fake, layout, body_defaults=body_defaults)
    for plan in ["-", "-..-.", "-" * 7, "-....", "-" + ".-" * 499 + ".", "-.", "--..--"]:
        assert rig.run(plan) == plan
        assert rig.loop.progress() == len(plan)
        assert rig.loop.done()
    # Another plan is data; only unrolled is other graphs: of the 16 pieces of 1,000 steps, 14 are
    # the same.
    assert fake.calls("cuGraphInstantiateWithParams") == (9 if layout == "unrolled" else 1)


def test_unrolled_keeps_the_graph_of_the_same_steps(fake):
    rig = Rig(fake, "unrolled")
    for _ in range(3):
        assert rig.run("-.") == "-."
    assert fake.calls("cuGraphInstantiateWithParams") == 1
    assert fake.live()["graphs"] == 2 + 2 + 1  # captured, copies, root
    # The captured graphs were copied.
    fake.destroy(rig.dash)
    fake.destroy(rig.dot)
    assert rig.run(".--") == ".--"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_free_steps_are_made_by_the_step_before_them(fake, layout):
    plan, advance = "-::.-:.", {0: 3, 3: 1, 4: 2, 6: 1}
    rig = Rig(fake, layout)

    def make(symbol):
        rig.made += symbol
        rig.step += advance[int(rig.step)]

    rig.make = make
    assert rig.run(plan) == "-.-."
    assert (rig.loop.progress(), rig.loop.done()) == (7, True)
    rig.made = ""
    rig.step.zero_()
    rig.loop.launch(until=4)
    assert (rig.made, rig.loop.progress()) == ("-.", 4)
    rig.loop.launch()
    assert rig.made == "-.-."


@pytest.mark.parametrize("layout", CONDITIONAL)
def test_a_step_that_does_not_count_its_free_steps_ends_the_run(fake, layout):
    rig = Rig(fake, layout)
    assert rig.run("-.:.") == "-."
    assert (rig.loop.progress(), rig.loop.done()) == (2, True)


@pytest.mark.parametrize("layout", CONDITIONAL)
def test_captured_graphs_are_copied(fake, layout):
    rig = Rig(fake, layout)
    fake.add_kernel(rig.dash, "later", lambda: pytest.fail("a later node was run"))
    assert rig.run("-.-") == "-.-"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_segments_are_the_whole_run(fake, layout):
    plan = "-..-...--."
    for size in range(1, len(plan) + 1):
        rig = Rig(fake, layout, capacity=len(plan))
        rig.loop.set_plan(plan)
        for end in range(size, len(plan) + size, size):
            rig.loop.launch(until=end)
            assert rig.made == plan[:end]
            assert rig.loop.progress() == min(end, len(plan))
            assert rig.loop.done()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_run_starts_where_the_step_number_is(fake, layout):
    rig = Rig(fake, layout)
    rig.loop.set_plan("--..-")
    for start, made in [(2, "..-"), (4, "-"), (5, ""), (-1, ""), (999, ""), (2**31 - 1, "")]:
        rig.made = ""
        rig.step.fill_(start)
        rig.loop.launch()
        assert rig.made == made
        assert rig.loop.done()
        assert rig.loop.progress() == start + len(made)
    rig.step.zero_()
    rig.loop.launch(until=0)
    assert rig.made == ""


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_step_that_does_not_count_cannot_loop_for_ever(fake, layout):
    rig = Rig(fake, layout, capacity=9)
    rig.make = lambda symbol: setattr(rig, "made", rig.made + symbol)
    assert rig.run("-.") == ("-." if layout == "unrolled" else "-" * 9)
    assert rig.loop.done()


@pytest.mark.parametrize("layout", CONDITIONAL)
def test_cancel_ends_the_run_within_a_step(fake, layout):
    rig = Rig(fake, layout)
    rig.on_step = lambda: rig.made == "-.." and rig.loop.cancel()
    assert rig.run("-..-..--") == "-.."
    assert rig.loop.progress() == 3
    assert rig.loop.done()
    # A later run is not affected, and continues.
    rig.loop.launch()
    assert rig.made == "-..-..--"
    rig.loop.cancel()  # nothing runs
    assert rig.run("-.") == "-."


@pytest.mark.parametrize("layout", CONDITIONAL)
def test_queued_launches(fake, layout):
    rig = Rig(fake, layout, deferred=True)
    rig.loop.set_plan("-..-..")
    assert rig.loop.done()
    rig.loop.launch(until=2)
    rig.loop.launch(until=4)
    rig.loop.set_plan("---.-.--")  # in stream order, after these two
    rig.loop.launch()
    assert (rig.made, rig.loop.progress(), rig.loop.done()) == ("", -1, False)
    assert fake.run_pending() == 0
    assert (rig.made, rig.loop.progress(), rig.loop.done()) == ("-..--.--", 8, True)


def test_cancel_ends_all_queued_runs(fake):
    rig = Rig(fake, deferred=True)
    rig.loop.set_plan("-.-.-.")
    rig.loop.launch(until=2)
    rig.loop.launch(until=4)
    rig.loop.cancel()
    rig.loop.launch(until=3)
    fake.run_pending()
    assert rig.made == "-.-"
    assert rig.loop.done()


def test_another_thread_watches_and_cancels(fake):
    rig = Rig(fake)
    halfway, cancelled, seen = threading.Event(), threading.Event(), []

    def watch():
        halfway.wait()
        seen.append((rig.loop.progress(), rig.loop.done()))
        rig.loop.cancel()
        cancelled.set()

    def on_step():
        if len(rig.made) == 500:
            halfway.set()
            assert cancelled.wait(60)

    rig.on_step = on_step
    thread = threading.Thread(target=watch)
    thread.start()
    rig.run("-" * 1000)
    thread.join()
    assert seen == [(499, False)]
    assert len(rig.made) == 500


def test_two_loops_over_the_same_steps(fake):
    rig = Rig(fake)
    other = native.LoopGraph(rig.driver, rig.dash, rig.dot, rig.step.data_ptr(), 50, "nested")
    other.set_plan("-.-.")
    assert rig.run("-..") == "-.."
    other.launch()
    assert rig.made == "-..."
    assert (rig.loop.progress(), other.progress()) == (3, 4)


def test_unknown_kinds_end_the_run(fake):
    """Memory that another kernel destroyed must not become an endless loop."""
    for layout in CONDITIONAL:
        rig = Rig(fake_driver.load(), layout)
        # The one allocation: 16 bytes of state, then the kinds.
        rig.on_step = lambda rig=rig: rig.made == "-." and rig.fake.overwrite(16 + 2, 7)
        assert rig.run("-..-") == "-."
        assert rig.loop.done()


def test_a_failing_step_is_an_error_of_the_launch(fake):
    rig = Rig(fake)

    def fail():
        raise KeyError("in the step")

    rig.on_step = fail
    with pytest.raises(RuntimeError, match=r"cuGraphLaunch: CUDA_ERROR_LAUNCH_FAILED \(.+\)"):
        rig.run("-.")
    assert isinstance(fake.error, KeyError)
