"""Morse dual sampling for diffusion models: the same images, sooner.

    sampler = morse_engine.compile(unet, dot)
    images = sampler(batch_size=8, seed=0)

Source: Morse (ICML 2025, arXiv 2506.18251).
"""

from . import noise
from .dot import Dot
from .engine import Sampler, compile
from .plan import Plan
from .solver import SolverTable
from .training import train_dash, train_dot

__version__ = "0.1.0"
__all__ = ["Dot", "Plan", "Sampler", "SolverTable", "compile", "noise", "train_dash", "train_dot"]
