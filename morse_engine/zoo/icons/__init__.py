"""Icons of a class at 32 x 32 pixels: a pixel model whose pictures a few steps do not settle."""

from pathlib import Path

DASH = Path(__file__).parents[1] / "weights" / "icons-dash"
DOT = Path(__file__).parents[1] / "weights" / "icons-dot"
