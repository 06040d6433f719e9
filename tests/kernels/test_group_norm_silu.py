"""`group_norm_silu` against its reference: shapes, dtypes, layouts, gradients, refusals."""

import sys
from contextlib import nullcontext

import pytest
import torch

from kernel_inputs import DEVICE, DTYPES, randn, tolerance
from morse_engine import Refused, kernels
from tolerances import assert_close

pytest.importorskip("triton", reason="the kernels are written in Triton")

LAYOUTS = [torch.contiguous_format, torch.channels_last]


@pytest.fixture(autouse=True)
def _kernels_run():
    with nullcontext() if DEVICE == "cuda" else kernels.interpreter():
        yield


def inputs(shape, dtype=torch.float32, rows=1, layout=torch.contiguous_format):
    """Far from zero mean, so that a variance from a sum of squares would be seen."""
    h, channels = randn(*shape) + 30, shape[1]
    shift = randn(rows, 3 * channels)[:, channels : 2 * channels] if rows else None
    of_norm = [randn(channels, dtype=dtype), randn(channels, dtype=dtype)]
    h = h.to(dtype).to(memory_format=layout)
    return h, *of_norm, None if shift is None else shift.to(dtype)


def expected(h, weight, bias, shift, *options):
    wide = [None if t is None else t.double() for t in (h, weight, bias, shift)]
    return kernels.group_norm_silu_ref(*wide, *options).to(h.dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("shape", "groups", "rows"),
    [
        ((1, 2, 1, 1), 1, 0),  # smallest
        ((2, 8, 6, 4), 4, 1),
        ((3, 15, 9, 7), 3, 3),  # odd sizes, 5 channels a group, rows that lie apart
        ((2, 20, 40, 30), 2, 2),  # more than a block of pixels, and a rest
    ],
)
def test_the_reference(shape, groups, rows, layout, dtype):
    given = inputs(shape, dtype, rows, layout)
    out = kernels.group_norm_silu(*given, groups, 1e-5, True)
    assert out.stride() == given[0].stride()
    assert_close(tolerance(dtype), out, expected(*given, groups, 1e-5, True))


def test_without_the_activation():
    given = inputs((2, 8, 5, 3), rows=0)
    out = kernels.group_norm_silu(*given, 2, 1e-6, False)
    assert_close("kernel/float32", out, expected(*given, 2, 1e-6, False))


def test_the_reference_has_the_bits_of_layers_of_torch():
    h, weight, bias, shift = inputs((2, 8, 6, 4), rows=2, layout=torch.channels_last)
    norm = torch.nn.GroupNorm(4, 8, device=DEVICE)
    norm.weight.data, norm.bias.data = weight, bias
    with torch.no_grad(), kernels.references():
        out = kernels.group_norm_silu(h, weight, bias, shift, 4, norm.eps, True)
        assert torch.equal(out, torch.nn.SiLU()(norm(h + shift[:, :, None, None])))


def test_the_layout_is_that_of_h_whatever_the_reference_answers(monkeypatch):
    module = sys.modules["morse_engine.kernels.group_norm_silu"]
    reference = module.group_norm_silu_ref
    monkeypatch.setattr(module, "group_norm_silu_ref", lambda *a: reference(*a).contiguous())
    given = inputs((2, 4, 3, 5), layout=torch.channels_last)
    with kernels.references():
        out = torch.ops.morse_engine.group_norm_silu(*given, 2, 1e-5, True)
    assert out.stride() == given[0].stride()
    assert torch.equal(out, reference(*given, 2, 1e-5, True))


def test_gradients():
    given, grads = inputs((2, 4, 3, 3), rows=2), []
    for function in (kernels.group_norm_silu, kernels.group_norm_silu_ref):
        leaves = [t.clone().requires_grad_() for t in given]
        out = function(*leaves, 2, 1e-5, True)
        weights = torch.arange(out.numel(), device=DEVICE).view_as(out)
        grads.append(torch.autograd.grad((out * weights).sum(), leaves))
    for ours, theirs in zip(*grads, strict=True):
        assert theirs.abs().max() > 0
        assert_close("kernel/float32", ours, theirs)


@pytest.mark.parametrize("rows", [0, 2])
def test_opcheck(rows):
    op = torch.ops.morse_engine.group_norm_silu.default
    leaves = [None if t is None else t.requires_grad_() for t in inputs((2, 4, 3, 3), rows=rows)]
    torch.library.opcheck(op, (*leaves, 2, 1e-5, True))


def test_what_is_wrong_is_named():
    h, weight, bias, shift = inputs((2, 4, 3, 3))
    for args, message in [
        ((h[0], weight, bias, shift, 2), "h has shape"),
        ((h.transpose(2, 3)[:, ::2], weight[:2], bias[:2], None, 2), "h has strides"),
        ((h, weight[:3], bias, shift, 2), r"weight has shape \[3\]"),
        ((h, weight, bias.double(), shift, 2), "bias is torch.float64"),
        ((h, weight, bias, shift.expand(3, 4), 2), "shift has shape"),
        ((h, weight, bias, shift[:, ::2], 2), "shift has shape"),
        ((h, weight, bias, randn(2, 8)[:, ::2], 2), "shift has strides"),
        ((h, weight, bias, shift, 3), "groups=3: has to divide the 4 channels"),
        ((h, weight, bias, shift, 0), "groups=0"),
    ]:
        with pytest.raises(Refused, match=message):
            kernels.group_norm_silu(*args, 1e-5, True)
