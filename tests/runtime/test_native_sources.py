"""What the C++ extension is made of: its declarations, the PTX text, the example program."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fake_driver
from morse_engine import get_include

ROOT = Path(__file__).parents[2]
SOURCES = ("census", "compose", "driver", "executable", "loop_graph")


def _cuda_include():
    """The folder of cuda.h, or skip."""
    roots = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    if nvcc := shutil.which("nvcc"):
        roots.insert(0, Path(nvcc).resolve().parent.parent)
        listing = subprocess.run([nvcc, "--dryrun", "x.cu"], capture_output=True, text=True).stderr
        if top := re.search(r"^#\$ TOP=(.*)$", listing, re.M):
            roots.insert(0, top[1])
    for root in filter(None, roots):
        folder = Path(root) / "include"
        if (folder / "cudaTypedefs.h").is_file():
            return folder
    pytest.skip("no cuda.h: neither nvcc nor CUDA_HOME names a toolkit")


def test_declarations_agree_with_cuda_h():
    command = [fake_driver.compiler(), "-std=c++17", "-fsyntax-only", f"-I{get_include()}"]
    source = ROOT / "tests/support/abi_check.cpp"
    done = subprocess.run(
        [*command, f"-isystem{_cuda_include()}", source], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def generate_ptx():
    sys.path.insert(0, str(ROOT / "csrc"))
    try:
        import generate_ptx
    finally:
        sys.path.pop(0)
    return generate_ptx


def test_ptx_is_that_of_the_kernels(generate_ptx):
    if shutil.which("nvcc") is None:
        pytest.skip("no nvcc")
    if (release := generate_ptx.nvcc_release()) != generate_ptx.RELEASE:
        pytest.skip(f"nvcc is {release}, the text was made with {generate_ptx.RELEASE}")
    assert generate_ptx.HEADER.read_text() == generate_ptx.header()


def _ptx(source):
    return re.findall(r'R"ptx\((.*?)\)ptx"', (ROOT / source).read_text(), re.S)


def test_a_chain_needs_no_conditions():
    loop, chain = _ptx("csrc/loop_kernels.ptx.h")
    assert ".extern .func cudaGraphSetConditional" in loop
    assert "cudaGraphSetConditional" not in chain


OURS, EXAMPLE = "csrc/loop_kernels.ptx.h", "examples/cpp/two_graphs.cpp"


@pytest.mark.parametrize("arch", [75, 80, 86, 89, 90, 100, 120])
@pytest.mark.parametrize(("source", "which"), [(OURS, 0), (OURS, 1), (EXAMPLE, 0)])
def test_ptx_assembles(tmp_path, source, which, arch):
    if (ptxas := shutil.which("ptxas")) is None:
        pytest.skip("no ptxas")
    text = tmp_path / "kernels.ptx"
    text.write_text(_ptx(source)[which])
    command = [ptxas, "-c", f"-arch=sm_{arch}", text, "-o", tmp_path / "kernels.cubin"]
    done = subprocess.run(command, capture_output=True, text=True)
    if "is not defined for option" in done.stderr:
        pytest.skip(f"this ptxas does not know sm_{arch}")
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def two_graphs(tmp_path_factory):
    """examples/cpp/two_graphs.cpp, built with a C++ compiler and what the package ships."""
    sources = Path(get_include()).parent
    program = tmp_path_factory.mktemp("example") / "two_graphs"
    command = [fake_driver.compiler(), "-std=c++17", "-Wall", "-Wextra", f"-I{get_include()}"]
    command += [ROOT / "examples/cpp/two_graphs.cpp"]
    command += [sources / f"{name}.cpp" for name in SOURCES]
    done = subprocess.run([*command, "-ldl", "-o", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return program


def _run_example(program, *args):
    done = subprocess.run([program, *args], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "-..-.: 5 steps, done 1, x = 9\n" in done.stdout  # ((1 * 2 + 1 + 1) * 2) + 1
    assert "-..-.-..-.: 10 steps, done 1, x = 41\n" in done.stdout


@pytest.mark.slow
def test_cpp_example(two_graphs):
    _run_example(two_graphs, "-..-.", fake_driver.load().library)
    done = subprocess.run([two_graphs, "-", "libno_such.so"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "two_graphs: no CUDA driver: libno_such.so" in done.stderr


@pytest.mark.gpu
def test_cpp_example_on_a_gpu(two_graphs):
    _run_example(two_graphs, "-..-.")
