"""The command line `morse-engine`: arguments, help, and errors that a person can act on.

The commands themselves are imported when one of them runs: `--help` needs no torch.
"""

import argparse
import importlib
import os
import re
import sys
from collections.abc import Callable, Sequence

from ..sampling.schedulers import SOLVERS
from ..system.errors import Refused, Unavailable

EXTRAS = {"torchmetrics", "sklearn", "matplotlib"}  # what `morse-engine[demo]` adds
EPILOG = "The plan, in Morse code: '-' is a step of Dash (the model), '.' one of Dot (its helper)."


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status: 0 well, 1 doctor found a fault, 2 error, 130 Ctrl-C."""
    options = vars(parser().parse_args(_joined(sys.argv[1:] if argv is None else argv)))
    module, function, stopped = (options.pop(name) for name in ("module", "function", "stopped"))
    try:
        command = getattr(importlib.import_module(f"morse_engine.cli.{module}"), function)
        result = command(**options)
        return result if isinstance(result, int) else 0
    except KeyboardInterrupt:
        print(f"morse-engine: stopped; {stopped}", file=sys.stderr)
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


def _joined(argv: Sequence[str]) -> list[str]:
    """The words for argparse, to which a value that begins with `-` looks like an option.

    `--plan -.` becomes one word; the blank at its end saves `--`, a plan of two steps, from being
    taken for the end of the options.
    """
    joined: list[str] = []
    for word in argv:
        if joined and joined[-1] == "--plan" and re.fullmatch(r"[-.]+", word):
            joined[-1] = f"--plan={word} "
        else:
            joined.append(f"{word} " if re.fullmatch(r"--plan=[-.]+", word) else word)
    return joined


# -- arguments ---------------------------------------------------------------------------------


def _whole(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not re.fullmatch(r"-?\d+", text) or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r}: give a whole number, {least} or more")
        return int(text)

    return number


def _above_zero(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r}: give a number above 0")
    return number


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    top = argparse.ArgumentParser(
        prog="morse-engine",
        description="Images from a diffusion model in less time: a helper, Dot, makes steps\n"
        "between the steps of the model, Dash (Morse dual sampling, arXiv 2506.18251).",
        epilog=f"{EPILOG}\n\nFirst: morse-engine demo --out out\nEach command has its own --help.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    version = {"action": _Version, "nargs": 0, "default": argparse.SUPPRESS}
    top.add_argument("--version", **version, help="print the version and exit")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add in (_demo, _sample, _train_dash, _train_dot, _evaluate, _doctor):
        add(commands)
    return top


class _Version(argparse.Action):
    def __call__(self, parser, namespace, values, option_string=None):
        from .. import __version__

        print(f"morse-engine {__version__}")
        parser.exit()


def _command(commands, name: str, purpose: str, example: str, runs: str, stopped: str):
    """A command's parser; `runs` is the module and function, `stopped` what Ctrl-C leaves."""
    command = commands.add_parser(
        name,
        help=purpose,
        description=purpose[0].upper() + purpose[1:] + ".",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module, function = runs.split(".")
    command.set_defaults(module=module, function=function, stopped=stopped)
    return command


def _demo(commands) -> None:
    command = _command(
        commands,
        "demo",
        "measure Morse on the bundled digits and write a page about it",
        "morse-engine demo --out out",
        "demo.run_demo",
        "no half-written file is left",
    )
    command.add_argument(
        "--out", default="out", metavar="FOLDER", help="for index.html and the rest (default: out)"
    )
    _seed(command)
    command.add_argument(
        "--images",
        type=_whole(65),
        default=200,
        metavar="N",
        help="images per point of the curves; the time grows with it (default: 200, about two "
        "minutes on two cores)",
    )
    _device(command, dest="device_name")


def _sample(commands) -> None:
    command = _command(
        commands,
        "sample",
        "sample images with a Dash, with or without its Dot",
        "morse-engine sample --plan -..-..-..-.. --num-images 16 --out out/samples",
        "models.sample",
        "the images written so far are whole, the same command continues",
    )
    _models(command)
    how = command.add_mutually_exclusive_group()
    how.add_argument(
        "--plan", type=str.strip, metavar="CODE", help="the steps in Morse code, e.g. -..-..-.."
    )
    how.add_argument(
        "--budget",
        type=_above_zero,
        metavar="LSD",
        help="the time to spend, in Dash steps; the plan follows from the measured speed of Dot "
        "(default with a Dot: 10)",
    )
    how.add_argument(
        "--steps",
        type=_whole(1),
        metavar="N",
        help="Dash alone with N steps (default without a Dot: 50)",
    )
    _solver(command)
    command.add_argument(
        "--num-images", type=_whole(1), default=16, metavar="N", help="how many (default: 16)"
    )
    _seed(command)
    _batch_size(command)
    _device(command)
    command.add_argument(
        "--format",
        dest="form",
        choices=("png", "safetensors"),
        default="png",
        help="one PNG an image, seed-0000000.png ..., or the sampler's float32 tensors, a file a "
        "batch, and index.json (default: png)",
    )
    command.add_argument(
        "--out",
        default="out/samples",
        metavar="FOLDER",
        help="for the images, settings.json and grid.png; a run that was stopped continues there "
        "(default: out/samples)",
    )


def _train_dash(commands) -> None:
    command = _command(
        commands,
        "train-dash",
        "train a Dash, a small diffusion model, on a folder of images",
        "morse-engine train-dash --data photos --size 64 --steps 50000 --out runs/photos",
        "models.train_dash",
        "the same command continues from the last checkpoint",
    )
    _data(command)
    command.add_argument(
        "--size", type=_whole(1), default=32, metavar="PIXELS", help="of the images (default: 32)"
    )
    command.add_argument(
        "--grey", action="store_true", help="one channel (default: three, but one for digits)"
    )
    command.add_argument(
        "--widths",
        type=_whole(8),
        nargs="+",
        default=[16, 32, 64, 64],
        metavar="N",
        help="channels at each resolution, from the full one down (default: 16 32 64 64)",
    )
    _training(command, steps=8000, batch_size=128, lr=1.5e-3, makes="unet/")


def _train_dot(commands) -> None:
    command = _command(
        commands,
        "train-dot",
        "train the Dot of a Dash",
        "morse-engine train-dot --unet runs/photos/unet --data photos --out runs/photos-dot",
        "models.train_dot",
        "the same command continues from the last checkpoint",
    )
    dash = command.add_mutually_exclusive_group()
    dash.add_argument(
        "--unet", metavar="FOLDER", help="the Dash, a saved UNet2DModel (default: bundled digits)"
    )
    dash.add_argument(
        "--model",
        metavar="FOLDER_OR_ID",
        help="a text-to-image pipeline of diffusers (Stable Diffusion, SDXL, LCM), a folder or a "
        "name on the hub: its UNet is the Dash, and --data holds images with captions, a "
        "metadata.jsonl or NAME.txt beside NAME.png, or names a data set of `datasets`",
    )
    _data(command)
    command.add_argument(
        "--widths",
        type=_whole(1),
        nargs="+",
        default=[16, 32],
        metavar="N",
        help="channels of Dot's own blocks; each halves height and width, and replaces a level of "
        "Dash (default: 16 32)",
    )
    command.add_argument(
        "--lora-rank",
        type=_whole(0),
        default=1,
        metavar="N",
        help="rank of the change to Dash's layers (default: 1)",
    )
    command.add_argument(
        "--cut",
        type=_whole(0),
        metavar="N",
        help="levels of Dash that Dot leaves out (default: one for each of --widths, one less "
        "with conditions)",
    )
    _training(command, steps=6000, batch_size=64, lr=3e-3, makes="dot/")
    command.add_argument(
        "--accumulate", type=_whole(1), default=1, metavar="N", help="batches a step (default: 1)"
    )
    command.add_argument(
        "--precision", choices=("no", "bf16", "fp16"), default="no", help="mixed (default: no)"
    )
    prompted = command.add_argument_group("with --model")
    prompted.add_argument(
        "--guided",
        action="store_true",
        help="a Dot of the guided estimate: one pass a step in the place of two",
    )
    prompted.add_argument(
        "--guidance",
        type=_above_zero,
        nargs=2,
        default=[2.0, 12.0],
        metavar=("LOW", "HIGH"),
        help="range of the guidance scales (default: 2 12)",
    )
    prompted.add_argument(
        "--dropout",
        type=float,
        default=0.1,
        metavar="PART",
        help="part of the images with the empty prompt, not for --guided (default: 0.1)",
    )
    prompted.add_argument(
        "--size", type=_whole(8), metavar="PIXELS", help="of the images (default: the model's own)"
    )
    prompted.add_argument(
        "--cache",
        metavar="FOLDER",
        help="for latents and embeddings, computed once (default: latents/ in --out)",
    )


def _evaluate(commands) -> None:
    command = _command(
        commands,
        "evaluate",
        "measure quality against cost: Morse, Dash alone, and the speed-up",
        "morse-engine evaluate --budgets 4 6 10 --num-images 1000 --out out/evaluate",
        "models.evaluate",
        "no half-written file is left",
    )
    _models(command)
    command.add_argument(
        "--data",
        default="digits",
        metavar="FOLDER",
        help="real images to compare with; other images than digits are compared by Inception "
        "features, which needs torch-fidelity and 2,049 images (default: digits)",
    )
    _solver(command)
    command.add_argument(
        "--budgets",
        type=_whole(1),
        nargs="+",
        default=[4, 5, 6, 8, 10],
        metavar="LSD",
        help="of Morse (default: 4 5 6 8 10)",
    )
    command.add_argument(
        "--steps",
        type=_whole(1),
        nargs="+",
        default=[2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 50],
        metavar="N",
        help="of Dash alone (default: 2 3 4 5 6 8 10 15 20 30 50)",
    )
    command.add_argument(
        "--num-images", type=_whole(1), default=1000, metavar="N", help="per point (default: 1000)"
    )
    _seed(command)
    _batch_size(command)
    _device(command)
    command.add_argument(
        "--out", metavar="FOLDER", help="for rows.json and quality.png (default: print only)"
    )


def _doctor(commands) -> None:
    _command(
        commands,
        "doctor",
        "check the installation: versions, GPU, bundled models, a small sample",
        "morse-engine doctor",
        "doctor.doctor",
        "the checks are not complete",
    )


# -- arguments that several commands have ------------------------------------------------------


def _models(command) -> None:
    command.add_argument(
        "--unet", metavar="FOLDER", help="the Dash, a saved UNet2DModel (default: bundled digits)"
    )
    command.add_argument("--dot", metavar="FOLDER", help="its Dot (default: that of the digits)")


def _solver(command) -> None:
    command.add_argument(
        "--solver",
        choices=tuple(SOLVERS),
        default="ddim",
        help="(default: ddim)",
    )


def _seed(command) -> None:
    command.add_argument(
        "--seed", type=_whole(0), default=0, metavar="N", help="of the first image (default: 0)"
    )


def _batch_size(command) -> None:
    command.add_argument(
        "--batch-size", type=_whole(1), default=100, metavar="N", help="at once (default: 100)"
    )


def _device(command, dest: str = "device") -> None:
    command.add_argument(
        "--device",
        dest=dest,
        default="auto",
        metavar="NAME",
        help="cpu, cuda, cuda:1 ..., or auto: a GPU where there is one (default: auto)",
    )


def _data(command) -> None:
    command.add_argument(
        "--data",
        default="digits",
        metavar="FOLDER",
        help="images, also in folders within it, cut to squares (default: digits, handwritten)",
    )


def _training(command, *, steps: int, batch_size: int, lr: float, makes: str) -> None:
    count = {"type": _whole(1), "metavar": "N"}
    command.add_argument("--steps", **count, default=steps, help=f"of training (default: {steps})")
    command.add_argument(
        "--batch-size", **count, default=batch_size, help=f"images a step (default: {batch_size})"
    )
    rate = {"type": _above_zero, "metavar": "RATE"}
    command.add_argument("--lr", **rate, default=lr, help=f"learning rate (default: {lr:g})")
    command.add_argument(
        "--out",
        required=True,
        metavar="FOLDER",
        help=f"for {makes}, checkpoint.pt and log.jsonl; a run that was stopped continues there",
    )


if __name__ == "__main__":
    sys.exit(main())
