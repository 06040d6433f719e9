"""The family of diffusers' UNets: `UNet2DModel` and `UNet2DConditionModel`."""

from typing import Any

import torch
from torch import Tensor, nn

from ..system.errors import Refused
from . import attention, resnet
from .family import Given, shared_copy, without_adapters

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


class UNet:
    """The levels of a UNet below its first `cut`, as `Family` has it.

    With cut = m each works at the resolution that it was trained at. Default: m, or m - 1 for a
    model with conditions, whose inner levels are most of it.
    """

    trunk: Any  # a model of diffusers, as Dash is
    MODELS = "a diffusers UNet2DModel or UNet2DConditionModel"
    LORA_TARGETS = ["conv1", "conv2", "time_emb_proj", "to_q", "to_k", "to_v", "to_out.0"]  # noqa: RUF012

    @staticmethod
    def takes(dash: nn.Module) -> bool:
        from diffusers import UNet2DConditionModel, UNet2DModel

        if not isinstance(dash, (UNet2DModel, UNet2DConditionModel)):
            return False
        config = dash.config
        if config.in_channels != config.out_channels:
            raise Refused(
                f"the UNet has {config.in_channels} input and {config.out_channels} output "
                "channels: a Dot needs as many of both"
            )
        for block in dash.down_blocks:
            if "Skip" in (name := type(block).__name__):
                raise Refused(
                    f"block type {name} (skip images) is not supported by Dot: use DownBlock2D"
                )
        if isinstance(dash, UNet2DConditionModel):
            for name in ("class_embeddings_concat", "center_input_sample"):
                if config.get(name):
                    raise Refused(f"a UNet with {name}=True is not supported by Dot")
            kind = config.get("addition_embed_type")
            if kind not in (None, "text", "text_time", "image"):
                raise Refused(f"a UNet with addition_embed_type={kind!r} is not supported by Dot")
        return True

    def __init__(self, dash: Any, num_halvings: int, cut: int | None):
        from diffusers import UNet2DConditionModel

        widths = dash.config.block_out_channels
        self.attends = isinstance(dash, UNet2DConditionModel)  # to text, and has added conditions
        self.conditional = self.attends or dash.class_embedding is not None
        most = len(widths) - 1  # levels that can be left out
        wanted = num_halvings - self.conditional if cut is None else cut
        if not 0 <= wanted <= most:
            fit = most + self.conditional if cut is None else 0  # so many widths need no cut
            fits = f"{fit} widths or fewer fit, such as widths={(16, 32, 64)[:fit]}; else "
            raise Refused(
                f"cut={wanted} for a UNet of {most + 1} levels: {fits if fit else ''}give cut=0"
                + (f" to {most}" if most else "")
            )
        self.cut = cut = wanted
        self.trunk = trunk = shared_copy(dash)
        without_adapters(trunk)
        trunk.down_blocks = trunk.down_blocks[cut:]
        trunk.up_blocks = trunk.up_blocks[: len(widths) - cut]
        trunk.up_blocks[-1].upsamplers = None
        for name in ("conv_in", "conv_norm_out", "conv_out"):
            delattr(trunk, name)
        trunk.projections = None  # of time, in all residual blocks at once: see `prepare`
        trunk.of_text = None  # keys and values in all attentions at once, likewise
        self.time_layers = [trunk.time_embedding]
        self.channels = widths[max(0, cut - 1)], widths[cut]
        self.waves_dim = trunk.time_embedding.linear_1.in_features
        self.emb_dim = trunk.time_embedding.linear_2.out_features
        self.multiple = 2 ** (len(widths) - cut - 1)

    def waves(self, t: Tensor) -> Tensor:
        return self.trunk.time_proj(t)

    def given(self, cond: dict[str, Any], dtype: torch.dtype) -> Given:
        if cond and not self.conditional:
            raise Refused(f"this Dot takes no conditioning, got {', '.join(cond)}")
        if unknown := [name for name in cond if name not in (*TAKEN, *PASSED_OVER)]:
            raise Refused(f"a Dot takes no {', '.join(unknown)}, only {', '.join(TAKEN)}")
        emb = self._of_class(cond.get("class_labels"), dtype)
        return self._attended(cond, emb, dtype) if self.attends else Given(emb)

    def _of_class(self, labels: Tensor | None, dtype: torch.dtype) -> Tensor | None:
        trunk = self.trunk
        if trunk.class_embedding is None:
            return None
        if labels is None:
            raise Refused("this Dot needs class_labels, as its Dash does")
        if trunk.config.class_embed_type == "timestep":
            labels = trunk.time_proj(labels).to(dtype)
        return trunk.class_embedding(labels).to(dtype)

    def _attended(self, cond: dict[str, Any], emb: Tensor | None, dtype: torch.dtype) -> Given:
        trunk, text = self.trunk, cond.get("encoder_hidden_states")
        if text is None:
            raise Refused("this Dot needs encoder_hidden_states, as its Dash does")
        added = cond.get("added_cond_kwargs") or {}
        # Of the first argument only the dtype is read.
        more = trunk.get_aug_embed(text[..., :1].to(dtype), text, added)
        if more is not None:
            emb = more if emb is None else emb + more
        masks = {}
        for name in ("attention_mask", "encoder_attention_mask"):
            if cond.get(name) is not None:
                masks[name] = (1 - cond[name].to(dtype))[:, None] * -10000.0
        options = dict(cond.get("cross_attention_kwargs") or {})
        options.pop("scale", None)  # that of a LoRA on Dash, which the trunk does not have
        text = trunk.process_encoder_hidden_states(text, added)
        text = text if trunk.of_text is None else trunk.of_text(text)
        return Given(emb, cond.get("timestep_cond"), text, masks, options or None)

    def embedding(self, waves: Tensor, trail: Tensor, of: Given) -> Tensor:
        emb = self.trunk.time_embedding(waves, of.timestep_cond) + trail
        return emb if of.emb is None else emb + of.emb

    def prepare(self) -> None:
        self.trunk.projections = resnet.replace(self.trunk)
        self.trunk.of_text = attention.replace(self.trunk)
        if self.trunk.projections is not None:
            self.time_layers.append(self.trunk.projections)

    def told(self, emb: Tensor) -> Tensor:
        act = self.trunk.time_embed_act if self.attends else None
        emb = emb if act is None else act(emb)
        return emb if self.trunk.projections is None else self.trunk.projections(emb)

    def run(self, h: Tensor, told: Tensor, of: Given) -> Tensor:
        trunk = self.trunk
        attend = {
            "encoder_hidden_states": of.text,
            "cross_attention_kwargs": of.cross_attention_kwargs,
            **of.masks,
        }

        def more(block: nn.Module) -> dict:
            return attend if getattr(block, "has_cross_attention", False) else {}

        skips = [h]
        for block in trunk.down_blocks:
            h, states = block(hidden_states=h, temb=told, **more(block))
            skips.extend(states)
        if trunk.mid_block is not None:
            h = trunk.mid_block(h, told, **more(trunk.mid_block))
        for block in trunk.up_blocks:
            count = len(block.resnets)
            h = block(
                hidden_states=h,
                res_hidden_states_tuple=tuple(skips[-count:]),
                temb=told,
                **more(block),
            )
            del skips[-count:]
        return h
