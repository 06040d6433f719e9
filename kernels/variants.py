"""The launches of real models that `aot.py` compiles: arguments of each op, on the CPU, unwritten.

Models of the paper: pixels without guidance and a Dot that begins with 32 channels, latents with
guidance and 64. Triton compiles a kernel anew for other dtypes of its arguments, for numbers that
are 1 or divisible by 16, and for other constants; so all of these are as in a run
(`tests/kernels/test_variants.py` compares).
"""

from collections.abc import Iterator
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor

from ..sampling.solver import HISTORY, Column
from .solver_step import State

Arguments = tuple[Tensor | list[int] | float | None, ...]
Variant = tuple[str, Arguments]  # what it is, in words, and the op's arguments

ROWS = 1024  # what captured memory has room for
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
LAYOUTS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}
LATENTS, PIXELS, CIFAR = (4, 64, 64), (3, 256, 256), (3, 32, 32)


def empty(*size: int, dtype: torch.dtype = torch.float32, layout: str = "NCHW") -> Tensor:
    return torch.empty(size, dtype=dtype, memory_format=LAYOUTS[layout] if len(size) == 4 else None)


def state(
    batch: int, image: tuple[int, ...], dtype: torch.dtype, guided: bool, line: bool
) -> State:
    """The memory of a run; line: of a plan with free steps."""
    return State(
        x=empty(batch, *image),
        history=empty(1 + len(HISTORY), batch, *image),
        model_input=empty(2 * batch if guided else batch, *image, dtype=dtype),
        timestep=empty(1, dtype=torch.int64),
        rows=empty(ROWS, len(Column)),
        step=empty(1, dtype=torch.int32),
        seeds=empty(batch, dtype=torch.int64),
        guidance=empty(1) if guided else None,
        clean=empty(batch, *image) if line else None,
        bounds=empty(2, image[0]) if line else None,
        advance=empty(1, dtype=torch.int32) if line else None,
    )


def philox_normal() -> Iterator[Variant]:
    seeds, step = empty(1, dtype=torch.int64), empty(1, dtype=torch.int64)
    yield "of a run's start", (seeds, step, list(LATENTS))


def dash_update() -> Iterator[Variant]:
    """Without guidance; with it, both branches kept or the guided estimate; without a Dot."""
    kinds = {"": (PIXELS, 1), " of branches": (LATENTS, 2), " guided": (LATENTS, 1)}
    kinds |= {" alone": (PIXELS, 0), " alone, with guidance": (LATENTS, 0)}
    for name, layout, line, (kind, (image, kept)) in product(
        DTYPES, LAYOUTS, (False, True), kinds.items()
    ):
        if name != "fp16" and kind != " of branches":
            continue  # other dtypes are the same code but for the loads
        dtype, st = DTYPES[name], state(1, image, DTYPES[name], image == LATENTS, line)
        z = empty(*st.model_input.shape, dtype=dtype, layout=layout)
        sizes = (min(kept, 1), kept, kept)
        trajectory = [empty(n, *image, dtype=dtype) if n else None for n in sizes]
        yield words(name, layout, line) + kind, (z, *st, *trajectory)


def residual_up_update() -> Iterator[Variant]:
    """Without guidance, on both branches of it, of its estimate; large and small grids."""
    kinds = {"": (8, PIXELS, 32, 1), ", batch 1": (1, CIFAR, 32, 1)}
    kinds |= {" of branches": (8, LATENTS, 64, 2), " of branches, batch 1": (1, LATENTS, 64, 2)}
    kinds |= {" guided, batch 1": (1, LATENTS, 64, 1)}
    for name, layout, line, (kind, (batch, image, width, branches)) in product(
        DTYPES, LAYOUTS, (False, True), kinds.items()
    ):
        if name != "fp16" and (branches == 1 or (line and batch > 1)):
            continue
        (c, height, w), images = image, branches * batch
        of = partial(empty, dtype=DTYPES[name])
        yield (
            words(name, layout, line) + kind,
            (
                of(images, width, height // 2, w // 2, layout=layout),
                of(4 * c, width, 3, 3, layout=layout),
                of(4 * c),
                empty(1, 5),
                *(of(n, *image) for n in (batch, images, images)),
                *state(batch, image, DTYPES[name], image == LATENTS, line),
            ),
        )


def trajectory_down() -> Iterator[Variant]:
    """Small and large grids."""
    kinds = {"of pixels": (1, PIXELS, 32), "of pixels, CIFAR": (1, CIFAR, 32)}
    kinds |= {"of latents": (16, LATENTS, 64), "of latents, batch 1": (2, LATENTS, 64)}
    for name, layout, (kind, (batch, image, width)) in product(DTYPES, LAYOUTS, kinds.items()):
        of = partial(empty, dtype=DTYPES[name])
        yield (
            f"{words(name, layout)} {kind}",
            (
                *(of(batch, *image) for _ in range(4)),
                empty(1, 4, 4),
                of(width, 4 * image[0], 3, 3, layout=layout),
                of(width),
                empty(1, 2 * width),
            ),
        )


def time_silu() -> Iterator[Variant]:
    """All widths from 32 on are one kernel."""
    for name, layout in product(DTYPES, LAYOUTS):
        of = partial(empty, dtype=DTYPES[name])
        h = of(2, 128, 16, 16, layout=layout)
        yield words(name, layout), (h, of(128), empty(1, 256))


def group_norm_silu() -> Iterator[Variant]:
    """The inmost level of CIFAR-10's model and two of Stable Diffusion's, with a shift or none."""
    kinds = {"of 8 channels": (256, 8), "of 40": (1280, 16), "of 80": (2560, 32)}
    for name, layout, (kind, (channels, size)), shifted in product(
        DTYPES, LAYOUTS, kinds.items(), (False, True)
    ):
        if name != "fp16" and not shifted:
            continue
        of: dict[str, Any] = {"dtype": DTYPES[name]}
        h, row = empty(2, channels, size, size, **of, layout=layout), empty(channels, **of)
        shift = empty(1, channels, **of) if shifted else None
        what = f"{words(name, layout)} {kind}{', shifted' if shifted else ''}"
        yield what, (h, row, row, shift, 32, 1e-5, True)


def add_layer_norm() -> Iterator[Variant]:
    """A transformer block of Stable Diffusion: its outer and its inner level."""
    for name, channels in product(DTYPES, (320, 1280)):
        of: dict[str, Any] = {"dtype": DTYPES[name]}
        h, row = empty(2, 256, channels, **of), empty(channels, **of)
        yield f"{name} of {channels}", (h, h, row, row, 1e-5)


def geglu() -> Iterator[Variant]:
    """All widths divisible by 16 are one kernel."""
    for name, dtype in DTYPES.items():
        yield name, (empty(2, 256, 2 * 1280, dtype=dtype),)


def words(dtype: str, layout: str, line: bool = False) -> str:
    return f"{dtype} {layout}{' free steps' if line else ''}"


OPS = {
    "philox_normal": philox_normal,
    "dash_update": dash_update,
    "residual_up_update": residual_up_update,
    "trajectory_down": trajectory_down,
    "time_silu": time_silu,
    "group_norm_silu": group_norm_silu,
    "add_layer_norm": add_layer_norm,
    "geglu": geglu,
}
