"""A text-to-image pipeline as the subject of an experiment."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..runtime.models import Models
from ..sampling.free import NO_RANGE, Range
from ..system.errors import Refused
from ..training import latents as encoded
from .subject import Subject

AT_ONCE = 32  # prompts through the text encoders
DECODED = 16, 1 << 20  # pictures, and pixels of them, that the VAE makes at once


class Prompted(Subject):
    """A pipeline of Stable Diffusion, SDXL or LCM; the image of seed s is of prompt s mod n.

    Its first latents are `noise.normal` of the seed. From the same latents, Dash alone draws what
    the pipeline draws.

    Args:
        name: for rows and figures.
        pipe: the pipeline; its VAE is cast to float32.
        dot: the `Dot` of its unet, or a function; None without.
        prompts: n of them.
        guidance_scale: as in a call of the pipeline; up to 1 there is no guidance.
        latents: the range of its latents, as `integrations.latents.range_of` reads it.

    Raises:
        Refused: a guided Dot without guidance, latents with a mean, or a unet without a size.
    """

    def __init__(
        self,
        name: str,
        pipe: Any,
        dot: Any,
        prompts: Sequence[str],
        *,
        guidance_scale: float,
        latents: Range = NO_RANGE,
    ):
        models = Models(pipe.unet, dot)
        if models.shape is None:
            raise Refused(f"the unet of {name} has no sample_size in its config: set one")
        if getattr(pipe.vae.config, "latents_mean", None):
            raise Refused(f"the latents of {name} have a mean, which is not supported here")
        super().__init__(name, models, models.shape, pipe.scheduler)
        self.pipe, self.latents, self._prompts = pipe, latents, list(prompts)
        waves = pipe.unet.config.time_cond_proj_dim  # the guidance is an input of Dash
        self.guidance_scale = guidance_scale if guidance_scale > 1 and waves is None else None
        if models.guided_dot and self.guidance_scale is None:
            raise Refused(
                f"this Dot corrects guided estimates, and a guidance of {guidance_scale:g} has "
                "none: give a scale above 1, or a Dot of each branch"
            )
        self._waves = None
        if waves is not None:
            scale = torch.tensor([guidance_scale - 1])
            self._waves = pipe.get_guidance_scale_embedding(scale, embedding_dim=waves)
        pipe.vae.float()  # in half precision those of SDXL overflow
        size = self.shape[-1] * 2 ** (len(pipe.vae.config.block_out_channels) - 1)
        parts = [
            encoded.keywords(pipe, self._prompts[first : first + AT_ONCE], size)
            for first in range(0, len(self._prompts), AT_ONCE)
        ]
        self._with = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        self._without = encoded.keywords(pipe, None, size)

    def told(self, seeds: Sequence[int]) -> dict:
        rows = torch.tensor([seed % len(self._prompts) for seed in seeds])
        flat = {name: value[rows.to(value.device)] for name, value in self._with.items()}
        if self.guidance_scale is not None:
            empty = {k: v.expand(len(rows), *v.shape[1:]) for k, v in self._without.items()}
            flat = {name: torch.cat([empty[name], value]) for name, value in flat.items()}
        if self._waves is not None:
            flat["timestep_cond"] = self._waves.expand(len(rows), -1)
        return encoded.nested(
            {name: value.to(self.device, self.models.dtype) for name, value in flat.items()}
        )

    def prompts(self, seeds: Sequence[int]) -> list[str]:
        return [self._prompts[seed % len(self._prompts)] for seed in seeds]

    @torch.no_grad()
    def pictures(self, x: Tensor) -> Tensor:
        vae, (most, pixels) = self.pipe.vae, DECODED
        each = x[0, 0].numel() * 4 ** (len(vae.config.block_out_channels) - 1)
        return torch.cat(
            [
                vae.decode(part.to(vae.device) / vae.config.scaling_factor).sample.cpu()
                for part in x.split(max(1, min(most, pixels // each)))
            ]
        )
