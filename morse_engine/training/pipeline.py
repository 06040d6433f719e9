"""Training the Dot of a text-to-image pipeline: from its folder and captioned images to a file."""

import importlib.util
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import nn

from ..dot import files
from ..dot.dot import Dot
from ..sampling.schedulers import make
from ..system.errors import Refused
from ..system.files import output_folder, whole
from . import captions, latents
from .captioned import Captioned
from .dot import WALKED, DotRecipe, DotTraining

HELD_OUT = 256  # captions at most that are not trained on; a tenth if there are less than 2,560
LCM_STEPS = (2, 12)  # a consistency model is not run in more


def load(model: str, dtype: torch.dtype = torch.float32) -> Any:
    """A diffusers pipeline of Stable Diffusion, SDXL or LCM, on the CPU.

    Args:
        model: a folder as `save_pretrained` writes it, or a name on the hub.
        dtype: of all its models.

    Raises:
        FileNotFoundError: no such folder, none of a pipeline, or the hub has none of that name.
        Refused: another kind of pipeline, a damaged file, or transformers is missing.
    """
    if importlib.util.find_spec("transformers") is None:
        raise Refused("text encoders need the package transformers: pip install transformers")
    from diffusers import DiffusionPipeline, UNet2DConditionModel

    folder = files.folder_of(model, ("model_index.json",))  # of the hub only this, before gigabytes
    if not (folder / "model_index.json").is_file():
        raise FileNotFoundError(
            f"{folder / 'model_index.json'} is missing: is {model} a saved text-to-image pipeline?"
        )
    index = _index(folder / "model_index.json")
    needed = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
    listed = {name: value for name, value in index.items() if isinstance(value, list) and value}
    lacking = [name for name in needed if not listed.get(name, [None])[0]]
    if lacking or index["unet"][1] != UNet2DConditionModel.__name__:
        raise Refused(
            f"{model} is a {index.get('_class_name')}: a Dot with prompts is trained for pipelines "
            f"of a UNet2DConditionModel, a VAE and a text encoder"
            + (f"; {', '.join(lacking)} missing" if lacking else "")
        )
    extra: dict[str, Any] = {"safety_checker": None} if "safety_checker" in index else {}
    extra["unet"] = loaded(UNet2DConditionModel, model, subfolder="unet")
    with _readable(model):
        pipe = DiffusionPipeline.from_pretrained(model, **extra)
    check_finite(pipe.vae, f"the VAE of {model}")
    return pipe.to(dtype)


def loaded(kind: Any, model: str | Path, **where: Any) -> Any:
    """A model of diffusers from its files, with all of its weights.

    Args:
        kind: its class.
        model: a folder, or a name on the hub.
        where: `subfolder=` in it.

    Raises:
        Refused: a file is damaged, or a weight missing, of another shape or not finite. diffusers
            itself puts new random weights in the place of missing ones.
    """
    with _readable(model):
        made, info = kind.from_pretrained(
            model, low_cpu_mem_usage=False, output_loading_info=True, **where
        )
    if missing := sorted(info["missing_keys"]):
        raise Refused(
            f"{model} lacks {len(missing)} of its weights, {missing[0]} for one: copy it again"
        )
    check_finite(made, str(model))
    return made


def check_finite(model: nn.Module, name: str, part: str = "") -> None:
    """Raise `Refused` for a weight, of those with `part` in their names, that is not finite."""
    for parameter, value in model.named_parameters():
        if part in parameter and not value.isfinite().all():
            raise Refused(f"{name} has values that are not finite in {parameter}: copy it again")


