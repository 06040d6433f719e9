"""Commands one after the other, each with a log and a limit of its own: none stops the next.

    folder/03-install.log    what a part printed
    folder/parts.txt         a line for each part, written as it ends

A part that is over its limit is interrupted, which makes pytest print what it has by then; 5 s
later it is killed with all that it started. A process that even then does not end, stuck in a
driver, is given up. Nothing but the standard library is used here, so nothing can be missing.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

GRACE_S = 5  # from an interrupt to a kill
END_S = 10  # from a kill to giving up
TAIL = 8  # lines of a log that are shown where a part did not pass


@dataclass(frozen=True)
class Part:
    """One command.

    Attributes:
        settles: what is known when it has passed.
        limit: seconds that it is given whatever the parts before it took, as long as the limits of
            all fit into the time of all.
        most: seconds that it may take if the parts before it left time.
        command: "{minutes}" in it becomes the time that it has, less what its end takes.
    """

    name: str
    limit: float
    command: Sequence[str]
    settles: str = ""
    most: float = 0
    env: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Done:
    """How a part ended."""

    part: Part
    status: str
    seconds: float

    def __str__(self) -> str:
        text = f"{self.part.name:<12} {self.status:<18} {self.seconds:5.0f} s"
        return f"{text}   {self.part.settles}".rstrip()


def run(
    parts: Sequence[Part],
    folder: Path,
    seconds: float,
    learn: Callable[[list[Done]], dict[str, str]] = lambda done: {},
) -> list[Done]:
    """Do the parts within so many seconds; an interrupt ends the part that it meets, and all.

    Args:
        learn: environment of the next part, from how those before it ended.
    """
    folder.mkdir(parents=True, exist_ok=True)
    end, done = time.monotonic() + seconds, []
    for i, part in enumerate(parts):
        later = sum(other.limit + GRACE_S for other in parts[i + 1 :])
        left = end - time.monotonic()
        limit = min(left - GRACE_S, max(part.limit, min(part.most, left - GRACE_S - later)))
        log = folder / f"{i + 1:02}-{part.name}.log"
        if limit < 1:
            done.append(Done(part, "no time left", 0))
            log.write_text("no time was left\n")
        else:
            print(f"==> {part.name}, {limit:.0f} s at most: {log}", flush=True)
            started = time.monotonic()
            status = one(replace(part, env=part.env | learn(done)), log, limit)
            done.append(Done(part, status, time.monotonic() - started))
        print(f"    {done[-1]}", flush=True)
        if done[-1].status not in ("passed", "no time left"):
            print("".join(f"    | {line}\n" for line in tail(log)), end="", flush=True)
        (folder / "parts.txt").write_text(table(done))
        if done[-1].status == "interrupted":
            break
    return done


def one(part: Part, log: Path, limit: float) -> str:
    """Do a part; how it ended, in words."""
    minutes = f"{max(0.1, (limit - 15) / 60):.2f}"
    command = [word.replace("{minutes}", minutes) for word in part.command]
    with log.open("w") as out:
        out.write(f"$ {' '.join([*(f'{k}={v}' for k, v in part.env.items()), *command])}\n")
        out.flush()
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                env=os.environ | {"PYTHONUNBUFFERED": "1"} | part.env, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            out.write(f"{error}\n")
            return "FAILED to start"
    try:
        return words(process.wait(limit))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_S)
        return "STOPPED at limit"
    except KeyboardInterrupt:
        return "interrupted"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            process.wait(END_S)


def words(status: int) -> str:
    if status < 0:
        return f"KILLED by {signal.Signals(-status).name}"
    return {0: "passed", 5: "no tests"}.get(status, f"FAILED ({status})")


def tail(log: Path) -> list[str]:
    lines = log.read_text(errors="replace").splitlines()
    return [line[:160] for line in lines if line.strip()][-TAIL:]


def table(done: Sequence[Done]) -> str:
    return "".join(f"{line}\n" for line in done)
