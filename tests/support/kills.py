"""kill -9 at random moments of a command, again and again, until it has come to its end.

    python kills.py FOLDER COUNT SEED -- WORDS...       makes FOLDER/whole, FOLDER/part-0, ...

Each run is a fork of this process, which has imported what a first run has imported, so that
moments fall into work and not into imports. Every other moment is one of the time that a run takes;
the others are just behind one of its changes to a file, where a window of microseconds would hardly
be met by chance. In WORDS, OUT stands for the folder of a run.

Latencies and seconds are made up, so that plans and pages do not depend on the machine. The models
of digits are tiny ones and a demo has few points: less work, the same files.
"""

import importlib
import itertools
import json
import os
import random
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import torch

from models import randomised, tiny_unet
from morse_engine import Dot, cli, zoo
from morse_engine.cli import compared, demo, demo_prompted
from morse_engine.evaluation import experiment, subject
from morse_engine.runtime import run
from morse_engine.runtime.speed import Speed
from morse_engine.training import judge
from morse_engine.zoo import digits

CHANGES = ("open", "os.rename", "os.remove", "os.mkdir", "shutil.rmtree")  # to files, as audited
LAG_S = 0.01  # most between such a change and the kill behind it
FEW = {"budgets": (3,), "steps": (3,), "full_steps": 4, "pictured_budget": 3}


def short() -> None:
    """The same commands with less work, and the same plans at any speed."""
    torch.set_num_threads(1)
    subject.measure_speed = run.Run.measure = lambda *_, **__: Speed(8.0, 2.0, 4.0)
    ticks = itertools.count()
    experiment.time = SimpleNamespace(perf_counter=lambda: float(next(ticks)))
    zoo.digits_dash = lambda: tiny_unet(sample_size=digits.SIZE)
    zoo.digits_dot = lambda unet: randomised(Dot(unet, widths=(4, 4)))
    compared.FULL_STEPS, judge.FULL_STEPS = 3, 3
    demo.run_demo.__kwdefaults__ |= FEW | {"pictured": 2}
    demo_prompted.run_demo.__kwdefaults__ |= FEW | {"pictured": (0,)}


class Run:
    """The command in a process of its own, which tells of each change that it makes in a folder."""

    def __init__(self, words: list[str], out: Path):
        self.out, (self._told, tell) = out, os.pipe()
        self.pid = os.fork()
        if self.pid:
            os.close(tell)
            return
        os.close(self._told)
        log = os.open(f"{out}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        status = 70
        try:
            self._watch(tell)
            status = cli.main([word.replace("OUT", str(out)) for word in words])
            Path(f"{out}.modules").write_text(json.dumps(list(sys.modules)))
        finally:
            os._exit(status)

    def _watch(self, tell: int) -> None:
        folder = str(self.out)

        def hook(event: str, args: tuple) -> None:
            if event in CHANGES and str(args[0]).startswith(folder):
                reads = event == "open" and not args[2] & (os.O_WRONLY | os.O_RDWR)
                if not reads:
                    os.write(tell, b".")

        sys.addaudithook(hook)

    def kill_after(self, seconds: float) -> bool:
        """Kill it then; False if it had ended well by itself."""
        time.sleep(seconds)
        done, status = os.waitpid(self.pid, os.WNOHANG)
        if done:
            self._check(status)
            return False
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._told)
        return True

    def changes(self, most: int = 1 << 30) -> int:
        """Wait until it has made that many changes, or has ended; how many it has made."""
        count = 0
        while count < most and os.read(self._told, 1):
            count += 1
        return count

    def end(self) -> int:
        """Wait for its end; the number of its changes."""
        made = self.changes()
        self._check(os.waitpid(self.pid, 0)[1])
        return made

    def _check(self, status: int) -> None:
        os.close(self._told)
        assert status == 0, Path(f"{self.out}.log").read_text()[-3000:]


def main(folder: Path, count: int, seed: int, words: list[str]) -> None:
    short()
    Run(words, folder / "first").end()
    for name in json.loads((folder / "first.modules").read_text()):
        with suppress(Exception):  # some are no files
            importlib.import_module(name)
    chance, began = random.Random(seed), time.monotonic()
    changes = Run(words, folder / "whole").end()
    seconds = time.monotonic() - began
    part, killed = 0, 0
    while killed < count:
        one = Run(words, folder / f"part-{part}")
        if killed % 2:
            one.changes(chance.randint(1, changes))
            died = one.kill_after(chance.uniform(0, LAG_S))
        else:
            died = one.kill_after(chance.uniform(0, seconds))
        killed += died
        part += not died  # it had ended sooner: the next run begins anew
    Run(words, folder / f"part-{part}").end()
    said = {"seconds": seconds, "changes": changes, "parts": part + 1, "killed": killed}
    print(json.dumps(said))


if __name__ == "__main__":
    divide = sys.argv.index("--")
    folder, count, seed = sys.argv[1:divide]
    main(Path(folder), int(count), int(seed), sys.argv[divide + 1 :])
