"""The command line `morse-engine`: its commands, and errors that a person can act on.

One function is one command, its signature is the help. A command imports what it works with when it
runs: the help needs no torch.
"""

import functools
import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import typer

from ..system.errors import Refused, Unavailable
from .doctor import doctor
from .evaluate import evaluate
from .options import MOST_IMAGES, Device, Seed, count
from .sample import sample
from .search import search
from .train import train_dash, train_dot

EXTRAS = {"torchmetrics", "sklearn", "matplotlib", "transformers"}  # what `morse-engine[demo]` adds

app = typer.Typer(
    help="Images from a diffusion model in less time: a helper, Dot, makes steps between the steps "
    "of the model, Dash (Morse dual sampling, arXiv 2506.18251).",
    epilog="The plan, in Morse code: '-' is a step of Dash (the model), '.' one of Dot (its "
    "helper).\n\nFirst: morse-engine demo --out out\n\nEach command has its own --help.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status: 0 well, 1 doctor found a fault, 2 error, 130 Ctrl-C."""
    command = typer.main.get_command(app)  # `app()` would also replace sys.excepthook
    try:
        command(args=None if argv is None else list(argv), prog_name="morse-engine")
    except SystemExit as done:
        return int(done.code or 0)
    return 0


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"morse-engine {version('morse-engine')}")
        raise typer.Exit


@app.callback()
def top(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """What stands before the name of a command."""


def demo(
    out: Annotated[str, typer.Option(metavar="FOLDER", help="for index.html and the rest")] = "out",
    model: Annotated[
        Literal["miniature", "icons", "digits"],
        typer.Option(help="of the bundled: a miniature Stable Diffusion, icons of classes, digits"),
    ] = "miniature",
    seed: Seed = 0,
    images: Annotated[
        int | None,
        count(
            "per point of the curves; the time grows with it, the default takes about two minutes "
            "on two cores  [default: 96, of digits 200]",
            least=8,
            most=MOST_IMAGES,
        ),
    ] = None,
    device: Device = "auto",
) -> None:
    """Measure Morse on a bundled model and write a page about it."""
    if model == "digits":
        if images is not None and images < 65:
            raise Refused(f"--images {images}: of digits 65 or more")
        from . import demo

        demo.run_demo(out, seed=seed, images=images or 200, device_name=device)
    else:
        from . import demo_prompted

        demo_prompted.run_demo(out, model, seed=seed, images=images or 96, device_name=device)


# -- errors ------------------------------------------------------------------------------------


def _status(stopped: str, command: Callable[..., int | None], options: dict[str, Any]) -> int:
    """Run a command; `stopped` says what Ctrl-C leaves.

    Errors that say what to do are one line. All others are defects and keep their traceback.
    """
    try:
        return command(**options) or 0
    except KeyboardInterrupt as error:  # a training says which step it has saved
        said = error.args[0] if error.args else f"stopped; {stopped}"
        print(f"morse-engine: {said}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # as in `morse-engine doctor | head`: the reader has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except ModuleNotFoundError as error:
        if error.name not in EXTRAS:
            raise
        return _fail(f"{error.name} is missing: pip install 'morse-engine[demo]'")
    except (Refused, Unavailable, OSError) as error:
        return _fail(str(error))
    except Exception as error:
        if type(error).__name__ == "OutOfMemoryError":
            return _fail("the GPU's memory is full: choose a smaller --batch-size")
        raise


def _fail(message: str) -> int:
    print(f"morse-engine: error: {message}", file=sys.stderr)
    return 2


# -- the commands ------------------------------------------------------------------------------


def _add(command: Callable[..., int | None], example: str, stopped: str) -> None:
    @app.command(epilog=f"\b\nexample:\n  morse-engine {example}")
    @functools.wraps(command)
    def run(**options: Any) -> None:
        raise typer.Exit(_status(stopped, command, options))


WHOLE = "no half-written file is left"
CONTINUES = "the same command continues from the last checkpoint"
_add(demo, "demo --out out", WHOLE)
_add(
    sample,
    "sample --plan -..-..-..-.. --num-images 16 --out out/samples",
    "the images written so far are whole, the same command continues",
)
_add(
    train_dash,
    "train-dash --data photos --size 64 --steps 50000 --out runs/photos",
    CONTINUES,
)
_add(
    train_dot,
    "train-dot --unet runs/photos/unet --data photos --out runs/photos-dot",
    CONTINUES,
)
_add(
    evaluate,
    "evaluate --budgets 4,6,10 --num-images 1000 --out out/evaluate",
    "the points measured so far are kept in --out, the same command continues",
)
_add(
    search,
    "search --dot runs/photos-dot/dot --unet runs/photos/unet --budgets 4,6",
    "the plans scored so far are kept in --out, the same command continues",
)
_add(doctor, "doctor", "the checks are not complete")
