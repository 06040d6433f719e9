"""What the commands of `morse-engine` do: sample, train a Dash, train a Dot, evaluate."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from .. import engine, zoo
from ..dot.dot import Dot, fingerprint
from ..evaluation import experiment, figures
from ..evaluation.speedup import Frechet
from ..sampling import budget as budgets
from ..sampling import schedulers
from ..sampling.plan import Plan
from ..system import images
from ..system.errors import Refused
from ..system.files import output_folder, whole
from ..system.machine import device as find_device
from ..training.dash import train_dash as fit_dash
from ..training.dot import train_dot as fit_dot
from ..zoo import digits
from . import sets as sharding

IN_GRID = 100  # images in grid.png at most

# -- models in folders -------------------------------------------------------------------------


def load_unet(folder: str | Path) -> tuple[torch.nn.Module, dict]:
    """A diffusers `UNet2DModel` on the CPU, in `eval()`, and the config of its noise schedule.

    Args:
        folder: a local folder as `save_pretrained` writes it, of the model or of a pipeline with
            the model in `unet/`. The schedule is taken from a `scheduler_config.json` beside the
            model's config, or in `scheduler/` of the pipeline; without one it is that of diffusers:
            1,000 steps, linear betas, a model that predicts the noise.

    Raises:
        FileNotFoundError: no such folder, or no model in it.
        Refused: a damaged config, or another kind of model.
    """
    from diffusers import UNet2DModel

    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; models are read from local folders")
    root = next((p for p in (folder, folder / "unet") if (p / "config.json").is_file()), None)
    if root is None:
        raise FileNotFoundError(f"{folder / 'config.json'} is missing: is {folder} a saved UNet?")
    kind = _json(root / "config.json").get("_class_name")
    if kind != "UNet2DModel":
        raise Refused(
            f"{root} holds a {kind}: the command line reads UNet2DModel; for other models use "
            "morse_engine.compile in Python"
        )
    unet = UNet2DModel.from_pretrained(root, low_cpu_mem_usage=False).eval()
    name = "scheduler_config.json"
    places = (root / name, folder / "scheduler" / name, folder.parent / "scheduler" / name)
    found = next((path for path in places if path.is_file()), None)
    return unet, _json(found) if found else schedulers.LINEAR_BETAS


def _json(path: Path) -> dict:
    try:
        content = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise Refused(f"{path} is damaged ({error}): copy it again") from error
    if not isinstance(content, dict):
        raise Refused(f"{path} does not describe a model or scheduler")
    return content


def _models(unet_folder, dot_folder, solver: str, device: torch.device, needs_dot: bool):
    """(unet, dot or None, scheduler): from the two folders, or of the bundled digits."""
    if unet_folder is None:
        unet, scheduler = zoo.digits_dash().to(device), zoo.digits_scheduler(solver)
    else:
        unet, config = load_unet(unet_folder)
        unet, scheduler = unet.to(device), schedulers.make(solver, config)
    if not needs_dot:
        return unet, None, scheduler
    if dot_folder is not None:
        return unet, Dot.from_pretrained(dot_folder, unet), scheduler
    if unet_folder is not None:
        raise Refused("this needs a Dot: name its folder with --dot, or train one (train-dot)")
    return unet, zoo.digits_dot(unet), scheduler


def _data(data: str, size: int, channels: int) -> tuple[Tensor, Tensor | None]:
    """Images for training, and those held out (None for fewer than ten images)."""
    if data == "digits":
        if (size, channels) != (digits.SIZE, 1):
            raise Refused(
                f"the digits are grey, {digits.SIZE} x {digits.SIZE}; this model takes {channels} "
                f"channels of {size} x {size}: name a folder of images with --data"
            )
        return digits.images("train")[0], digits.images("held-out")[0]
    found = images.load_folder(data, size, channels)
    if len(found) < 10:
        return found, None
    held_out = torch.zeros(len(found), dtype=torch.bool)
    held_out[:: max(10, len(found) // 256)] = True  # a tenth, not more than 257
    return found[~held_out], found[held_out]


def _shape(unet) -> tuple[int, int]:
    """(size, channels) of a UNet's images."""
    size = unet.config.sample_size
    if not isinstance(size, int):
        raise Refused(f"sample_size={size} in the UNet's config: square images are needed")
    return size, unet.config.in_channels


# -- the commands ------------------------------------------------------------------------------


