"""Questions that only a GPU answers: `python benchmarks/probes.py NAME`; docs/gpu.md explains.

Each prints what it finds, one line a fact. The status is 1 if a line begins with WRONG.
"""

import argparse
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from unittest import mock

import torch
from paper_models import MODELS
from rows import Out
from subject import NOMINAL, Subject, memory_format

import morse_engine
from morse_engine.runtime import graphs, native
from morse_engine.sampling.plan import DASH, DOT
from morse_engine.system.timing import Call, Spread, in_turns_for, synchronize

LAYOUTS = ("unrolled", "two_ifs", "switch")  # what is surer comes first
CUDA = torch.device("cuda")
wrong: list[str] = []


def say(name: str, right: bool, text: str = "") -> None:
    line = f"{'ok' if right else 'WRONG'}: {name}" + (f": {text}" if text else "")
    print(line, flush=True)
    if not right:
        wrong.append(line)


def subject_of(name: str, device: torch.device, batch: int = 1) -> Subject:
    out = Out(lambda message: print(message, flush=True), name, batch, device.type)
    return Subject(out, MODELS[name], batch, device)


def difference(a: torch.Tensor, b: torch.Tensor) -> str:
    return f"largest difference {(a.double() - b.double()).abs().max().item():.3g}"


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Bit for bit: NaN is equal to itself here."""
    return torch.equal(a.view(torch.int32), b.view(torch.int32))


@torch.no_grad()
def by_hand(subject: Subject, sampler) -> torch.Tensor:
    """The fused steps without a graph, on the memory of a run that has been started."""
    steps = subject.start(sampler).steps
    make = {DASH: steps.dash_step, DOT: steps.dot_step}
    for symbol in sampler.plan:
        make[symbol]()
    return steps.state.x.clone()


def steps(device: torch.device = CUDA, names: tuple[str, ...] = ("cifar10", "sd")) -> None:
    """Real UNets captured: their bits by hand, by the host and in the loop, and their nodes."""
    for name in names:
        subject = subject_of(name, device)
        host = subject.compile("host")
        image, hand = subject.run(host), by_hand(subject, host)
        say(f"{name}: images are finite", bool(torch.isfinite(image).all()))
        say(f"{name}: host is its steps by hand", same(image, hand), difference(image, hand))
        census(name, host)
        for layout in (*LAYOUTS, "nested"):
            host.free()  # another capture: the loop of a capture keeps its layout
            image = subject.run(host)
            with forced(layout):
                try:
                    found = subject.run(host.with_backend("device"))
                except RuntimeError as error:
                    say(f"{name}: {layout} runs", False, str(error))
                    continue
            say(f"{name}: {layout} is host", same(found, image), difference(found, image))


@contextmanager
def forced(layout: str) -> Iterator[None]:
    """Loops that are composed within it have this layout."""
    with mock.patch.dict(os.environ, {native.FORCED: layout}):
        yield


def census(name: str, sampler) -> None:
    """The nodes of the captured steps, and what a conditional body may not hold."""
    (made,) = sampler.captures._kept.values()
    for symbol, graph in made._graphs.items():
        nodes = native.census(native.Driver(), graph.raw_cuda_graph())
        print(f"{name} {symbol} {dict(Counter(node.type for node in nodes))}")
        for node in nodes:
            if node.cooperative or node.refusal:
                print(f"{name} {symbol}: {node}")


def loops(device: torch.device = CUDA, name: str = "cifar10") -> None:
    """us a step of each layout and of the host around a real model, runs of 24 steps."""
    subject = subject_of(name, device)
    plan = NOMINAL * 2
    samplers = {"host": subject.compile("host", plan=plan)}
    for layout in LAYOUTS:
        with forced(layout):
            looped = subject.compile("device", plan=plan)
            try:
                subject.run(looped)
                samplers[layout] = looped
            except RuntimeError as error:
                say(f"{layout} runs", False, str(error))
    calls = {layout: subject.segment_call(sampler) for layout, sampler in samplers.items()}
    for layout, ms in in_turns_for(8, calls, device).items():
        us = Spread.of([1e3 * value / len(plan) for value in ms])
        print(f"{layout}: {us.value:.1f} us a step ({us.low:.1f} .. {us.high:.1f})")


def captured(step: Callable[[], object], device: torch.device, own: bool = True):
    """As a graph, on a stream of its own or on the one that torch's captures share."""
    step()
    synchronize(device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=torch.cuda.Stream() if own else None):
        step()
    return graph.replay


@torch.no_grad()
def race(device: torch.device = CUDA, rounds: int = 200) -> None:
    """Split-K GEMMs replayed on two streams at once, beside replays one by one.

    On the stream that captures share, torch may get other results: that is a fact, not a failure.
    On streams of their own, as the engine captures, there must be none.
    """
    kind = {"device": device, "dtype": torch.float16 if device.type == "cuda" else torch.float32}
    for own in (False, True):
        replays, outs = [], []
        for seed in range(2):
            torch.manual_seed(seed)
            x, w = torch.randn(16, 8192, **kind), torch.randn(8192, 64, **kind)
            outs.append(torch.empty(16, 64, **kind))
            multiply = partial(torch.mm, x, w, out=outs[-1])
            replays.append(captured(multiply, device, own))
        for replay in replays:
            replay()
        synchronize(device)
        expected = [out.clone() for out in outs]
        others = at_once(replays, outs, expected, rounds, device)
        text = f"{others} other results of {2 * rounds}"
        if own:
            say("two captures on streams of their own", others == 0, text)
        else:
            print(f"two captures on torch's stream: {text}", flush=True)


