"""Install this checkout into the interpreter that runs this, without the network; or do without.

    python benchmarks/install.py

pip first. Where it cannot, CMake builds the C++ extension into morse_engine/, and links take the
place of the installation: PYTHONPATH has to name the checkout then. The status is 0 if the package
and its extension can be imported, 1 if there is only the package: all but backend="device" works.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CHECK = "import morse_engine.kernels; from morse_engine import _native; print(_native.__file__)"
PIP = ("-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "-e", str(ROOT))


def command(*words: str, **env: str) -> bool:
    print("$", *words, flush=True)
    try:
        return subprocess.run(words, env=os.environ | env, cwd=ROOT.parent).returncode == 0
    except OSError as error:
        print(error, flush=True)
        return False


def works() -> bool:
    return command(sys.executable, "-c", CHECK, PYTHONPATH=str(ROOT))


def links() -> None:
    """The folders beside the package, where an installation would put them."""
    for name in ("kernels", "csrc"):
        link = ROOT / "morse_engine" / name
        if not link.exists():
            link.symlink_to(Path("..") / name)


def build() -> bool:
    """The extension, by CMake alone."""
    try:
        import pybind11
    except ImportError as error:
        print(error, flush=True)
        return False
    folder = ROOT / "build" / "by-hand"
    shutil.rmtree(folder, ignore_errors=True)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    configure = [
        *("cmake", f"-S{ROOT}", f"-B{folder}", "-DCMAKE_BUILD_TYPE=Release"),
        *("-DMORSE_ENGINE_PYTHON=ON", f"-DPython_EXECUTABLE={sys.executable}"),
        f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={ROOT / 'morse_engine'}",
        f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
    ]
    return command(*configure, PATH=path) and command(
        "cmake", "--build", str(folder), "--parallel", PATH=path
    )


def main() -> int:
    command(sys.executable, "-m", "pip", "show", "setuptools")  # 77 or newer is needed
    if command(sys.executable, *PIP, MORSE_ENGINE_NATIVE="1") and works():
        return 0
    print("==> without pip", flush=True)
    links()
    build()
    return int(not works())


if __name__ == "__main__":
    sys.exit(main())
