"""kernel_us and kernel_share: each kernel at the shapes of real models, in half precision.

Each case stands beside its reference and torch.compile of it. Ours and the references of all cases
come first, torch.compile's as long as there is time, since it takes seconds for each. That kernels
are right is the tests' business (tests/kernels). Times are those of the GPU alone: repeats in a
CUDA graph, the median of many; the share is of the bandwidth that a copy of 1 GiB reaches in this
run. Goals: 85 % of that where the data exceeds the L2 cache, and never slower than torch.compile.
"""

import time
from collections.abc import Iterator

import torch
from rows import Out
from torch import Tensor

from morse_engine import kernels
from morse_engine.sampling.solver import Column
from morse_engine.system.timing import Spread

# (C, H, W) of digits-like models, SD latents, SDXL latents, pixels
IMAGES = ((3, 32, 32), (4, 64, 64), (4, 128, 128), (3, 256, 256))
# What the trunks of Dots work on: (C, H, W) of CIFAR-10's, Church's, Stable Diffusion's and SDXL's,
# (N, D) of the texted ones' tokens, with what geglu is given
FEATURES = ((256, 8, 8), (256, 32, 32), (640, 16, 16), (1280, 16, 16))
TOKENS = ((256, 640), (64, 1280), (256, 1280))
GATES = ((256, 5120), (64, 10240), (256, 10240))
BATCHES = (8, 1, 64)  # by importance
DEVICE = "cuda"


def width(image: tuple[int, int, int]) -> int:
    """Channels of the first and last block of the Dots in `paper_models.py`."""
    return 64 if image[0] == 4 else 32


def measure(out: Out, seconds: float) -> None:
    """Rows of all cases that fit in so many seconds."""
    started, bandwidth = time.perf_counter(), copy_bandwidth()
    missing = 0
    for variants in (("ours", "reference"), ("torch.compile",)):
        for name, shape, batch in cases():
            for variant in variants:
                if time.perf_counter() - started > seconds:
                    missing += 1
                    continue
                with out.case(f"{name}, {variant}, {'x'.join(map(str, shape))}, batch {batch}"):
                    row(out, bandwidth, name, shape, batch, variant)
    if missing:
        out.note(f"kernels: {missing} cases did not fit in {seconds:.0f} s")


def cases() -> Iterator[tuple[str, tuple[int, ...], int]]:
    for batch in BATCHES:
        for name in CASES:
            for shape in SHAPES.get(name, IMAGES):
                yield name, shape, batch


def row(out: Out, bandwidth: float, name: str, shape, batch: int, variant: str) -> None:
    reference, ours, num_bytes = CASES[name](batch, shape, torch.float16)
    function = {"ours": ours, "reference": reference}.get(variant) or compiled(reference)
    time_us = timed(function)
    words = f"{name}, {variant}, {'exceeds' if exceeds_l2(num_bytes) else 'within'} L2"
    where = {"model": "x".join(map(str, shape)), "batch": batch}
    out.row("kernel_us", words, time_us, **where)
    share, high, low = (num_bytes / us / 1e3 / bandwidth for us in time_us[:3])
    out.row("kernel_share", words, Spread(share, low, high, time_us.n), **where)


def timed(function) -> Spread:
    """Microseconds of a call on the GPU."""
    from triton.testing import do_bench_cudagraph

    ms = do_bench_cudagraph(function, rep=10, quantiles=[0.5, 0.2, 0.8])
    return Spread(*(1e3 * value for value in ms), 10)


def copy_bandwidth() -> float:
    """GB/s of a copy of 1 GiB, read and write counted."""
    source = torch.empty(2**28, device=DEVICE)
    target = torch.empty_like(source)
    return 2 * source.nbytes / timed(lambda: target.copy_(source)).value / 1e3


def compiled(reference):
    """torch.compile of a reference. The cases share their code, so earlier ones are forgotten."""
    torch._dynamo.reset()
    function = torch.compile(reference, fullgraph=True, dynamic=False)
    function()
    return function


def exceeds_l2(num_bytes: int) -> bool:
    return num_bytes > torch.cuda.get_device_properties(0).L2_cache_size


# -- the cases: (reference, ours, bytes that are read and written) -------------------------------


def randn(*shape: int, dtype=torch.float16) -> Tensor:
    return torch.randn(shape, device=DEVICE).to(dtype)


def run_state(batch: int, image: tuple[int, int, int], dtype) -> dict[str, Tensor]:
    row = {"SCALE": 1.0, "P": 1.1, "Q": -0.4, "LO": -1.0, "HI": 1.0, "A": 0.7, "C0": 0.3, "C1": 0.1}
    row = [row.get(column.name, 0.0) for column in Column]
    return {
        "x": randn(batch, *image, dtype=torch.float32),
        "history": randn(2, batch, *image, dtype=torch.float32),
        "model_input": randn(batch, *image, dtype=dtype),
        "timestep": torch.zeros(1, dtype=torch.int64, device=DEVICE),
        "rows": torch.tensor([row, row], device=DEVICE),
        "step": torch.zeros(1, dtype=torch.int32, device=DEVICE),
        "seeds": torch.arange(batch, device=DEVICE),
        "guidance": None,
        "clean": None,
        "bounds": None,
        "advance": None,
    }


