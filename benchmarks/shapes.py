"""Steps of the paper's models as shapes alone: nothing is computed, no weight takes memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch
from paper_models import PaperModel
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from morse_engine.dot import files
from morse_engine.dot.dot import Dot
from morse_engine.kernels import is_channels_last
from morse_engine.kernels.checks import in_mode
from morse_engine.runtime.models import Models
from morse_engine.runtime.steps import Layout, Steps, cond_layout

DTYPE = torch.float16


def steps_of(model: PaperModel, batch: int = 1, *, channels_last: bool = False) -> Steps:
    """The fused steps of a model and its merged Dot on the device "meta", in float16.

    Args:
        channels_last: whether Dash's weights are.
    """
    meta = torch.device("meta")
    unet = model.build(meta, DTYPE)
    if channels_last:
        unet.to(memory_format=torch.channels_last)
    with mock.patch.object(files, "fingerprint", return_value="none"):
        dot = Dot(unet, widths=model.widths)
        models = Models(unet, dot)
    size, cond = unet.config.sample_size, model.cond(batch, meta, DTYPE)
    layout = Layout(
        shape=(batch, unet.config.in_channels, size, size),
        dtype=DTYPE,
        timestep_dtype=torch.int64,
        device=meta,
        guidance=model.guidance is not None,
        with_dot=True,
        with_free=False,
        cond=cond_layout(cond),
        capacity=20,
    )
    with as_on_a_gpu():
        return Steps(models.dash, models.helper, layout, cond)


class Layouts(TorchDispatchMode):
    """The memory formats of a GPU: cuDNN answers in that of the weight, group norm contiguously."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.convolution.default and is_channels_last(args[1]):
            return out.contiguous(memory_format=torch.channels_last)
        if func is torch.ops.aten.native_group_norm.default:
            return (out[0].contiguous(), *out[1:])
        return out


@contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """Within it layouts are those of a GPU, and attention and our ops are one operation each."""

    def attention(q: Tensor, k: Tensor, v: Tensor, attn_mask=None, **options) -> Tensor:
        return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)[0]

    patched = mock.patch("torch.nn.functional.scaled_dot_product_attention", attention)
    with patched, Layouts(), in_mode("ops"):
        yield
