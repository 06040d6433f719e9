"""Dash's inner layers as Dot runs them, and what they make of the conditioning.

The trunk is a copy of Dash's module whose frozen parameters are views of Dash's, without its outer
levels. Nothing in it is trained but the LoRA that Dot adds.
"""

import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..system.errors import Refused

# Keywords of UNet2DConditionModel.forward that a trunk reads. The residuals of a ControlNet belong
# to levels and sizes that it does not have: they reach a Dot through Dash's estimates alone.
TAKEN = (
    "encoder_hidden_states",
    "class_labels",
    "timestep_cond",
    "attention_mask",
    "cross_attention_kwargs",
    "added_cond_kwargs",
    "encoder_attention_mask",
)
PASSED_OVER = (
    "down_block_additional_residuals",
    "mid_block_additional_residual",
    "down_intrablock_additional_residuals",
    "return_dict",
)


class Given(NamedTuple):
    """What the weights make of a run's conditioning: the same in each of its steps."""

    emb: Tensor | None = None  # [B, E], of classes and SDXL's added conditions
    timestep_cond: Tensor | None = None  # [B, ...], LCM's guidance embedding
    text: Any = None  # [B, T, D], what the layers attend to
    masks: dict[str, Tensor] = {}  # noqa: RUF012 - biases of the attention, never changed
    cross_attention_kwargs: dict | None = None
    guidance: Tensor | None = None  # [1, E], of the guidance scale, for a guided Dot


def shared_copy(module: nn.Module) -> nn.Module:
    """A second module with the same structure whose frozen parameters are views of the first's."""
    views = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in module.parameters()}
    views |= {id(b): b for b in module.buffers()}
    return copy.deepcopy(module, views)


def conditional(unet: nn.Module) -> bool:
    """Whether the model is given more than x and t."""
    from diffusers import UNet2DConditionModel

    return isinstance(unet, UNet2DConditionModel) or unet.class_embedding is not None


def check_supported(unet: nn.Module) -> None:
    """Raise ValueError for a model that has no trunk."""
    from diffusers import UNet2DConditionModel, UNet2DModel

    if not isinstance(unet, (UNet2DModel, UNet2DConditionModel)):
        raise Refused(
            "a Dot is built on a diffusers UNet2DModel or UNet2DConditionModel, not on a "
            f"{type(unet).__name__}"
        )
    if unet.config.in_channels != unet.config.out_channels:
        raise Refused(
            f"the UNet has {unet.config.in_channels} input and {unet.config.out_channels} output "
            "channels: a Dot needs as many of both"
        )
    odd = [type(b).__name__ for b in unet.down_blocks if hasattr(b, "skip_conv")]
    if odd:
        raise Refused(f"block type {odd[0]} (skip images) is not supported by Dot: use DownBlock2D")
    config = unet.config
    for name in ("class_embeddings_concat", "center_input_sample"):
        if getattr(config, name, False) and isinstance(unet, UNet2DConditionModel):
            raise Refused(f"a UNet with {name}=True is not supported by Dot")
    kind = getattr(config, "addition_embed_type", None)
    if kind not in (None, "text", "text_time", "image"):
        raise Refused(f"a UNet with addition_embed_type={kind!r} is not supported by Dot")


def make(unet: nn.Module, cut: int) -> tuple[nn.Module, int, int]:
    """The trunk without the first `cut` levels, and its channels in and out.

    Raises:
        Refused: nothing would be left.
    """
    channels = unet.config.block_out_channels
    if not 0 <= cut < len(channels):
        raise Refused(f"cut={cut} for a UNet of {len(channels)} levels: 0 to {len(channels) - 1}")
    trunk = shared_copy(unet)
    without_adapters(trunk)
    trunk.down_blocks = trunk.down_blocks[cut:]
    trunk.up_blocks = trunk.up_blocks[: len(channels) - cut]
    trunk.up_blocks[-1].upsamplers = None
    for name in ("conv_in", "conv_norm_out", "conv_out"):
        delattr(trunk, name)
    return trunk, channels[max(0, cut - 1)], channels[cut]