def at_once(replays, outs, expected, rounds: int, device: torch.device) -> int:
    """How many results are others than the expected ones, when replays overlap."""
    cuda = device.type == "cuda"
    streams = [torch.cuda.Stream() if cuda else None for _ in replays]
    others = torch.zeros(len(replays), device=device)
    for _ in range(rounds):
        for turn in range(10):
            for i, (replay, stream) in enumerate(zip(replays, streams, strict=True)):
                with torch.cuda.stream(stream):
                    replay()
                    if turn == 9:
                        others[i : i + 1] += (outs[i] != expected[i]).any()
    if cuda:
        torch.cuda.synchronize()
    return int(others.sum().item())


def adapted(device: torch.device):
    """A small UNet with a LoRA, and a run of it by the host and by the eager loop."""
    from diffusers import UNet2DConditionModel
    from peft import LoraConfig

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(16, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=4,
        cross_attention_dim=8,
    )
    lora = LoraConfig(r=4, lora_alpha=16, target_modules=["to_v", "conv1"], init_lora_weights=False)
    unet.add_adapter(lora, "a")
    unet.to(device).eval()
    text = torch.randn(1, 4, 8).to(device)

    def runs(backend: str) -> Callable[[], torch.Tensor]:
        sampler = morse_engine.compile(unet, plan="---", backend=backend)
        return lambda: sampler(seed=1, encoder_hidden_states=text)

    return unet, runs("host"), runs("eager")


def near(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool((a - b).abs().max() <= 0.01 * b.abs().max())


def baked(device: torch.device = CUDA) -> None:
    """Changes of Python state that a capture would keep: the next run has to be that of eager."""
    changes = {
        "a LoRA weighted anew": lambda unet: unet.set_adapters(["a"], [0.25]),
        "a LoRA switched off": lambda unet: unet.disable_lora(),
        "a forward hook": lambda unet: unet.mid_block.register_forward_hook(
            lambda module, args, out: 1.5 * out
        ),
    }
    for name, change in changes.items():
        unet, host, eager = adapted(device)
        before = host()
        change(unet)
        after, expected = host(), eager()
        noticed = near(after, expected) and not torch.equal(before, after)
        say(f"{name} is noticed", noticed, difference(after, expected))
    unet, host, eager = adapted(device)
    with torch.autocast(device.type, torch.bfloat16):
        host()
    junk = [torch.full((1 << 20,), 3e4, device=device) for _ in range(8)]  # takes what was freed
    after, expected = host(), eager()
    say("a first call inside autocast", near(after, expected), difference(after, expected))
    del junk


def floor(device: torch.device = CUDA, nodes: int = 500) -> None:
    """us of one node of a graph: `add_` of 4 KB again and again."""
    x = torch.zeros(1024, device=device)

    def step() -> None:
        for _ in range(nodes):
            x.add_(1)

    ms = in_turns_for(2, {"graph": Call(captured(step, device), "gpu")}, device)["graph"]
    spread = Spread.of([1e3 * value / nodes for value in ms])
    print(f"a node: {spread.value:.2f} us ({spread.low:.2f} .. {spread.high:.2f}); 2 were assumed")


def formats(device: torch.device = CUDA, name: str = "sd") -> None:
    """Kernels of one captured Dot step by kind, with weights of both memory formats."""
    from torch.profiler import ProfilerActivity, profile

    activity = ProfilerActivity.CUDA if device.type == "cuda" else ProfilerActivity.CPU
    kinds = ("nchwToNhwc", "nhwcToNchw", "RowwiseMoments", "copy", "trajectory_down")
    for layout in ("contiguous", "channels_last"):
        subject = subject_of(name, device)
        subject.unet.to(memory_format=memory_format(layout))
        dot = subject.make_dot()
        sampler = morse_engine.compile(subject.unet, dot, plan="-.", backend="host")
        subject.run(sampler)
        step = subject.step_calls(sampler)[1]
        step.ms(device)
        subject.start(sampler)
        synchronize(device)
        with profile(activities=[activity]) as found:
            step.function()
            synchronize(device)
        events = found.key_averages()
        ms = Spread.of(in_turns_for(1, {"dot": step}, device)["dot"])
        count = sum(event.count for event in events)
        print(f"{name} Dot, {layout}: {ms.value:.3f} ms, {count} kernels")
        for kind in kinds:
            some = sum(event.count for event in events if kind.lower() in event.key.lower())
            print(f"   {some:5} *{kind}*")
        for event in sorted(events, key=lambda event: -event.count)[:25]:
            print(f"   {event.count:5} {event.key[:120]}")


def cudnn(device: torch.device = CUDA, name: str = "cifar10") -> None:
    """Whether two captures make the same bits, with cudnn.benchmark off and on."""
    images = {}
    for setting in (False, False, True, True):
        subject = subject_of(name, device)
        torch.backends.cudnn.benchmark = setting
        sampler = subject.compile("host")
        images.setdefault(setting, []).append(subject.run(sampler))
        sampler.free()
    (a, b), (c, d) = images[False], images[True]
    for pair, x, y in (("two captures without", a, b), ("two with", c, d), ("both", a, c)):
        print(f"{pair} cudnn.benchmark: same bits {same(x, y)}, {difference(x, y)}")


PROBES = {each.__name__: each for each in (steps, loops, race, baked, floor, formats, cudnn)}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("name", choices=PROBES)
    wrong.clear()
    PROBES[parser.parse_args(arguments).name]()
    return int(bool(wrong))


if __name__ == "__main__":
    if graphs.reason(CUDA):
        sys.exit(graphs.reason(CUDA))
    sys.exit(main())
