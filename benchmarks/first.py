"""What `make gpu-first`, `make gpu` and `make gpu-smoke` do, part by part; docs/gpu.md explains.

    python benchmarks/first.py first|gpu|smoke [--out FOLDER] [--rows FILE]

The interpreter that runs this runs the parts. Each has a log in FOLDER; no part is stopped by the
one before it. The status is 0 if all passed.
"""

import argparse
import os
import sys
from importlib.util import find_spec
from pathlib import Path

from parts import Done, Part, run, table

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
SECONDS = {"first": 590, "gpu": 540, "smoke": 220}
LAYOUTS = ("unrolled", "two_ifs", "switch", "nested")  # what is surer comes first
PYTHON = sys.executable

WARM_UP = (
    "import time; begun = time.monotonic()\n"
    "import torch, triton, diffusers, peft\n"
    "x = torch.ones(8, 8, device='cuda')\n"
    "print((x @ x).sum().item(), torch.cuda.get_device_name())\n"
    "print(f'{time.monotonic() - begun:.1f} s')"
)


def script(name: str, *arguments: str) -> tuple[str, ...]:
    return (PYTHON, str(ROOT / "benchmarks" / name), *arguments)


def plain_tests(*arguments: str) -> tuple[str, ...]:
    """pytest in one process, which begins sooner."""
    return (PYTHON, "-m", "pytest", "-v", "--tb=short", *arguments)


def tests(*arguments: str) -> tuple[str, ...]:
    """pytest; where its plugins are there, a test that hangs costs itself, not those behind it."""
    guard = ("-n", "1", "--timeout", "30", "--timeout-method", "thread")
    known = find_spec("pytest_timeout") and find_spec("xdist")
    return plain_tests(*(guard if known else ()), *arguments)


def beginning(warm_up: float, install: float) -> list[Part]:
    return [
        Part("warm-up", warm_up, (PYTHON, "-c", WARM_UP), "libraries are read, the GPU answers"),
        Part("facts", 10, script("facts.py"), "versions"),
        Part("install", install, script("install.py"), "the package, its C++ extension"),
        Part("driver", 15, script("facts.py", "--driver"), "the driver has what loops need"),
    ]  # fmt: skip


def native(limit: float) -> list[Part]:
    """One process for each layout of the loop."""
    log = {"CUDA_LOG_FILE": "stderr"}
    file = "tests/runtime/test_native_gpu.py"
    return [
        Part(
            layout,
            limit,
            plain_tests("-m", "gpu", file, "-k", layout),
            f"the loop, {layout}",
            env=log,
        )
        for layout in LAYOUTS
    ]


def graphs(limit: float) -> Part:
    chosen = ("-m", "gpu and not slow", "-k", "not refused", "tests/runtime/test_graphs_gpu.py")
    return Part("graphs", limit, tests(*chosen), "captured steps, 3 families of solvers")


def refused(limit: float) -> Part:
    """Last: a failed capture may leave torch damaged."""
    chosen = ("-m", "gpu", "-k", "refused", "tests/runtime/test_graphs_gpu.py")
    return Part("refused", limit, tests(*chosen), "a failed capture leaves torch whole")


def kernels(limit: float, *arguments: str) -> Part:
    names = ("test_kernels", "test_kernel_updates", "test_kernel_refusals")
    chosen = tests(*(f"tests/kernels/{name}.py" for name in names), *arguments)
    return Part("kernels", limit, chosen, "the Triton kernels")


def benchmark(limit: float, most: float, rows: Path, *arguments: str) -> Part:
    command = script("gpu.py", "--minutes", "{minutes}", "--out", str(rows), *arguments)
    return Part("benchmark", limit, command, f"rows in {rows}", most)


def probe(name: str, limit: float, settles: str) -> Part:
    return Part(name, limit, script("probes.py", name), settles)


def parts_of(target: str, rows: Path, minutes: float, commit: str) -> list[Part]:
    of = ("--commit", commit) if commit else ()
    few = ("-k", "shape3 or words or channels_last")
    if target == "smoke":
        return [*beginning(40, 20), *native(10), graphs(20), kernels(12, *few)]
    if target == "first":
        small = ("--model", "cifar10", "sd", "--batch", "1", "--bench", "launch", "loop")
        return [
            *beginning(80, 35),
            *native(15),
            probe("steps", 40, "captured UNets: their bits, their nodes, in the loop"),
            probe("loops", 30, "us a step of each layout around CIFAR-10"),
            probe("race", 15, "two captures on two streams do not share a workspace"),
            probe("baked", 20, "what a capture would keep of Python is noticed"),
            probe("floor", 10, "us of a graph's node"),
            probe("formats", 25, "which kernels a Dot step has, NCHW and NHWC"),
            probe("cudnn", 15, "whether cudnn.benchmark changes bits"),
            graphs(40),
            kernels(25, *few),
            benchmark(60, 400, rows, *small, *of),
            refused(15),
        ]
    steps = "tests/runtime/test_steps.py"
    rest = ("-m", "gpu and slow", "-k", "not inductor", "tests/runtime/test_graphs_gpu.py")
    others = ("tests/runtime/test_native_sources.py", "tests/sampling/test_noise.py", "-m", "gpu")
    return [
        *beginning(80, 35),
        *native(15),
        graphs(40),
        kernels(40, steps),
        benchmark(60, 60 * minutes, rows, *of),
        Part("others", 15, tests(*others), "the C++ example, noise"),
        Part("families", 40, tests(*rest), "all families of solvers"),
        Part("inductor", 40, tests("-m", "gpu", "-k", "inductor", rest[-1]), "torch.compile"),
        refused(15),
    ]


def learned(done: list[Done]) -> dict[str, str]:
    """What parts behind those of the layouts leave out: a layout that failed there could hang."""
    passed = {each.part.name: each.status == "passed" for each in done}
    if len(passed.keys() & set(LAYOUTS)) < len(LAYOUTS) or passed["switch"]:
        return {}
    others = ("two_ifs", "unrolled")
    layout = next((layout for layout in others if passed[layout]), "none")
    return {"MORSE_ENGINE_LAYOUT": layout}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("target", choices=SECONDS)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu", help="folder of logs")
    parser.add_argument("--rows", type=Path, help="file of the benchmark's rows")
    parser.add_argument("--minutes", type=float, default=4.5, help="for the benchmark of gpu")
    parser.add_argument("--commit", default="", help="of the code, where this is no git checkout")
    args = parser.parse_args(arguments)
    out = args.out.resolve()
    usual = RESULTS if args.target == "gpu" else out
    rows = (args.rows or usual / "gpu.json").resolve()
    os.chdir(ROOT)
    # Also where nothing could be installed: the package lies here.
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    parts = parts_of(args.target, rows, args.minutes, args.commit)
    done = run(parts, out, SECONDS[args.target], learned)
    print(f"\n{table(done)}logs: {out}", flush=True)
    return int(any(each.status != "passed" for each in done))


if __name__ == "__main__":
    sys.exit(main())
