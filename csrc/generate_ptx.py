"""Compile loop_kernels.cu to loop_kernels.ptx.h: PTX text that every supported driver can load.

    python csrc/generate_ptx.py            needs nvcc; the result is committed

nvcc writes the newest PTX version it knows, which older drivers refuse. The kernels use nothing
newer than `.version 7.0` and `.target sm_75`, so the header of the text says that. The driver
resolves cudaGraphSetConditional when it loads the text; the kernels of a chain, which need none,
are a module of their own.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

CSRC = Path(__file__).parent
HEADER = CSRC / "loop_kernels.ptx.h"
MODULES = ("loop_kernels", "chain_kernels")
RELEASE = "13.0"  # of the nvcc that made the committed text; another one may order it otherwise


def nvcc_release() -> str:
    """The release of nvcc, such as "13.0"."""
    text = subprocess.run(["nvcc", "--version"], check=True, capture_output=True, text=True).stdout
    return re.search(r"release (\d+\.\d+)", text)[1]


def ptx(name: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / f"{name}.ptx"
        source = CSRC / f"{name}.cu"
        subprocess.run(["nvcc", "-ptx", "-arch=sm_75", "-o", str(out), str(source)], check=True)
        text = out.read_text()
    text = re.sub(r"//.*", "", text)
    text = re.sub(r"^\.version .*$", ".version 7.0", text, flags=re.M)
    text = re.sub(r"^\.target .*$", ".target sm_75", text, flags=re.M)
    lines = (line.rstrip().replace("\t", " ") for line in text.splitlines())
    return "\n".join(line for line in lines if line) + "\n"


def header() -> str:
    texts = "\n".join(
        f'constexpr char {name}_ptx[] = R"ptx({ptx(name)})ptx";\n' for name in MODULES
    )
    return (
        f"// Made from {' and '.join(f'{name}.cu' for name in MODULES)} by generate_ptx.py with\n"
        f"// nvcc {RELEASE}; do not edit.\n\n"
        f"#pragma once\n\nnamespace morse_engine {{\n\n{texts}\n}}  // namespace morse_engine\n"
    )


if __name__ == "__main__":
    if (release := nvcc_release()) != RELEASE:
        sys.exit(f"nvcc is {release}: install {RELEASE}, or change RELEASE")
    HEADER.write_text(header())
