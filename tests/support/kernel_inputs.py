"""Inputs of the kernels, and comparisons with their references."""

import torch

from morse_engine import kernels
from morse_engine.kernels import solver_step
from morse_engine.sampling.solver import Column
from tolerances import assert_close

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# (B, C, H, W)
SHAPES = (
    (1, 1, 2, 2),  # smallest
    (2, 1, 32, 32),  # digits: two whole blocks
    (3, 3, 10, 6),  # less than a block, no power of two anywhere
    (2, 4, 10, 14),  # more than a block, and a rest
)


def randn(*shape, dtype=torch.float32):
    return torch.randn(shape, device=DEVICE).to(dtype)


def tolerance(dtype):
    return f"kernel/{str(dtype).removeprefix('torch.')}"


def exact_convolutions(dtype):
    """Within it no cuDNN for float32: it may choose Winograd, which loses digits."""
    exact = dtype == torch.float32
    return torch.backends.cudnn.flags(enabled=not exact, allow_tf32=False)


def row(**numbers) -> list[float]:
    plain = {"TIMESTEP": 500.0, "SCALE": 1.0, "LO": -torch.inf, "HI": torch.inf}
    values = plain | {"P": 0.9, "Q": -0.4, "A": 0.8, "C0": 0.3} | numbers
    return [values.get(column.name, 0.0) for column in Column]


def with_line(numbers, **line) -> list[float]:
    """A row with what free steps need."""
    line = {"U": 1.3, "V": -0.8} | line
    return [line.get(column.name, numbers[column]) for column in Column]


ROWS = {
    "first order": row(),
    "clamped": row(LO=-0.5, HI=0.5, B=0.2, SCALE=0.7),
    "noisy": row(D=0.6),
    "third order": row(C1=-0.4, C2=0.25, C3=-0.1, D=-0.2, B=0.1, SCALE=1.3),
}


def state(
    shape, dtype=torch.float32, rows="first order", step=0, guidance=None, slots=4, free=None
):
    """The state of a run of four calls, at one of them; the next call has another scale.

    free: how many free steps are behind each call; None for memory without room for them.
    """
    batch, *image = shape
    following = row(TIMESTEP=321.0, SCALE=0.83)
    table = [following] * step + [ROWS[rows]] + [following] * (3 - step)
    memory = {}
    if free is not None:
        behind = [with_line(ROWS[rows], SLOPE=0.3 * k, A=0.8 - 0.1 * k) for k in range(1, free + 1)]
        table[step : step + 1] = [with_line(ROWS[rows], FREE=free), *behind]
        low = torch.arange(image[0]) * -0.2 - 0.4
        memory["clean"] = randn(*shape)
        memory["bounds"] = torch.stack((low, 0.7 - low)).to(DEVICE)
        memory["advance"] = torch.zeros(1, dtype=torch.int32, device=DEVICE)
    return solver_step.State(
        **memory,
        x=randn(*shape),
        history=randn(slots, *shape),
        model_input=randn(batch if guidance is None else 2 * batch, *image, dtype=dtype),
        timestep=torch.zeros(1, dtype=torch.int64, device=DEVICE),
        rows=torch.tensor(table, device=DEVICE),
        step=torch.tensor([step], device=DEVICE, dtype=torch.int32),
        seeds=torch.tensor([-1, 7, 2**62, *range(batch)][:batch], device=DEVICE),
        guidance=None if guidance is None else torch.tensor([guidance], device=DEVICE),
    )


def clone(tensors):
    return [None if t is None else t.clone() for t in tensors]


def check_all(dtype, actual, expected):
    for a, b in zip(actual, expected, strict=True):
        if a is not None and a.is_floating_point():
            wide = a.dtype == torch.float32 and dtype != torch.bfloat16
            assert_close(tolerance(torch.float32 if wide else dtype), a, b)
        elif a is not None:
            assert torch.equal(a, b)


def check_dash_update(
    shape, dtype, *, rows, step, guidance, keep, slots=4, free=None, channels_last=False
):
    st = state(shape, dtype, rows, step, guidance, slots, free)
    z = randn(*st.model_input.shape, dtype=dtype)
    if channels_last:
        z = z.to(memory_format=torch.channels_last)
        st = st._replace(model_input=st.model_input.to(memory_format=torch.channels_last))
    kept = {None: None, "guided": st.x.shape, "branches": z.shape}[keep]
    trajectory = [None] * 3
    if kept:
        trajectory = [randn(*s, dtype=dtype) for s in (st.x.shape, kept, kept)]
    expected, expected_trajectory = solver_step.State(*clone(st)), clone(trajectory)
    kernels.dash_update_ref(z, expected_trajectory if kept else None, expected)
    kernels.dash_update(z, *st, *trajectory)
    check_all(dtype, [*st, *trajectory], [*expected, *expected_trajectory])


def residual_inputs(shape, dtype, width, copies=1, rows_of_mix=1, channels_last=False):
    batch, c, height, w = shape
    layout = torch.channels_last if channels_last else torch.contiguous_format
    features = randn(copies * batch, width, height // 2, w // 2, dtype=dtype)
    weight = (0.2 * randn(4 * c, width, 3, 3)).to(dtype)
    z = (copies * batch, *shape[1:])
    return [
        features.to(memory_format=layout),
        weight.to(memory_format=layout),
        randn(4 * c, dtype=dtype),
        randn(rows_of_mix, 5),
        *(randn(*s, dtype=dtype) for s in (shape, z, z)),
    ]


def check_residual_up_update(shape, dtype, inputs, **options):
    st = state(shape, dtype, **options)
    expected = solver_step.State(*clone(st))
    with exact_convolutions(dtype):
        kernels.residual_up_update_ref(*inputs, expected)
    kernels.residual_up_update(*inputs, *st)
    check_all(dtype, st, expected)


def down_inputs(shape, dtype, width, rows=1, layout=torch.contiguous_format):
    c = shape[1]
    weight = (0.2 * randn(width, 4 * c, 3, 3)).to(dtype).to(memory_format=layout)
    trajectory = [randn(*shape, dtype=dtype) for _ in range(4)]
    return [
        *trajectory,
        randn(rows, 4, 4),
        weight,
        randn(width, dtype=dtype),
        randn(rows, 2 * width),
    ]


def check_trajectory_down(inputs):
    """Compare with the reference; returns the kernel's output."""
    out = kernels.trajectory_down(*inputs)
    with exact_convolutions(out.dtype):
        expected = kernels.trajectory_down_ref(*inputs)
    assert_close(tolerance(out.dtype), out, expected)
    return out
