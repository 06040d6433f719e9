"""`philox_normal`: the noise of a run inside the kernels.

    w0..w3 = philox4x32((position div 4, step, 0, 0), seed)
    u      = (w + 1/2) / 2^32
    n0, n1 = sqrt(-2 ln u0) (cos, sin)(2 pi u1);   n2, n3 likewise from u2, u3

`morse_engine.noise.normal` is the reference. The words are equal; the normals are computed in
float32 here, in float64 there.
"""

import math

import torch
from torch import Tensor

from ..sampling import noise
from ..system.errors import Refused
from .checks import INTS, MAX_ELEMENTS, check, on_device, runs_kernel
from .triton_or_stub import constexpr, jit, tl, triton

BLOCK = 512
_HALF_RANGE = constexpr(2.0**-32)
_TURN = constexpr(6.283185307179586 * 2.0**-32)


def philox_normal_ref(seeds: Tensor, step: Tensor, shape: list[int]) -> Tensor:
    """The op in plain PyTorch: `noise.normal`."""
    words = [seed % (1 << 64) for seed in seeds.tolist()]
    return noise.normal(words, int(step), shape, device=seeds.device)


@jit
def normal_pair(w0, w1):
    """Two independent normals from two 32-bit words (Box-Muller), as blocks of float32."""
    # Where u is close to 1, float32 has only few of its values and ln u is all in 1 - u. That is
    # exact from the complement of the word; ln(1 - v) = log(y) (-v) / (y - 1) with y = 1 - v keeps
    # its digits because the rounding of y cancels.
    # Not ~w0, which Triton's interpreter before 3.9 cannot do for unsigned words.
    v = ((w0 ^ 0xFFFFFFFF).to(tl.float32) + 0.5) * _HALF_RANGE
    y = 1.0 - v
    near_one = tl.where(y == 1.0, -v, tl.log(y) * -v / tl.where(y == 1.0, -1.0, y - 1.0))
    low = tl.log((w0.to(tl.float32) + 0.5) * _HALF_RANGE)
    radius = tl.sqrt(-2.0 * tl.where((w0 >> 31) == 0, low, near_one))
    cosine, sine = _cos_sin(w1)
    return radius * cosine, radius * sine


@jit
def _cos_sin(w):
    """cos and sin of 2 pi (w + 1/2) / 2^32."""
    # Within an eighth of a turn of the nearest quarter two short series do. cos() and sin() would
    # bring code for angles of any size, which costs registers, and the angle would be rounded.
    quarter = (w + 0x20000000) >> 30
    rest = (w - (quarter << 30)).to(tl.int32, bitcast=True)
    a = (rest.to(tl.float32) + 0.5) * _TURN
    s = a * a
    sine = 1 + s * (-1 / 6 + s * (1 / 120 + s * (-1 / 5040 + s * (1 / 362880))))
    sine = a * sine
    cosine = -1 / 720 + s * (1 / 40320 - s * (1 / 3628800))
    cosine = 1 + s * (-1 / 2 + s * (1 / 24 + s * cosine))
    odd = (quarter & 1) != 0
    sign = tl.where((quarter & 2) != 0, -1.0, 1.0)
    return sign * tl.where(odd, -sine, cosine), sign * tl.where(odd, cosine, sine)


@jit
def philox_words(seed, step, block):
    """The four words of each counter block; seed int64, step and block int32."""
    zero = block * 0
    return tl.philox(seed, block, zero + step, zero, zero)


@jit
def normal_block(seed, step, first_block, BLOCK: tl.constexpr):
    """The normals of BLOCK positions in a row, the first one at 4 first_block."""
    w0, w1, w2, w3 = philox_words(seed, step, first_block + tl.arange(0, BLOCK // 4))
    n0, n1 = normal_pair(w0, w1)
    n2, n3 = normal_pair(w2, w3)
    return tl.interleave(tl.interleave(n0, n2), tl.interleave(n1, n3))


@jit
def normal_at(seed, step, position):
    """The normals of positions anywhere."""
    w0, w1, w2, w3 = philox_words(seed, step, position >> 2)
    second = (position & 2) != 0
    cosine, sine = normal_pair(tl.where(second, w2, w0), tl.where(second, w3, w1))
    return tl.where((position & 1) != 0, sine, cosine)


@jit
def _philox_normal_kernel(
    out_ptr,  # [B, numel] float32
    seeds_ptr,  # [B] int64
    step_ptr,  # [1] int32 or int64
    numel,  # elements of one image
    BLOCK: tl.constexpr,
):
    blocks = tl.cdiv(numel, BLOCK)
    image = (tl.program_id(0) // blocks).to(tl.int64)
    first = (tl.program_id(0) % blocks) * BLOCK
    step = tl.load(step_ptr).to(tl.int32)
    values = normal_block(tl.load(seeds_ptr + image), step, first // 4, BLOCK)
    position = first + tl.arange(0, BLOCK)
    tl.store(out_ptr + image * numel + position, values, mask=position < numel)


@torch.library.custom_op("morse_engine::philox_normal", mutates_args=())
def philox_normal(seeds: Tensor, step: Tensor, shape: list[int]) -> Tensor:
    """Standard normal noise of one step, a function of (seed, step, position within the image).

    Args:
        seeds: int64 `[B]`, the 64 bits of each image's seed.
        step: int32 or int64 `[1]`, in device memory; -1 is the starting noise.
        shape: of one image.

    Returns:
        float32 `[B, *shape]`.

    Raises:
        Refused: an argument of another shape, dtype or device, or an image of 2^31 elements.

    Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).
    """
    check("seeds", seeds, (None,), seeds.device, (torch.int64,))
    check("step", step, (1,), seeds.device, INTS)
    numel = math.prod(shape)
    if not 0 < numel <= MAX_ELEMENTS:
        raise Refused(f"shape={shape}: has to have 1 to 2^31 - 2^16 elements")
    if not runs_kernel(seeds):
        return philox_normal_ref(seeds, step, shape)
    out = _philox_normal_fake(seeds, step, shape)
    if len(seeds):
        with on_device(seeds):
            grid = (triton.cdiv(numel, BLOCK) * len(seeds),)
            _philox_normal_kernel[grid](out, seeds, step, numel, BLOCK=BLOCK, enable_fp_fusion=True)
    return out


@philox_normal.register_fake
def _philox_normal_fake(seeds: Tensor, step: Tensor, shape: list[int]) -> Tensor:
    return seeds.new_empty((seeds.shape[0], *shape), dtype=torch.float32)
