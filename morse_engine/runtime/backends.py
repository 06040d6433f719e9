"""What can run the steps of a plan, and why something cannot."""

import torch

from .. import kernels
from ..system.checks import shown
from ..system.errors import Refused, Unavailable
from . import graphs, native

BACKENDS = ("eager", "host", "device")


def check_backend(backend: str, device: torch.device | None) -> None:
    if not isinstance(backend, str) or backend not in BACKENDS:
        raise Refused(f"backend={shown(backend)}: choose {', '.join(BACKENDS)}")
    if why := unavailable(backend, device):
        raise Unavailable(f'backend "{backend}": {why}; use "eager" or "auto"')


def captures_by_itself(device: torch.device | None) -> bool:
    """Whether "auto" captures: not plain functions, whose weights cannot be watched."""
    return device is not None and device.type == "cuda"


def unavailable(backend: str, device: torch.device | None) -> str:
    """Why a backend cannot run models on this device; "" if it can."""
    if backend == "eager":
        return ""
    if backend == "device" and device is not None and (why := graphs.reason(device)):
        return why
    if backend == "device":
        return native.reason()
    if device is not None and device.type == "cuda" and not kernels.available():
        return "the kernels need Triton: pip install triton"
    return ""