@contextmanager
def _readable(model: str | Path) -> Iterator[None]:
    """Whatever diffusers and transformers stumble over in the block is a damaged file."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise Refused(
            f"{model} cannot be loaded ({reason}): copy it again, or save it again with "
            "save_pretrained"
        ) from error


def _index(path: Path) -> dict:
    """model_index.json: name -> [package, class], and notes."""
    with _readable(path):
        found = json.loads(path.read_text("utf-8"))
        if not isinstance(found, dict):
            raise ValueError(f"{path.name} describes no pipeline")
        return found


def schedulers(pipe: Any, solvers: Sequence[str] | None = None) -> list:
    """The solvers whose ways are walked, each in both spacings where it has them.

    Args:
        solvers: names of `sampling.schedulers`; None: DDIM and DPM-Solver++, of a consistency model
            LCM's own, in the spacing of the pipeline.
    """
    config = pipe.scheduler.config
    if solvers is None and pipe.unet.config.time_cond_proj_dim:
        return [make("lcm", config)]
    ways = []
    for name in solvers or WALKED:
        made = make(name, config)
        for spacing in ("leading", "trailing") if "timestep_spacing" in made.config else (None,):
            options = {} if spacing is None else {"timestep_spacing": spacing}
            ways.append(type(made).from_config(made.config, **options))
    return ways


def train(
    model: str,
    data: str,
    out: str | Path,
    recipe: DotRecipe,
    shape: dict,
    size: int | None = None,
    cache: str | None = None,
    *,
    skip_bad: bool = False,
    solvers: Sequence[str] | None = None,
) -> None:
    """Train the Dot of a pipeline's UNet; it is written to `out`/dot with a model card.

    Args:
        model: the pipeline, as `load` takes it.
        data: images with captions, as `captions.find` takes them.
        out: folder for checkpoint, log and Dot; an interrupted run continues from it.
        recipe: the numbers of the run; a consistency model walks in `LCM_STEPS`.
        shape: arguments of `Dot`: widths, lora_rank, cut, guided.
        size: height and width of the images in pixels; None: what the pipeline draws.
        cache: folder for latents and text embeddings, made first; None: `out`/latents.
        skip_bad: leave out pictures that cannot be read.
        solvers: those whose ways are walked, as for `schedulers`.

    Raises:
        Refused, FileNotFoundError: as `load`, `captions.find`, `Dot` and `DotTraining`.
    """
    from diffusers import DDPMScheduler
    from rich.progress import track

    main, folder = PartialState().is_main_process, output_folder(out)
    examples = captions.find(
        data,
        lambda files: track(files, "looking at the images", disable=not main),
        skip_bad=skip_bad,
    )
    pipe = load(model)
    if pipe.unet.config.time_cond_proj_dim:
        recipe = replace(recipe, run_steps=LCM_STEPS)
    unet, ways = pipe.unet.to(PartialState().device), schedulers(pipe, solvers)
    noise_scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
    torch.manual_seed(0)  # of Dot's first weights
    dot = Dot(unet, noise_scheduler, **shape)
    size = _size(pipe, dot, size)
    train_on, held_out = _data(pipe, examples, Path(cache) if cache else folder / "latents", size)
    del pipe  # the VAE and the text encoders have done their part
    if main:
        print(f"{len(train_on):,} images with captions, latents of {train_on.shape[1:]}")
        if (folder / "checkpoint.pt").exists():
            print(f"{folder / 'checkpoint.pt'} is there: the run continues from it")
    run = DotTraining(dot, unet, train_on, noise_scheduler, ways, recipe, held_out)
    dot = run.run(folder)
    if run.verdict is not None:  # the main process has it
        at_once = recipe.batch_size * recipe.accumulate * PartialState().num_processes
        points = f"{recipe.num_steps:,} steps of {at_once}"
        points += f", {len(train_on):,} images of {size} x {size}"
        facts = {"training": points, **_facts(folder, recipe.guidance), "verdict": str(run.verdict)}
        _save(dot, folder, model, facts)
        print(run.verdict)
        if run.verdict.useful:
            print("To use it:")
            print(f"  dot = morse_engine.Dot.from_pretrained({str(folder / 'dot')!r}, pipe.unet)")


def _size(pipe: Any, dot: Dot, size: int | None) -> int:
    """Height and width of the images in pixels: as asked, or what the pipeline draws."""
    factor = 2 ** (len(pipe.vae.config.block_out_channels) - 1)
    size = pipe.unet.config.sample_size * factor if size is None else size
    of_dot = factor * dot.multiple
    if size % of_dot:
        raise Refused(f"--size {size}: this Dot needs a multiple of {of_dot} pixels")
    return size


def _data(
    pipe: Any, examples: Sequence[captions.Example], cache: Path, size: int
) -> tuple[Captioned, Captioned | None]:
    """Latents and keywords to train on, and those held out, None if there are too few."""
    from rich.progress import Progress

    for name in ("vae", "text_encoder", "text_encoder_2"):
        if getattr(pipe, name, None) is not None:
            getattr(pipe, name).to(PartialState().device)
    with Progress(disable=not PartialState().is_main_process) as bar:
        task = bar.add_task("latents and prompts", total=len(examples))
        found = latents.encode(pipe, examples, cache, size, lambda n: bar.advance(task, n))
    num_held_out = min(HELD_OUT, len(found) // 10)
    train_on = found.part(slice(0, len(found) - num_held_out))
    return train_on, found.part(slice(len(train_on), len(found))) if num_held_out else None


def _facts(folder: Path, guidance: Sequence[float]) -> dict[str, str]:
    """Rows of the model card."""
    facts = {"guidance scales": " to ".join(f"{scale:g}" for scale in guidance)}
    last = json.loads((folder / "log.jsonl").read_text().splitlines()[-1])
    if "held_out_loss" in last:
        ours, zero = last["held_out_loss"], last["zero_residual"]
        facts["squared error on held-out images"] = (
            f"{ours:.3g}; {zero:.3g} before training, which is the reuse of Dash's last estimate"
        )
    return facts


def _save(dot: Dot, folder: Path, model: str, facts: dict[str, str]) -> None:
    """Write `folder`/dot with its model card."""
    dot.save_pretrained(folder / "dot")
    with whole(folder / "dot" / "README.md") as path:
        path.write_text(files.card(dot, model, facts), "utf-8")
    print(f"The Dot and its model card are in {folder / 'dot'}.")
