"""launch_us: what each layout of the one-launch loop costs around steps that do nearly nothing.

Times of whole runs of 1, 100 and 1,000 steps by the wall; from those of 1 and of 1,000 the cost of
a step and the fixed cost of a run. All include the two small kernels of a step; "unrolled" has
little besides them.
"""

import torch
from rows import Out

from morse_engine.runtime import graphs, native
from morse_engine.system.timing import Call, Spread, in_turns_for, synchronize

NUM_STEPS = (1, 100, 1000)
LAYOUTS = ("switch", "two_ifs", "nested", "unrolled")


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
        """A run in one launch."""
        dash, dot = (self.graphs[symbol].raw_cuda_graph() for symbol in "-.")
        made = native.LoopGraph(
            native.Driver(), dash, dot, self.step.data_ptr(), len(plan), layout=layout
        )
        stream = torch.cuda.current_stream().cuda_stream if self.device.type == "cuda" else 0
        made.set_plan(plan, stream)

        def run():
            self.step.zero_()
            made.launch(stream)

        return run

    def check(self, run, plan: str) -> None:
        """A run has to make each step of the plan, once."""
        self.x.zero_()
        run()
        synchronize(self.device)
        expected = plan.count("-") + 2 * plan.count(".")
        steps, sums = self.step.item(), set(self.x.tolist())
        if steps != len(plan) or sums != {float(expected)}:
            raise AssertionError(f"{steps} steps of {len(plan)}, sum {sums} for {expected}")


def plan_of(n: int) -> str:
    return ("-.." * n)[:n]


def measure(out: Out, device: torch.device) -> None:
    small = SmallSteps(device)
    runs = {("host", n): small.host(plan_of(n)) for n in NUM_STEPS}
    for (_, n), run in runs.items():
        small.check(run, plan_of(n))
    if reason := native.reason():
        out.note(f"launch_us of the layouts: {reason}")
    for layout in () if reason else LAYOUTS:
        with out.case(f'launch_us of layout "{layout}"'):
            made = {(layout, n): small.loop(layout, plan_of(n)) for n in NUM_STEPS}
            for (_, n), run in made.items():
                small.check(run, plan_of(n))
            runs |= made

    calls = {f"{name} {n}": Call(run) for (name, n), run in runs.items()}
    times = in_turns_for(6, calls, device, most=30)
    for name in dict.fromkeys(name for name, _ in runs):
        us = {n: [1e3 * ms for ms in times[f"{name} {n}"]] for n in NUM_STEPS}
        for n in NUM_STEPS:
            out.row("launch_us", f"{name}, run of {n}", Spread.of(us[n]))
        first, *_, last = NUM_STEPS
        pairs = list(zip(us[first], us[last], strict=True))
        slopes = [(b - a) / (last - first) for a, b in pairs]
        fixed = [a - slope * first for (a, _), slope in zip(pairs, slopes, strict=True)]
        out.row("launch_us", f"{name}, per step", Spread.of(slopes))
        out.row("launch_us", f"{name}, fixed", Spread.of(fixed))
