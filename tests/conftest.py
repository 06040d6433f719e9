"""What every test starts from: a fixed seed, and a reason where a GPU is missing."""

import os
import signal

# One thread in each worker: as many threads as cores in each of as many workers would wait for each
# other, and sums have the same order on every machine. Read when torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hypothesis import settings

if not torch.cuda.is_available():
    # Read when the kernels are defined: they can then run on CPU tensors.
    os.environ["TRITON_INTERPRET"] = "1"

# A shell starts what it runs in the background deaf to Ctrl-C, and tests are about what that does.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# On a GPU the references are float32 through and through.
torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False

# The same examples everywhere, so that a failure is everybody's failure; no deadline, because a
# busy machine is no defect.
settings.register_profile("morse", deadline=None, derandomize=True, database=None)
settings.load_profile("morse")


@pytest.hookimpl(optionalhook=True)  # make gpu runs where xdist is not installed
def pytest_xdist_auto_num_workers():
    """`-n auto`: tests share a GPU in turns, and cores at once."""
    return 0 if torch.cuda.is_available() else None


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA GPU, torch.cuda.is_available() is False")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def fake():
    """The fake CUDA driver, in its first state."""
    import fake_driver
    from morse_engine.runtime import native

    if native._native is None:
        pytest.skip(native.reason())
    return fake_driver.load()
