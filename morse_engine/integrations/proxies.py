"""What stands in the place of a pipeline's models in a call, and Dash as a sampler sees it.

A stand-in has the state of the object whose place it takes and is of a subclass of its class, so
`config`, `dtype`, `isinstance` and module hooks are as before; only what the pipeline's loop calls
is another method.
"""

import copy
import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

RESIDUALS = ("down_block_additional_residuals", "mid_block_additional_residual")
ADAPTED = "down_intrablock_additional_residuals"  # of a T2I-adapter
T = TypeVar("T")


def stand_in(
    thing: T, method: str, function: Callable[..., object], *, own_state: bool = False
) -> T:
    """A second object with the same state, whose `method` is `function(*args, **kwargs)`.

    Args:
        own_state: copy the state, so that what the stand-in goes through does not show in `thing`.
    """
    cls = type(thing)

    @functools.wraps(getattr(cls, method))  # pipelines look at the signature
    def instead(self: T, *args: Any, **kwargs: Any) -> object:
        return function(*args, **kwargs)

    members = {method: instead, "__module__": cls.__module__}
    twin: T = object.__new__(type(cls.__name__, (cls,), members))
    # What was put on the object itself in the place of the method would hide this one.
    state = {name: value for name, value in vars(thing).items() if name != method}
    twin.__dict__.update(copy.deepcopy(state) if own_state else state)
    return twin


class Dash(nn.Module):
    """The unet of a pipeline with what is put around it: ControlNet, T2I-adapter, further channels.

    Its keyword `dash_only`, which a sampler gives to no Dot, is a dict of

        controlnet   the keywords of the ControlNet, whose residuals are added to the unet's
        adapted      the residuals of a T2I-adapter, which are the same in each step
        channels     `[B, C', H, W]`, behind the channels of x: mask and masked image of inpainting,
                     a depth map, a small image
    """

    def __init__(self, unet: nn.Module, controlnet: nn.Module | None = None):
        super().__init__()
        self.unet, self.controlnet = unet, controlnet

    def forward(
        self, x: Tensor, timestep: Tensor, *, dash_only: dict | None = None, **cond: Any
    ) -> Tensor:
        dash_only = dash_only or {}
        if "controlnet" in dash_only:
            assert self.controlnet is not None
            added = self.controlnet(x, timestep, return_dict=False, **dash_only["controlnet"])
            cond |= dict(zip(RESIDUALS, added, strict=True))
        if "adapted" in dash_only:
            cond[ADAPTED] = list(dash_only["adapted"])  # which the unet empties
        if "channels" in dash_only:
            x = torch.cat([x, dash_only["channels"]], dim=1)
        return self.unet(x, timestep, return_dict=False, **cond)[0]

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The unet's: a Dot is that of a unet, whatever ControlNet is beside it."""
        return self.unet.state_dict(*args, **kwargs)
