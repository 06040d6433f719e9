"""The steps of one model at one batch size, and what capturing them takes.

step_ms         one step, from CUDA events around several in a row. Captured ones ("host") have the
                solver's part in them; eager ones are the model alone
dot_speed       N, from pairs of such times taken in turns
capture_s       warm-up and capture, with the composition of the loop for "device"
capture_bytes   device memory of the captures, static memory included

The last part of a Dash or Dot step's name is the memory format of Dash's weights: the faster one of
two, which is tried first. Dot's own blocks are contiguous.
"""

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

Times = dict[str, list[float]]


def measure(out: Out, model: PaperModel, batch: int, device: torch.device) -> None:
    subject = Subject(out, model, batch, device)
    sampler = capture(subject)
    validate(subject, sampler)
    times: Times = {}
    with out.case("step_ms"):
        times = steps(subject, sampler)
    with out.case("run_ms and loop_overhead"):
        runs(subject, sampler, chosen_plan(subject, times), {"diffusers": subject.unet})


def capture(subject: Subject, label: str = "", **options) -> Sampler:
    """The sampler that all backends share.

    Args:
        label: added to the rows' variants.
        options: of `engine.compile`.
    """
    out, backend = subject.out, subject.backends[0]
    sampler = subject.compile(backend, **options)
    try:
        subject.run(sampler)
    except RuntimeError as error:
        if backend != "device":
            raise
        out.note(f"device: {error}".splitlines()[0])
        subject.backends.remove("device")
        return capture(subject, label, **options)
    if graphs.reason(subject.device):
        return sampler
    with out.case("capture_s and capture_bytes"):
        out.row("capture_s", f"{backend}{label}, first", Spread.of([sampler.report().capture_s]))
        sampler.free()
        subject.run(sampler)
        report = sampler.report()
        out.row("capture_s", f"{backend}{label}, again", Spread.of([report.capture_s]))
        out.row("capture_bytes", f"{backend}{label}", Spread.of([report.graph_bytes]))
        if backend == "device":
            subject.run(sampler.with_backend("host"))
            both = Spread.of([sampler.report().graph_bytes])
            out.row("capture_bytes", f"device and host{label}", both)
    return sampler


def validate(subject: Subject, sampler: Sampler) -> None:
    """Results before times.

    Raises:
        AssertionError: an image is not finite. A "device" whose bits are not those of "host" is
            left out of what follows instead.
    """
    images = {name: subject.run(sampler.with_backend(name)) for name in subject.backends}
    for name, image in images.items():
        if not torch.isfinite(image).all():
            raise AssertionError(f"{name} made images that are not finite: nothing is timed")
    if "device" in images and not torch.equal(images["device"], images["host"]):
        subject.out.note("CHECK: device made other bits than host; it is not timed")
        subject.backends.remove("device")
    # Eager and captured steps round differently: near, not equal.
    if "eager" in images:
        host, eager = images["host"], images["eager"]
        distance = ((host - eager).square().mean() / eager.square().mean()).sqrt().item()
        if distance > 0.02:
            subject.out.note(f"CHECK: host is {distance:.3f} of its size (rms) away from eager")


def steps(subject: Subject, sampler: Sampler) -> Times:
    """Dash and Dot, merged and shared, captured and eager, in turns."""
    out, widths = subject.out, subject.widths
    host = sampler.with_backend("host")
    calls: dict[str, Call] = {}

    def add(kind: str, dot: Call | None, lora: str) -> None:
        if dot is not None:
            calls[f"Dot {widths} {lora}, {kind}"] = dot

    calls["Dash, host"], dot = subject.step_calls(host)
    add("host", dot, "merged")
    calls["Dash, eager"], dot = subject.eager_calls(sampler)
    add("eager", dot, "merged")
    if subject.dot is not None:
        with out.case("Dot with shared weights"):
            shared = subject.compile("host", merge_dot=False)
            subject.run(shared)
            for kind, pair in (
                ("host", subject.step_calls(shared)),
                ("eager", subject.eager_calls(shared)),
            ):
                add(kind, pair[1], "shared")
    if subject.dot is not None and subject.model.guidance is not None:
        with out.case("guided Dot"):
            dot, options = subject.make_dot(guided=True), {"plan": NOMINAL, "backend": "host"}
            guided = engine.compile(subject.unet, dot, **options)
            subject.run(guided)
            add("host", subject.step_calls(guided)[1], "merged guided")
    times = in_turns_for(3, calls, subject.device)
    for name, values in times.items():
        out.row("step_ms", f"{name}, {subject.layout}", Spread.of(values))
    for kind in ("host", "eager"):
        for lora in ("merged", "shared", "merged guided"):
            name = f"Dot {widths} {lora}, {kind}"
            if name in times:
                out.row("dot_speed", name, speed(times[f"Dash, {kind}"], times[name]))
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
