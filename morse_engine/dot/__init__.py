"""The helper: Dot, the families of models it is made for, and its files."""

from .dot import Dot

__all__ = ["Dot"]
