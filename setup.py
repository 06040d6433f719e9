"""What pyproject.toml cannot say: the folder kernels/ is the package morse_engine.kernels.

As a top-level package it would hide Hugging Face's `kernels`.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["morse_engine*"]), "morse_engine.kernels"],
    package_dir={"morse_engine.kernels": "kernels"},
)
