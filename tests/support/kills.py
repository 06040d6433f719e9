"""kill -9 at random moments of a command, again and again, until it has come to its end.

    python kills.py FOLDER COUNT SEED -- WORDS...       makes FOLDER/whole, FOLDER/part-0, ...

The packages are imported once; each run is a fork, which starts its work at once. In WORDS, OUT
stands for the folder of a run. Latencies are made up, so that plans do not depend on the machine.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import accelerate  # noqa: F401
import diffusers
import torch

from morse_engine import cli, engine, zoo  # noqa: F401
from morse_engine.cli import models, sets  # noqa: F401
from morse_engine.evaluation import experiment, figures, subject  # noqa: F401
from morse_engine.runtime.speed import Speed
from morse_engine.training import dash, dot, pipeline  # noqa: F401

assert diffusers.UNet2DModel
assert diffusers.DDPMScheduler


def start(words: list[str], out: Path) -> int:
    """Run the command in a process of its own; its number."""
    pid = os.fork()
    if pid:
        return pid
    log = os.open(f"{out}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    status = 70
    try:
        status = cli.main([word.replace("OUT", str(out)) for word in words])
    finally:
        os._exit(status)


def end(words: list[str], out: Path) -> float:
    """Run the command to its end; the seconds that it took."""
    began = time.monotonic()
    _, status = os.waitpid(start(words, out), 0)
    assert status == 0, Path(f"{out}.log").read_text()[-3000:]
    return time.monotonic() - began


def main(folder: Path, count: int, seed: int, words: list[str]) -> None:
    torch.set_num_threads(1)
    subject.measure_speed = lambda *_, **__: Speed(8.0, 2.0, 4.0)
    chance = random.Random(seed)
    seconds = end(words, folder / "whole")
    part, killed = 0, 0
    while killed < count:
        out = folder / f"part-{part}"
        pid = start(words, out)
        time.sleep(chance.uniform(0, seconds))
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:  # sooner than the moment came: the next run begins anew
            assert status == 0, Path(f"{out}.log").read_text()[-3000:]
            part += 1
            continue
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        killed += 1
    end(words, folder / f"part-{part}")
    print(json.dumps({"seconds": seconds, "parts": part + 1, "killed": killed}))


if __name__ == "__main__":
    divide = sys.argv.index("--")
    folder, count, seed = sys.argv[1:divide]
    main(Path(folder), int(count), int(seed), sys.argv[divide + 1 :])
