"""What `make aot` compiles is what runs launch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="the kernels are written in Triton")


@pytest.mark.slow
def test_the_kernels_of_runs_are_among_those_that_are_compiled():
    script = Path(__file__).parents[1] / "support/launch_keys.py"
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning:triton", script],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    compiled, runs = json.loads(done.stdout).values()
    names = {key.split()[0] for key in runs}
    assert len(names) == 5  # those of a Dot's ends and of the solver's step
    assert names < {key.split()[0] for key in compiled}
    assert set(runs) <= set(compiled)
