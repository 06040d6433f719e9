"""What the one-launch loop refuses, and what it leaves where the driver fails."""

import gc

import pytest
import torch

import fake_driver
from morse_engine.runtime import native
from rig import LAYOUTS, NOTHING, Rig

# What is refused


@pytest.mark.parametrize(
    ("node", "text"),
    [
        ("host", "host callback: not allowed in the body of a conditional node"),
        ("wait_event", "event wait: not allowed"),
        ("event_record", "event record: not allowed"),
        ("ext_semas_signal", "external semaphore signal: not allowed"),
        ("ext_semas_wait", "external semaphore wait: not allowed"),
        ("batch_mem_op", "batched memory operation: not allowed"),
        ("mem_alloc", "memory allocation: memory cannot be allocated or freed inside a loop"),
        ("mem_free", "memory free: memory cannot be allocated or freed inside a loop"),
        ("conditional", "conditional: a graph with conditional nodes cannot be copied"),
    ],
)
def test_refuses_nodes(fake, node, text):
    dash, dot = fake.step_graph(int), fake.step_graph(int)
    fake.add_node(dot, node)
    with pytest.raises(RuntimeError, match=rf"Dot: node 1 of 2, {text}(.|\n)*backend=\"host\""):
        native.LoopGraph(native.Driver(fake.library), dash, dot, 64, 10)


def test_refusal_lists_all_nodes_of_both_steps(fake):
    dash, dot, inner = fake.graph(), fake.step_graph(int), fake.step_graph(int, "deep")
    fake.add_node(inner, "event_record")
    fake.add_node(dash, "memset")
    fake.add_child(dash, inner)
    fake.add_node(dash, "host")
    fake.add_child(dot, fake.graph())
    driver = native.Driver(fake.library)
    with pytest.raises(RuntimeError) as error:
        native.LoopGraph(driver, dash, dot, 64, 10)
    assert str(error.value) == (
        "these captured nodes cannot be in a loop on the device:\n"
        "  Dash: node 3 of 5, event record: not allowed in the body of a conditional node\n"
        "  Dash: node 4 of 5, host callback: not allowed in the body of a conditional node\n"
        "  Dot: node 1 of 2, child graph: an empty child graph cannot be run\n"
        'Use backend="host", or move what makes them out of the step'
    )
    nodes = native.census(driver, dash)
    assert [(node.index, node.type, node.kernel) for node in nodes] == [
        (0, "memset", ""),
        (1, "child graph", ""),
        (2, "kernel", "deep"),
        (3, "event record", ""),
        (4, "host callback", ""),
    ]


def test_refuses_an_empty_graph(fake):
    with pytest.raises(RuntimeError, match="Dash: the graph is empty"):
        native.LoopGraph(native.Driver(fake.library), fake.graph(), 0, 64, 10)


def test_memcpy_nodes(fake):
    pinned, pageable = fake.pinned(), torch.zeros(1).data_ptr()
    graph = fake.graph()
    for source, target in [
        (("device", 64), ("device", 64)),
        (("host", pinned), ("device", 64)),
        (("device", 64), ("unified", pinned)),
        (("host", pageable), ("device", 64)),
        (("device", 64), ("unified", pageable)),
        (("array", 64), ("device", 64)),
        (("device", 64), ("array", 64)),
    ]:
        fake.add_memcpy(graph, source, target)
    assert [node.refusal for node in native.census(native.Driver(fake.library), graph)] == [
        "",
        "",
        "",
        "copies from pageable host memory",
        "copies to pageable host memory",
        "copies from a CUDA array",
        "copies to a CUDA array",
    ]


def test_cooperative_kernels(fake):
    graph = fake.graph()
    fake.add_kernel(graph, "grid_sync", int, cooperative=True)
    fake.configure(version=12040)
    with pytest.raises(
        RuntimeError, match=r"kernel grid_sync: cooperative kernels .* 12\.6, this one is 12\.4"
    ):
        native.LoopGraph(native.Driver(fake.library), graph, 0, 64, 10)
    fake.configure(version=12060)
    driver = native.Driver(fake.library)
    assert native.census(driver, graph)[0].cooperative
    native.LoopGraph(driver, graph, 0, 64, 10)


def test_arguments(fake):
    driver, graph = native.Driver(fake.library), fake.step_graph(int)
    with pytest.raises(ValueError, match="dash is null"):
        native.LoopGraph(driver, 0, 0, 64, 10)
    with pytest.raises(ValueError, match="step is null"):
        native.LoopGraph(driver, graph, 0, 0, 10)
    with pytest.raises(ValueError, match="capacity is 0"):
        native.LoopGraph(driver, graph, 0, 64, 0)
    with pytest.raises(ValueError, match='unknown layout "loop"; use one of "switch", "two_ifs"'):
        native.LoopGraph(driver, graph, 0, 64, 10, "loop")
    loop = native.LoopGraph(driver, graph, graph, 64, 3)
    with pytest.raises(ValueError, match="no plan"):
        loop.launch()
    with pytest.raises(ValueError, match="a plan of 0 steps: this loop holds 1 to 3"):
        loop.set_plan("")
    with pytest.raises(ValueError, match="a plan of 4 steps: this loop holds 1 to 3"):
        loop.set_plan("----")
    with pytest.raises(ValueError, match="'x' at step 1 of the plan"):
        loop.set_plan("-x.")
    with pytest.raises(ValueError, match="the plan begins with a free step"):
        loop.set_plan(":-.")
    loop.set_plan("-.")
    with pytest.raises(ValueError, match="until is -2"):
        loop.launch(until=-2)


# Drivers


