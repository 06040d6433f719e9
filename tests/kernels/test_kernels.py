"""Noise and Dot's blocks against their references: on a GPU, else in Triton's interpreter."""

import subprocess
import sys
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from kernel_inputs import (
    DEVICE,
    DTYPES,
    check_trajectory_down,
    down_inputs,
    randn,
    residual_inputs,
    state,
    tolerance,
)
from morse_engine import kernels
from morse_engine.kernels import checks
from morse_engine.kernels.philox_normal import normal_pair, philox_words
from morse_engine.kernels.triton_or_stub import jit, tl
from morse_engine.sampling import noise
from tolerances import assert_close

pytest.importorskip("triton", reason="the kernels are written in Triton")


@pytest.fixture(autouse=True)
def _kernels_run():
    with nullcontext() if DEVICE == "cuda" else kernels.interpreter():
        yield


# -- noise -----------------------------------------------------------------------------------------


def test_words_are_those_of_the_reference():
    @jit
    def kernel(out_ptr, seed_ptr, step, BLOCK: tl.constexpr):
        block = tl.arange(0, BLOCK)
        words = philox_words(tl.load(seed_ptr), step, block)
        for j in tl.static_range(4):
            tl.store(out_ptr + 4 * block + j, words[j].to(tl.int64))

    for seed, step in ((0, 0), (-1, 3), (2**62 + 5, -1), (123456789, 2**31 - 1)):
        out = torch.empty(64, 4, dtype=torch.int64, device=DEVICE)
        kernel[(1,)](out, torch.tensor([seed], device=DEVICE), step, BLOCK=64)
        key = torch.tensor([seed % 2**32, seed % 2**64 // 2**32])
        counter = torch.zeros(64, 4, dtype=torch.int64)
        counter[:, 0], counter[:, 1] = torch.arange(64), step % 2**32
        assert torch.equal(out.cpu(), noise.philox4x32(counter, key))


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1,), (3, 5, 7), (1, 32, 32), (4, 18, 34)])
def test_philox_normal(shape):
    seeds = torch.tensor([0, 7, -1, 2**62 + 11], device=DEVICE)
    for step in (-1, 0, 41):
        ours = kernels.philox_normal(seeds, torch.tensor([step], device=DEVICE), list(shape))
        expected = noise.normal([0, 7, 2**64 - 1, 2**62 + 11], step, shape, device=DEVICE)
        assert_close("philox_normal", ours, expected)
        alone = kernels.philox_normal(seeds[2:3], torch.tensor([step], device=DEVICE), list(shape))
        assert torch.equal(alone[0], ours[2])


def test_normals_of_words_everywhere():
    @jit
    def kernel(out_ptr, w_ptr, BLOCK: tl.constexpr):
        at = tl.arange(0, BLOCK)
        w0, w1 = tl.load(w_ptr + at).to(tl.uint32), tl.load(w_ptr + BLOCK + at).to(tl.uint32)
        cosine, sine = normal_pair(w0, w1)
        tl.store(out_ptr + at, cosine)
        tl.store(out_ptr + BLOCK + at, sine)

    ends = [0, 1, 2, 1000, 2**31 - 1, 2**31, 2**32 - 2**8, 2**32 - 2**4, 2**32 - 2, 2**32 - 1]
    # w0 at both ends, where the logarithm is hard; w1 at all multiples of an eighth of a turn.
    turns = [(eighth * 2**29 + d) % 2**32 for eighth in range(8) for d in (-1, 0, 1, 2**27)]
    pairs = np.array([(w0, w1) for w0 in ends for w1 in turns][:256]).T
    words = np.concatenate([pairs, np.random.default_rng(0).integers(0, 2**32, (2, 768))], axis=1)
    out = torch.empty(2, 1024, device=DEVICE)
    kernel[(1,)](out, torch.tensor(words, device=DEVICE), BLOCK=1024)
    u = (words.astype(np.float64) + 0.5) / 2.0**32
    radius, angle = np.sqrt(-2 * np.log(u[0])), 2 * np.pi * u[1]
    expected = torch.tensor(np.stack([radius * np.cos(angle), radius * np.sin(angle)]))
    assert_close("philox_normal", out.cpu(), expected.float())


# -- Dot's blocks ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "width", "rows"),
    [
        ((1, 1, 2, 2), 16, 1),
        ((2, 1, 32, 32), 16, 2),
        ((3, 3, 9, 7), 5, 3),  # odd sizes: the last window hangs over
        ((2, 4, 10, 14), 24, 1),
    ],
)
def test_trajectory_down(shape, width, rows, dtype):
    inputs = down_inputs(shape, dtype, width, rows)
    check_trajectory_down(inputs)


def test_trajectory_down_rounds_what_dot_looks_at_as_its_reference_does():
    inputs = down_inputs((1, 1, 2, 2), torch.float16, 1)
    x, x_s, z_s, z_p, mix, weight, bias, scale_shift = inputs
    x.fill_(1 + 2**-10)
    mix.zero_()
    mix[:, :2, 0] = torch.tensor([1 + 2**-11, -1.0])  # f_0 and f_1: not numbers of half precision
    for t in (x_s, z_s, z_p, bias, scale_shift):
        t.zero_()
    weight.fill_(1000)
    assert torch.equal(kernels.trajectory_down(*inputs), kernels.trajectory_down_ref(*inputs))


