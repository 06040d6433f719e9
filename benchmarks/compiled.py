"""One model through torch.compile: ours with `inductor=True`, and Dash alone as a rival.

Slow to start, minutes on some models, so these come after everything that is quick. Ours first: its
rows are there even where the rival's autotuning runs out of time.
"""

import torch
from loop import Times, capture, chosen_plan, device_loop, speed, validate
from paper_models import PaperModel
from rows import Out
from runs import runs
from subject import Subject

from morse_engine.system.timing import Call, Spread, in_turns_for

MODE = "max-autotune"


def measure(out: Out, model: PaperModel, batch: int, device: torch.device) -> None:
    subject = Subject(out, model, batch, device)
    subject.backends.remove("eager")  # the loop's rows have it; here it would compile once more
    sampler = capture(subject, " inductor", inductor=True)
    validate(subject, sampler)
    times: Times = {}
    with out.case("step_ms with inductor"):
        times = steps(subject, sampler)
    plan = chosen_plan(subject, times, "inductor")
    with out.case("run_ms with inductor"):
        runs(subject, sampler, plan, {"host inductor": "host"}, {})
    with out.case(f"torch.compile {MODE} of Dash"):
        rival = autotuned(subject)
        step = Call(lambda: rival_step(subject, rival), "gpu")
        ours, _ = subject.step_calls(sampler.with_backend("host"))
        both = in_turns_for(2, {"rival": step, "ours": ours}, device)
        variant = f"Dash, torch.compile {MODE}, {subject.layout}"
        out.row("step_ms", variant, Spread.of(both["rival"]))
        rivals = {f"torch.compile {MODE}": rival}
        runs(subject, sampler, plan, {"host inductor, beside it": "host"}, rivals)
    device_loop(subject, sampler, plan, " inductor")


def steps(subject: Subject, sampler) -> Times:
    dot_name = f"Dot {subject.widths} merged, inductor"
    dash, dot = subject.step_calls(sampler.with_backend("host"))
    calls = {"Dash, inductor": dash} | ({dot_name: dot} if dot is not None else {})
    times = in_turns_for(2, calls, subject.device)
    for name, values in times.items():
        subject.out.row("step_ms", f"{name}, {subject.layout}", Spread.of(values))
    if dot is not None:
        subject.out.row("dot_speed", dot_name, speed(times["Dash, inductor"], times[dot_name]))
    return times


def autotuned(subject: Subject):
    """Dash as torch.compile makes it at its best, with CUDA graphs of its own."""
    unet = torch.compile(subject.unet, mode=MODE, dynamic=False)

    def dash(x, t, **kwargs):
        torch.compiler.cudagraph_mark_step_begin()  # the last output is not needed any more
        return unet(x, t, **kwargs)

    for _ in range(3):
        rival_step(subject, dash)
    return dash


@torch.no_grad()
def rival_step(subject: Subject, dash) -> None:
    t = torch.full((), 500, device=subject.device)
    dash(subject.x.to(subject.dtype), t, return_dict=False, **subject.cond)
