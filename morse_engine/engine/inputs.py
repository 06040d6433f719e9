"""What the models of a sampler are given, checked against what they take before one runs."""

import difflib
import inspect
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from ..dot.helper import AnyEta, for_dot
from ..runtime.models import Models
from ..system import checks
from ..system.errors import Refused

OURS = ("noise", "batch_size", "seed", "guidance_scale", "on_step")  # of a sampler's call
DASH = 2  # positional arguments: x and the timestep
DOT = 7  # and of a Dot: these, x_s, z_s, timestep_s, z_p, timestep_p


def check_models(unet: Any, dot: Any) -> None:
    """Refuse what is plainly no model, before anything is made of it.

    Raises:
        Refused: a class, a pipeline, or a function with too few parameters.
    """
    if hasattr(unet, "unet") and hasattr(unet, "scheduler"):
        raise Refused(
            f"unet is a {type(unet).__name__}: pass its unet, or morse_engine.accelerate(pipe, dot)"
        )
    checks.function("unet", unet, "a model; this is not a model or callable of x and timestep")
    if dot is not None:
        checks.function("dot", dot, "a Dot; this is not a Dot or callable")
    for name, model, positional in (("unet", unet, DASH), ("dot", dot, DOT)):
        if model is not None and not isinstance(model, nn.Module):
            _bound(name, model, positional)


def check_shape(models: Models, shape: tuple[int, ...], *, with_dot: bool) -> None:
    """Refuse images `(C, H, W)` that the models cannot take.

    Args:
        with_dot: whether the Dot will see them.
    """
    channels, *size = shape
    config: Any = getattr(models.unet, "config", None)
    wanted = getattr(config, "in_channels", channels)
    if channels != wanted:
        raise Refused(f"shape={shape}: the unet takes {wanted} channels")
    multiple = max(_multiple(models.unet), getattr(models.helper, "multiple", 1) if with_dot else 1)
    if any(pixels % multiple for pixels in size):
        near = tuple(max(multiple, round(pixels / multiple) * multiple) for pixels in size)
        raise Refused(
            f"shape={shape}: height and width have to be multiples of {multiple}, "
            f"for instance {(channels, *near)}"
        )


def _multiple(unet: object) -> int:
    """What a UNet's height and width have to be multiples of; one with text takes every size."""
    from diffusers import UNet2DModel

    return 2 ** (len(unet.config.block_out_channels) - 1) if isinstance(unet, UNet2DModel) else 1


def check_cond(models: Models, cond: dict[str, Any], rows: int) -> None:
    """Refuse keywords that the models do not take, or that lack what they need.

    Args:
        rows: how many rows the conditions have, twice the number of images with guidance.
    """
    _bound("unet", models.unet, DASH, cond)
    if isinstance(models.helper, AnyEta) and not models.helper.guided:
        _bound("dot", models.helper.function, DOT, for_dot(cond))
    from diffusers import UNet2DConditionModel, UNet2DModel

    if isinstance(models.unet, (UNet2DModel, UNet2DConditionModel)):
        _check_labels(models.unet, cond.get("class_labels"), rows)
    if isinstance(models.unet, UNet2DConditionModel):
        _check_text(models.unet, cond, rows)


def _bound(name: str, model: Callable, positional: int, cond: dict | None = None) -> None:
    """Whether a model can be called with as many positional arguments and these keywords.

    Without keywords only the positional ones are looked at.
    """
    function = model.forward if isinstance(model, nn.Module) else model
    try:
        signature = _signature(function)
    except (TypeError, ValueError):  # it does not say what it takes
        return
    places = [None] * positional
    try:
        signature.bind(*places, **cond) if cond is not None else signature.bind_partial(*places)
    except TypeError as error:
        advice = _advice(signature, positional, cond or {})
        raise Refused(f"{name} cannot be called as asked: {error}{advice}") from None


def _signature(function: Callable) -> inspect.Signature:
    """As `inspect.signature`; that of a method is found once for its class, which lives anyway."""
    if not inspect.ismethod(function):
        return inspect.signature(function)
    return _without_self(function.__func__)


@lru_cache(maxsize=64)
def _without_self(method: Callable) -> inspect.Signature:
    signature = inspect.signature(method)
    return signature.replace(parameters=list(signature.parameters.values())[1:])


def _advice(signature: inspect.Signature, positional: int, cond: dict) -> str:
    takes = list(signature.parameters)
    keywords = takes[positional:]
    for name in cond:
        near = difflib.get_close_matches(name, (*OURS, *keywords), 1) if name not in takes else []
        if near:
            return f"; did you mean {near[0]}?"
    if not keywords:
        return f"; it takes {', '.join(takes) or 'nothing'}"
    return f"; besides {', '.join(OURS)} there are the model's own keywords {', '.join(keywords)}"


def _rows(name: str, value: Any, rows: int) -> Tensor:
    if not isinstance(value, Tensor):
        raise Refused(f"{name} is {checks.kind(value)}: pass a tensor of {rows} rows")
    if value.ndim == 0 or len(value) != rows:
        raise Refused(f"{name} has shape {tuple(value.shape)}: this call needs {rows} rows")
    return value


def _check_labels(unet: Any, labels: Any, rows: int) -> None:
    embedding = unet.class_embedding
    if embedding is None and labels is None:
        return
    if embedding is None:
        raise Refused("class_labels is given, but the unet has no classes: leave it out")
    if labels is None:
        raise Refused(f"the unet needs class_labels: pass a tensor of {rows} rows")
    labels = _rows("class_labels", labels, rows)
    if not isinstance(embedding, nn.Embedding):
        return
    if labels.ndim != 1 or labels.dtype not in (torch.int32, torch.int64):
        raise Refused(
            f"class_labels is {tuple(labels.shape)} {labels.dtype}: pass int64 labels [{rows}]"
        )
    last = embedding.num_embeddings - 1
    # On a GPU, looking at them would wait for it.
    if labels.device.type == "cpu" and not 0 <= labels.min() <= labels.max() <= last:
        raise Refused(f"class_labels holds {labels.tolist()}: 0 to {last}")


def _check_text(unet: Any, cond: dict[str, Any], rows: int) -> None:
    text, config = cond["encoder_hidden_states"], unet.config
    if config.encoder_hid_dim_type is not None:  # of a form that its projection knows
        return
    text, width = _rows("encoder_hidden_states", text, rows), config.cross_attention_dim
    if text.ndim != 3 or not text.is_floating_point():
        raise Refused(
            f"encoder_hidden_states is {tuple(text.shape)} {text.dtype}: pass floats "
            f"[{rows}, T, {width}]"
        )
    if isinstance(width, int) and text.shape[2] != width:
        raise Refused(
            f"encoder_hidden_states has shape {tuple(text.shape)}: the unet attends to [T, {width}]"
        )
    if config.addition_embed_type == "text_time":
        added = cond.get("added_cond_kwargs")
        for name in ("text_embeds", "time_ids"):
            if not isinstance(added, dict) or name not in added:
                raise Refused(f'the unet needs added_cond_kwargs={{"{name}": ...}}')
            _rows(name, added[name], rows)
