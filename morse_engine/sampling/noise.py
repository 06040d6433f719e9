"""Noise as a function: Philox4x32-10 keyed by the seed of an image, counted by step and position.

The image of a seed is the same alone and in any batch, in any order and in every backend, because
no number depends on what was drawn before it.
"""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ..system.checks import integer, is_list, kind, shown
from ..system.errors import Refused

#: The step number of the starting noise x_T.
INITIAL = -1

_WORD = 0xFFFFFFFF
_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_WEYL = 0x9E3779B9, 0xBB67AE85
_ROUNDS = 10
# Drawn at once: on a CPU the noise of some steps of a small image takes as long as that of one.
_AT_ONCE = 1 << 17
# A block makes four numbers and its index is one 32-bit word of the counter.
_MAX_ELEMENTS = 1 << 34


def philox4x32(counter: Tensor, key: Tensor) -> Tensor:
    """Philox4x32-10: four random 32-bit words for each 128-bit counter and 64-bit key.

    Ten rounds of, with words c and key words k,

        c0, c1, c2, c3 = hi(M1 c2) ^ c1 ^ k0,  lo(M1 c2),  hi(M0 c0) ^ c3 ^ k1,  lo(M0 c0)

    where k0, k1 grow by the Weyl constants after each round, all modulo 2^32.

    Args:
        counter: int64 `[..., 4]`, words of 32 bits, each in [0, 2^32), lowest word first.
        key: int64 `[..., 2]`, likewise, on the device of `counter`; broadcasts against it.

    Returns:
        int64 `[..., 4]`, words in [0, 2^32).

    Raises:
        Refused: a wrong last dimension or a dtype other than int64.

    Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011); Random123.
    """
    for name, words, size in (("counter", counter, 4), ("key", key, 2)):
        if not isinstance(words, Tensor):
            raise Refused(f"{name} is {kind(words)}: has to be int64 [..., {size}]")
        if words.dtype != torch.int64 or words.ndim == 0 or words.shape[-1] != size:
            raise Refused(
                f"{name} is {words.dtype} of shape {list(words.shape)}; "
                f"has to be int64 [..., {size}], one 32-bit word an element"
            )
    c0, c1, c2, c3 = counter.unbind(-1)
    k0, k1 = key.unbind(-1)
    for _ in range(_ROUNDS):
        # The product of two words wraps in int64. Its 64 bits are right nevertheless, only its sign
        # is not, and the masks remove what the arithmetic shift makes of the sign.
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            ((p1 >> 32) & _WORD) ^ c1 ^ k0,
            p1 & _WORD,
            ((p0 >> 32) & _WORD) ^ c3 ^ k1,
            p0 & _WORD,
        )
        k0, k1 = (k0 + _WEYL[0]) & _WORD, (k1 + _WEYL[1]) & _WORD
    return torch.stack(torch.broadcast_tensors(c0, c1, c2, c3), dim=-1)


def normal(
    seeds: Sequence[int] | Tensor,
    step: int,
    shape: Sequence[int],
    *,
    device: torch.device | str | None = None,
) -> Tensor:
    """Standard normal noise of one step of a run, a function of (seed, step, position) alone.

    Element 4b + j of an image, row-major over `shape`, is number n_j of block b:

        w0, w1, w2, w3 = philox4x32((b, step mod 2^32, 0, 0), (seed mod 2^32, seed div 2^32))
        u_j = (w_j + 1/2) / 2^32
        n0, n1 = sqrt(-2 ln u0) * (cos(2 pi u1), sin(2 pi u1));   n2, n3 likewise from u2, u3

    computed in float64 and rounded once to float32, so that the last bit of a `log` or `cos` that
    depends on the device or on vectorisation does not show.

    Args:
        seeds: one seed for each image, ints in [0, 2^64) or a one-dimensional integer tensor.
        step: the step, counted from 0 in the order of the run; `INITIAL` for the starting noise.
        shape: shape of one image, for instance `(C, H, W)`; at most 2^34 elements.
        device: where the result is wanted; torch's default device where it is None.

    Returns:
        float32 `[len(seeds), *shape]`.

    Raises:
        Refused: a seed, step or shape outside its range.

    Source: Box and Muller (1958); `philox4x32` for the words.
    """
    return _normal(seeds, [step], shape, device)[0]


def of_steps(
    seeds: Sequence[int] | Tensor,
    steps: Sequence[int],
    shape: Sequence[int],
    *,
    device: torch.device | str | None = None,
) -> Iterator[Tensor]:
    """`normal` of each of the steps in turn, drawn for several at once where images are small."""
    count = max(1, _AT_ONCE // max(1, len(seeds) * math.prod(shape)))
    for first in range(0, len(steps), count):
        yield from _normal(seeds, steps[first : first + count], shape, device)


def _normal(
    seeds: Sequence[int] | Tensor,
    steps: Sequence[int],
    shape: Sequence[int],
    device: torch.device | str | None,
) -> Tensor:
    """`normal` of each of the steps, `[len(steps), len(seeds), *shape]`."""
    steps = [integer("step", step, INITIAL, _WORD - 1) & _WORD for step in steps]
    if not is_list(shape):
        raise Refused(f"shape={shown(shape)}: has to be sizes of one image, such as (3, 32, 32)")
    shape = tuple(integer("size in shape", size, 1, _MAX_ELEMENTS) for size in shape)
    num_elements = math.prod(shape)
    if num_elements > _MAX_ELEMENTS:
        raise Refused(
            f"shape={shape}: {num_elements} elements in an image, at most 2^34 can be counted"
        )
    target = torch.get_default_device() if device is None else _device(device)
    # Other accelerators (Apple's for one) have no float64; the numbers are made on the host there.
    work = target if target.type in ("cpu", "cuda") else torch.device("cpu")

    key = torch.tensor(_key_words(seeds), dtype=torch.int64, device=work).view(-1, 1, 2)
    block = torch.arange(-(-num_elements // 4), device=work)
    step = torch.tensor(steps, dtype=torch.int64, device=work)[:, None, None]
    zero = torch.zeros_like(block)
    words = torch.broadcast_tensors(block, step, zero, zero)
    counter = torch.stack(words, dim=-1)  # [steps, 1, blocks, 4]
    u = (philox4x32(counter, key).double() + 0.5) * 2.0**-32  # [steps, images, blocks, 4]
    radius = torch.sqrt(-2.0 * torch.log(u[..., 0::2]))
    angle = (2.0 * math.pi) * u[..., 1::2]
    numbers = torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)], dim=-1).float()
    numbers = numbers.flatten(2)[..., :num_elements]
    return numbers.reshape(len(steps), -1, *shape).to(target)


def _key_words(seeds: Sequence[int] | Tensor) -> list[tuple[int, int]]:
    if isinstance(seeds, Tensor):
        if seeds.ndim != 1 or seeds.is_floating_point() or seeds.is_complex():
            raise Refused(
                f"seeds is {seeds.dtype} of shape {list(seeds.shape)}; "
                "has to be a one-dimensional integer tensor, one seed an image"
            )
        seeds = seeds.tolist()
    elif not is_list(seeds):
        raise Refused(
            f"seeds={shown(seeds)}: has to be a sequence, one seed an image, such as [0, 1]"
        )
    words = (integer("seed", seed, 0, (1 << 64) - 1) for seed in seeds)
    return [(seed & _WORD, seed >> 32) for seed in words]


def _device(device: torch.device | str) -> torch.device:
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        # Of several lines the first says what is wrong.
        reason = str(error).partition("\n")[0][:100]
        raise Refused(f"device={shown(device)}: torch has no such device ({reason})") from None
