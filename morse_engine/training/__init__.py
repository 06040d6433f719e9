"""Training of a Dash and of a Dot: data, losses, and the loop that both share."""

from .captioned import Captioned
from .dash import train_dash
from .dot import train_dot

__all__ = ["Captioned", "train_dash", "train_dot"]
