"""`morse-engine train-dash` and `train-dot`: a model from a folder of images, its Dot from both."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..sampling.schedulers import check_name
from ..system.errors import Refused
from ..system.files import output_folder
from .options import (
    BatchSize,
    CheckpointEvery,
    Data,
    Device,
    Rate,
    ReportTo,
    Run,
    SkipBad,
    TrainingSeed,
    TrainingSteps,
    Unet,
    count,
    folders,
    listed,
    numbers,
)

if TYPE_CHECKING:
    from torch import Tensor

    from ..training.captioned import Captioned
    from ..training.dot import DotRecipe


def train_dash(
    *,
    out: Run,
    data: Data = "digits",
    size: Annotated[int, count("of the images", metavar="PIXELS")] = 32,
    grey: Annotated[
        bool, typer.Option("--grey", help="one channel  [default: three, but one for digits]")
    ] = False,
    widths: Annotated[
        str, listed("channels at each resolution, from the full one down")
    ] = "16,32,64,64",
    steps: TrainingSteps = 8000,
    batch_size: BatchSize = 128,
    lr: Rate = 1.5e-3,
    seed: TrainingSeed = 0,
    device: Device = "auto",
    checkpoint_every: CheckpointEvery = 500,
    report_to: ReportTo = None,
    skip_bad: SkipBad = False,
) -> None:
    """Train a Dash, a small diffusion model, on a folder of images."""
    folders(data=None if data == "digits" else data)
    levels = numbers("--widths", widths, least=8)
    folder = output_folder(out)

    from diffusers import DDPMScheduler

    from .. import training
    from . import models
    from .sets import join

    process, channels = join(device), 1 if grey or data == "digits" else 3
    unet, noise_scheduler = _new_unet(size, channels, levels), DDPMScheduler()
    images, held_out = models.data(data, size, channels, skip_bad)
    _begin(folder, images)
    unet = training.train_dash(
        unet,
        images,
        noise_scheduler,
        folder,
        num_steps=steps,
        batch_size=batch_size,
        lr=lr,
        held_out=held_out,
        seed=seed,
        checkpoint_every=checkpoint_every,
        report_to=report_to,
    )
    if process.is_main_process:
        models.save_unet(unet, noise_scheduler, folder / "unet")
        if not _has_learned(folder):
            return
        print(f"The Dash is in {folder / 'unet'}. Its Dot, next:")
        print(f"  morse-engine train-dot --unet {folder / 'unet'} --data {data} --out {folder}-dot")


def _has_learned(folder: Path) -> bool:
    """Say how a Dash does on held-out images; False if it is no better than knowing nothing."""
    last = json.loads((folder / "log.jsonl").read_text().splitlines()[-1])
    if "held_out_loss" not in last:
        print("Fewer than ten images: none is held out, nothing says what the Dash has learned.")
        return True
    ours, nothing = last["held_out_loss"], last["zero_estimate"]
    print(f"Squared error on held-out images: {ours:.3g}; knowing nothing is worth {nothing:.3g}.")
    if ours < nothing:
        return True
    print(f"The Dash in {folder / 'unet'} has learned nothing: train longer (--steps).")
    return False


def _new_unet(size: int, channels: int, widths: list[int]) -> Any:
    """A UNet2DModel with first weights that are always the same."""
    import torch
    from diffusers import UNet2DModel

    factor = 2 ** (len(widths) - 1)
    if size % factor:
        raise Refused(
            f"--size {size}: {len(widths)} widths need a multiple of {factor}, for instance "
            f"{max(factor, round(size / factor) * factor)}"
        )
    if odd := [width for width in widths if width % 8]:
        raise Refused(f"--widths {odd[0]}: the normalisation has 8 groups, use multiples of 8")
    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=size,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=tuple(widths),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownBlock2D",) * len(widths),
        up_block_types=("UpBlock2D",) * len(widths),
        add_attention=False,
    )


# -- train-dot ---------------------------------------------------------------------------------

Model = Annotated[
    str | None,
    typer.Option(
        metavar="FOLDER_OR_ID",
        help="a text-to-image pipeline of diffusers (Stable Diffusion, SDXL, LCM), a folder or a "
        "name on the hub: its UNet is the Dash, and --data holds images with captions, a "
        "metadata.jsonl or NAME.txt beside NAME.png, or names a data set of `datasets`",
    ),
]
Widths = Annotated[
    str,
    listed(
        "channels of Dot's own blocks; each halves height and width, and replaces a level of Dash"
    ),
]
Rank = Annotated[int, count("rank of the change to Dash's layers", least=0)]
Cut = Annotated[
    int | None,
    count(
        "levels of Dash that Dot leaves out  [default: one for each of --widths, one less with "
        "conditions]",
        least=0,
    ),
]
Solvers = Annotated[
    str | None,
    listed(
        "solvers that it is trained with; with others that add noise its images can be broken "
        "[default: ddim,dpm, of a consistency model lcm]",
        "NAME,NAME,...",
    ),
]
Precision = Annotated[Literal["no", "bf16", "fp16"], typer.Option(help="mixed precision")]
Guided = Annotated[
    bool,
    typer.Option(
        "--guided",
        help="with --model: a Dot of the guided estimate, one pass a step in the place of two",
    ),
]
Guidance = Annotated[str, listed("with --model: range of the guidance scales", "LOW,HIGH")]
Dropout = Annotated[
    float,
    typer.Option(
        metavar="PART",
        help="with --model: part of the images with the empty prompt, not for --guided",
    ),
]
Size = Annotated[
    int | None,
    count("with --model: of the images  [default: the model's own]", least=8, metavar="PIXELS"),
]
Cache = Annotated[
    str | None,
    typer.Option(
        metavar="FOLDER",
        help="with --model: for latents and embeddings, computed once  [default: latents/ in "
        "--out]",
    ),
]


def train_dot(
    *,
    out: Run,
    unet: Unet = None,
    model: Model = None,
    data: Data = "digits",
    widths: Widths = "16,32",
    lora_rank: Rank = 1,
    cut: Cut = None,
    solvers: Solvers = None,
    steps: TrainingSteps = 6000,
    batch_size: BatchSize = 64,
    lr: Rate = 3e-3,
    accumulate: Annotated[int, count("batches a step")] = 1,
    precision: Precision = "no",
    guided: Guided = False,
    guidance: Guidance = "2,12",
    dropout: Dropout = 0.1,
    size: Size = None,
    cache: Cache = None,
    seed: TrainingSeed = 0,
    device: Device = "auto",
    checkpoint_every: CheckpointEvery = 500,
    report_to: ReportTo = None,
    skip_bad: SkipBad = False,
) -> None:
    """Train the Dot of a Dash."""
    if unet is not None and model is not None:
        raise Refused("--unet and --model exclude each other: give one of them")
    if model is None and (guided or size is not None or cache is not None):
        raise Refused("--guided, --size and --cache are for the Dot of a pipeline: give --model")
    if model is not None and data == "digits":
        raise Refused("--model needs images with captions: name their folder with --data")
    scales, names = numbers("--guidance", guidance, float, least=0), _solvers(solvers)
    if len(scales) != 2:
        raise Refused(f"--guidance {guidance!r}: give two scales, the lower first, such as 2,12")
    if model is None:
        folders(unet=unet, data=None if data == "digits" else data)

    from ..training import pipeline
    from ..training.dot import DotRecipe
    from .sets import join

    recipe = DotRecipe(
        num_steps=steps, batch_size=batch_size, lr=lr, accumulate=accumulate,
        mixed_precision=precision, dropout=dropout, guidance=(scales[0], scales[1]), seed=seed,
        checkpoint_every=checkpoint_every, report_to=report_to,
    )  # fmt: skip
    shape = {"widths": numbers("--widths", widths), "lora_rank": lora_rank, "cut": cut}
    folder = output_folder(out)
    join(device)
    if model is None:
        _of_images(unet, data, folder, recipe, shape, skip_bad, names)
    else:
        shape |= {"guided": guided}
        pipeline.train(
            model, data, folder, recipe, shape, size, cache, skip_bad=skip_bad, solvers=names
        )


def _solvers(asked: str | None) -> list[str] | None:
    """The names of a list of solvers, each once."""
    if asked is None:
        return None
    names = list(dict.fromkeys(name.strip() for name in asked.split(",")))
    for name in names:
        check_name(name)
    return names


def _of_images(
    unet: str | None,
    data: str,
    folder: Path,
    recipe: "DotRecipe",
    shape: dict,
    skip_bad: bool,
    solvers: list[str] | None,
) -> None:
    """Train the Dot of a Dash of pixels, with classes or without; it is written to `out`/dot."""
    import torch
    from accelerate import PartialState
    from diffusers import DDPMScheduler

    from .. import zoo
    from ..dot import Dot
    from ..sampling import schedulers
    from ..training.dot import WALKED, DotTraining
    from . import models
    from .classes import chosen

    if unet is None:
        dash, noise = zoo.digits_dash(), schedulers.LINEAR_BETAS
    else:
        dash, noise = models.load_unet(unet)
    shape_of, classes = models.shape(dash), chosen(dash, None)
    images: Tensor | Captioned
    held_out: Tensor | Captioned | None
    if classes is None:
        images, held_out = models.data(data, *shape_of, skip_bad)
    else:
        images, held_out = models.classed(data, len(classes), *shape_of, skip_bad)
    # The trainer moves what it trains; Dot shares Dash's weights, so Dash has to be there first.
    ways = [schedulers.make(name, noise) for name in solvers or WALKED]
    dash, noise_scheduler = dash.to(PartialState().device), DDPMScheduler.from_config(noise)
    torch.manual_seed(0)  # of Dot's first weights
    dot = Dot(dash, noise_scheduler, **shape)
    _begin(folder, images)
    run = DotTraining(dot, dash, images, noise_scheduler, ways, recipe, held_out)
    dot = run.run(folder)
    if run.verdict is not None:  # the main process has it
        dot.save_pretrained(folder / "dot")
        print(f"The Dot is in {folder / 'dot'}.\n{run.verdict}")
        if not run.verdict.useful:
            return
        named = f" --unet {unet}" if unet is not None else ""
        print("To use it:")
        print(f"  morse-engine sample{named} --dot {folder / 'dot'} --budget 5 --out out")


def _begin(folder: Path, images: "Tensor | Captioned") -> None:
    count, channels, height, width = images.shape
    print(f"{count:,} images of {height} x {width}, {channels} channels")
    if (folder / "checkpoint.pt").exists():
        print(f"{folder / 'checkpoint.pt'} is there: the run continues from it")
