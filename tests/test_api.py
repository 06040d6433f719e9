"""The public functions, each called with wrong values in the place of right ones.

Whatever is passed, the answer is a right result or one of the two errors that the package raises on
purpose, soon, within little memory, and no file is left behind.
"""

import inspect
import itertools
import math
import os
import resource
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import morse_engine
from morse_engine import (
    Dot,
    Plan,
    Refused,
    Sampler,
    SolverTable,
    Unavailable,
    evaluation,
    zoo,
)
from morse_engine.runtime.run import Run
from public_calls import X, public_calls, things

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # of diffusers, for some of the wrong values
]

CPU_S, MOST_BYTES = 5, 1 << 30  # what one call may take, whatever it is asked for


def _iterator():
    yield 1


WRONG = [
    None, True, False, 0, -1, 2, 3, 7, 50, 10**12, 2**63, 2**64, -(2**70), 10**400,
    0.0, -0.5, 0.5, 1.5, 2.0, 1e308, math.nan, math.inf, -math.inf, 1j,
    "", "x", "-", "-.", "-:.", ".", "12", "cpu", "cuda:99", "eager", "\0", "a/b/c", "-" * 100_000,
    "x" * 100_000, b"-.", bytearray(b"x"), [], [1], [1, 2], [-1, 2], (1, 16, 16), (1, 33, 33),
    [0.5, 1.0], ["-", "."], [None], [[1, 2], [3, 4]], ((0, 1), (2, 3)), {}, {"a": 1}, {1, 2},
    range(3), object(), lambda: None, lambda *a, **k: None,
    int, torch.nn.Module, Path("no such folder"), Ellipsis, NotImplemented, ValueError("x"),
    np.int64(3), np.float32(2), np.nan, np.array([1, 2]), np.array(["a"]), np.zeros((2, 2)),
    torch.tensor(3), torch.tensor(2.5), torch.tensor([1, 2]), torch.tensor([]), torch.tensor(True),
    torch.zeros(2, 3), X, X[:1], X[:, :, :15], torch.full_like(X, math.nan), X.long(), X.half(),
    torch.zeros(0, 1, 16, 16), torch.zeros(2, 3, 16, 16), torch.device("cpu"), torch.float16,
    DDIMScheduler, DDIMScheduler(), FlowMatchEulerDiscreteScheduler(), Plan("-.."), Plan,
    DDIMScheduler(prediction_type="sample"), SolverTable, torch.nn.Linear(2, 2), itertools.count(),
    _iterator(), zoo, torch.zeros(4, 5, 7), torch.full((4, 5, 8), math.nan), torch.zeros(2, 5, 8),
]  # fmt: skip
# What a caller's own function makes of its arguments is the caller's.
OWN = {"on_step", "stop", "model", "callback", "extra_args", "dash", "told", "extractor", "way"}
OWN |= {"features", "on_plan"}
OWN |= {"evaluation.sample_many(dot)"}
KEYWORDS = ["batchsize", "class_labels", "x", "sample", "steps", "encoder_hidden_states"]


@pytest.fixture(scope="module")
def calls(tmp_path_factory):
    folder = tmp_path_factory.mktemp("api")
    (folder / "pictures").mkdir()
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(folder / "pictures" / "a.png")
    before = os.getcwd()
    (folder / "here").mkdir()
    os.chdir(folder / "here")
    yield public_calls(things(), folder)
    os.chdir(before)


values = st.sampled_from(WRONG) | st.integers(-3, 40) | st.floats() | st.text(max_size=5)


@pytest.mark.slow
@settings(max_examples=900, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_wrong_values_are_answered(calls, data):
    name = data.draw(st.sampled_from(sorted(calls)), label="function")
    function, right = calls[name]
    changed = data.draw(st.sets(st.sampled_from(sorted(right)), min_size=1, max_size=2))
    options = dict(right)
    for parameter in changed:
        value = data.draw(values, label=parameter)
        if not callable(value) or not {parameter, f"{name}({parameter})"} & OWN:
            options[parameter] = value
    if name.startswith("Sampler.__call__") and data.draw(st.booleans()):
        options[data.draw(st.sampled_from(KEYWORDS))] = data.draw(values)
    answered(function, options)


def answered(function, options):
    """Call it: a result, or one of the errors that are meant; soon, and in little memory."""
    here = sorted(os.listdir())
    cpu, memory = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    said = ""
    try:
        function(**options)
    except (Refused, Unavailable, FileNotFoundError, NotADirectoryError) as error:
        said = str(error)
    assert len(said) < 2000, "a message does not repeat all that was passed"
    assert time.process_time() - cpu < CPU_S
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) * 1024 < MOST_BYTES
    assert sorted(os.listdir()) == here, "it left a file"


def test_right_values_are_right(calls):
    """Else a refusal of wrong ones would show nothing."""
    refused = {"restore": "not accelerated", "Dot.from_pretrained": "another Dash"}
    refused["zoo.digits_dot"] = "another Dash"
    for name, (function, right) in calls.items():
        if name in refused:
            with pytest.raises(Refused, match=refused[name]):
                function(**right)
        else:
            function(**right)


# Tested elsewhere: the extension in tests/runtime.
ELSEWHERE = {"Refused", "Unavailable", "native", "get_include"}
ELSEWHERE |= {"zoo", "noise", "Sampler"}  # as a whole; their members are there


def test_every_public_function_and_parameter_is_there(calls):
    public = {name: getattr(morse_engine, name) for name in set(morse_engine.__all__) - ELSEWHERE}
    public |= {f"evaluation.{name}": getattr(evaluation, name) for name in evaluation.__all__}
    inner = ("SolverTable", "Dot")  # their other methods are asked by the loop alone
    for owner in (Plan, SolverTable, Sampler, Dot, Run):
        for name, member in vars(owner).items():
            made = isinstance(member, classmethod)
            whole = inspect.isfunction(member) and owner.__name__ not in inner
            if not name.startswith("_") and (made or whole):
                public[f"{owner.__name__}.{name}"] = getattr(member, "__func__", member)
    # Without a parameter that can be wrong, or for runs alone.
    own = {"Plan.free_behind", "Plan.whole", "SolverTable", "Sampler.free"}
    own |= {"Run.step", "Run.cancel", "Run.measure", "evaluation.SpeedUp"}
    for name in sorted(public.keys() - own):
        assert name in calls, name
        parameters = inspect.signature(public[name]).parameters.values()
        named = {p.name for p in parameters if p.kind is not p.VAR_KEYWORD} - {"self", "cls"}
        assert named <= calls[name][1].keys(), name
