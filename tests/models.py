"""Tiny models for tests."""

import torch
from diffusers import UNet2DModel

from morse_engine import Dot


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
