"""What the host does at the start of a captured run, without a GPU: `python benchmarks/start.py`.

start   from the call to the first step's launch: what is checked, compared, written and launched

Launches of graphs do nothing here (the fake of `tests/support/fake_cuda.py`), and what a GPU would
be asked for one by one is done on a CPU, on few numbers: both take about as long to ask for. What
only a driver costs is missing. The least of many calls, since all that disturbs one adds to it.
`--out FILE` adds rows to a file.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import pytest
import torch
from paper_models import MODELS
from rows import conditions

from morse_engine import engine, zoo
from morse_engine.dot import Dot
from morse_engine.runtime import graphs
from morse_engine.system.machine import machine
from morse_engine.system.timing import Spread

sys.path.append(str(Path(__file__).parents[1] / "tests/support"))

PLAN = "-..-..-..-.."
NAMES = ["digits", "tiny-sd", "cifar10"]


def subject(name: str):
    """Dash, its Dot, and the keywords of a call."""
    if name == "digits":
        unet = zoo.digits_dash()
        return unet, zoo.digits_dot(unet), {}
    if name == "tiny-sd":
        from models import text_cond, tiny_text_unet

        unet = tiny_text_unet()
        return unet, Dot(unet), text_cond(2) | {"guidance_scale": 3.0}
    model = MODELS[name]
    unet = model.build("cpu", torch.float32)
    guidance = {} if model.guidance is None else {"guidance_scale": model.guidance}
    return unet, Dot(unet, widths=model.widths), model.cond(1, "cpu", torch.float32) | guidance


def measure(name: str, repeats: int) -> dict:
    """The row of a model at batch 1."""
    unet, dot, kwargs = subject(name)
    with pytest.MonkeyPatch.context() as patch:
        captured(patch)
        sampler = engine.compile(unet, dot, plan=PLAN, backend="host")
        sampler.start(**kwargs)
        us = []
        for _ in range(repeats):
            began = time.perf_counter()
            sampler.start(**kwargs)
            us.append(1e6 * (time.perf_counter() - began))
        assert sampler.report().captures == 1
    _, low, high, n = Spread.of(us)
    row = {"bench": "start", "model": name, "variant": "the host's part, least", "batch": 1}
    row |= {"value": min(us), "unit": "us", "low": low, "high": high, "n": n}
    row["modules"] = sum(1 for model in (unet, sampler.models.helper) for _ in model.modules())
    return row | {"cpu": machine()["cpu"]} | conditions("cpu")


def captured(patch: pytest.MonkeyPatch) -> None:
    """Make samplers capture on the CPU, with graphs whose launch does nothing."""
    from fake_cuda import FakeCuda, Stream

    FakeCuda().install(patch)
    real = graphs.capture

    def capture(*args):
        graph = real(*args)
        graph.run = lambda: None
        return graph

    patch.setattr(graphs, "capture", capture)
    patch.setattr(graphs, "own_stream", lambda device: Stream())
    patch.setattr(graphs, "reason", lambda device: "")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", action="append", choices=[*NAMES, *MODELS])
    parser.add_argument("--repeats", type=int, default=2000)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows = []
    for name in options.model or NAMES:
        rows.append(row := measure(name, options.repeats))
        print(f"{name}, {row['modules']} modules: {row['value']:.0f} us (typical {row['low']:.0f})")
    if options.out is not None:
        before = json.loads(options.out.read_text()) if options.out.exists() else []
        text = ",\n".join(json.dumps(row) for row in before + rows)
        options.out.write_text(f"[\n{text}\n]\n")


if __name__ == "__main__":
    main()
