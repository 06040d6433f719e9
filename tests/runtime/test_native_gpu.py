"""The one-launch loop on a GPU, of steps captured by torch."""

import gc
import time

import pytest
import torch

from morse_engine.runtime import native

LAYOUTS = ["switch", "two_ifs", "nested", "unrolled"]
CONDITIONAL = LAYOUTS[:3]
BOUND_S = 20  # of a run: past it the test fails, where a wait in the driver would never end


class Captured:
    """Two steps captured by torch, whose arithmetic tells their order, and the loop around them."""

    def __init__(self, layout, capacity=1000):
        if not native.available():
            pytest.skip(native.reason())
        if layout not in (None, "two_ifs", "nested", "unrolled") and (
            native.Driver().version() < 12080
        ):
            pytest.skip("this driver has no SWITCH node")
        # Exact in float64 for any order: integers, modulo a prime.
        self.x = torch.ones(1000, dtype=torch.float64, device="cuda")
        self.step = torch.zeros(1, dtype=torch.int32, device="cuda")
        self.stream = torch.cuda.Stream()
        self.dash = self.capture(lambda: self.x.mul_(2).remainder_(1009))
        self.dot = self.capture(lambda: self.x.add_(1))
        self.loop = native.LoopGraph(
            native.Driver(),
            self.dash.raw_cuda_graph(),
            self.dot.raw_cuda_graph(),
            self.step.data_ptr(),
            capacity,
            layout,
        )
        self.dash.instantiate()
        self.dot.instantiate()

    def capture(self, body):
        body()  # loads the kernels, which must not happen during a capture
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph(keep_graph=True)
        with torch.cuda.graph(graph, stream=self.stream):
            body()
            self.step.add_(1)
        return graph

    def reset(self):
        with torch.cuda.stream(self.stream):
            self.x.fill_(1)
            self.step.zero_()

    def by_host(self, plan):
        self.reset()
        with torch.cuda.stream(self.stream):
            for symbol in plan:
                (self.dash if symbol == "-" else self.dot).replay()
        self.stream.synchronize()
        return self.x.clone()

    def wait(self):
        assert native.ends_within(self.loop, BOUND_S), "the loop goes on"
        self.stream.synchronize()

    def by_loop(self, plan, *ends):
        self.reset()
        self.loop.set_plan(plan, self.stream.cuda_stream)
        for until in ends or [-1]:
            self.loop.launch(self.stream.cuda_stream, until)
        self.wait()
        assert self.loop.progress() == self.step.item()
        return self.x.clone()


PLANS = ["-", "-..-.-.", "-" + "..-" * 333]


@pytest.mark.gpu
@pytest.mark.parametrize("layout", LAYOUTS)
def test_gpu_equals_host_launches(layout):
    rig = Captured(layout)
    for plan in [*PLANS, *reversed(PLANS)]:
        assert torch.equal(rig.by_loop(plan), rig.by_host(plan))
        assert rig.loop.progress() == len(plan)


@pytest.mark.gpu
@pytest.mark.parametrize("layout", LAYOUTS)
def test_gpu_segments(layout):
    rig = Captured(layout)
    plan = "-..-...--.-."
    for size in (1, 5, 12):
        ends = range(size, len(plan) + size, size)
        assert torch.equal(rig.by_loop(plan, *ends), rig.by_host(plan))


@pytest.mark.gpu
@pytest.mark.parametrize("layout", CONDITIONAL)
def test_gpu_cancel(layout):
    capacity = 2_000_000  # many seconds, if it were not cancelled
    rig = Captured(layout, capacity)
    rig.reset()
    rig.loop.set_plan("-." * (capacity // 2), rig.stream.cuda_stream)
    rig.loop.launch(rig.stream.cuda_stream)
    deadline = time.monotonic() + 60
    while rig.loop.progress() < 100:
        assert time.monotonic() < deadline
    rig.loop.cancel()
    rig.wait()
    made = rig.step.item()
    assert 100 <= made < capacity
    assert rig.loop.progress() == made
    assert torch.equal(rig.by_loop("-..-."), rig.by_host("-..-."))


@pytest.mark.gpu
@pytest.mark.parametrize("layout", LAYOUTS)
def test_gpu_census_and_memory(layout):
    rig = Captured(layout)
    nodes = native.census(native.Driver(), rig.dash.raw_cuda_graph())
    assert {node.type for node in nodes} == {"kernel"}
    assert all(node.kernel and not node.refusal for node in nodes)
    for _ in range(3):
        rig.by_loop("-..")
    del rig
    gc.collect()
    torch.cuda.synchronize()
