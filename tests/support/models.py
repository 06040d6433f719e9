"""Tiny models for tests."""

import torch
from diffusers import UNet2DConditionModel, UNet2DModel

from morse_engine import Dot
from morse_engine.dot.free import reuse
from morse_engine.runtime.models import Models


def tiny_unet(seed: int = 0, **options) -> UNet2DModel:
    torch.manual_seed(seed)
    config = {
        "sample_size": 16,
        "in_channels": 1,
        "out_channels": 1,
        "block_out_channels": (8, 8, 8),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "down_block_types": ("DownBlock2D",) * 3,
        "up_block_types": ("UpBlock2D",) * 3,
        "add_attention": False,
    }
    return UNet2DModel(**(config | options)).eval()


def randomised(dot: Dot, seed: int = 1) -> Dot:
    """A Dot as after training: no parameter is zero any more."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in dot.trained_parameters().values():
            p.add_(0.1 * torch.randn(p.shape, generator=generator).to(p))
    return dot.eval()


def trajectory(unet: UNet2DModel, batch_size: int = 2, seed: int = 2):
    """Inputs of a Dot: (x, t, x_s, z_s, t_s, z_p, t_p)."""
    generator = torch.Generator().manual_seed(seed)
    c, size = unet.config.in_channels, unet.config.sample_size
    x, x_s, z_s, z_p = torch.randn((4, batch_size, c, size, size), generator=generator)
    return x, torch.tensor(300), x_s, z_s, torch.tensor(500), z_p, torch.tensor(800)


def tiny_text_unet(seed: int = 0, **options) -> UNet2DConditionModel:
    """As Stable Diffusion's: attention to 5 tokens of 8 numbers on all levels but the last."""
    torch.manual_seed(seed)
    config = {
        "sample_size": 16,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (8, 8, 16),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "cross_attention_dim": 8,
        "attention_head_dim": 4,
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    }
    return UNet2DConditionModel(**(config | options)).eval()


SDXL = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 4,
    "projection_class_embeddings_input_dim": 6 * 4 + 8,
    "use_linear_projection": True,
}


def text_cond(rows: int, *, sdxl: bool = False, seed: int = 5) -> dict:
    """Keywords of `tiny_text_unet` for a batch."""
    generator = torch.Generator().manual_seed(seed)
    cond = {"encoder_hidden_states": torch.randn(rows, 5, 8, generator=generator)}
    if sdxl:
        ids = torch.randint(0, 64, (rows, 6), generator=generator).float()
        pooled = torch.randn(rows, 8, generator=generator)
        cond["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": ids}
    return cond


def line() -> Models:
    """Models whose estimate is x times a line in t, with a Dot that corrects nothing."""
    return Models(lambda x, timestep, **cond: x * float(timestep) / 1000, reuse)
