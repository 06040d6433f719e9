"""What commands are told of prompts: the options, and what of them goes together."""

import re
from pathlib import Path
from typing import Annotated

import typer

from ..system.errors import Refused

MOST_PROMPTS = 10_000  # of one set
MINIATURE = "miniature"  # the bundled pipeline, as --model names it
MOST_GUIDANCE = 1e6  # as for a sampler

Model = Annotated[
    str | None,
    typer.Option(
        metavar="FOLDER_OR_ID",
        help="a text-to-image pipeline of diffusers, a folder or a name on the hub; miniature is "
        "the bundled one  [default with prompts: miniature]",
    ),
]
PromptText = Annotated[
    list[str] | None,
    typer.Option("--prompt", metavar="TEXT", help="what to show; may be given several times"),
]
PromptFile = Annotated[
    str | None, typer.Option(metavar="FILE", help="a text file with a prompt on each line")
]
Negative = Annotated[
    str | None, typer.Option(metavar="TEXT", help="with prompts: what not to show")
]
Guidance = Annotated[
    float | None,
    typer.Option(
        metavar="SCALE",
        help="with prompts: of classifier-free guidance  [default: the pipeline's own, with the "
        "miniature 3]",
    ),
]
Lora = Annotated[
    str | None,
    typer.Option(metavar="FOLDER_OR_ID", help="with prompts: a LoRA that is put on the pipeline"),
]


def given(prompts: list[str] | None, file: str | None) -> list[str] | None:
    """The prompts of the options and of a text file, one a line; None where none is asked for.

    Raises:
        FileNotFoundError: no such file.
        Refused: no text of UTF-8, no prompt in it, or more than 10,000.
    """
    if file is None:
        return list(prompts) if prompts else None
    if not Path(file).is_file():
        raise FileNotFoundError(f"--prompts {file}: no such file")
    try:
        lines = [line.strip() for line in Path(file).read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise Refused(f"--prompts {file}: no text in UTF-8 ({error})") from error
    found = [*(prompts or []), *filter(None, lines)]
    if not 1 <= len(found) <= MOST_PROMPTS:
        raise Refused(f"--prompts {file}: {len(found)} prompts, give 1 to {MOST_PROMPTS:,}")
    return found


def or_coarse(texts: list[str] | None, model: str | None) -> list[str] | None:
    """The prompts; with the bundled miniature by default coarse ones, which it knows.

    Raises:
        Refused: another pipeline, and no prompts.
    """
    if texts is not None or model is None:
        return texts
    if model != MINIATURE:
        raise Refused(f"--model {model}: give prompts like those it is for, by --prompts")
    from ..zoo.miniature import captions

    return captions.coarse()


def check(
    prompts: list[str] | None,
    unet: str | None,
    model: str | None,
    negative: str | None,
    guidance: float | None,
    lora: str | None,
    form: str,
    classes: str | None = None,
) -> None:
    """Refuse options that do not go with each other."""
    if classes is not None and prompts is not None:
        raise Refused(f"--classes {classes}: pictures of prompts have no classes, leave it out")
    words = {"model": model, "negative": negative, "guidance": guidance, "lora": lora}
    if prompts is None:
        if lost := [word for word, value in words.items() if value is not None]:
            raise Refused(f"--{lost[0]} is for pictures of prompts: give --prompt or --prompts")
        return
    if unet is not None:
        raise Refused(f"--unet {unet} takes no prompts: give a pipeline, by --model")
    if form != "png":
        raise Refused(f"--format {form}: pictures of prompts are written as png")
    if guidance is not None and not 0 <= guidance <= MOST_GUIDANCE:
        raise Refused(
            f"--guidance {guidance}: give a number of 0 or more, {MOST_GUIDANCE:g} or less"
        )
    here = lora is None or (lora and Path(lora).exists())
    if not here and not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", str(lora)):
        raise FileNotFoundError(f"--lora {lora!r}: no such folder or file, and no OWNER/NAME")
