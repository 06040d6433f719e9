"""The attention of a trunk that is for inference alone: the same function, fewer launches.

Query, key and value of a self-attention are one product. Keys and values of the text are the same
in all steps of a run: `replace` gives them to the caller as one layer, whose output takes the place
of the text. Nothing is divided by a factor of one, and channels-last features are never copied.
"""

from typing import Any

from torch import Tensor, nn

from .. import kernels
from .joined import Columns, can_be_joined, columns, joined
from .norm import Norm


class SelfAttention(nn.Module):
    """Of tokens `[B, N, D]` to each other."""

    def __init__(self, attention: Any):
        super().__init__()
        self.heads, self.out = attention.heads, attention.to_out[0]
        self.qkv = joined([attention.to_q, attention.to_k, attention.to_v])

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v = (_of_heads(part, self.heads) for part in self.qkv(tokens).chunk(3, dim=2))
        return self.out(_attend(q, k, v, mask))


class CrossAttention(nn.Module):
    """Of tokens `[B, N, D]` to the keys and values of a text, its columns of `[B, T, any]`."""

    def __init__(self, attention: Any, key: Columns, value: Columns):
        super().__init__()
        self.heads, self.out, self.q = attention.heads, attention.to_out[0], attention.to_q
        self.key, self.value = key, value

    def forward(self, tokens: Tensor, text: Tensor, mask: Tensor | None = None) -> Tensor:
        parts = (self.q(tokens), self.key(text), self.value(text))
        q, k, v = (_of_heads(part, self.heads) for part in parts)
        return self.out(_attend(q, k, v, mask))


class PixelAttention(nn.Module):
    """Of all pixels to each other, in the place of an `Attention` with a group norm."""

    def __init__(self, attention: Any):
        super().__init__()
        self.norm = Norm(attention.group_norm, silu=False)
        self.attention = SelfAttention(attention)

    def forward(self, h: Tensor, **told: Any) -> Tensor:
        return h + _as_image(self.attention(_as_tokens(self.norm(h))), h)


class AddNorm(nn.Module):
    """`tokens + delta` and its layer norm; without a delta the tokens and theirs."""

    def __init__(self, norm: Any):
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps

    def forward(self, tokens: Tensor, delta: Tensor | None) -> tuple[Tensor, Tensor]:
        weight, bias = self.weight, self.bias
        if delta is not None:
            return kernels.add_layer_norm(tokens, delta, weight, bias, self.eps)
        return tokens, nn.functional.layer_norm(tokens, weight.shape, weight, bias, self.eps)


class FeedForward(nn.Module):
    """In the place of a `FeedForward` with `GEGLU`."""

    def __init__(self, model: Any):
        super().__init__()
        self.enter, self.leave = model.net[0].proj, model.net[2]

    def forward(self, tokens: Tensor) -> Tensor:
        return self.leave(kernels.geglu(self.enter(tokens)))


