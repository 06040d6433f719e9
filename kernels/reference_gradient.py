"""Gradients of an op by way of its reference."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.library import CustomOpDef


def reference_gradient(op: CustomOpDef, reference: Callable[..., Tensor]) -> None:
    """Register the backward of `op`: that of its reference, computed again from the inputs.

    Training is bound by the models' convolutions; these ops only have to be right there. First
    derivatives only.
    """

    def setup(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        wanted = ctx.needs_input_grad
        saved = zip(ctx.saved_tensors, wanted, strict=True)
        inputs = [tensor.detach().requires_grad_(need) for tensor, need in saved]
        with torch.enable_grad():
            output = reference(*inputs)
        grads = iter(torch.autograd.grad(output, [t for t in inputs if t.requires_grad], grad))
        return tuple(next(grads) if need else None for need in wanted)

    op.register_autograd(backward, setup_context=setup)
