"""Whole runs of one model at one batch size, beside rivals, and what a loop adds to its steps.

run_ms          a call by the wall, from an idle device to an idle device
start           of these, the start of a run: its checks, its noise, its memory
loop_overhead   (run - time of the captured steps in it) / steps. "started run" leaves out the start
                of the run and the copy of its result: that is what the goal is about, since a start
                costs the same whatever the number of steps. The captured steps are timed in the
                same round, each kind in a row, with their weights in the L2 cache where they fit:
                what a run loses by taking turns counts as overhead. Eager and diffusers' loops are
                charged with the same captured steps
"""

from collections.abc import Callable

from subject import Subject

from morse_engine.engine import Sampler
from morse_engine.sampling.plan import Plan
from morse_engine.system.timing import Call, Spread, in_turns_for


def runs(
    subject: Subject,
    sampler: Sampler,
    plan: Plan,
    ours: dict[str, str],
    rivals: dict[str, Callable],
) -> None:
    """Rows of run_ms, start and loop_overhead, from rounds in which all take turns.

    Args:
        ours: backends by the name that their rows have.
        rivals: Dash as other loops call it, by name; each makes as many Dash steps as the plan has
            steps, and as it has Dash steps, with the scheduler's own `step`.
    """
    out, n = subject.out, len(plan)
    words = f"{plan.num_dash} Dash + {plan.num_dot} Dot"
    samplers = {name: sampler.with_backend(by).with_plan(plan) for name, by in ours.items()}
    host = sampler.with_backend("host").with_plan(plan)

    calls = {}
    for name, made in samplers.items():
        calls[name] = Call(lambda made=made: subject.run(made))
        if ours[name] != "eager":
            calls[f"{name}, start"] = subject.start_call(made)
            calls[f"{name}, started run"] = subject.segment_call(made)
    for rival, unet in rivals.items():
        for count in dict.fromkeys((n, plan.num_dash)):
            calls[f"{rival}, {count} Dash"] = Call(subject.diffusers_loop(unet, count))
    dash, dot = subject.step_calls(host)
    steps = {"-": dash} | ({".": dot} if plan.num_dot else {})
    times = in_turns_for(6, calls | steps, subject.device, least=3)

    def row(name: str, variant: str, num_dash: int, num_dot: int) -> None:
        """Both rows of a loop."""
        count = num_dash + num_dot
        own = [num_dash * ms for ms in times["-"]]
        if num_dot:
            own = [a + num_dot * ms for a, ms in zip(own, times["."], strict=True)]
        over = [1e3 * (run - a) / count for run, a in zip(times[name], own, strict=True)]
        if not name.endswith("started run"):
            out.row("run_ms", variant, Spread.of(times[name]))
        out.row("loop_overhead", variant, Spread.of(over))

    for name in samplers:
        row(name, f"{name}, {words}", plan.num_dash, plan.num_dot)
        if ours[name] != "eager":
            start = [1e3 * ms for ms in times[f"{name}, start"]]
            out.row("start", f"{name}, {words}", Spread.of(start))
            started = f"{name}, started run"
            row(started, f"{name}, {words}, started run", plan.num_dash, plan.num_dot)
    for rival in rivals:
        row(f"{rival}, {n} Dash", f"{rival}, {n} Dash", n, 0)
        if plan.num_dot:
            few = f"{rival}, {plan.num_dash} Dash"
            out.row("run_ms", few, Spread.of(times[few]))
