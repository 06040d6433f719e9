"""Gradients of an op by way of its reference."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.library import CustomOpDef


def reference_gradient(op: CustomOpDef, reference: Callable[..., Any]) -> None:
    """Register the backward of `op`: that of its reference, computed again from the inputs.

    Training is bound by the models' convolutions; these ops only have to be right there. First
    derivatives only.
    """

    def setup(ctx: Any, inputs: tuple, output: Any) -> None:
        ctx.others = [None if isinstance(value, Tensor) else value for value in inputs]
        ctx.save_for_backward(*(v if isinstance(v, Tensor) else None for v in inputs))

    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor | None, ...]:
        wanted = ctx.needs_input_grad
        inputs = [
            other if tensor is None else tensor.detach().requires_grad_(need)
            for tensor, other, need in zip(ctx.saved_tensors, ctx.others, wanted, strict=True)
        ]
        with torch.enable_grad():
            outputs = reference(*inputs)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        sources = [t for t, need in zip(inputs, wanted, strict=True) if need]
        grads = iter(torch.autograd.grad(outputs, sources, grad))
        return tuple(next(grads) if need else None for need in wanted)

    op.register_autograd(backward, setup_context=setup)
