"""What Dash is given beside x and t while its Dot is trained: conditions, the guidance scale."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ..dot.dot import Dot
from ..sampling.loop import guide
from ..system.errors import Refused
from .captioned import EMPTY, Captioned


class Asked(NamedTuple):
    """What the two models are given for one batch."""

    dash: dict = {}  # noqa: RUF012 - never changed; for a guided Dot of both branches
    dot: dict = {}  # noqa: RUF012
    scale: Tensor | None = None  # [B], for a guided Dot


class Prompts:
    """Asks Dash for the estimate that a Dot corrects, with prompts and guidance drawn at random.

        z_c                              for a Dot of each branch; some prompts are the empty one
        z_u + scale (z_c - z_u)          for a guided Dot

    A batch says what it was asked with in its columns `row`, the row of the prompt, and `scale`.
    Without conditions it has none of them, and no random number is drawn.

    Args:
        data: `Captioned`, or images alone as a tensor for a model without conditions.
        dropout: the part of the points on data that gets the empty prompt; a guided Dot none.
        guidance: the lowest and the highest scale.

    Raises:
        Refused: a Dot, a Dash and data that do not fit each other.
    """

    def __init__(
        self,
        data: Tensor | Captioned,
        dot: Dot,
        unet: nn.Module,
        *,
        dropout: float,
        guidance: tuple[float, float],
    ):
        self.data, self.unet, self.guided = data, unet, dot.guided
        self.captioned = isinstance(data, Captioned)
        self.low, self.high = guidance
        # LCM: the scale is an input of Dash, which has no second branch.
        self.waves = getattr(unet.config, "time_cond_proj_dim", None)
        if dot.conditional and not self.captioned:
            raise Refused("Dash takes conditions: give the images as Captioned, with them")
        has_empty = isinstance(data, Captioned) and data.empty is not None
        self.twice = has_empty and self.waves is None
        self.dropout = dropout if has_empty else 0.0
        if self.guided and not self.twice:
            lacking = ": this one has the guidance embedded" if self.waves else ", Captioned.empty"
            raise Refused(f"a guided Dot needs both branches of Dash{lacking}; use guided=False")
        like = next(unet.parameters())
        self.device, self.dtype = like.device, like.dtype

    def columns(self, rows: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """What a batch on these images is asked with: `row` int64 `[B]`, `scale` float32 `[B]`."""
        if not self.captioned:
            return {}
        columns = {"row": rows.clone()}
        if self.dropout and not self.guided:
            dropped = torch.rand(len(rows), generator=generator) < self.dropout
            columns["row"][dropped] = EMPTY
        if self.guided or self.waves:
            u = torch.rand(len(rows), generator=generator)
            columns["scale"] = self.low + (self.high - self.low) * u
        return columns

    def run(self, batch_size: int, generator: torch.Generator) -> tuple[dict, float | None]:
        """The columns of a run as its Dot sees it, and the scale that the sampler guides with.

        A Dot of each branch sees those without the condition first.
        """
        if not self.captioned:
            return {}, None
        rows = torch.randint(len(self.data), (batch_size,), generator=generator)
        scale = self.low + (self.high - self.low) * float(torch.rand((), generator=generator))
        if self.twice and not self.guided:
            return {"row": torch.cat([torch.full_like(rows, EMPTY), rows])}, scale
        columns = {"row": rows}
        if self.guided or self.waves:
            columns["scale"] = torch.full((batch_size,), scale)
        return columns, scale if self.twice else None

    def asked(self, columns: dict[str, Tensor]) -> Asked:
        """The keywords of the models for a batch, from its columns."""
        if not isinstance(self.data, Captioned):
            return Asked()
        rows = columns["row"].cpu()
        cond = self.data.keywords(rows, self.device, self.dtype)
        if self.waves:
            from diffusers.models.embeddings import get_timestep_embedding

            scale = columns["scale"].to(self.device) - 1
            waves = get_timestep_embedding(1000 * scale, self.waves, downscale_freq_shift=1)
            cond["timestep_cond"] = waves.to(self.dtype)
        if not self.guided:
            return Asked(cond, cond)
        empty = self.data.keywords(torch.full_like(rows, EMPTY), self.device, self.dtype)
        both = tree_map(lambda u, c: torch.cat([u, c]), empty, cond)
        scale = columns["scale"].to(self.device)
        return Asked(both, cond | {"guidance_scale": scale}, scale)

    def dash(self, x: Tensor, t: Tensor, asked: Asked) -> Tensor:
        """Dash's estimate at (x, t), float32 `[B, C, H, W]`: guided, for a guided Dot."""
        if asked.scale is None:
            return self.unet(x, t, **asked.dash).sample.float()
        both_t = torch.cat([t, t]) if t.ndim else t
        z = self.unet(torch.cat([x, x]), both_t, **asked.dash).sample.float()
        return guide(z, asked.scale[:, None, None, None])
