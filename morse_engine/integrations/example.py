"""An example of what the models of a pipeline are given, to measure them on: zeros of the size."""

from typing import Any

import torch
from torch import Tensor

from ..dot.family import DASH_ONLY

TOKENS = 77  # of CLIP


def has_guidance(pipe: Any) -> bool:
    """Whether runs of a pipeline have classifier-free guidance, unless they are asked for none.

    Models without text have none, and distilled ones are told the guidance scale.
    """
    config = pipe.unet.config
    return hasattr(config, "cross_attention_dim") and config.time_cond_proj_dim is None


def example(pipe: Any, shape: tuple[int, ...]) -> tuple[float | None, dict]:
    """Guidance scale and conditioning of one image, as `sampler.measure` takes them.

    Args:
        pipe: the pipeline, with guidance wherever it has it.
        shape: `(C, H, W)` of one sample.
    """
    unet, config = pipe.unet, pipe.unet.config
    if not hasattr(config, "cross_attention_dim"):
        return None, {}
    guided = has_guidance(pipe)

    def zeros(*size: int) -> Tensor:
        return torch.zeros(2 if guided else 1, *size, device=unet.device, dtype=unet.dtype)

    cond: dict = {"encoder_hidden_states": zeros(TOKENS, config.cross_attention_dim)}
    if config.addition_embed_type == "text_time":
        # Six numbers of size and crop; with an aesthetic score, as for the refiner, five.
        ids = 5 if pipe.config.get("requires_aesthetics_score") else 6
        pooled = config.projection_class_embeddings_input_dim - ids * config.addition_time_embed_dim
        cond["added_cond_kwargs"] = {"text_embeds": zeros(pooled), "time_ids": zeros(ids)}
    if not guided:
        cond["timestep_cond"] = zeros(config.time_cond_proj_dim)
    channels, height, width = shape
    dash_only: dict = {}
    if config.in_channels > channels:
        dash_only["channels"] = zeros(config.in_channels - channels, height, width)
    net = getattr(pipe, "controlnet", None)
    if net is not None:
        image = zeros(3, height * pipe.vae_scale_factor, width * pipe.vae_scale_factor)
        several = len(net.nets) if hasattr(net, "nets") else 0
        of_net = {
            "controlnet_cond": [image] * several if several else image,
            "conditioning_scale": [1.0] * several if several else 1.0,
        }
        taken = ("encoder_hidden_states", "added_cond_kwargs")
        dash_only["controlnet"] = {k: cond[k] for k in taken if k in cond} | of_net
    return 7.5 if guided else None, cond | ({DASH_ONLY: dash_only} if dash_only else {})