def test_old_drivers(fake):
    fake.configure(version=12020)
    old = native.Driver(fake.library)
    assert old.version() == 12020
    with pytest.raises(RuntimeError, match=r"12\.4, this one is for 12\.2; .*backend=\"host\""):
        native.default_layout(old)
    with pytest.raises(RuntimeError, match=r"12\.4, this one is for 12\.2"):
        native.LoopGraph(old, fake.step_graph(int), 0, 64, 10)
    assert not native.available(fake.library)
    assert "this one is for 12.2" in native.reason(fake.library)

    rig = Rig(fake, version=12040)
    assert rig.loop.layout == "two_ifs"
    for layout in ["two_ifs", "nested", "unrolled"]:
        assert Rig(fake, layout).run("-..-") == "-..-"
    with pytest.raises(RuntimeError, match=r"\"switch\".* 12\.8, .* 12\.4; use layout \"two_ifs\""):
        Rig(fake, "switch")

    assert Rig(fake, version=12080).loop.layout == "switch"
    assert native.available(fake.library)
    assert native.reason(fake.library) == ""


def test_a_call_that_the_driver_does_not_have(fake):
    fake.configure(version=12020)
    old = native.Driver(fake.library)
    graph = fake.step_graph(int)
    assert native.census(old, graph)[0].kernel == ""  # no cuFuncGetName before 12.3


@pytest.mark.usefixtures("fake")
def test_no_driver():
    missing = "libno_such_cuda.so"
    with pytest.raises(RuntimeError, match=f"no CUDA driver: {missing}"):
        native.Driver(missing)
    assert not native.available(missing)
    assert missing in native.reason(missing)


@pytest.mark.usefixtures("fake")
def test_a_library_that_is_no_driver():
    library = "libm.so.6"
    with pytest.raises(
        RuntimeError, match=r"no CUDA driver: libm\.so\.6 has no cuGetProcAddress_v2"
    ):
        native.Driver(library)


def test_no_context(fake):
    fake.configure(context=False)
    with pytest.raises(RuntimeError, match=r"no CUDA context is current.*create a tensor"):
        native.LoopGraph(native.Driver(fake.library), fake.step_graph(int), 0, 64, 10)


COMPOSING = [
    "cuCtxGetCurrent",
    "cuGraphGetNodes",
    "cuGraphNodeGetType",
    "cuGraphKernelNodeGetAttribute",
    "cuModuleLoadDataEx",
    "cuModuleGetFunction",
    "cuMemAlloc",
    "cuMemHostAlloc",
    "cuMemHostGetDevicePointer",
    "cuMemsetD32Async",
    "cuStreamSynchronize",
    "cuGraphCreate",
    "cuGraphConditionalHandleCreate",
    "cuGraphAddNode",
    "cuGraphInstantiateWithParams",
    "cuGraphClone",
]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_call_of_composition_may_fail(fake, layout):
    Rig(fake, layout)
    times = {call: fake.calls(call) for call in COMPOSING}
    gc.collect()
    unused = {call for call, count in times.items() if count == 0}
    if layout == "unrolled":  # composed with the plan
        assert unused == {"cuModuleGetFunction", *COMPOSING[-5:-1]}
    else:
        assert unused == {"cuGraphClone"}
    for call in COMPOSING:
        for nth in range(1, times[call] + 1):
            again = fake_driver.load()
            again.fail(call, nth)
            with pytest.raises(RuntimeError, match=rf"^{call}: CUDA_ERROR_OUT_OF_MEMORY"):
                Rig(again, layout)
            assert again.live() == {"graphs": 2, **NOTHING}  # the two captured ones


@pytest.mark.parametrize(
    "call",
    [
        "cuGraphCreate",
        "cuModuleGetFunction",
        "cuGraphAddNode",
        "cuGraphInstantiateWithParams",
        "cuMemcpyDtoHAsync",
        "cuMemcpyHtoDAsync",
        "cuStreamSynchronize",
        "cuMemsetD32Async",
    ],
)
def test_unrolled_may_fail_and_go_on(fake, call):
    rig = Rig(fake, "unrolled")
    assert rig.run("-.") == "-."
    fake.fail(call, fake.calls(call) + 1)
    with pytest.raises(RuntimeError, match=f"^{call}: "):
        rig.run("-.-")
    assert rig.run("-.-") == "-.-"
    del rig.loop
    assert fake.live() == {"graphs": 2, **NOTHING}


def test_a_failed_launch_is_not_a_run(fake):
    rig = Rig(fake)
    fake.fail("cuGraphLaunch")
    with pytest.raises(RuntimeError, match=r"^cuGraphLaunch: "):
        rig.run("-.")
    assert rig.loop.done()
    assert rig.run("-.") == "-."
    assert rig.loop.done()


def test_instantiation_says_what_the_driver_said(fake):
    fake.fail("cuGraphInstantiateWithParams", code=1)
    with pytest.raises(RuntimeError, match=r"CUDA_ERROR_INVALID_VALUE.*CUDA_LOG_FILE=stderr"):
        Rig(fake)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_everything_is_freed(fake, layout):
    rig = Rig(fake, layout, deferred=True)
    rig.loop.set_plan("-..")
    rig.loop.launch()
    assert not rig.loop.done()
    del rig.loop  # waits for the run
    assert rig.made == "-.."
    assert fake.live() == {"graphs": 2, **NOTHING}


def test_without_the_extension(monkeypatch):
    monkeypatch.setattr(native, "_native", None)
    monkeypatch.setattr(native, "_MISSING", "the C++ extension was not built (why)")
    assert not native.available()
    assert native.reason() == "the C++ extension was not built (why)"
    with pytest.raises(RuntimeError, match="was not built"):
        _ = native.LoopGraph
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = native.nothing
