"""A Dot for inference alone: a private copy that computes the same with fewer launches."""

import copy
from typing import Any

from . import layout
from .blocks import Residual
from .family import Model, without_adapters
from .memo import Memo
from .norm import Norm


def merged(dot: Model) -> Model:
    """A frozen copy of a `Dot`, its LoRA in the weights of a trunk of its own.

    What is shared with Dash stays shared by the one that is given, and is as it was.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    made: Any = copy.deepcopy(dot).eval().requires_grad_(False)
    for module in made.trunk.modules():
        if isinstance(module, BaseTunerLayer):
            module.merge()
    without_adapters(made.trunk)
    made.inner.prepare()
    for block in [module for module in made.modules() if isinstance(module, Residual)]:
        block.norm = Norm(block.norm, silu=False)
    layout.settle(made, made.trunk)
    of_time = [made.trajectory_embedding, made.gains, *(act.linear for act in made.acts)]
    of_time += [made.guidance_embedding] if made.guided else []
    made.memo = Memo([*of_time, *made.inner.time_layers])
    return made