def solver_step(z, x, history, model_input, timestep, rows, step, **_) -> None:
    """A row without noise in PyTorch that never waits for the GPU, as torch.compile needs it."""
    row, following = rows.index_select(0, step)[0], rows.index_select(0, step + 1)[0]
    m = torch.clamp(row[Column.P] * x + row[Column.Q] * z.float(), row[Column.LO], row[Column.HI])
    x_next = (
        row[Column.A] * x + row[Column.B] * z + row[Column.C0] * m + row[Column.C1] * history[1]
    )
    history[0].copy_(m)
    x.copy_(x_next)
    model_input.copy_(following[Column.SCALE] * x_next)
    timestep.copy_(following[:1])


def dash_update_case(batch, image, dtype):
    state, z = run_state(batch, image, dtype), randn(batch, *image, dtype=dtype)
    x_s, z_s, z_p = (torch.zeros_like(z) for _ in range(3))

    def reference():
        z_p.copy_(z_s)
        z_s.copy_(z)
        x_s.copy_(state["model_input"])
        solver_step(z, **state)

    def ours():
        kernels.dash_update(z, **state, x_s=x_s, z_s=z_s, z_p=z_p)

    # x, history read and written; z, z_s read; x_s, z_s, z_p, model_input written
    return reference, ours, z.numel() * (4 * 4 + 6 * z.element_size())


def residual_up_update_case(batch, image, dtype):
    c, height, w = image
    state = run_state(batch, image, dtype)
    features = randn(batch, width(image), height // 2, w // 2, dtype=dtype)
    weight, bias = randn(4 * c, width(image), 3, 3, dtype=dtype), randn(4 * c, dtype=dtype)
    mix = randn(1, 5, dtype=torch.float32)
    x_s, z_s, z_p = (randn(batch, *image, dtype=dtype) for _ in range(3))
    inputs = (features, weight, bias, mix)

    def reference():
        x_in = state["model_input"]
        eta = kernels.residual_up_ref(*inputs, x_in, x_s, z_s, z_p)
        solver_step(z_s + eta, **state)

    def ours():
        kernels.residual_up_update(*inputs, x_s, z_s, z_p, **state)

    return reference, ours, features.nbytes + x_s.numel() * (4 * 4 + 4 * x_s.element_size())


def trajectory_down_case(batch, image, dtype):
    trajectory = [randn(batch, *image, dtype=dtype) for _ in range(4)]
    outputs = width(image)
    inputs = (
        *trajectory,
        randn(1, 4, 4, dtype=torch.float32),
        randn(outputs, 4 * image[0], 3, 3, dtype=dtype),
        randn(outputs, dtype=dtype),
        randn(1, 2 * outputs, dtype=torch.float32),
    )
    out = batch * outputs * image[1] * image[2] // 4 * trajectory[0].element_size()
    return (
        lambda: kernels.trajectory_down_ref(*inputs),
        lambda: kernels.trajectory_down(*inputs),
        4 * trajectory[0].nbytes + out,
    )


def time_silu_case(batch, image, dtype):
    c = 2 * width(image)  # inside: the outermost block's is fused with its convolution
    h = randn(batch, c, image[1] // 4, image[2] // 4, dtype=dtype)
    inputs = h, randn(c, dtype=dtype), randn(1, 2 * c, dtype=torch.float32)
    return lambda: kernels.time_silu_ref(*inputs), lambda: kernels.time_silu(*inputs), 2 * h.nbytes


def group_norm_silu_case(batch, shape, dtype):
    """Channels-last and with a time's shift, as behind the first convolution of a block."""
    c = shape[0]
    h = randn(batch, *shape, dtype=dtype).contiguous(memory_format=torch.channels_last)
    norm = randn(c, dtype=dtype), randn(c, dtype=dtype)
    inputs = h, *norm, randn(1, c, dtype=dtype), 32, 1e-5, True
    return (
        lambda: kernels.group_norm_silu_ref(*inputs),
        lambda: kernels.group_norm_silu(*inputs),
        2 * h.nbytes,
    )


def add_layer_norm_case(batch, shape, dtype):
    h, delta = randn(batch, *shape, dtype=dtype), randn(batch, *shape, dtype=dtype)
    inputs = h, delta, randn(shape[1], dtype=dtype), randn(shape[1], dtype=dtype), 1e-5
    return (
        lambda: kernels.add_layer_norm_ref(*inputs),
        lambda: kernels.add_layer_norm(*inputs),
        4 * h.nbytes,
    )


def geglu_case(batch, shape, dtype):
    u = randn(batch, *shape, dtype=dtype)
    return lambda: kernels.geglu_ref(u), lambda: kernels.geglu(u), u.nbytes * 3 // 2


CASES = {
    "dash_update": dash_update_case,
    "residual_up_update": residual_up_update_case,
    "trajectory_down": trajectory_down_case,
    "time_silu": time_silu_case,
    "group_norm_silu": group_norm_silu_case,
    "add_layer_norm": add_layer_norm_case,
    "geglu": geglu_case,
}
# Of the others they are IMAGES.
SHAPES = {"group_norm_silu": FEATURES, "add_layer_norm": TOKENS, "geglu": GATES}
