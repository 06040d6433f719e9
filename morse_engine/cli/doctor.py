"""`morse-engine doctor`: does this installation work, and what to do where it does not."""

import importlib
import tempfile
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

# Modules, and the packages that bring them.
NEEDED = {
    **{name: name for name in ("torch", "numpy", "diffusers", "peft", "accelerate", "safetensors")},
    **{"rich": "rich", "typer": "typer", "PIL": "pillow"},
}
EXTRAS = {"torchmetrics": "torchmetrics", "sklearn": "scikit-learn", "matplotlib": "matplotlib"}
REINSTALL = "install again: pip install --force-reinstall --no-deps morse-engine"


class Problem(Exception):
    """A check that failed; its text says what was found and how to mend it."""


def doctor() -> int:
    """Check this installation, from versions to a small sample."""
    failed = 0
    for name, check in CHECKS.items():
        try:
            for line in check():
                print(f"ok    {name}: {line}")
        except Exception as error:
            failed += 1
            text = str(error) if isinstance(error, Problem) else f"{type(error).__name__}: {error}"
            print(f"FAIL  {name}: {text}")
    print(f"{failed} of {len(CHECKS)} checks failed" if failed else "all is well")
    return 1 if failed else 0


def _versions() -> Iterator[str]:
    from ..system.machine import machine

    about = machine()
    yield f"morse-engine {about['morse_engine']}, Python {about['python']}, {about['os']}"
    missing = []
    for packages in (NEEDED, EXTRAS):
        found = []
        for module, package in packages.items():
            try:
                importlib.import_module(module)
                found.append(f"{package} {metadata.version(package)}")
            except ImportError:  # PackageNotFoundError is one
                missing.append(package)
        if found:
            yield ", ".join(found)
    if needed := [package for package in missing if package in NEEDED.values()]:
        raise Problem(f"{', '.join(needed)} cannot be imported: pip install {' '.join(needed)}")
    if missing:
        extra = "pip install 'morse-engine[demo]'"
        yield f"without {', '.join(missing)}, which demo and evaluate need: {extra}"


def _hardware() -> Iterator[str]:
    import torch

    from ..system.machine import cuda_missing, machine

    about = machine()
    yield f"{about['cpu']}, {about['threads']} threads used"
    if missing := cuda_missing():
        yield f"no CUDA, the CPU is used: {missing}"
        return
    try:
        x = torch.ones(64, 64, device="cuda")
        total = float((x @ x).sum())
    except RuntimeError as error:
        raise Problem(
            f"{about['gpu']} is there but does not compute ({error}); install a torch built for it "
            "and for its driver: https://pytorch.org/get-started/locally"
        ) from error
    if total != 64.0**3:
        raise Problem(f"{about['gpu']} gives {total:g} for 262144; check the GPU and its driver")
    yield f"{about['gpu']}, CUDA {torch.version.cuda}"


def _backends() -> Iterator[str]:
    from ..runtime.backends import BACKENDS, unavailable
    from ..system.machine import device

    for name in BACKENDS:
        why_not = unavailable(name, device("auto"))
        yield f"{name}, not available: {why_not}" if why_not else f"{name}, available"


def _bundled() -> Iterator[str]:
    from .. import zoo

    try:
        unet = zoo.digits_dash()
        zoo.digits_dot(unet)
        zoo.digits_classifier()
    except (OSError, ValueError, RuntimeError) as error:
        raise Problem(f"the models in {zoo.WEIGHTS} do not load ({error}); {REINSTALL}") from error
    count = sum(p.numel() for p in unet.parameters())
    yield f"Dash ({count:,} parameters), its Dot and the classifier load"


def _folder() -> Iterator[str]:
    here = Path.cwd()
    try:
        with tempfile.TemporaryFile(dir=here):
            yield f"{here} can be written to"
    except OSError as error:
        raise Problem(
            f"{here} cannot be written to ({error.strerror}); change to another folder or name one "
            "with --out"
        ) from error


def _end_to_end() -> Iterator[str]:
    """Two properties of a working sampler, on four digits."""
    from .. import zoo
    from ..engine import compile
    from ..evaluation.frechet import rmse_to_full

    unet = zoo.digits_dash()
    dot = zoo.digits_dot(unet)
    seeds = [0, 1, 2, 3]

    def images(plan: str, seeds: list[int] = seeds) -> "Tensor":
        return compile(unet, dot, scheduler=zoo.digits_scheduler(), plan=plan)(seed=seeds)

    plan = "-..-..-..-.."
    morse = images(plan)
    apart = (images(plan, [2])[0] - morse[2]).abs().max().item()
    if not apart < 1e-3:
        raise Problem(f"the image of a seed differs by {apart:.2g} alone and in a batch: a defect")
    yield f"the image of a seed is the same alone and in a batch (to {apart:.1g})"
    full = images("-" * 40)
    with_dot, alone = rmse_to_full(morse, full), rmse_to_full(images("-" * 4), full)
    text = f"4 Dash steps are {alone:.3f} from 40, with 8 Dot steps between them {with_dot:.3f}"
    if not with_dot < alone:
        raise Problem(f"{text}: Dot does not help, as it should; {REINSTALL}")
    yield text


CHECKS: dict[str, Callable[[], Iterator[str]]] = {
    "versions": _versions,
    "hardware": _hardware,
    "backends": _backends,
    "bundled models": _bundled,
    "current folder": _folder,
    "sampling": _end_to_end,
}
