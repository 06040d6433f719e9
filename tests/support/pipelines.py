"""Tiny diffusers pipelines with random weights, and the noise that makes two runs comparable."""

import copy
import importlib
import inspect
from contextlib import contextmanager
from unittest import mock

import diffusers
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    ControlNetUnionModel,
    DDIMScheduler,
    DDPMScheduler,
    T2IAdapter,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from models import SDXL, randomised, tiny_text_unet, tiny_unet
from morse_engine import Dot
from morse_engine.integrations.way import seeds
from morse_engine.sampling import noise
from tolerances import assert_close

LATENT = 8  # the size of a latent of `shallow`
SIZE = 2 * LATENT  # of its image
LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = [*LETTERS, *(f"{c}</w>" for c in LETTERS), "<|startoftext|>", "<|endoftext|>"]

OF_KIND = {  # options of the unet, by a word in the name of the pipeline
    "LatentConsistency": {"time_cond_proj_dim": 8},
    "InstructPix2Pix": {"in_channels": 8},
    "Depth2Img": {"in_channels": 5},
    "Upscale": {"in_channels": 7, "num_class_embeds": 1000},
}

SHALLOW = {
    "sample_size": LATENT,
    "block_out_channels": (8, 16),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """For models as tiny as these, threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def generator(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pipeline(kind: str, scheduler=None, *, unet=None, controlnets: int = 1, **options):
    """A pipeline of a diffusers class, by name.

    Args:
        scheduler: default: DDIM, as Stable Diffusion sets it.
        unet: default: a tiny one with `options`; those of the kind of pipeline are added.
    """
    cls = getattr(diffusers, kind)
    if scheduler is None:
        clip = kind in ("DDPMPipeline", "DDIMPipeline")
        scheduler = DDIMScheduler(clip_sample=clip, timestep_spacing="trailing")
    scheduler = copy.deepcopy(scheduler)  # pipelines change some options of theirs
    torch.manual_seed(0)
    if kind in ("DDPMPipeline", "DDIMPipeline"):
        return quiet(cls(unet=unet or tiny_unet(**options), scheduler=scheduler))
    sdxl = "XL" in kind
    if sdxl:
        options = SDXL | options
    for word, more in OF_KIND.items():
        options = (more if word in kind else {}) | options
    parts = {
        "vae": vae(),
        "text_encoder": text_encoder(CLIPTextModel, 4 if sdxl else 8),
        "tokenizer": tokenizer(),
        "unet": unet or tiny_text_unet(**options),
        "scheduler": scheduler,
        "low_res_scheduler": DDPMScheduler(),
        "safety_checker": None,
        "feature_extractor": None,
        "depth_estimator": None,
        "requires_safety_checker": False,
        "add_watermarker": False,
        "pag_applied_layers": ["mid"],
    }  # fmt: skip
    if sdxl:
        parts["text_encoder_2"] = text_encoder(CLIPTextModelWithProjection, 4)
        parts["tokenizer_2"] = tokenizer()
    if "Adapter" in kind:
        parts["adapter"] = adapter()
    if "Variation" in kind:
        parts["image_encoder"] = image_encoder(parts["unet"].config.cross_attention_dim)
    if "Union" in kind:
        parts["controlnet"] = union(parts["unet"])
    elif "ControlNet" in kind:
        nets = [controlnet(parts["unet"], seed) for seed in range(controlnets)]
        parts["controlnet"] = nets[0] if controlnets == 1 else nets
    taken = inspect.signature(cls.__init__).parameters
    return quiet(cls(**{name: part for name, part in parts.items() if name in taken}))


def shallow(kind: str, scheduler=None, **options):
    """`pipeline` with a unet of two levels and latents of 8 x 8: a third of the time of a call."""
    if kind not in ("DDPMPipeline", "DDIMPipeline"):
        options = SHALLOW | options
    return pipeline(kind, scheduler, **options)


def with_dot(kind="StableDiffusionPipeline", scheduler=None, *, guided=False, **options):
    """`shallow`, and a Dot of its unet."""
    pipe = shallow(kind, scheduler, **options)
    return pipe, randomised(Dot(pipe.unet, pipe.scheduler, widths=(8, 8), guided=guided))


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


def vae() -> AutoencoderKL:
    return AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(4, 4),
        norm_num_groups=2, down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    ).eval()  # fmt: skip


def text_encoder(cls, width: int):
    return cls(
        CLIPTextConfig(
            vocab_size=len(WORDS), hidden_size=width, intermediate_size=width, projection_dim=8,
            num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=8,
            bos_token_id=52, eos_token_id=53, pad_token_id=53,
        )
    ).eval()  # fmt: skip


def tokenizer() -> CLIPTokenizer:
    vocab = {word: i for i, word in enumerate(WORDS)}
    return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=8)


def controlnet(unet: UNet2DConditionModel, seed: int = 0) -> ControlNetModel:
    """A ControlNet that has an effect: its last convolutions are zero before training."""
    torch.manual_seed(seed)
    net = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 8))
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return net.eval()


def union(unet: UNet2DConditionModel) -> ControlNetUnionModel:
    """A ControlNet of several kinds of image, which has an effect."""
    names = inspect.signature(ControlNetUnionModel.__init__).parameters
    same = {name: value for name, value in unet.config.items() if name in names}
    own = {"conditioning_embedding_out_channels": (8, 8), "num_trans_channel": 8}
    own |= {"num_trans_head": 2, "num_proj_channel": 8}
    net = ControlNetUnionModel(**same | own)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return net.eval()


def adapter() -> T2IAdapter:
    """For a unet of two levels."""
    return T2IAdapter(
        3, channels=[8, 16], num_res_blocks=1, downscale_factor=2, adapter_type="full_adapter"
    ).eval()


def image_encoder(width: int) -> CLIPVisionModelWithProjection:
    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=8, intermediate_size=8, projection_dim=width, num_hidden_layers=1,
            num_attention_heads=2, image_size=SIZE, patch_size=LATENT,
        )
    ).eval()  # fmt: skip


def picture(seed: int = 0, channels: int = 3):
    """An image as pipelines take it, `[1, C, H, W]` in 0 to 1."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(1, channels, SIZE, SIZE, generator=generator)


def half_mask():
    mask = torch.zeros(1, 1, SIZE, SIZE)
    mask[..., SIZE // 2 :] = 1
    return mask


@contextmanager
def our_noise(scheduler, count: int):
    """Within it a scheduler draws morse_engine's noise in the place of torch's.

    The seeds are drawn from the generator when the first noise is needed, as `accelerate` does.
    """
    state = {"step": 0, "seeds": None}

    def randn(shape, generator=None, device=None, dtype=None, **_):
        if state["seeds"] is None:
            state["seeds"] = seeds(generator, count)
        drawn = noise.normal(state["seeds"], state["step"], tuple(shape)[1:])
        state["step"] += 1
        return drawn.to(dtype)

    module = importlib.import_module(type(scheduler).__module__)
    if not hasattr(module, "randn_tensor"):
        yield
        return
    with mock.patch.object(module, "randn_tensor", randn):
        yield


def assert_same(actual, expected, row: str = "pipelines") -> None:
    """Two runs of a pipeline, in units of the largest element; random models blow latents up."""
    actual, expected = torch.as_tensor(actual), torch.as_tensor(expected)
    assert torch.isfinite(expected).all()
    largest = expected.abs().max()
    assert_close(row, actual / largest, expected / largest)
