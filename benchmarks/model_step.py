"""What a Dash and a Dot step are made of, and a prediction of N: `python benchmarks/model_step.py`.

A roofline model on shapes alone. Nothing is timed and no GPU is used. Each launch takes

    max(FLOPs / (0.6 peak x share of the processors at work), bytes / (0.9 bandwidth)) + 2 us

- Bytes are those of all inputs and outputs, once each: nothing is found in a cache.
- A product of M x K and K x N is M / 128 x N / 128 x K / 1024 programs, each rounded up, which a
  GPU makes in whole waves.
- PyTorch's group norm is three launches, a convolution's bias a launch behind it. A convolution in
  half precision whose weights are contiguous copies weights, input and output into the layout of
  the tensor cores.

0.6, 0.9, 2 us, 128 and 1024 are judgement. Times may be off by a factor of two, ratios by a third.
"""

import argparse
from collections import Counter
from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

import torch
from launches import Launches, is_tensor, name_of
from paper_models import MODELS
from shapes import as_on_a_gpu, steps_of
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from morse_engine.kernels import is_channels_last
from morse_engine.kernels.checks import in_mode
from morse_engine.runtime.steps import Steps

NOTE = "prediction, nothing was timed"
LAUNCH_US, OF_PEAK, OF_BANDWIDTH = 2.0, 0.6, 0.9
PROGRAM = (128, 128, 1024)  # what one program of a product makes of (M, N, K)


class Gpu(NamedTuple):
    """By the data sheet: dense float16 TFLOP/s with float32 sums, TB/s, multiprocessors."""

    tflops: float
    tbytes: float
    processors: int


GPUS = {
    "H100": Gpu(989, 3.35, 132),
    "H200": Gpu(989, 4.8, 132),
    "A100": Gpu(312, 2.04, 108),
    "RTX4090": Gpu(165, 1.01, 128),
}


@dataclass
class Step:
    """What one step launches: numbers, and microseconds on a GPU.

    Attributes:
        operations: as `launches.py` counts them, by name.
        launches: kernels of these, by name.
    """

    operations: Counter
    launches: Counter
    num_bytes: int = 0
    flops: int = 0
    us: float = 0.0


class Costs(Launches):
    """Adds up the operations within it, the fused kernels as one each."""

    def __init__(self, gpu: Gpu):
        super().__init__(fused=True)
        self.gpu, self.step = gpu, Step(self.names, Counter())

    def count(self, func, args: tuple, kwargs: dict, out) -> None:
        super().count(func, args, kwargs, out)
        name = name_of(func)
        tensors = {id(t): t for t in tree_leaves((args, kwargs, out)) if is_tensor(t)}.values()
        made = sum(map(size_of, (t for t in tree_leaves(out) if is_tensor(t))))
        flops = flop_registry.get(func._overloadpacket)
        count = flops(*args, **kwargs, out_val=out) if flops else 0
        self._launch(name, sum(map(size_of, tensors)), count, programs(name, args, out))
        if name == "native_group_norm":
            self._launch(name, size_of(args[0]))
            self._launch(name, 0)
        if name == "convolution":
            if args[2] is not None:
                self._launch("bias of a convolution", 2 * made)
            if args[1].dtype != torch.float32 and not is_channels_last(args[1]):
                for tensor in (*args[:2], out):
                    self._launch("layout of a convolution", 2 * size_of(tensor))

    def _launch(self, name: str, num_bytes: int, flops: int = 0, programs: int = 1) -> None:
        step, gpu = self.step, self.gpu
        step.launches[name] += 1
        step.num_bytes += num_bytes
        step.flops += flops
        at_work = programs / (ceil(programs / gpu.processors) * gpu.processors)
        of_flops = flops / (OF_PEAK * at_work * gpu.tflops * 1e6)
        step.us += LAUNCH_US + max(of_flops, num_bytes / (OF_BANDWIDTH * gpu.tbytes * 1e6))


def size_of(tensor) -> int:
    return tensor.numel() * tensor.element_size()


def programs(name: str, args: tuple, out) -> int:
    """How many programs a product of matrices is split into; 1 for all else."""
    if name == "convolution":
        m, n, k = out.numel() // out.shape[1], out.shape[1], args[1][0].numel()
    elif name in ("mm", "addmm", "bmm"):
        a, b = args[-2:]
        m, n, k = a.numel() // a.shape[-1], b.shape[-1], a.shape[-1]
    elif "attention" in name:
        q = args[0]  # [B, heads, N, D]: a program for 128 queries of a head
        m, n, k = q.numel() // q.shape[-1], 1, 1
    else:
        return 1
    return ceil(m / PROGRAM[0]) * ceil(n / PROGRAM[1]) * ceil(k / PROGRAM[2])


def costs(steps: Steps, gpu: Gpu) -> tuple[Step, Step]:
    """Of a Dash and of a Dot step with the fused kernels."""
    found = []
    for step in (steps.dash_step, steps.dot_step):
        with torch.no_grad(), in_mode("ops"), Costs(gpu) as counted:
            step()
        found.append(counted.step)
    return found[0], found[1]


def report(name: str, batch: int, gpu: Gpu, *, channels_last: bool) -> list[str]:
    """Lines of a table; Dash contiguous or channels-last, the Dot channels-last as on a GPU."""
    with as_on_a_gpu():
        dash, dot = costs(steps_of(MODELS[name], batch, channels_last=True), gpu)
        if not channels_last:
            dash, _ = costs(steps_of(MODELS[name], batch), gpu)
    lines = []
    for kind, step in (("Dash", dash), ("Dot", dot)):
        kernels, operations = step.launches.total(), step.operations.total()
        lines.append(
            f"{name:8} {batch:5}  {kind:5} {operations:10} {kernels:8} {step.num_bytes / 1e9:7.2f} "
            f"{step.flops / 1e9:8.0f} {step.us / 1e3:8.2f}"
        )
    layout = "channels-last" if channels_last else "contiguous"
    lines[-1] += f"   N = {dash.us / dot.us:.1f} (Dash {layout}; {NOTE})"
    return lines


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=f"Roofline of the paper's models: {NOTE}.")
    parser.add_argument("--gpu", choices=list(GPUS), default="H100")
    parser.add_argument("--model", action="append", choices=list(MODELS))
    parser.add_argument("--batch", action="append", type=int)
    parser.add_argument("--channels-last", action="store_true", help="Dash too")
    options = parser.parse_args(arguments)
    print(f"{options.gpu}, float16: {NOTE}")
    print("model    batch  step  operations launches      GB   GFLOP       ms")
    for name in options.model or ["cifar10", "church", "sd", "sdxl"]:
        for batch in options.batch or [1, 8]:
            last = options.channels_last
            print(*report(name, batch, GPUS[options.gpu], channels_last=last), sep="\n", flush=True)


if __name__ == "__main__":
    main()