def sample(
    *,
    unet: str | None,
    dot: str | None,
    plan: str | None,
    budget: float | None,
    steps: int | None,
    solver: str,
    num_images: int,
    seed: int,
    batch_size: int,
    device: str,
    form: str,
    out: str,
) -> None:
    """Sample images into `out`, continuing what is there; alone or as one of several processes.

    With the form "png" one file an image, named by its seed, else tensors in safetensors files
    (`sharding.py`); `settings.json`; and `grid.png` of the first images, if they have 1 or 3
    channels.
    """
    from rich.progress import Progress

    processes, folder = sharding.Processes.join(device), output_folder(out)
    chosen = Plan(plan) if plan is not None else None if steps is None else Plan.spread(steps, 0)
    if chosen is None and budget is None and unet is not None and dot is None:
        chosen = Plan.spread(budgets.DEFAULT_DASH_STEPS, 0)
    needs_dot = chosen is None or chosen.num_dot > 0
    model, helper, scheduler = _models(unet, dot, solver, processes.device, needs_dot)
    _, channels = _shape(model)
    if channels not in (1, 3) and form == "png":
        raise Refused(
            f"the model has {channels} channels: PNG files are written of 1 or 3, use "
            "--format safetensors"
        )
    budget = None if chosen is not None else budgets.DEFAULT_BUDGET if budget is None else budget
    settings = {"format": form, "budget": budget}
    if chosen is not None:
        settings["plan"] = str(chosen)
    settings |= {
        "solver": type(scheduler).__name__,
        "schedule": _plain(scheduler.config),
        "unet": fingerprint(model),
        "dot": None if helper is None else fingerprint(helper),
    }
    if form != "png":  # which images a file holds follows from these
        settings |= {"seed": seed, "num_images": num_images, "batch_size": batch_size}
    price = ""

    def new_plan() -> Plan:
        nonlocal price
        if chosen is not None:
            return chosen
        # N depends on the batch size, so it is measured at the one in use.
        first = engine.compile(model, helper, scheduler=scheduler, plan="-")
        speed = first.measure(min(batch_size, num_images)).dot_speed
        found = budgets.plan_of(budget, scheduler, speed)
        price = f": {found.lsd(speed):.2f} LSD by the measured N = {speed:.1f}"
        return found

    files = {"png": sharding.Pngs, "safetensors": sharding.Shards}[form](folder)
    agreed = sharding.agree(files, settings, processes, new_plan)
    sampler = engine.compile(model, helper, scheduler=scheduler, plan=agreed)
    seeds = range(seed, seed + num_images)
    if processes.main:
        print(f"plan    {agreed}  ({agreed.num_dash} Dash, {agreed.num_dot} Dot{price})")
        print(f"solver  {sampler.table.name} on {processes.device}")
        if processes.count > 1:
            print(f"{processes.count} processes; the bar shows the share of the first")
    with Progress(disable=not processes.main) as bar:
        mine = sharding.cut(seeds, batch_size)[processes.index :: processes.count]
        task = bar.add_task("sampling", total=sum(map(len, mine)) * len(agreed))
        sharding.fill(
            sampler,
            files,
            seeds,
            batch_size=batch_size,
            processes=processes,
            on_step=lambda count: bar.advance(task, count),
        )
    if processes.main:
        _report(files, sharding.cut(seeds, batch_size), channels)
    processes.leave()


def _plain(config) -> dict:
    """The options of a scheduler as JSON has them."""
    options = {name: value for name, value in config.items() if not name.startswith("_")}
    return json.loads(json.dumps(options, default=str))


