"""Training of a Dash and of a Dot: data, losses, and the loop that both share."""

from .dot import train_dash, train_dot
from .prompts import Captioned

__all__ = ["Captioned", "train_dash", "train_dot"]
