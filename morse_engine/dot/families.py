"""The kinds of models that a Dot can be built on."""

from torch import nn

from ..system.errors import Refused
from .family import Family
from .unet import UNet

FAMILIES: list[type[Family]] = [UNet]  # a new kind of Dash is a file and its name here


def family_of(dash: nn.Module) -> type[Family]:
    """The family that a Dash is of.

    Raises:
        Refused: of none, or one that has something that no Dot works with.
    """
    for family in FAMILIES:
        if family.takes(dash):
            return family
    models = ", or on ".join(family.MODELS for family in FAMILIES)
    raise Refused(f"a Dot is built on {models}, not on a {type(dash).__name__}")
