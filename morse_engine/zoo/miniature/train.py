"""Train the miniature, from nothing or from a finished one.

    python -m morse_engine.zoo.miniature.train --out runs/miniature
    python -m morse_engine.zoo.miniature.train --out runs/longer --start PIPELINE_FOLDER

Needs npm and resvg-py for the pictures, or with `--data` a folder of those that `data.py` has
rendered elsewhere. Interrupt it at any time; the same command goes on. The pipeline is written to
`OUT/pipeline` at the end, and with `--minutes` also when the time is over.
"""

import argparse
import shutil
import time
from pathlib import Path
from typing import Any

import torch

from ...system.errors import one_line
from ...system.files import output_folder, whole
from ...system.machine import device as find_device
from . import captions, data, pipeline, text, unet, vae


def train(
    out: Path,
    *,
    vae_steps: int = vae.STEPS,
    unet_steps: int = unet.STEPS,
    batch_size: int = unet.BATCH,
    lr: float = unet.RATE,
    minutes: float | None = None,
    start: Path | None = None,
    pictures: Path | None = None,
    device: str | torch.device = "cpu",
    bf16: bool = False,
) -> Path | None:
    """Train VAE, tokenizer, text encoder and UNet into `out`.

    Args:
        vae_steps, unet_steps: the end of the two trainings, in steps of `vae.BATCH` and
            `batch_size` pictures. A finished UNet goes on where `unet_steps` is larger than before.
        batch_size, lr: of the UNet, `lr` the highest rate.
        minutes: for the trainings of this call; without it, all steps.
        start: the folder of a pipeline, such as the bundled one, whose VAE and tokenizer are taken
            and whose UNet and text encoder are trained on, where `out` has none of its own yet.
        pictures: the folder of rendered pictures; without it, `out`/data.
        device, bf16: of both trainings, as `Stage` has them.

    Returns:
        The pipeline's folder; None where the minutes were over before the VAE was finished.
    """
    began = time.monotonic()
    where: dict[str, Any] = {"device": device, "bf16": bf16}
    if start is not None:
        for part in "vae", "tokenizer":
            _copy(start / part, out / part)
    images, icons = data.load(out / "data" if pictures is None else pictures)
    rows = data.chosen(icons)
    if not (out / "vae" / "latents.json").exists():  # what is written last
        stage = vae.train_vae(images, rows, out / "vae", vae_steps, **where)
        if not stage.run(_left(minutes, began)):
            return None
        finish_vae(stage.averaged(), images[rows], out / "vae")
    if not (out / "tokenizer" / "tokenizer.json").exists():
        text.learn_tokenizer(captions.corpus(icons)).save_pretrained(out / "tokenizer")
    tokenizer = text.load_tokenizer(out / "tokenizer")
    drawn, names = latents(images, rows, out), [icons[row] for row in rows]
    state = out / "unet" / "state.pt"
    denoiser = unet.train_unet(
        *(drawn, names, tokenizer, state, unet_steps, start), batch_size=batch_size, lr=lr, **where
    )
    denoiser.run(_left(minutes, began))
    model = denoiser.averaged()
    for name, error in unet.validation(model, drawn, names, tokenizer).items():
        print(f"squared error of the noise, {name}: {error:.4f}")
    pipe = pipeline.assemble(out / "vae", out / "tokenizer", model)
    pipeline.save(pipe, out / "vae" / "latents.json", out / "pipeline")
    return out / "pipeline"


def finish_vae(model: Any, images: torch.Tensor, folder: Path) -> None:
    """Standardise the latents of a trained VAE over uint8 images, and save it into `folder`."""
    vae.standardise(model, vae.encode(model, images))
    vae.save(model, vae.encode(model, images), folder)


def latents(images: torch.Tensor, rows: list[int], out: Path) -> torch.Tensor:
    """The scaled latents of the chosen rows, encoded once and kept in `out`.

    Other rows than those of the file (another choice of subgroups) are encoded again.
    """
    from diffusers import AutoencoderKL

    file = out / "latents.pt"
    if file.exists():
        kept = torch.load(file, weights_only=True)
        if kept["rows"] == rows:
            return kept["latents"]
    model = AutoencoderKL.from_pretrained(out / "vae", low_cpu_mem_usage=False).eval()
    encoded = vae.encode(model, images[rows]) * model.config.scaling_factor
    with whole(file) as path:
        torch.save({"rows": rows, "latents": encoded}, path)
    return encoded


def _copy(source: Path, folder: Path) -> None:
    """Copy a folder that is not there yet, whole or not at all."""
    if not folder.exists():
        partial = folder.with_name(f".{folder.name}.partial")
        shutil.copytree(source, partial, dirs_exist_ok=True)
        partial.rename(folder)


def _left(minutes: float | None, began: float) -> float | None:
    """Seconds that are left of a call's minutes."""
    return None if minutes is None else 60 * minutes - (time.monotonic() - began)


@one_line
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/miniature"))
    parser.add_argument("--vae-steps", type=int, default=vae.STEPS)
    parser.add_argument("--unet-steps", type=int, default=unet.STEPS)
    parser.add_argument("--start", type=Path, help="train this pipeline on, for a new --out")
    parser.add_argument("--minutes", type=float, help="train for so long, then export")
    parser.add_argument("--data", type=Path, help="a folder of data.py  [default: OUT/data]")
    parser.add_argument("--batch-size", type=int, default=unet.BATCH, help="of the UNet")
    parser.add_argument("--lr", type=float, default=unet.RATE, help="highest rate of the UNet")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 ..., or auto")
    parser.add_argument("--bf16", action="store_true", help="mixed precision")
    options = parser.parse_args()
    folder = train(
        output_folder(options.out),
        vae_steps=options.vae_steps,
        unet_steps=options.unet_steps,
        batch_size=options.batch_size,
        lr=options.lr,
        minutes=options.minutes,
        start=options.start,
        pictures=options.data,
        device=find_device(options.device),
        bf16=options.bf16,
    )
    if folder is None:
        print("the VAE is not finished: the same command goes on")
    else:
        print(f"the pipeline is in {folder}")


if __name__ == "__main__":
    main()
