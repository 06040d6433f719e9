"""The UNets of the paper's models with random weights, built here: nothing is downloaded.

Latency does not depend on what the weights hold. Configurations are those that the models were
published with; `parameters` is checked by the tests. CelebA-HQ is the network of LSUN-Church.

A Dot is 5 to 10 times lighter than Dash, so its widths differ. Dash / Dot in FLOPs: CIFAR-10 8,
CelebA 16, LSUN-Church 9, Stable Diffusion 6.9, SDXL 6.0. CelebA's has three blocks, since two would
leave 6; SDXL's too, since two would leave 4.7. Both branches of the guidance are corrected.
"""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class PaperModel:
    """A Dash, and what it is given.

    Attributes:
        parameters: how many it has.
        make: builds the UNet in float32 where `torch.device(...)` says.
        widths: of its Dot.
        guidance: the scale of classifier-free guidance; None without.
        text: tokens and channels of the text; None without.
        added: whether it also takes SDXL's pooled text and sizes.
        same_as: name of a model that is the same network.
    """

    name: str
    title: str
    parameters: int
    make: Callable
    widths: tuple[int, ...]
    guidance: float | None = None
    text: tuple[int, int] | None = None
    added: bool = False
    same_as: str = ""

    def build(self, device, dtype):
        """The UNet, ready for inference."""
        import torch
        from torch import nn

        torch.manual_seed(0)
        with torch.device(device):
            unet = self.make()
        # Not diffusers' own `to`, which warns about a list of layers that is empty here.
        return nn.Module.to(unet, dtype).eval().requires_grad_(False)

    def cond(self, batch: int, device, dtype) -> dict:
        """What the UNet is given by keyword for a batch; twice the rows with guidance."""
        import torch

        if self.text is None:
            return {}
        rows = batch if self.guidance is None else 2 * batch

        def randn(*shape: int):
            generator = torch.Generator().manual_seed(1)
            return torch.randn(rows, *shape, generator=generator).to(device, dtype)

        cond = {"encoder_hidden_states": randn(*self.text)}
        if self.added:
            added = {"text_embeds": randn(1280), "time_ids": 1024 * randn(6).abs().round()}
            cond["added_cond_kwargs"] = added
        return cond


def ddpm_unet(size: int, channels: tuple[int, ...], attention: int, **options):
    """A `UNet2DModel` as in DDPM, with attention at one level, counted from the top."""
    from diffusers import UNet2DModel

    levels = range(len(channels))
    down = ["AttnDownBlock2D" if i == attention else "DownBlock2D" for i in levels]
    up = ["AttnUpBlock2D" if i == attention else "UpBlock2D" for i in reversed(levels)]
    config = {
        "sample_size": size,
        "block_out_channels": channels,
        "down_block_types": tuple(down),
        "up_block_types": tuple(up),
        "layers_per_block": 2,
        "attention_head_dim": None,
        "downsample_padding": 0,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "norm_eps": 1e-6,
    }
    return UNet2DModel(**config | options)


def cifar10():
    return ddpm_unet(32, (128, 256, 256, 256), attention=1)


def celeba():
    return ddpm_unet(64, (128, 256, 256, 256, 512), attention=2)


def church():
    return ddpm_unet(256, (128, 128, 256, 256, 512, 512), attention=4)


def sd():
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)


def sdxl():
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=128,
        cross_attention_dim=2048,
        attention_head_dim=(5, 10, 20),
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )


def tiny():
    options = {"in_channels": 1, "out_channels": 1, "layers_per_block": 1, "norm_num_groups": 4}
    return ddpm_unet(16, (8, 8, 8), attention=-1, add_attention=False, **options)


_CHURCH, _SD, _SDXL = 113_673_219, 859_520_964, 2_567_463_684

MODELS = {
    model.name: model
    for model in (
        PaperModel("cifar10", "CIFAR-10, 32 x 32", 35_746_307, cifar10, (32, 64)),
        PaperModel("celeba", "CelebA, 64 x 64", 78_700_803, celeba, (32, 64, 128)),
        PaperModel("church", "LSUN-Church, 256 x 256", _CHURCH, church, (32, 64, 128)),
        PaperModel(
            "celebahq", "CelebA-HQ, 256 x 256", _CHURCH, church, (32, 64, 128), same_as="church"
        ),
        PaperModel("sd", "Stable Diffusion 1.4", _SD, sd, (64, 128), 7.5, (77, 768)),
        PaperModel("sdxl", "SDXL", _SDXL, sdxl, (64, 128, 256), 5.0, (77, 2048), added=True),
        PaperModel("tiny", "a tiny UNet for the tests", 24_321, tiny, (8,)),
    )
}
