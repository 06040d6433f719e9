"""The steps of one model at one batch size, and what capturing them takes.

step_ms         one step, from CUDA events around several in a row. Captured ones ("host") have the
                solver's part in them; eager ones are the model alone
dot_speed       N, from pairs of such times taken in turns
capture_s       warm-up and capture, with the composition of the loop for "device"
capture_bytes   device memory of the captures, static memory included

What the host launches is measured whole, and its rows are out, before the one-launch loop is tried:
a loop that never ends costs its own rows.

The last part of a Dash or Dot step's name is the memory format of Dash's weights: the faster one of
two, which is tried first. Dot's own blocks are contiguous.
"""

import time

import torch
from paper_models import PaperModel
from rows import Out
from runs import runs
from subject import BUDGET, DASH_STEPS, NOMINAL, Subject

from morse_engine import engine
from morse_engine.engine import Sampler
from morse_engine.runtime import graphs
from morse_engine.sampling.plan import Plan
from morse_engine.system.timing import Call, Spread, in_turns_for

BOUND_S = 20  # of the first run in one launch
Times = dict[str, list[float]]


def measure(out: Out, model: PaperModel, batch: int, device: torch.device) -> None:
    subject = Subject(out, model, batch, device)
    sampler = capture(subject)
    validate(subject, sampler)
    times: Times = {}
    with out.case("step_ms"):
        times = steps(subject, sampler)
    plan = chosen_plan(subject, times)
    with out.case("run_ms and loop_overhead"):
        ours = {name: name for name in subject.backends}
        runs(subject, sampler, plan, ours, {"diffusers": subject.unet})
    device_loop(subject, sampler, plan)


def capture(subject: Subject, label: str = "", **options) -> Sampler:
    """The sampler that all backends share, captured.

    Args:
        label: added to the rows' variants.
        options: of `engine.compile`.
    """
    out = subject.out
    sampler = subject.compile("host", **options)
    subject.run(sampler)
    if graphs.reason(subject.device):
        return sampler
    with out.case("capture_s and capture_bytes"):
        out.row("capture_s", f"host{label}, first", Spread.of([sampler.report().capture_s]))
        sampler.free()
        subject.run(sampler)
        report = sampler.report()
        out.row("capture_s", f"host{label}, again", Spread.of([report.capture_s]))
        out.row("capture_bytes", f"host{label}", Spread.of([report.graph_bytes]))
    return sampler


def device_loop(subject: Subject, sampler: Sampler, plan: Plan, label: str = "") -> None:
    """The one-launch loop of the same captures: its bits, then its times, beside the host's."""
    out = subject.out
    if not subject.has_loop:
        return
    with out.doing("device"), out.case("device"):
        looped = sampler.with_backend("device")
        image = bounded_run(subject, looped)
        report = sampler.report()
        name = f"device ({report.layout}){label}"
        out.row("capture_s", name, Spread.of([report.capture_s]))
        out.row("capture_bytes", f"{name} and host", Spread.of([report.graph_bytes]))
        if not torch.equal(image, subject.run(sampler.with_backend("host"))):
            out.note(f"CHECK: {name} made other bits than host; it is not timed")
            return
        runs(subject, sampler, plan, {name: "device", f"host{label} beside device": "host"}, {})


def bounded_run(subject: Subject, looped: Sampler) -> torch.Tensor:
    """A first run in one launch, which is cancelled if it takes too long."""
    run, end = subject.start(looped), time.monotonic() + BOUND_S
    run.reach(len(run.plan), stop=lambda: time.monotonic() > end)
    if run.reached < len(run.plan):
        run.cancel()
        raise TimeoutError(f"a run was at step {run.reached} after {BOUND_S} s")
    return run.x


def validate(subject: Subject, sampler: Sampler) -> None:
    """Results before times.

    Raises:
        AssertionError: an image is not finite.
    """
    images = {name: subject.run(sampler.with_backend(name)) for name in subject.backends}
    for name, image in images.items():
        if not torch.isfinite(image).all():
            raise AssertionError(f"{name} made images that are not finite: nothing is timed")
    # Eager and captured steps round differently: near, not equal.
    if "eager" in images:
        host, eager = images["host"], images["eager"]
        distance = ((host - eager).square().mean() / eager.square().mean()).sqrt().item()
        if distance > 0.02:
            subject.out.note(f"CHECK: host is {distance:.3f} of its size (rms) away from eager")


def steps(subject: Subject, sampler: Sampler) -> Times:
    """Dash and Dot, captured and eager, merged and shared: the rows of each pair as it is timed."""
    out, times = subject.out, Times()

    def pair(kind: str, lora: str, dash: Call, dot: Call | None) -> None:
        """In turns, so that N is of equal times; Dash's own row comes with the first of a kind."""
        names = [f"Dash, {kind}", f"Dot {subject.widths} {lora}, {kind}"]
        calls = {n: c for n, c in zip(names, (dash, dot), strict=True) if c is not None}
        with out.case(f"step_ms, {kind} {lora}"):
            found = in_turns_for(1, calls, subject.device)
            for name, ms in found.items():
                if name not in times:
                    times[name] = ms
                    out.row("step_ms", f"{name}, {subject.layout}", Spread.of(ms))
            if dot is not None:
                out.row("dot_speed", names[1], speed(*found.values()))

    host = sampler.with_backend("host")
    dash = subject.step_calls(host)[0]
    pair("host", "merged", *subject.step_calls(host))
    pair("eager", "merged", *subject.eager_calls(sampler))
    if subject.dot is not None:
        with out.case("Dot with shared weights"):
            shared = subject.compile("host", merge_dot=False)
            subject.run(shared)
            pair("host", "shared", dash, subject.step_calls(shared)[1])
            pair("eager", "shared", *subject.eager_calls(shared))
    if subject.dot is not None and subject.model.guidance is not None:
        with out.case("guided Dot"):
            dot, options = subject.make_dot(guided=True), {"plan": NOMINAL, "backend": "host"}
            guided = engine.compile(subject.unet, dot, **options)
            subject.run(guided)
            pair("host", "merged guided", dash, subject.step_calls(guided)[1])
    return times


def speed(dash: list[float], dot: list[float]) -> Spread:
    """N, from times taken in turns."""
    return Spread.of([a / b for a, b in zip(dash, dot, strict=True)])


def chosen_plan(subject: Subject, times: Times, kind: str = "host") -> Plan:
    """What a user would run: 10 LSD at the measured N; without a Dot some Dash steps."""
    dash = times.get(f"Dash, {kind}")
    if subject.dot is None:
        least, most = DASH_STEPS
        fit = int(1e3 / Spread.of(dash).value) if dash else least
        return Plan.spread(min(most, max(least, fit)), 0)
    dot = times.get(f"Dot {subject.widths} merged, {kind}")
    if not (dash and dot):
        subject.out.note(f"N was not measured, the runs are of {NOMINAL}")
        return Plan(NOMINAL)
    return Plan.from_budget(BUDGET, speed(dash, dot).value)
