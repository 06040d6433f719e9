"""Classes of a model of pixels: which image is of which, as commands are told."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..system.errors import Refused
from .options import numbers

if TYPE_CHECKING:
    from torch import Tensor

Classes = Annotated[
    str | None,
    typer.Option(
        metavar="K,K,...",
        help="of a --unet with classes: the image of seed s is of the class at place s mod n of "
        "these n  [default: all of its classes in turn]",
    ),
]


def chosen(unet: Any, classes: str | None) -> list[int] | None:
    """The classes that images are drawn of; None for a model without.

    Raises:
        Refused: a number that is no class of the model, or a model that is told classes otherwise.
    """
    from torch import nn

    embedding = unet.class_embedding
    if embedding is None:
        if classes is not None:
            raise Refused(f"--classes {classes}: this model has no classes, leave it out")
        return None
    if not isinstance(embedding, nn.Embedding):
        raise Refused(
            f"this model is told classes by {type(embedding).__name__}, not by their numbers: use "
            "morse_engine in Python"
        )
    count = embedding.num_embeddings
    if classes is None:
        return list(range(count))
    found = numbers("--classes", classes, int, least=0)
    if wrong := [number for number in found if number >= count]:
        raise Refused(f"--classes {classes}: the model has classes 0 to {count - 1}, no {wrong[0]}")
    return found


def labels_of(classes: list[int], seeds: Sequence[int]) -> "Tensor":
    """The classes of the images of these seeds, int64 `[n]`."""
    import torch

    return torch.tensor([classes[seed % len(classes)] for seed in seeds])


def told(unet: Any, classes: list[int] | None) -> Callable[[Sequence[int]], dict]:
    """Seeds -> what a model is given by keyword for their images."""
    if classes is None:
        return lambda seeds: {}
    return lambda seeds: {"class_labels": labels_of(classes, seeds).to(unet.device)}
