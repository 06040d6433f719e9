"""What a merged Dot makes of the times of a step, remembered from run to run."""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..sampling.free import Numbers
from .family import Given
from .when import Timed, When

MOST = 512  # steps; each is some kilobytes

Made = TypeVar("Made")


class Memo:
    """`When` by the times of a step, for inference on a CPU.

    At batch 1 making it takes a fifth of a step there, and every run of a plan has the same times.
    Captured steps have it beforehand; on a GPU reading the times would wait for the device.

    Args:
        layers: those whose weights it is made with. Once one has changed all is made anew, but for
            what is written through `.data`, which PyTorch does not count as a change.
    """

    def __init__(self, layers: Iterable[nn.Module]):
        found = (module._parameters for layer in layers for module in layer.modules())
        self.held = [parameters for parameters in found if parameters]
        self.made: dict[tuple, Any] = {}
        self.of: tuple = ()  # the weights that all of it was made with

    def clear(self) -> None:
        """Forget all. Weights that are moved may lie where others were before."""
        self.made.clear()

    def when(
        self, dot: Any, times: tuple[Numbers, ...], scale: Numbers | None, given: Given
    ) -> When:
        """`dot.when` at the times and the guidance scale; of conditions nothing is remembered."""
        numbers = times if scale is None else (*times, scale)
        if given.emb is None and given.timestep_cond is None:  # the trunk is told of time alone
            make = lambda: dot.when(dot.moments(*times), given)  # noqa: E731
            return self.at("when", numbers, make)
        make_timed = lambda: Timed.of(dot, dot.moments(*times), given)  # noqa: E731
        return When.of(dot.inner, self.at("timed", numbers, make_timed), given)

    def at(self, what: str, numbers: Iterable[Numbers], make: Callable[[], Made]) -> Made:
        """What `make` returns, which depends on the numbers and the weights alone."""
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return make()
        key = (what, *map(_known, numbers))
        weights = tuple(_state(p) for held in self.held for p in held.values() if p is not None)
        if None in key or None in weights or torch.is_autocast_enabled("cpu"):
            return make()
        if weights != self.of or len(self.made) >= MOST:
            self.made, self.of = {}, weights
        made = self.made
        if key not in made:
            made[key] = make()
        return made[key]


def _known(number: Numbers) -> tuple[Any, float] | None:
    """A number with its type; None where it is several, or cannot be read at once."""
    if not isinstance(number, Tensor):
        return type(number), float(number)
    return (number.dtype, number.item()) if number.numel() == 1 and number.is_cpu else None


def _state(weight: Tensor) -> tuple[int, int] | None:
    """What changes with a weight on the CPU; None if nothing would."""
    if not weight.is_cpu or weight.is_inference():
        return None
    return weight.data_ptr(), weight._version
