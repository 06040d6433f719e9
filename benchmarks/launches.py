"""Operations per step that launch a kernel on a GPU: `python benchmarks/launches.py`.

Counted on the CPU from what PyTorch dispatches: views and allocations launch nothing, each other
operation counts as one. cuDNN may split a convolution or a group norm, so this is a lower bound.
"""

from collections import Counter

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from morse_engine import engine, kernels, zoo


class Launches(TorchDispatchMode):
    """Counts by name while it is on; our ops count as one if `fused`, else as what is in them."""

    def __init__(self, *, fused: bool):
        super().__init__()
        self.fused = fused
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "morse_engine" and not self.fused:
            reference = func.name().partition("::")[2].partition(".")[0] + "_ref"
            with self:
                return getattr(kernels, reference)(*args, **(kwargs or {}))
        out = func(*args, **(kwargs or {}))
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if is_tensor(t)}
        views = [t.untyped_storage()._cdata in given for t in tree_leaves(out) if is_tensor(t)]
        is_view = bool(views) and all(views) and not func._schema.is_mutable
        if not is_view and "empty" not in func.name():
            self.names[func.name().partition("::")[2].partition(".")[0]] += 1
        return out


def is_tensor(value) -> bool:
    return isinstance(value, Tensor)


def counts() -> dict[str, Counter]:
    """By name of step: one Dash and one Dot step of the bundled digits models, DPM-Solver++ 2M."""
    unet = zoo.digits_dash()
    dot, scheduler = zoo.digits_dot(unet), zoo.digits_scheduler("dpm")
    sampler = engine.compile(unet, dot, plan="-.-.", scheduler=scheduler)
    result = {}

    seen: list[Counter] = [Counter()]
    with torch.no_grad(), Launches(fused=False) as launches:
        sampler(on_step=lambda i, n: seen.append(Counter(launches.names)))
    result["eager Dash"], result["eager Dot"] = seen[3] - seen[2], seen[4] - seen[3]

    steps = sampler.with_backend("host").start().steps
    for name, step in (("host Dash", steps.dash_step), ("host Dot", steps.dot_step)):
        with torch.no_grad(), Launches(fused=True) as launches:
            step()
        result[name] = launches.names
    return result


if __name__ == "__main__":
    for name, counter in counts().items():
        most = ", ".join(f"{op} {n}" for op, n in counter.most_common(12))
        print(f"{name}: {counter.total()} operations ({most})")