class Block(nn.Module):
    """In the place of a `BasicTransformerBlock`; what it ends with is added by the next one."""

    def __init__(self, block: Any, key: Columns, value: Columns):
        super().__init__()
        self.norm1, self.norm2, self.norm3 = map(AddNorm, (block.norm1, block.norm2, block.norm3))
        self.attention = SelfAttention(block.attn1)
        self.to_text = CrossAttention(block.attn2, key, value)
        self.feed_forward = FeedForward(block.ff)

    def forward(
        self,
        tokens: Tensor,
        delta: Tensor | None,
        text: Tensor,
        mask: Tensor | None,
        text_mask: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        tokens, normed = self.norm1(tokens, delta)
        tokens, normed = self.norm2(tokens, self.attention(normed, mask))
        tokens, normed = self.norm3(tokens, self.to_text(normed, text, text_mask))
        return tokens, self.feed_forward(normed)


class Transformer(nn.Module):
    """In the place of a `Transformer2DModel`, whose call it has; the text is keys and values."""

    def __init__(self, model: Any, parts: list[Columns]):
        super().__init__()
        self.norm = Norm(model.norm, silu=False)
        self.enter, self.leave = _as_linear(model.proj_in), _as_linear(model.proj_out)
        pairs = zip(model.transformer_blocks, parts[::2], parts[1::2], strict=True)
        self.blocks = nn.ModuleList(Block(block, key, value) for block, key, value in pairs)

    def forward(
        self,
        h: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        **unused: Any,
    ) -> tuple[Tensor]:
        tokens, delta = self.enter(_as_tokens(self.norm(h))), None
        told = (encoder_hidden_states, attention_mask, encoder_attention_mask)
        for block in self.blocks:
            tokens, delta = block(tokens, delta, *told)
        return (h + _as_image(self.leave(tokens + delta), h),)


def _as_tokens(h: Tensor) -> Tensor:
    return h.permute(0, 2, 3, 1).flatten(1, 2)


def _as_image(tokens: Tensor, like: Tensor) -> Tensor:
    return tokens.unflatten(1, like.shape[2:]).permute(0, 3, 1, 2)


def _of_heads(tokens: Tensor, heads: int) -> Tensor:
    return tokens.unflatten(2, (heads, -1)).transpose(1, 2)


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Mask: `[B, 1, T]`, added to the scores."""
    mask = None if mask is None else mask[:, None]
    out = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return out.transpose(1, 2).flatten(2)


def _as_linear(layer: Any) -> nn.Linear:
    """A convolution of 1 x 1 as a layer of tokens, with its weights."""
    if isinstance(layer, nn.Linear):
        return layer
    one = nn.utils.skip_init(nn.Linear, layer.in_channels, layer.out_channels)
    one.weight = nn.Parameter(layer.weight.flatten(1), requires_grad=False)
    one.bias = layer.bias
    return one


def replace(trunk: nn.Module) -> nn.Linear | None:
    """Put these classes in the place of all attention of a private trunk.

    Returns:
        keys and values of the text as one layer. None if nothing attends to a text, or if some
        attention is of another kind: then the trunk stays as it is.
    """
    from diffusers.models.attention_processor import Attention
    from diffusers.models.transformers.transformer_2d import Transformer2DModel

    named = dict(trunk.named_modules())
    models: dict[str, Any] = {n: m for n, m in named.items() if isinstance(m, Transformer2DModel)}
    within = tuple(f"{name}." for name in models)
    of_pixels: dict[str, Any] = {
        n: m for n, m in named.items() if isinstance(m, Attention) and not n.startswith(within)
    }
    pairs = [
        layer
        for model in models.values()
        for block in model.transformer_blocks
        if block.attn2 is not None
        for layer in (block.attn2.to_k, block.attn2.to_v)
    ]
    known = all(map(_is_transformer, models.values())) and all(
        map(_is_of_pixels, of_pixels.values())
    )
    if not known or (models and not can_be_joined(pairs)):
        return None
    new: dict[str, nn.Module] = {n: PixelAttention(m) for n, m in of_pixels.items()}
    parts = columns(pairs)
    for name, model in models.items():
        count = 2 * len(model.transformer_blocks)
        new[name], parts = Transformer(model, parts[:count]), parts[count:]
    for name, module in new.items():
        setattr(trunk.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2], module)
    return joined(pairs) if pairs else None


def _is_plain(attention: Any) -> bool:
    """Whether it is softmax(q k^T) v between linear layers and nothing else."""
    from diffusers.models.attention_processor import AttnProcessor2_0

    others = ("norm_q", "norm_k", "norm_cross", "spatial_norm", "added_kv_proj_dim")
    return (
        type(attention.processor) is AttnProcessor2_0
        and attention.rescale_output_factor == 1
        and attention.to_k is not None
        and not any(getattr(attention, name, None) for name in others)
    )


def _is_of_itself(attention: Any) -> bool:
    return _is_plain(attention) and can_be_joined([attention.to_q, attention.to_k, attention.to_v])


def _is_of_pixels(attention: Any) -> bool:
    normed = attention.group_norm is not None and attention.residual_connection
    return normed and _is_of_itself(attention)


def _is_transformer(model: Any) -> bool:
    return model.is_input_continuous and all(map(_is_block, model.transformer_blocks))


def _is_block(block: Any) -> bool:
    from diffusers.models.activations import GEGLU

    return (
        type(block.ff.net[0]) is GEGLU
        and block.norm1.bias is not None
        and block.norm_type == "layer_norm"
        and block.pos_embed is None
        and block.attn2 is not None
        and not block.only_cross_attention
        and not hasattr(block, "fuser")
        and _is_of_itself(block.attn1)
        and _is_plain(block.attn2)
        and not any(a.residual_connection or a.group_norm for a in (block.attn1, block.attn2))
    )
