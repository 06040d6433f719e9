"""The miniature Stable Diffusion: a small text-to-image pipeline, trained on captioned icons."""

from pathlib import Path

WEIGHTS = Path(__file__).parent.parent / "weights" / "miniature"
JUDGE = WEIGHTS.with_name("miniature-judge")
DOT = WEIGHTS.with_name("miniature-dot")
