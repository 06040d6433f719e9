"""Options that several commands have, and lists as the command line writes them: `16,32`."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from typer.models import OptionInfo

from ..sampling.schedulers import SOLVERS
from ..system.errors import Refused

Number = TypeVar("Number", int, float)


MOST_SEED = (1 << 64) - 1
MOST_IMAGES = 100_000_000  # of one run; a list of their seeds is kept


def count(help: str, least: int = 1, metavar: str = "N", most: int | None = None) -> OptionInfo:
    """An option for a whole number of `least` or more, `most` or less."""
    return typer.Option(min=least, max=most, metavar=metavar, help=help)


def listed(help: str, metavar: str = "N,N,...") -> OptionInfo:
    """An option for a list, which `numbers` reads."""
    return typer.Option(metavar=metavar, help=help)


Unet = Annotated[
    str | None,
    typer.Option(metavar="FOLDER", help="the Dash, a saved UNet2DModel  [default: the digits]"),
]
DotFolder = Annotated[
    str | None,
    typer.Option("--dot", metavar="FOLDER", help="its Dot  [default: that of the digits]"),
]
PlansFolder = Annotated[
    str | None,
    typer.Option(
        "--plans", metavar="FOLDER", help="of plans.json, --out of a search  [default: --dot]"
    ),
]
Solver = Annotated[
    str, typer.Option(metavar="NAME", help=f"of the steps, one of {', '.join(SOLVERS)}")
]
SolverOrOwn = Annotated[
    str | None,
    typer.Option(
        "--solver",
        "--scheduler",
        metavar="NAME",
        help=f"of the steps, one of {', '.join(SOLVERS)}  [default: ddim, with prompts the "
        "pipeline's own]",
    ),
]
Seed = Annotated[int, count("of the first image; the others count up", 0, most=MOST_SEED)]
BatchSize = Annotated[int, count("images at once")]
Device = Annotated[
    str,
    typer.Option(metavar="NAME", help="cpu, cuda, cuda:1 ..., or auto: a GPU where there is one"),
]
Data = Annotated[
    str,
    typer.Option(
        metavar="FOLDER",
        help="images, also in folders within it, cut to squares; `digits` are handwritten ones",
    ),
]
TrainingSteps = Annotated[int, count("of training")]
Rate = Annotated[float, typer.Option(metavar="RATE", help="the highest learning rate")]
Run = Annotated[
    str,
    typer.Option(
        "--out",
        metavar="FOLDER",
        help="for the model, checkpoint.pt, log.jsonl and log.html; a run that was stopped "
        "continues there",
    ),
]
TrainingSeed = Annotated[int, count("of all random numbers of the run", 0, most=MOST_SEED)]
CheckpointEvery = Annotated[
    int, count("steps between two rows of the log, each with a checkpoint and a preview")
]
ReportTo = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="a tracker of accelerate that gets the log too: tensorboard, wandb ..."
    ),
]
SkipBad = Annotated[
    bool,
    typer.Option("--skip-bad", help="leave out pictures that cannot be read  [default: refuse]"),
]


def folders(**named: str | None) -> None:
    """Whether the folders that are read are there, before anything slow is imported.

    Args:
        named: option -> its value; None, and a name that stands for something bundled, is left out.

    Raises:
        FileNotFoundError: no such folder.
    """
    for option, name in named.items():
        if name is not None and not Path(name).is_dir():
            what = "a folder of images" if option == "data" else "a folder"
            raise FileNotFoundError(f"--{option} {name}: {name} is not {what}")


def numbers(
    option: str, text: str, kind: Callable[[str], Number] = int, least: float = 1
) -> list[Number]:
    """The numbers of a list, `"16,32"` as [16, 32].

    Raises:
        Refused: something else than numbers of this kind, `least` or more.
    """
    try:
        found = [kind(word) for word in text.split(",")]
    except ValueError:
        found = []
    if not found or not all(least <= number < math.inf for number in found):
        what = "whole numbers" if kind is int else "numbers"
        raise Refused(f"{option} {text!r}: give {what} of {least:g} or more, such as 16,32")
    return found
