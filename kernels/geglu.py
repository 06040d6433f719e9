"""`geglu`: the gate of a transformer's feed-forward, in one pass.

    out = u_1 gelu(u_2)        u = [u_1, u_2] of each token

2 loads and 1 store per element of the result.
"""

import torch
from torch import Tensor, nn

from ..system.errors import Refused
from .checks import MAX_ELEMENTS, check, on_device, runs_kernel
from .reference_gradient import reference_gradient
from .triton_or_stub import jit, tl, triton

BLOCK = 1024


def geglu_ref(u: Tensor) -> Tensor:
    """The op in plain PyTorch."""
    value, gate = u.chunk(2, dim=-1)
    return value * nn.functional.gelu(gate)


@jit
def _geglu_kernel(
    out_ptr,  # [..., D]
    u_ptr,  # [..., 2 D]
    channels,  # D
    BLOCK: tl.constexpr,
):
    blocks = tl.cdiv(channels, BLOCK)
    token = (tl.program_id(0) // blocks).to(tl.int64)
    c = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    mask = c < channels
    at = u_ptr + token * 2 * channels + c
    value = tl.load(at, mask, other=0).to(tl.float32)
    gate = tl.load(at + channels, mask, other=0).to(tl.float32)
    gelu = 0.5 * gate * (1 + tl.erf(gate * 0.7071067811865476))
    tl.store(out_ptr + token * channels + c, value * gelu, mask)


@torch.library.custom_op("morse_engine::geglu", mutates_args=())
def geglu(u: Tensor) -> Tensor:
    """`u_1 gelu(u_2)`, with erf. Differentiable, by way of the reference.

    Args:
        u: `[B, N, 2 D]`, float16, bfloat16 or float32, contiguous.

    Returns:
        `[B, N, D]` in the dtype of u.

    Raises:
        Refused: another shape, dtype or layout.
    """
    check("u", u, (None, None, None), u.device)
    if u.shape[2] % 2 or not 0 < u.numel() <= MAX_ELEMENTS * 2:
        raise Refused(f"u has shape {list(u.shape)}: has to be [B, N, 2 D]")
    if not runs_kernel(u):
        return geglu_ref(u)
    out = _geglu_fake(u)
    channels = out.shape[2]
    tokens = out.numel() // channels
    with on_device(u):
        _geglu_kernel[(tokens * triton.cdiv(channels, BLOCK),)](
            out, u, channels, BLOCK=BLOCK, enable_fp_fusion=True
        )
    return out


@geglu.register_fake
def _geglu_fake(u: Tensor) -> Tensor:
    return u.new_empty((*u.shape[:2], u.shape[2] // 2))


reference_gradient(geglu, geglu_ref)
