"""The machine: what a time depends on, and the device that work is done on."""

import os
import platform
import re
import subprocess
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

import torch

from .errors import Refused


def machine() -> dict:
    """This machine and the versions that a time depends on: `{name: value}`; None is unknown."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    driver = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return {
        "cpu": f"{_cpu()}, {os.cpu_count()} cores",
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "driver": driver.splitlines()[0] if gpu and driver else None,
        "os": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": _version("triton"),
        "diffusers": _version("diffusers"),
        "morse_engine": _version("morse-engine"),
    }


def commit(folder: str | Path) -> str | None:
    """The commit that the git checkout of a folder is at; "+changes" behind it if files differ.

    None where there is no checkout, or no git.
    """
    found = _output("git", "-C", str(folder), "rev-parse", "--short=12", "HEAD")
    if found and _output("git", "-C", str(folder), "status", "--porcelain", "-uno"):
        found += "+changes"
    return found or None


def now() -> str:
    """Date and time (UTC) to the second, as ISO 8601 has them."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _output(*command: str) -> str:
    """What a command prints; "" if it fails or is not there."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine() or "unknown CPU")


def device(name: str) -> torch.device:
    """The device of a name: "cpu", "cuda", "cuda:1" ..., or "auto": a GPU where there is one.

    Raises:
        Refused: another name, or a GPU that torch cannot use; the message says what is missing.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:[0-9]+)?", name):
        raise Refused(f"device {name!r}: choose auto, cpu, cuda or cuda:NUMBER")
    kind, _, number = name.partition(":")
    if kind == "cuda" and (missing := cuda_missing()):
        raise Refused(f"device {name!r}: {missing}")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise Refused(f"device {name!r}: {torch.cuda.device_count()} GPUs, counted from cuda:0")
    return torch.device(name)


def cuda_missing() -> str | None:
    """Why torch cannot use a GPU here and what helps, or None if it can."""
    if torch.cuda.is_available():
        return None
    if torch.version.cuda is None:
        return (
            f"torch {torch.__version__} is built without CUDA; install a CUDA build of torch "
            "(https://pytorch.org/get-started/locally) or use the CPU"
        )
    return (
        f"torch {torch.__version__} is built for CUDA {torch.version.cuda} but finds no GPU; see "
        "that `nvidia-smi` lists one and that its driver is not older than that, or use the CPU"
    )
