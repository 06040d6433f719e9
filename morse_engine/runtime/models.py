"""Dash and Dot as a sampler calls them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from ..dot.helper import as_helper
from ..dot.layout import layout_of
from ..sampling.free import Numbers, as_range
from ..system.errors import Refused, Unavailable


class Models:
    """Dash and Dot as plain functions of float32 samples, whatever they are and compute in.

    Args:
        unet, dot, clean_range, merge_dot, inductor: as in `compile`.

    Raises:
        Refused: Dash predicts a variance, one of the two cannot be called, or this Dot is that of
            another Dash.

    Attributes:
        unet: Dash, as it was given.
        helper: what makes Dot steps, `dot.helper.Helper`; None if there is nothing.
        dot: the helper as a function of float32 samples; None if there is nothing.
        own_helper: whether that is a copy which nobody else has.
        guided_dot: whether it corrects the guided estimate.
        clean_range: of the images, for free steps; None where the scheduler alone may know it.
    """

    def __init__(
        self,
        unet: Callable[..., Tensor],
        dot: Callable[..., Tensor] | None,
        clean_range: Any = None,
        *,
        merge_dot: bool = True,
        inductor: bool = False,
    ):
        _check_dash(unet)
        self.unet = self._unet = unet
        self.helper = helper = None if dot is None else as_helper(dot)
        self.own_helper = False
        if helper is not None:
            helper.check_dash(unet)
            self.helper = helper.merged() if merge_dot else helper
            self.own_helper, helper = self.helper is not helper, self.helper
        known = clean_range if clean_range is not None or helper is None else helper.clean_range
        self.clean_range = None if known is None else as_range(known)
        if inductor:
            options: dict[str, Any] = {"dynamic": False, "options": {"triton.cudagraphs": False}}
            self._unet = torch.compile(unet, **options)
            self.helper = helper and helper.compiled(**options)
        self.dot = None if helper is None else self._dot
        self.guided_dot = helper is not None and helper.guided

    @property
    def device(self) -> torch.device | None:
        """Where Dash is; None for a plain function."""
        first = _first_parameter(self.unet)
        return first.device if first is not None else None

    @property
    def dtype(self) -> torch.dtype:
        """What Dash computes in."""
        first = _first_parameter(self.unet)
        return first.dtype if first is not None else torch.float32

    @property
    def layouts(self) -> str:
        """Memory formats of the convolutions, in words."""
        words = []
        for name, model in (("Dash", self.unet), ("Dot", self.helper)):
            if isinstance(model, nn.Module) and _first_parameter(model) is not None:
                words.append(f"{name} {layout_of(model)}")
        return ", ".join(words)

    @property
    def shape(self) -> tuple[int, ...] | None:
        """`(C, H, W)` of a sample by Dash's config; None if it has none."""
        config: Any = getattr(self.unet, "config", None)
        size = getattr(config, "sample_size", None)
        if not size:
            return None
        return (config.in_channels, *((size, size) if isinstance(size, int) else size))

    @property
    def known(self) -> dict[str, Any]:
        """What `sampling.budget.choose` is told of them; text is mostly followed with guidance."""
        config: Any = getattr(self.unet, "config", None)
        text = getattr(config, "cross_attention_dim", None) is not None
        told: dict[str, Any] = {"clean_range": self.clean_range, "guided": text}
        if self.helper is None:
            return told
        return told | {"folder": self.helper.folder}

    def check(self) -> None:
        """Refuse a Dash that has been moved or cast away from its Dot, or draws random numbers."""
        for name, model in (("unet", self.unet), ("dot", self.helper)):
            if (layer := _random(model)) is not None:
                raise Unavailable(
                    f"the {name} is in train() mode, where its {layer} would make another image "
                    f"each time: call {name}.eval() first"
                )
        first = _first_parameter(self.helper)
        if first is None or _first_parameter(self.unet) is None:
            return
        ours, dashs = (first.device, first.dtype), (self.device, self.dtype)
        if ours != dashs:
            raise Unavailable(
                f"Dash is on {dashs[0]} in {dashs[1]}, its Dot on {ours[0]} in {ours[1]}: "
                "compile again after moving or casting a model"
            )

    def dash(self, x: Tensor, timestep: Tensor, **cond: Any) -> Tensor:
        z = self._unet(x.to(self.dtype), timestep, **cond)
        z = getattr(z, "sample", z)
        _check_output("unet", z, x)
        return z.to(x.dtype)

    def _dot(
        self,
        x: Tensor,
        timestep: Numbers,
        x_s: Tensor,
        z_s: Tensor,
        timestep_s: Numbers,
        z_p: Tensor,
        timestep_p: Numbers,
        **cond: Any,
    ) -> Tensor:
        assert self.helper is not None  # or `dot` is None
        x_, x_s, z_s, z_p = (tensor.to(self.dtype) for tensor in (x, x_s, z_s, z_p))
        eta = self.helper(x_, timestep, x_s, z_s, timestep_s, z_p, timestep_p, **cond)
        _check_output("dot", eta, x)
        return eta.to(x.dtype)


