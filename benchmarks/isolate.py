"""A second process that does jobs one by one, so that a crash or an endless loop costs one job.

A process that is stuck in a driver does not end even when it is killed. No wait for one is without
a bound: it is given up, and the next job has a new one.
"""

import ctypes
import multiprocessing
import multiprocessing.process
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

PR_SET_PDEATHSIG = 1  # of Linux
END_S = 10  # for a process that was killed


class Lost(RuntimeError):
    """The process ended, or did not answer in time; the message says which."""


class Worker:
    """The process, started at the first job and again after one that it was lost with.

    Args:
        do: `do(job, emit)` does a job and emits its messages, dicts; a function that a new
            interpreter can import.
    """

    def __init__(self, do: Callable[[object, Callable[[dict], None]], None]):
        self.do = do
        self._process, self._pipe = None, None

    def run(self, job, seconds: float) -> Iterator[dict]:
        """The messages of a job as they come.

        Raises:
            Lost: see there.
        """
        deadline = time.monotonic() + seconds
        if self._process is None:
            self._start()
        self._ask(self._pipe.send, job)
        while True:
            if not self._ask(self._pipe.poll, max(0.0, deadline - time.monotonic())):
                self.stop()
                raise Lost(f"stopped, it had taken {seconds:.0f} s")
            message = self._ask(self._pipe.recv)
            if message is None:
                return
            yield message

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(self.do, theirs))
        self._process.start()
        theirs.close()  # so that its end is seen here

    def _ask(self, ask: Callable, *args):
        """What the pipe answers, as long as there is a process behind it."""
        try:
            return ask(*args)
        except (EOFError, OSError):
            process = self._process
            self.stop()
            raise Lost(f"the process ended with status {process.exitcode}") from None

    def stop(self) -> None:
        """End the process, and all that it started, whatever it is doing."""
        process, self._process = self._process, None
        if process is None:
            return
        self._pipe.close()
        process.join(0.5)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()  # it may not have had the time to lead a group
        process.join(END_S)
        if process.exitcode is None:  # else the end of this process would wait for it, without end
            multiprocessing.process._children.discard(process)


def _serve(do: Callable, pipe) -> None:
    # It ends with the one that gives the jobs: a loop that never ends would keep the GPU busy.
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.setsid()  # a group of its own: the compilers that torch.compile starts have to end with it
    os.dup2(2, 1)  # what jobs print is no part of the summary
    with suppress(EOFError):
        while True:
            do(pipe.recv(), pipe.send)
            pipe.send(None)