def _report(files, chunks: list[Sequence[int]], channels: int) -> None:
    """Write grid.png of the first images, and say what is where."""
    num_images, grid = sum(map(len, chunks)), ""
    if channels in (1, 3):
        first = range(chunks[0][0], chunks[0][0] + min(IN_GRID, num_images))
        covering = [chunk for chunk in chunks if chunk[0] <= first[-1]]
        shown = torch.cat([files.read(chunk) for chunk in covering])[:IN_GRID]
        sheet = images.grid(shown)
        images.save_png(sheet, files.folder / "grid.png", scale=max(1, 96 // shown.shape[-1]))
        grid = " and grid.png" + (f" (the first {IN_GRID})" if num_images > IN_GRID else "")
    print(f"{num_images} images{grid} are in {files.folder}")


def train_dash(
    *,
    data: str,
    size: int,
    grey: bool,
    widths: Sequence[int],
    steps: int,
    batch_size: int,
    lr: float,
    out: str,
) -> None:
    """Train a Dash on images; the model is written to `out`/unet, with its noise schedule."""
    from accelerate import PartialState
    from diffusers import DDPMScheduler, UNet2DModel

    factor = 2 ** (len(widths) - 1)
    if size % factor:
        raise Refused(
            f"--size {size}: {len(widths)} widths need a multiple of {factor}, for instance "
            f"{max(factor, round(size / factor) * factor)}"
        )
    if odd := [width for width in widths if width % 8]:
        raise Refused(f"--widths {odd[0]}: the normalisation has 8 groups, use multiples of 8")
    folder, channels = output_folder(out), 1 if grey or data == "digits" else 3
    train, held_out = _data(data, size, channels)
    torch.manual_seed(0)
    unet = UNet2DModel(
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
    noise_scheduler = DDPMScheduler()
    _begin(folder, train)
    unet = fit_dash(
        unet,
        train,
        noise_scheduler,
        folder,
        num_steps=steps,
        batch_size=batch_size,
        lr=lr,
        held_out=held_out,
    )
    if PartialState().is_main_process:
        unet.save_pretrained(folder / "unet")
        noise_scheduler.save_pretrained(folder / "unet")
        print(f"The Dash is in {folder / 'unet'}. Its Dot, next:")
        print(f"  morse-engine train-dot --unet {folder / 'unet'} --data {data} --out {folder}-dot")


def train_dot(
    *,
    unet: str | None,
    model: str | None,
    data: str,
    widths: Sequence[int],
    cut: int | None,
    lora_rank: int,
    steps: int,
    batch_size: int,
    accumulate: int,
    lr: float,
    precision: str,
    out: str,
    **prompted,
) -> None:
    """Train the Dot of a Dash; it is written to `out`/dot.

    With `model`, a text-to-image pipeline, `data` are images with captions, and `prompted` are the
    further arguments of `text_to_image.train`.
    """
    from accelerate import PartialState
    from diffusers import DDPMScheduler

    fit = {"accumulate": accumulate, "lr": lr, "batch_size": batch_size}
    if model is not None:
        from ..training import pipeline as text_to_image

        if data == "digits":
            raise Refused("--model needs images with captions: name their folder with --data")
        text_to_image.train(
            model=model, data=data, widths=widths, cut=cut, lora_rank=lora_rank, steps=steps,
            precision=precision, out=out, **fit, **prompted,
        )  # fmt: skip
        return
    folder = output_folder(out)
    if unet is None:
        model, config = zoo.digits_dash(), schedulers.LINEAR_BETAS
    else:
        model, config = load_unet(unet)
    noise_scheduler = DDPMScheduler.from_config(config)
    train, held_out = _data(data, *_shape(model))
    # The trainer moves what it trains; Dot shares Dash's weights, so Dash has to be there first.
    model = model.to(PartialState().device)
    torch.manual_seed(0)
    dot = Dot(model, noise_scheduler, widths=tuple(widths), lora_rank=lora_rank, cut=cut)
    _begin(folder, train)
    dot = fit_dot(
        dot,
        model,
        train,
        noise_scheduler,
        folder,
        schedulers=[schedulers.make(name, config) for name in ("ddim", "dpm")],
        num_steps=steps,
        held_out=held_out,
        mixed_precision=precision,
        **fit,
    )
    if PartialState().is_main_process:
        dot.save_pretrained(folder / "dot")
        named = f" --unet {unet}" if unet is not None else ""
        print(f"The Dot is in {folder / 'dot'}. To use it:")
        print(f"  morse-engine sample{named} --dot {folder / 'dot'} --budget 5 --out out")


def _begin(folder: Path, train: Tensor) -> None:
    count, channels, height, width = train.shape
    print(f"{count:,} images of {height} x {width}, {channels} channels")
    if (folder / "checkpoint.pt").exists():
        print(f"{folder / 'checkpoint.pt'} is there: the run continues from it")


def evaluate(
    *,
    unet: str | None,
    dot: str | None,
    data: str,
    solver: str,
    budgets: Sequence[int],
    steps: Sequence[int],
    num_images: int,
    seed: int,
    batch_size: int,
    device: str,
    out: str | None,
) -> None:
    """Measure quality against cost, print table and speed-up, write rows and plot into `out`."""
    from rich.console import Console
    from rich.progress import Progress

    where, console = find_device(device), Console()
    folder = output_folder(out) if out is not None else None
    model, helper, scheduler = _models(unet, dot, solver, where, needs_dot=True)
    if data == "digits":
        real, _ = _data(data, *_shape(model))
        frechet = Frechet(zoo.digits_classifier().to(where), real)
    else:
        real = images.load_folder(data, *_shape(model))
        frechet = Frechet("inception", real.to(where))
    bench = experiment.Experiment(
        engine.compile(model, helper, scheduler=scheduler, plan="-"),
        scheduler,
        frechet,
        solver=solver,
        model="handwritten digits 32 x 32" if unet is None else Path(unet).name,
        num_images=num_images,
        batch_size=batch_size,
        seed=seed,
        dots_per_dash=experiment.DOTS_PER_DASH.get(solver, 2.0),
    )
    bench.measure(repeats=20)
    points, rows = bench.points(steps, budgets), []
    with Progress(console=console) as bar:
        task = bar.add_task("sampling", total=num_images * sum(p.cost_lsd for p in points))
        for point in points:
            name = f"{experiment.NAMES[point.variant]}, {point.budget_lsd:g} LSD"
            bar.update(task, description=name)
            rows.append(bench.evaluate(point, lambda cost: bar.advance(task, cost))[0])
    console.print(experiment.table(rows))
    console.print(experiment.verdict(rows), style="bold", highlight=False)
    if folder is not None:
        lines = ",\n".join(json.dumps(row) for row in rows + experiment.speedup_rows(rows))
        with whole(folder / "rows.json") as path:
            path.write_text(f"[\n{lines}\n]\n")
        with whole(folder / "quality.png") as path:
            figures.quality_plot(rows, path)
        print(f"rows.json and quality.png are in {folder}")