@contextmanager
def own_dtype(device: torch.device) -> Iterator[None]:
    """Without torch.autocast, whose copies of weights a captured step would read when gone.

    Models compute in their own dtype; in every backend, so that all make the same images.
    """
    if torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type):
        with torch.autocast(device.type, enabled=False):
            yield
    else:
        yield


def _check_dash(unet: Callable[..., Tensor]) -> None:
    if not callable(unet):
        raise Refused(f"unet is a {type(unet).__name__}, not a model or callable")
    config: Any = getattr(unet, "config", None)
    if getattr(config, "out_channels", None) != getattr(config, "in_channels", None):
        raise Refused(
            f"unet has {config.in_channels} input and {config.out_channels} output channels: "
            "models that also predict a variance are not supported"
        )


def _check_output(name: str, out: object, x: Tensor) -> None:
    """Refuse what would be broadcast over the images in silence, or is no tensor."""
    if not isinstance(out, Tensor):
        raise Refused(f"{name} returned a {type(out).__name__}: it has to return a tensor")
    if not out.is_floating_point() or out.device != x.device:
        raise Refused(
            f"{name} returned {out.dtype} on {out.device}: it has to return floats on {x.device}"
        )
    if out.shape != x.shape:
        raise Refused(
            f"{name} returned shape {tuple(out.shape)} for x {tuple(x.shape)}: it has to return "
            "one value for each of x"
        )


def _random(model: object) -> str | None:
    """A layer of a model that is random, or depends on the batch, as it is now; None if none is."""
    for module in model.modules() if isinstance(model, nn.Module) else ():
        if not module.training:
            continue
        # Attention and recurrent layers have a number of their own, no layer for it.
        dropout = module.p if isinstance(module, _DropoutNd) else getattr(module, "dropout", 0)
        if isinstance(dropout, float) and dropout > 0:
            return f"dropout of {dropout:g}"
        if isinstance(module, nn.RReLU) or getattr(module, "track_running_stats", False):
            return type(module).__name__
    return None


def weight_bytes(model: object, beside: object = None) -> int:
    """Bytes of the parameters of `model`, those that `beside` holds too left out."""

    def storages(module: object) -> dict[int, int]:
        if not isinstance(module, nn.Module):
            return {}
        return {p.data_ptr(): p.numel() * p.element_size() for p in module.parameters()}

    shared = storages(beside)
    return sum(size for at, size in storages(model).items() if at not in shared)


def _first_parameter(model: object) -> nn.Parameter | None:
    """That of `parameters()`, which takes longer to begin than a run has for it."""
    if not isinstance(model, nn.Module):
        return None
    for parameter in model._parameters.values():
        if parameter is not None:
            return parameter
    found = map(_first_parameter, model._modules.values())
    return next((parameter for parameter in found if parameter is not None), None)
