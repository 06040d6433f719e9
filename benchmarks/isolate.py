"""A second process that does jobs one by one, so that a crash or an endless loop costs one job.

The jobs go to its standard input and its messages come from its standard output, both as JSON, one
object a line. `{"done": true}` ends a job.
"""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress


class Lost(RuntimeError):
    """The process ended, or did not answer in time; the message says which."""


class Worker:
    """The process, started at the first job and again after one that it was lost with.

    Args:
        command: calls `serve` with the function that does a job.
    """

    def __init__(self, command: list[str]):
        self.command = command
        self._process: subprocess.Popen | None = None
        self._messages: queue.Queue[dict | None] = queue.Queue()

    def run(self, job: dict, seconds: float) -> Iterator[dict]:
        """The messages of a job as they come.

        Raises:
            Lost: see there.
        """
        deadline = time.monotonic() + seconds
        if self._process is None:
            self._start()
        try:
            self._process.stdin.write(json.dumps(job) + "\n")
            self._process.stdin.flush()
        except OSError:
            raise self._lost() from None
        while True:
            try:
                message = self._messages.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                self.stop()
                raise Lost(f"stopped, it had taken {seconds:.0f} s") from None
            if message is None:
                raise self._lost()
            if "done" in message:
                return
            yield message

    def _start(self) -> None:
        # A session of its own: the compilers that torch.compile starts have to end with it.
        self._process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._messages = queue.Queue()
        reader = threading.Thread(
            target=_read, args=(self._process.stdout, self._messages.put), daemon=True
        )
        reader.start()

    def _lost(self) -> Lost:
        process = self._process
        self.stop()
        return Lost(f"the process ended with status {process.returncode}")

    def stop(self) -> None:
        """End the process, whatever it is doing."""
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(OSError):
            process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.5)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _read(stream, put: Callable[[dict | None], None]) -> None:
    for line in stream:
        put(json.loads(line))
    put(None)


def serve(do: Callable[[dict, Callable[[dict], None]], None]) -> None:
    """Do the jobs of standard input, `do(job, emit)`; what else is printed goes to stderr."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def emit(message: dict) -> None:
        out.write(json.dumps(message) + "\n")
        out.flush()

    for line in sys.stdin:
        do(json.loads(line), emit)
        emit({"done": True})
