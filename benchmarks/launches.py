"""Operations per step that launch a kernel on a GPU: `python benchmarks/launches.py`.

Of the bundled digits, and of the paper's models as shapes alone. Counted from what PyTorch
dispatches: views and allocations launch nothing, each other operation counts as one. PyTorch splits
a group norm in three and adds the bias behind a convolution, so this is a lower bound;
`model_step.py` counts kernels. `--out FILE` adds rows to a file.
"""

import argparse
import json
from collections import Counter
from pathlib import Path

import torch
from paper_models import MODELS
from rows import conditions
from shapes import as_on_a_gpu, steps_of
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from morse_engine import engine, kernels, zoo
from morse_engine.kernels.checks import in_mode
from morse_engine.runtime.steps import Steps


class Launches(TorchDispatchMode):
    """Counts by name while it is on; our ops count as one if `fused`, else as what is in them."""

    def __init__(self, *, fused: bool):
        super().__init__()
        self.fused = fused
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "morse_engine" and not self.fused:
            reference = name_of(func) + "_ref"
            with self:
                return getattr(kernels, reference)(*args, **(kwargs or {}))
        out = func(*args, **(kwargs or {}))
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if is_tensor(t)}
        views = [t.untyped_storage()._cdata in given for t in tree_leaves(out) if is_tensor(t)]
        is_view = bool(views) and all(views) and not func._schema.is_mutable
        if not is_view and "empty" not in func.name():
            self.count(func, args, kwargs or {}, out)
        return out

    def count(self, func, args: tuple, kwargs: dict, out) -> None:
        """Take note of an operation that launches something."""
        self.names[name_of(func)] += 1


def name_of(func) -> str:
    return func.name().partition("::")[2].partition(".")[0]


def is_tensor(value) -> bool:
    return isinstance(value, Tensor)


def digits() -> dict[str, Counter]:
    """By name of step: one Dash and one Dot step of the bundled digits models, DPM-Solver++ 2M."""
    unet = zoo.digits_dash()
    dot, scheduler = zoo.digits_dot(unet), zoo.digits_scheduler("dpm")
    sampler = engine.compile(unet, dot, plan="-.-.", scheduler=scheduler)
    result = {}

    seen: list[Counter] = [Counter()]
    with torch.no_grad(), Launches(fused=False) as launches:
        sampler(on_step=lambda i, n: seen.append(Counter(launches.names)))
    result["eager Dash"], result["eager Dot"] = seen[3] - seen[2], seen[4] - seen[3]
    return result | of_steps(sampler.with_backend("host").start().steps)


def of_steps(steps: Steps) -> dict[str, Counter]:
    """By name: the two steps with the fused kernels."""
    result = {}
    for name, step in (("host Dash", steps.dash_step), ("host Dot", steps.dot_step)):
        with torch.no_grad(), in_mode("ops"), Launches(fused=True) as launches:
            step()
        result[name] = launches.names
    return result


def paper(name: str, batch: int = 1) -> dict[str, Counter]:
    """The same of one of the paper's models, with guidance where it has any.

    Dash as it is loaded, and all in channels-last, as a Dot is on a GPU whatever Dash is.
    """
    result = {}
    for layout in ("contiguous", "channels-last"):
        steps = steps_of(MODELS[name], batch, channels_last=layout == "channels-last")
        with as_on_a_gpu():
            result |= {f"{step}, {layout}": names for step, names in of_steps(steps).items()}
    del result["host Dot, contiguous"]
    return result


def counts(name: str) -> dict[str, Counter]:
    """By name of step: those of a model, "digits" or one of the paper's."""
    return digits() if name == "digits" else paper(name)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", action="append", choices=["digits", *MODELS])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    rows = []
    for model in options.model or ["digits", "cifar10", "church", "sd", "sdxl"]:
        for name, counter in counts(model).items():
            most = ", ".join(f"{op} {n}" for op, n in counter.most_common(12))
            print(f"{model}, {name}: {counter.total()} operations ({most})")
            row = {"bench": "launches", "model": model, "variant": name, "batch": 1}
            row |= {"value": counter.total(), "unit": "operations", "by_name": dict(counter)}
            rows.append(row | conditions("cpu"))
    if options.out is not None:
        before = json.loads(options.out.read_text()) if options.out.exists() else []
        text = ",\n".join(json.dumps(row) for row in before + rows)
        options.out.write_text(f"[\n{text}\n]\n")


if __name__ == "__main__":
    main()
