"""Gradients of an op by way of its reference."""

from collections.abc import Callable

import torch
from torch import Tensor


def reference_gradient(op, reference: Callable[..., Tensor]) -> None:
    """Register the backward of `op`: that of its reference, computed again from the inputs.

    Training is bound by the models' convolutions; these ops only have to be right there. First
    derivatives only.
    """

    def setup(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    def backward(ctx, grad: Tensor):
        wanted = ctx.needs_input_grad
        saved = zip(ctx.saved_tensors, wanted, strict=True)
        inputs = [tensor.detach().requires_grad_(need) for tensor, need in saved]
        with torch.enable_grad():
            output = reference(*inputs)
        grads = iter(torch.autograd.grad(output, [t for t in inputs if t.requires_grad], grad))
        return tuple(next(grads) if need else None for need in wanted)

    op.register_autograd(backward, setup_context=setup)
