"""Compile every kernel without a GPU: `python -m morse_engine.kernels.aot`.

For each architecture, dtype and block size in use it prints registers, shared memory and spills,
and fails if a kernel does not compile or spills registers to memory.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ..system.errors import Unavailable

OPS = ("philox_normal", "dash_update", "residual_up_update", "trajectory_down", "time_silu")
ARCHITECTURES = (80, 86, 89, 90, 100, 120)


def signature(kernel: Any, types: dict[str, str], constants: dict) -> dict[str, str]:
    """The type of each argument: those given, constants, and 32-bit integers for the rest."""
    return {
        name: "constexpr" if name in constants else types.get(name, "i32")
        for name in kernel.arg_names
    }


def found(pattern: str, text: str) -> re.Match[str]:
    """The first match in a text that has one."""
    match = re.search(pattern, text)
    assert match is not None, f"no {pattern!r} in {text!r}"
    return match


def resources(ptx: str, architecture: int) -> dict:
    """The name of the target, registers and bytes spilled, as ptxas reports them.

    Raises:
        Unavailable: ptxas refuses the code.
    """
    from triton.backends.nvidia.compiler import get_ptxas

    target = found(r"\.target (\w+)", ptx).group(1)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "kernel.ptx")
        source.write_text(ptx)
        command = [get_ptxas(architecture).path, "-v", f"--gpu-name={target}"]
        command += [source, "-o", Path(folder, "kernel.cubin")]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise Unavailable(f"ptxas refuses a kernel for {target}: {done.stderr or done.stdout}")
    spills = found(r"(\d+) bytes spill stores, (\d+) bytes spill loads", done.stderr)
    return {
        "architecture": target,
        "registers": int(found(r"Used (\d+) registers", done.stderr).group(1)),
        "spilled": sum(int(count) for count in spills.groups()),
    }


def compile_variant(op: str, index: int) -> list[dict]:
    """One variant of an op for every architecture: a row each."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    variants = import_module(f"morse_engine.kernels.{op}").variants()
    kernel, types, constants = list(variants)[index]
    kinds = signature(kernel, types, constants)
    # PyTorch's allocations are aligned, and Triton compiles another kernel for that.
    aligned = [i for i, kind in enumerate(kinds.values()) if kind.startswith("*")]
    attrs = {(i,): [["tt.divisibility", 16]] for i in aligned}
    source = ASTSource(kernel, kinds, constexprs=constants, attrs=attrs)
    dtype = types.get("z_ptr") or types.get("features_ptr") or types["out_ptr"]
    shown = " ".join(f"{name}={value}" for name, value in constants.items() if name != "WIDEN")
    row = {"kernel": op, "dtype": dtype.removeprefix("*"), "constants": shown}
    rows = []
    for architecture in ARCHITECTURES:
        target = GPUTarget("cuda", architecture, 32)
        compiled = triton.compile(source, target=target, options={"num_stages": 1})
        used = resources(compiled.asm["ptx"], architecture)
        rows.append(row | {"shared": compiled.metadata.shared} | used)
    return rows


def compile_all() -> Iterator[dict]:
    """One row for each kernel, variant and architecture, on all cores.

    Raises:
        Unavailable: Triton was imported for its interpreter, which compiles nothing.
    """
    if os.environ.get("TRITON_INTERPRET") == "1":
        raise Unavailable("TRITON_INTERPRET=1 is set: nothing would be compiled; unset it")
    jobs = [
        (op, index)
        for op in OPS
        for index in range(len(list(import_module(f"morse_engine.kernels.{op}").variants())))
    ]
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
    table = Table("kernel", "dtype", "constants")
    for name in dict.fromkeys(row["architecture"] for row in rows):
        table.add_column(name, justify="right")
    table.caption = "registers / bytes of shared memory; spilled bytes in red"
    variants: dict[tuple, list[dict]] = {}
    for row in rows:
        variants.setdefault((row["kernel"], row["dtype"], row["constants"]), []).append(row)
    for names, same in variants.items():
        cells = [f"{row['registers']}/{row['shared']}" for row in same]
        cells = [
            f"[red]{cell} spills {row['spilled']}[/]" if row["spilled"] else cell
            for cell, row in zip(cells, same, strict=True)
        ]
        table.add_row(*names, *cells)
    console.print(table)
    spilled = sum(row["spilled"] > 0 for row in rows)
    console.print(f"{len(rows)} kernels compiled, {spilled} spill")
    sys.exit(1 if spilled else 0)


if __name__ == "__main__":
    main()
