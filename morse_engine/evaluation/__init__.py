"""What a helper is worth: quality against cost, speed-up, figures and the page."""

from ..dot.free import extrapolate, reuse
from .frechet import Frechet, rmse_to_full
from .many import sample_many
from .speedup import SpeedUp, speedup, speedup_over_sets

__all__ = [
    "Frechet",
    "SpeedUp",
    "extrapolate",
    "reuse",
    "rmse_to_full",
    "sample_many",
    "speedup",
    "speedup_over_sets",
]
