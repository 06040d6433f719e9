"""Tables of schedulers that others have set, read once."""

from collections import OrderedDict
from typing import Any

from torch import Tensor

from ..sampling.solver import SolverTable

NUM_TABLES = 16  # that are kept: reading one takes milliseconds a step


class Tables:
    """`SolverTable.of_prepared`, which keeps what it has read."""

    def __init__(self) -> None:
        self._read: OrderedDict[tuple, SolverTable] = OrderedDict()

    def __call__(self, scheduler: Any, first: int, eta: float) -> SolverTable:
        """The table of a scheduler that is set to its timesteps, from call `first` on.

        Raises:
            Refused: as `SolverTable.of_prepared`.
        """
        key = (type(scheduler), _state(scheduler), first, eta)
        if key not in self._read:
            self._read[key] = SolverTable.of_prepared(scheduler, first, eta=eta)
            if len(self._read) > NUM_TABLES:
                self._read.popitem(last=False)
        self._read.move_to_end(key)
        return self._read[key]


def _state(scheduler: Any) -> tuple:
    """All that a scheduler's steps depend on, to be compared."""

    def plain(value: Any) -> bytes | str:
        if isinstance(value, Tensor):
            return value.cpu().numpy().tobytes()
        return value.tobytes() if hasattr(value, "tobytes") else repr(value)

    return tuple((name, plain(value)) for name, value in sorted(vars(scheduler).items()))
