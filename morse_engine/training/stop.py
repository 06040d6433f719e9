"""Signals that end a run: noticed at once, obeyed between two steps."""

import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

Handler = Callable[[int, FrameType | None], object] | signal.Handlers
USUAL: dict[int, Handler] = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
}


class Stop:
    """While the block runs, the first Ctrl-C and the first SIGTERM are only noted, in `signal`.

    It is 0 if there was none. A second one of a kind acts at once. What the program itself does
    with a signal is left as it is; so are the signals where Python cannot catch them, in a thread
    that is not the main one.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._caught: set[int] = set()

    def __enter__(self) -> "Stop":
        if threading.current_thread() is threading.main_thread():
            self._caught = {n for n, usual in USUAL.items() if signal.getsignal(n) == usual}
        for number in self._caught:
            signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number in self._caught:
            signal.signal(number, USUAL[number])

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        signal.signal(number, USUAL[number])


def leave(number: int, message: str) -> NoReturn:
    """End as the signal asks: KeyboardInterrupt, or the message and SystemExit with 143.

    Both let `finally` and `with` of the callers do their work.
    """
    if number == signal.SIGTERM:
        print(message, file=sys.stderr)
        raise SystemExit(128 + number)
    raise KeyboardInterrupt(message)
