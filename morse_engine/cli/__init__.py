"""The command line `morse-engine`."""

from .app import main

__all__ = ["main"]