def test_trajectory_down_of_many_channels():
    check_trajectory_down(down_inputs((1, 9, 4, 6), torch.float16, 20))


def test_trajectory_down_follows_the_layout_of_its_weight():
    inputs = down_inputs((2, 3, 8, 6), torch.float32, 16, layout=torch.channels_last)
    assert checks.is_channels_last(check_trajectory_down(inputs))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("shape", "rows"), [((1, 16, 1, 1), 1), ((3, 5, 9, 7), 3), ((2, 32, 16, 16), 1)]
)
def test_time_silu(shape, rows, dtype, layout):
    h = randn(*shape, dtype=dtype).to(memory_format=layout)
    inputs = [h, randn(shape[1], dtype=dtype), randn(rows, 2 * shape[1])]
    out = kernels.time_silu(*inputs)
    assert out.stride() == h.stride()
    assert_close(tolerance(dtype), out, kernels.time_silu_ref(*inputs))


@pytest.mark.parametrize("name", ["trajectory_down", "time_silu"])
def test_gradients(name):
    inputs = {
        "trajectory_down": lambda: down_inputs((2, 1, 6, 6), torch.float32, 4, 2),
        "time_silu": lambda: [randn(2, 4, 3, 3), randn(4), randn(2, 8)],
    }[name]()
    op, ref = getattr(kernels, name), getattr(kernels, f"{name}_ref")
    grads = []
    for function in (op, ref):
        leaves = [t.clone().requires_grad_() for t in inputs]
        out = function(*leaves)
        grads.append(
            torch.autograd.grad(
                (out * torch.arange(out.numel(), device=DEVICE).view_as(out)).sum(), leaves
            )
        )
    for ours, expected in zip(*grads, strict=True):
        assert expected.abs().max() > 0
        assert_close("kernel/float32", ours, expected)


# -- as torch ops ----------------------------------------------------------------------------------


def op_examples():
    shape = (2, 1, 4, 4)
    st = state(shape, rows="third order", step=1, guidance=2.0)
    z = randn(4, 1, 4, 4)
    ops = torch.ops.morse_engine
    yield ops.philox_normal, (st.seeds, st.step, [1, 4, 4])
    yield ops.dash_update, (z, *st, st.x.clone(), z.clone(), z.clone())
    yield ops.dash_update, (z, *st, None, None, None)
    yield ops.residual_up_update, (*residual_inputs(shape, torch.float32, 16, 2), *st)
    free = state(shape, rows="third order", step=1, guidance=2.0, free=1)
    yield ops.dash_update, (z, *free, None, None, None)
    yield ops.residual_up_update, (*residual_inputs(shape, torch.float32, 16, 2), *free)
    grad = [t.requires_grad_() for t in down_inputs(shape, torch.float32, 4)]
    yield ops.trajectory_down, tuple(grad)
    yield (
        ops.time_silu,
        tuple(t.requires_grad_() for t in (randn(2, 4, 3, 3), randn(4), randn(1, 8))),
    )


@pytest.mark.slow
@pytest.mark.parametrize("index", range(8))
def test_opcheck(index):
    op, args = list(op_examples())[index]
    if DEVICE == "cpu":  # compiled code does not run in the interpreter's context: the references
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(checks, "_mode", checks.ContextVar("off", default="auto"))
            torch.library.opcheck(op.default, args)
    else:
        torch.library.opcheck(op.default, args)


def test_without_the_interpreter_cpu_tensors_run_the_reference(monkeypatch):
    if DEVICE == "cuda":
        pytest.skip("kernels run on this device")
    monkeypatch.setattr(checks, "_mode", checks.ContextVar("off", default="auto"))
    called = []
    module = sys.modules["morse_engine.kernels.time_silu"]
    monkeypatch.setattr(module, "time_silu_ref", lambda *a: called.append(a) or a[0].clone())
    torch.ops.morse_engine.time_silu(randn(1, 2, 2, 2), randn(2), randn(1, 4))
    assert called


@pytest.mark.parametrize(("mode", "ops"), [("auto", 0), ("references", 0), ("ops", 1)])
def test_on_the_cpu_the_reference_is_called_without_a_dispatch(mode, ops):
    if DEVICE == "cuda":
        pytest.skip("kernels run on this device")
    inputs = randn(1, 2, 2, 2), randn(2), randn(1, 4)
    with checks.in_mode(mode), profile(activities=[ProfilerActivity.CPU]) as seen:
        out = kernels.time_silu(*inputs)
    names = [event.key for event in seen.key_averages()]
    assert sum("morse_engine::" in name for name in names) == ops
    assert torch.equal(out, kernels.time_silu_ref(*inputs))


@pytest.mark.slow
def test_the_folder_by_the_name_of_another_package_is_empty():
    """As transformers finds it from a checkout: the ops must not be registered a second time."""
    from pathlib import Path

    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import morse_engine.kernels, kernels, torch; "
        "assert not hasattr(kernels, 'dash_update'); "
        "print(morse_engine.kernels.philox_normal(torch.zeros(1, dtype=torch.int64), "
        "torch.zeros(1, dtype=torch.int64), [2]).shape)"
    )
    command = [sys.executable, "-c", code, str(Path(__file__).parents[2])]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == "torch.Size([1, 2])\n", done.stderr