def without_adapters(module: nn.Module) -> None:
    """Put the base layers in the place of peft's adapters."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, layer in list(module.named_modules()):
        if isinstance(layer, BaseTunerLayer):
            parent = module.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], layer.get_base_layer())


def given(trunk: nn.Module, cond: dict[str, Any], dtype: torch.dtype) -> Given:
    """What the trunk's weights make of the keywords that Dash is called with.

    Raises:
        Refused: a keyword that a Dot does not take, or one that Dash needs is missing.
    """
    if cond and not conditional(trunk):
        raise Refused(f"this Dot takes no conditioning, got {', '.join(cond)}")
    if unknown := [name for name in cond if name not in (*TAKEN, *PASSED_OVER)]:
        raise Refused(f"a Dot takes no {', '.join(unknown)}, only {', '.join(TAKEN)}")
    text, labels = cond.get("encoder_hidden_states"), cond.get("class_labels")
    emb = None
    if trunk.class_embedding is not None:
        if labels is None:
            raise Refused("this Dot needs class_labels, as its Dash does")
        if trunk.config.class_embed_type == "timestep":
            labels = trunk.time_proj(labels).to(dtype)
        emb = trunk.class_embedding(labels).to(dtype)
    if not hasattr(trunk, "get_aug_embed"):  # a UNet2DModel
        return Given(emb)
    if text is None:
        raise Refused("this Dot needs encoder_hidden_states, as its Dash does")
    added = cond.get("added_cond_kwargs") or {}
    more = trunk.get_aug_embed(text[..., :1].to(dtype), text, added)  # of the first only the dtype
    if more is not None:
        emb = more if emb is None else emb + more
    masks = {}
    for name in ("attention_mask", "encoder_attention_mask"):
        if cond.get(name) is not None:
            masks[name] = (1 - cond[name].to(dtype))[:, None] * -10000.0
    attention = dict(cond.get("cross_attention_kwargs") or {})
    attention.pop("scale", None)  # that of a LoRA on Dash, which the trunk does not have
    text = trunk.process_encoder_hidden_states(text, added)
    return Given(emb, cond.get("timestep_cond"), text, masks, attention or None)


def embedding(trunk: nn.Module, waves: Tensor, trail: Tensor, of: Given) -> Tensor:
    """What each layer of a conditional trunk is told of time and conditioning, `[1 or B, E]`.

    Args:
        waves: `[1 or B, F]`, sinusoids of t.
        trail: `[1 or B, E]`, Dot's embedding of the trajectory.
    """
    emb = trunk.time_embedding(waves, of.timestep_cond) + trail
    if of.emb is not None:
        emb = emb + of.emb
    act = getattr(trunk, "time_embed_act", None)
    return emb if act is None else act(emb)


def run(trunk: nn.Module, h: Tensor, emb: Tensor, of: Given) -> Tensor:
    """The inner levels, as the forward of Dash runs them."""
    attend = {
        "encoder_hidden_states": of.text,
        "cross_attention_kwargs": of.cross_attention_kwargs,
        **of.masks,
    }

    def more(block) -> dict:
        return attend if getattr(block, "has_cross_attention", False) else {}

    skips = [h]
    for block in trunk.down_blocks:
        h, states = block(hidden_states=h, temb=emb, **more(block))
        skips.extend(states)
    if trunk.mid_block is not None:
        h = trunk.mid_block(h, emb, **more(trunk.mid_block))
    for block in trunk.up_blocks:
        count = len(block.resnets)
        h = block(
            hidden_states=h,
            res_hidden_states_tuple=tuple(skips[-count:]),
            temb=emb,
            **more(block),
        )
        del skips[-count:]
    return h
