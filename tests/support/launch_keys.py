"""Triton's keys of launches: `python launch_keys.py` prints those of `variants.py` and of runs.

A process of its own, since Triton here must compile and not interpret; but nothing is compiled.
A key holds all that Triton compiles a kernel for: dtypes, numbers divisible by 16, constants.
"""

import json
from collections.abc import Callable
from importlib import import_module

import torch
from triton import knobs
from triton.runtime import driver

from models import text_cond, tiny_text_unet, tiny_unet
from morse_engine import Dot
from morse_engine.kernels import aot, checks, variants
from morse_engine.runtime.steps import Layout, Steps, cond_layout
from morse_engine.sampling.request import Request


def keys(launches: Callable[[], None]) -> list[str]:
    """One for each kernel that is launched within, its name and Triton's key."""
    found = set()

    def instead(*, key: str, fn, **_) -> bool:
        found.add(f"{fn.name} {key}")
        return True  # nothing is compiled, and so nothing launched

    knobs.runtime.jit_cache_hook = instead
    driver.set_active(aot.Device(90))
    with checks.in_mode("kernels"):
        launches()
    return sorted(found)


def compiled() -> None:
    """What `make aot` compiles."""
    for op, of in variants.OPS.items():
        launch = getattr(import_module(f"morse_engine.kernels.{op}"), op)
        for _, arguments in of():
            launch(*arguments)


def runs() -> None:
    """A step of each kind, of Dots as wide and images as large as the paper's."""
    for name, dtype in variants.DTYPES.items():
        for layout in variants.LAYOUTS.values():
            for guided in (False, True) if name == "fp16" else (False,):
                run((4, 64, 64), (64, 128), dtype, layout, text=True, guided=guided)
    for layout in variants.LAYOUTS.values():
        run((3, 32, 32), (32, 64), torch.float16, layout)


def run(image, widths, dtype, layout, *, text=False, guided=False) -> None:
    options = {"sample_size": image[1], "in_channels": image[0], "out_channels": image[0]}
    unet = (tiny_text_unet if text else tiny_unet)(**options).to(dtype)
    dot = Dot(unet, widths=widths, guided=guided).eval().to(memory_format=layout)
    cond = {k: v.to(dtype) for k, v in text_cond(2).items()} if text else {}
    shape = (1, *image)
    alone = [(None, False), (None, True)] if dtype == torch.float16 else []
    for dot_of, free in ((dot, False), (dot, True), *alone):
        steps = Steps(
            lambda x, t, **_: torch.zeros_like(x, memory_format=layout),
            dot_of,
            Layout(
                shape, dtype, torch.int64, torch.device("cpu"), guidance=text,
                with_dot=dot_of is not None, with_free=free, cond=cond_layout(cond), capacity=1024,
            ),
            cond,
        )  # fmt: skip
        scale = 2.0 if text else None
        steps.fill(Request(None, [0], shape, scale, cond, torch.device("cpu")))
        steps.draw()
        steps.dash_step()
        if dot_of is not None:
            steps.dot_step()


if __name__ == "__main__":
    print(json.dumps({"compiled": keys(compiled), "runs": keys(runs)}))
