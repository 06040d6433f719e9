"""Compile every kernel without a GPU: `python -m morse_engine.kernels.aot`.

For each launch of `variants.py` and each architecture it prints registers, shared memory and the
stack of a thread, and fails if a kernel does not compile or has a stack: nothing of ours needs
one but registers that are spilled to memory.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ..system.errors import Unavailable
from . import variants
from .checks import in_mode

ARCHITECTURES = (80, 86, 89, 90, 100, 120)


class Device:
    """In the place of a GPU's driver: what Triton asks it in order to compile for a GPU."""

    def __init__(self, architecture: int):
        self.architecture = architecture

    def get_current_device(self) -> int:
        return self.architecture  # Triton keeps what it compiled by device

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.architecture, 32)


@contextmanager
def compiling(architecture: int) -> Iterator[list]:
    """Within it the ops compile what they launch, on CPU tensors, and launch nothing.

    The arguments are those of the launchers, and Triton chooses by them what to compile, as it does
    in a run: what is compiled here is what a GPU of this architecture is given.

    Yields:
        The kernels compiled so far.
    """
    import triton
    from triton.runtime import driver

    compiled, run = [], triton.JITFunction.run

    def compile_only(kernel: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        compiled.append(run(kernel, *args, grid=grid, warmup=True, **options))

    driver.set_active(Device(architecture))
    triton.JITFunction.run = compile_only
    try:
        with in_mode("kernels"):
            yield compiled
    finally:
        triton.JITFunction.run = run


def resources(cubin: bytes) -> dict[str, int]:
    """Registers and bytes of stack of a thread, as cuobjdump reads them from the code."""
    import triton

    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(tool), "-res-usage", file.name]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    registers, stack = re.search(r"REG:(\d+) STACK:(\d+)", usage).groups()  # type: ignore[union-attr]
    return {"registers": int(registers), "stack": int(stack)}


def compile_variant(op: str, index: int) -> list[dict]:
    """One variant of an op for every architecture: a row each."""
    name, arguments = list(variants.OPS[op]())[index]
    launch = getattr(import_module(f"morse_engine.kernels.{op}"), op)
    rows = []
    for architecture in ARCHITECTURES:
        with compiling(architecture) as compiled:
            launch(*arguments)
        (kernel,) = compiled
        row = {"kernel": op, "variant": name, "architecture": f"sm_{architecture}"}
        row |= {"shared": kernel.metadata.shared}
        rows.append(row | resources(kernel.asm["cubin"]))
    return rows


def compile_all() -> Iterator[dict]:
    """One row for each kernel, variant and architecture, on all cores.

    Raises:
        Unavailable: Triton was imported for its interpreter, which compiles nothing.
    """
    if os.environ.get("TRITON_INTERPRET") == "1":
        raise Unavailable("TRITON_INTERPRET=1 is set: nothing would be compiled; unset it")
    jobs = [(op, index) for op, of in variants.OPS.items() for index in range(len(list(of())))]
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        for rows in pool.map(compile_variant, *zip(*jobs, strict=True)):
            yield from rows


def main() -> None:
    console = Console(width=140)
    rows = []
    with console.status("compiling") as status:
        for row in compile_all():
            rows.append(row)
            status.update(f"compiling: {row['kernel']} for {row['architecture']}")
    table = Table("kernel", "variant")
    for name in dict.fromkeys(row["architecture"] for row in rows):
        table.add_column(name, justify="right")
    table.caption = "registers / bytes of shared memory; bytes of stack in red"
    of: dict[tuple, list[dict]] = {}
    for row in rows:
        of.setdefault((row["kernel"], row["variant"]), []).append(row)
    for names, same in of.items():
        cells = [f"{row['registers']}/{row['shared']}" for row in same]
        cells = [
            f"[red]{cell} stack {row['stack']}[/]" if row["stack"] else cell
            for cell, row in zip(cells, same, strict=True)
        ]
        table.add_row(*names, *cells)
    console.print(table)
    spilled = sum(row["stack"] > 0 for row in rows)
    console.print(f"{len(rows)} kernels compiled, {spilled} spill")
    sys.exit(1 if spilled else 0)


if __name__ == "__main__":
    main()
