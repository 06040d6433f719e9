"""launch_us: what each layout of the one-launch loop costs around steps that do nearly nothing.

Times of whole runs of 1, 100 and 1,000 steps by the wall, each layout in turns with the host's own
launches; from those of 1 and of 1,000 the cost of a step and the fixed cost of a run. All include
the two small kernels of a step; "unrolled" has little besides them. The rows of a layout are there
before the next one is begun: a layout that hangs costs those behind it.
"""

import torch
from rows import Out

from morse_engine.runtime import graphs, native
from morse_engine.system.timing import Call, Spread, in_turns_for, synchronize

NUM_STEPS = (1, 100, 1000)
LAYOUTS = ("unrolled", "two_ifs", "switch", "nested")  # those that are surer first
BOUND_S = 10  # of a run that is checked


class SmallSteps:
    """Two captured steps of two kernels each: Dash adds 1 to x, Dot 2; both count."""

    def __init__(self, device: torch.device):
        self.device = device
        self.x = torch.zeros(1024, device=device)
        self.step = torch.zeros(1, dtype=torch.int32, device=device)
        self.graphs = {
            symbol: graphs.capture(name, lambda number=number: self._add(number), None, device)
            for symbol, name, number in (("-", "Dash", 1), (".", "Dot", 2))
        }
        for graph in self.graphs.values():
            graph.instantiate()

    def _add(self, number: int) -> None:
        self.x.add_(number)
        self.step.add_(1)

    def host(self, plan: str):
        """A run that the host launches step by step."""
        replays = [self.graphs[symbol].replay for symbol in plan]

        def run():
            self.step.zero_()
            for replay in replays:
                replay()

        return run

    def loop(self, layout: str, plan: str):
        """A run in one launch, and the loop."""
        dash, dot = (self.graphs[symbol].raw_cuda_graph() for symbol in "-.")
        made = native.LoopGraph(
            native.Driver(), dash, dot, self.step.data_ptr(), len(plan), layout=layout
        )
        stream = torch.cuda.current_stream().cuda_stream if self.device.type == "cuda" else 0
        made.set_plan(plan, stream)

        def run():
            self.step.zero_()
            made.launch(stream)

        return run, made

    def check(self, run, plan: str, loop=None) -> None:
        """A run has to make each step of the plan, once, and to end."""
        self.x.zero_()
        run()
        if loop is not None and not native.ends_within(loop, BOUND_S):
            raise TimeoutError(f"a run of {len(plan)} steps did not end within {BOUND_S} s")
        synchronize(self.device)
        expected = plan.count("-") + 2 * plan.count(".")
        steps, sums = self.step.item(), set(self.x.tolist())
        if steps != len(plan) or sums != {float(expected)}:
            raise AssertionError(f"{steps} steps of {len(plan)}, sum {sums} for {expected}")


def plan_of(n: int) -> str:
    return ("-.." * n)[:n]


def measure(out: Out, device: torch.device) -> None:
    small = SmallSteps(device)
    host = {n: small.host(plan_of(n)) for n in NUM_STEPS}
    for n, run in host.items():
        small.check(run, plan_of(n))
    times({"host": host}, out, device)
    if reason := native.reason():
        out.note(f"launch_us of the layouts: {reason}")
        return
    for layout in () if out.no_device else LAYOUTS:
        # What is cleaned up after a failure belongs to it: it may hang too.
        with out.doing("device"), out.case(f'launch_us of layout "{layout}"'):
            runs = {}
            for n in NUM_STEPS:
                runs[n], loop = small.loop(layout, plan_of(n))
                small.check(runs[n], plan_of(n), loop)
            times({layout: runs, "host": host}, out, device)


def times(runs: dict[str, dict], out: Out, device: torch.device) -> None:
    """Rows of the first of these, which are timed in turns."""
    calls = {f"{name} {n}": Call(run) for name, by_n in runs.items() for n, run in by_n.items()}
    name, ms = next(iter(runs)), in_turns_for(2, calls, device, most=30)
    us = {n: [1e3 * value for value in ms[f"{name} {n}"]] for n in NUM_STEPS}
    for n in NUM_STEPS:
        out.row("launch_us", f"{name}, run of {n}", Spread.of(us[n]))
    first, *_, last = NUM_STEPS
    pairs = list(zip(us[first], us[last], strict=True))
    slopes = [(b - a) / (last - first) for a, b in pairs]
    fixed = [a - slope * first for (a, _), slope in zip(pairs, slopes, strict=True)]
    out.row("launch_us", f"{name}, per step", Spread.of(slopes))
    out.row("launch_us", f"{name}, fixed", Spread.of(fixed))
