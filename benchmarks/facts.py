"""What this machine has: versions; with --driver, what the C++ extension finds in the driver."""

import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version

PACKAGES = (
    *("torch", "triton", "diffusers", "peft", "transformers", "numpy", "setuptools", "pybind11"),
    *("cmake", "ninja", "pytest", "pytest-timeout", "pytest-xdist"),
)


def versions() -> None:
    print("python", sys.version)
    for name in PACKAGES:
        try:
            print(name, version(name))
        except PackageNotFoundError:
            print(name, "is not installed")
    try:
        subprocess.run(["nvidia-smi"], timeout=8)
    except (OSError, subprocess.TimeoutExpired) as error:
        print(error)


def driver() -> int:
    import torch

    from morse_engine.runtime import native

    torch.ones(1, device="cuda")
    print("torch for CUDA", torch.version.cuda, "on", torch.cuda.get_device_name())
    if why := native.reason():
        print("no one-launch loop:", why)
        return 1
    found = native.Driver()
    print("driver for CUDA", found.version(), "layout", native.default_layout(found))
    return 0


if __name__ == "__main__":
    sys.exit(driver() if "--driver" in sys.argv[1:] else versions())
