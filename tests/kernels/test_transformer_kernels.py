"""`add_layer_norm` and `geglu` against their references: sizes, dtypes, gradients, refusals."""

from contextlib import nullcontext

import pytest
import torch

from kernel_inputs import DEVICE, DTYPES, randn, tolerance
from morse_engine import Refused, kernels
from tolerances import assert_close

pytest.importorskip("triton", reason="the kernels are written in Triton")

SIZES = [(1, 1, 1), (2, 3, 40), (1, 5, 1280), (2, 2, 17)]


@pytest.fixture(autouse=True)
def _kernels_run():
    with nullcontext() if DEVICE == "cuda" else kernels.interpreter():
        yield


def to_add(size, dtype=torch.float32):
    h, channels = randn(*size) + 20, size[-1]
    return [t.to(dtype) for t in (h, randn(*size), randn(channels), randn(channels))]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_add_layer_norm(size, dtype):
    given = to_add(size, dtype)
    total, norm = kernels.add_layer_norm(*given, 1e-5)
    expected = kernels.add_layer_norm_ref(*(t.double() for t in given), 1e-5)
    assert_close(tolerance(dtype), total, expected[0].to(dtype))
    assert_close(tolerance(dtype), norm, expected[1].to(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [*SIZES, (1, 2, 1100)])  # a block and a rest
def test_geglu(size, dtype):
    u = 2 * randn(*size[:2], 2 * size[2], dtype=dtype)
    expected = kernels.geglu_ref(u.double()).to(dtype)
    assert_close(tolerance(dtype), kernels.geglu(u), expected)


def test_the_references_have_the_bits_of_layers_of_diffusers():
    from diffusers.models.activations import GEGLU

    h, delta, weight, bias = to_add((2, 3, 16))
    norm, gate = torch.nn.LayerNorm(16, device=DEVICE), GEGLU(16, 24).to(DEVICE)
    norm.weight.data, norm.bias.data = weight, bias
    with torch.no_grad(), kernels.references():
        total, normed = kernels.add_layer_norm(h, delta, weight, bias, norm.eps)
        assert torch.equal(total, delta + h)
        assert torch.equal(normed, norm(total))
        assert torch.equal(kernels.geglu(gate.proj(h)), gate(h))


def gradients(function, leaves, *options):
    leaves = [t.clone().requires_grad_() for t in leaves]
    out = function(*leaves, *options)
    outs = out if isinstance(out, tuple) else (out,)
    weights = [torch.arange(o.numel(), device=DEVICE).view_as(o) for o in outs]
    return torch.autograd.grad(
        sum((o * w).sum() for o, w in zip(outs, weights, strict=True)), leaves
    )


@pytest.mark.parametrize("name", ["add_layer_norm", "geglu"])
def test_gradients_and_opcheck(name):
    leaves, options = (to_add((2, 3, 4)), (1e-5,)) if name[0] == "a" else ([randn(2, 3, 8)], ())
    ours = gradients(getattr(kernels, name), leaves, *options)
    theirs = gradients(getattr(kernels, f"{name}_ref"), leaves, *options)
    for mine, expected in zip(ours, theirs, strict=True):
        assert expected.abs().max() > 0
        assert_close("kernel/float32", mine, expected)
    op = getattr(torch.ops.morse_engine, name).default
    torch.library.opcheck(op, (*(t.requires_grad_() for t in leaves), *options))


def test_what_is_wrong_is_named():
    h, delta, weight, bias = to_add((2, 3, 4))
    for args, message in [
        ((h[0], delta, weight, bias), "h has shape"),
        ((h, delta[:1], weight, bias), "delta has shape"),
        ((h, delta.half(), weight, bias), "delta is torch.float16"),
        ((h, delta, weight, bias[:2]), "bias has shape"),
        ((h.mT, delta, weight[:3], bias), "h has strides"),
        ((randn(1, 1, 9000), randn(1, 1, 9000), randn(9000), randn(9000)), "1 to 8192 channels"),
    ]:
        with pytest.raises(Refused, match=message):
            kernels.add_layer_norm(*args, 1e-5)
    for u, message in [
        (randn(2, 4), "u has shape"),
        (randn(1, 2, 5), r"has to be \[B, N, 2 D\]"),
        (randn(2, 4, 6).mT, "u has strides"),
    ]:
        with pytest.raises(Refused, match=message):
            kernels.geglu(u)
