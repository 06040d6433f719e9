"""Dash and Dot as a sampler calls them."""

import copy

import torch
from torch import Tensor, nn

from ..dot.dot import Dot
from ..system.errors import Unavailable


class Models:
    """Dash and Dot as plain functions of float32 samples, whatever they are and compute in."""

    def __init__(self, unet, dot, *, inductor: bool = False):
        self.unet, self.dot_model = unet, dot
        self._unet, self._dot_call = unet, dot
        if inductor:
            options = {"dynamic": False, "options": {"triton.cudagraphs": False}}
            self._unet = torch.compile(unet, **options)
            if isinstance(dot, Dot):
                # A second object with the same weights: the caller's own stays as it is.
                self.dot_model = self._dot_call = copy.copy(dot)
                self.dot_model.features = torch.compile(dot.features, **options)
            elif dot is not None:
                self._dot_call = torch.compile(dot, **options)
        self.dot = self._dot if dot is not None else None
        self.guided_dot = getattr(dot, "guided", False)
        # What a step is made of where it is captured: Dot itself, whose last block is fused.
        self.dot_for_steps = self.dot_model if isinstance(dot, Dot) else self.dot

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

    def check(self) -> None:
        """Refuse a Dash that has been moved or cast away from its Dot."""
        first = _first_parameter(self.dot_model)
        if first is None or _first_parameter(self.unet) is None:
            return
        ours, dashs = (first.device, first.dtype), (self.device, self.dtype)
        if ours != dashs:
            raise Unavailable(
                f"Dash is on {dashs[0]} in {dashs[1]}, its Dot on {ours[0]} in {ours[1]}: "
                "compile again after moving or casting a model"
            )

    def dash(self, x: Tensor, timestep: Tensor, **cond) -> Tensor:
        z = self._unet(x.to(self.dtype), timestep, **cond)
        return getattr(z, "sample", z).to(x.dtype)

    def _dot(self, x: Tensor, timestep, x_s, z_s, timestep_s, z_p, timestep_p, **cond) -> Tensor:
        x_, x_s, z_s, z_p = (tensor.to(self.dtype) for tensor in (x, x_s, z_s, z_p))
        eta = self._dot_call(x_, timestep, x_s, z_s, timestep_s, z_p, timestep_p, **cond)
        return eta.to(x.dtype)


def weight_bytes(model, beside=None) -> int:
    """Bytes of the parameters of `model`, those that `beside` holds too left out."""

    def storages(module) -> dict[int, int]:
        if not isinstance(module, nn.Module):
            return {}
        return {p.data_ptr(): p.numel() * p.element_size() for p in module.parameters()}

    shared = storages(beside)
    return sum(size for at, size in storages(model).items() if at not in shared)


def _first_parameter(model) -> nn.Parameter | None:
    return next(model.parameters(), None) if isinstance(model, nn.Module) else None
