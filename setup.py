"""What pyproject.toml cannot say: the folders beside the package, and the C++ extension.

kernels/ is the package morse_engine.kernels; as a top-level package it would hide Hugging Face's
`kernels`. csrc/ is morse_engine.csrc, so that C++ programs find headers and sources in the wheel.

The extension morse_engine._native is optional. The environment says what is wanted:

    MORSE_ENGINE_NATIVE   unset: build it if that works, else say why not and go on
                          1: a failure ends the installation
                          0: leave it out; a wheel then fits every machine
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent.resolve()
WANTED = os.environ.get("MORSE_ENGINE_NATIVE", "")
if WANTED not in ("", "0", "1"):
    sys.exit(f"MORSE_ENGINE_NATIVE is {WANTED!r}: use 1 (required), 0 (left out) or leave it unset")


class Python(build_py):
    """In an editable installation a module of an earlier build must not stand in for this one's."""

    def run(self):
        if self.editable_mode:
            for old in (HERE / "morse_engine").glob("_native*.so"):
                old.unlink()
        super().run()


class CMakeBuild(build_ext):
    """Builds the extension with CMake."""

    def build_extension(self, ext):
        try:
            self._build(Path(self.get_ext_fullpath(ext.name)).resolve().parent)
        except (RuntimeError, OSError) as error:
            if WANTED == "1":
                sys.exit(f"morse_engine: the C++ extension was not built: {error}")
            self.warn(f"the C++ extension was not built, backend='device' is left out: {error}")

    def _build(self, target: Path):
        # Without build isolation, the tools may lie beside an interpreter that is not on PATH.
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        cmake = shutil.which("cmake", path=path)
        if cmake is None:
            raise RuntimeError("cmake was not found: pip install cmake ninja")
        compilers = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
        if not any(shutil.which(name.split()[0], path=path) for name in compilers):
            raise RuntimeError(f"no C++ compiler was found ({', '.join(compilers)}): install g++")
        try:
            import pybind11
        except ImportError:
            raise RuntimeError("pybind11 was not found: pip install pybind11") from None
        configure = [
            cmake,
            f"-S{HERE}",
            f"-B{Path(self.build_temp).resolve()}",
            "-DCMAKE_BUILD_TYPE=Release",
            "-DMORSE_ENGINE_PYTHON=ON",
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={target}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
        ]
        if ninja := shutil.which("ninja", path=path):
            configure += ["-GNinja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
        # A cache of another interpreter or of a removed build environment would be in the way.
        shutil.rmtree(self.build_temp, ignore_errors=True)
        for command in (configure, [cmake, "--build", str(Path(self.build_temp).resolve())]):
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode != 0:
                lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
                errors = [line for line in lines if "error" in line.lower()] or lines[-5:]
                raise RuntimeError("\n  ".join(["cmake says:", *errors[:8]]))


NATIVE = Extension("morse_engine._native", sources=[], optional=WANTED != "1")

setup(
    packages=[
        *find_packages(include=["morse_engine*"]),
        "morse_engine.kernels",
        "morse_engine.csrc",
    ],
    package_dir={"morse_engine.kernels": "kernels", "morse_engine.csrc": "csrc"},
    ext_modules=[] if WANTED == "0" else [NATIVE],
    cmdclass={"build_py": Python, "build_ext": CMakeBuild},
)
