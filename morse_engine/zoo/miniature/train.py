"""Train the miniature, from nothing or from a finished one.

    python -m morse_engine.zoo.miniature.train --out runs/miniature
    python -m morse_engine.zoo.miniature.train --out runs/longer --start PIPELINE_FOLDER

Needs npm and resvg-py for the pictures. Interrupt it at any time; the same command goes on. The
pipeline is written to `OUT/pipeline` at the end, and with `--minutes` also when the time is over.
"""

import argparse
import shutil
from pathlib import Path

import torch

from ...system.files import whole
from . import captions, data, pipeline, text, unet, vae


def train(
    out: Path,
    *,
    vae_steps: int = vae.STEPS,
    unet_steps: int = unet.STEPS,
    minutes: float | None = None,
    start: Path | None = None,
) -> Path:
    """Train VAE, tokenizer, text encoder and UNet into `out`; returns the pipeline's folder.

    Args:
        vae_steps, unet_steps: the end of the two trainings, in steps of `vae.BATCH` and
            `unet.BATCH` pictures. A finished UNet goes on where `unet_steps` is larger than before.
        minutes: for the UNet in this call; without it, all steps.
        start: the folder of a pipeline, such as the bundled one, whose VAE and tokenizer are taken
            and whose UNet and text encoder are trained on, where `out` has none of its own yet.
    """
    if start is not None:
        for part in "vae", "tokenizer":
            if not (out / part).exists():
                shutil.copytree(start / part, out / part)
    images, icons = data.load(out / "data")
    rows = data.chosen(icons)
    if not (out / "vae" / "config.json").exists():
        finish_vae(images, rows, out / "vae", vae_steps)
    if not (out / "tokenizer" / "tokenizer.json").exists():
        text.learn_tokenizer(captions.corpus(icons)).save_pretrained(out / "tokenizer")
    tokenizer = text.load_tokenizer(out / "tokenizer")
    drawn, names = latents(images, rows, out), [icons[row] for row in rows]
    state = out / "unet" / "state.pt"
    stage = unet.train_unet(drawn, names, tokenizer, state, unet_steps, start)
    stage.run(None if minutes is None else 60 * minutes)
    model = stage.averaged()
    for name, error in unet.validation(model, drawn, names, tokenizer).items():
        print(f"squared error of the noise, {name}: {error:.4f}")
    pipe = pipeline.assemble(out / "vae", out / "tokenizer", model)
    pipeline.save(pipe, out / "vae" / "latents.json", out / "pipeline")
    return out / "pipeline"


def finish_vae(images: torch.Tensor, rows: list[int], folder: Path, num_steps: int) -> None:
    """Train the VAE, standardise its latents over the chosen rows, and save it into `folder`."""
    stage = vae.train_vae(images, rows, folder, num_steps)
    stage.run()
    model = stage.averaged()
    vae.standardise(model, vae.encode(model, images[rows]))
    vae.save(model, vae.encode(model, images[rows]), folder)


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/miniature"))
    parser.add_argument("--vae-steps", type=int, default=vae.STEPS)
    parser.add_argument("--unet-steps", type=int, default=unet.STEPS)
    parser.add_argument("--start", type=Path, help="train this pipeline on, for a new --out")
    parser.add_argument("--minutes", type=float, help="train the UNet for so long, then export")
    options = parser.parse_args()
    folder = train(
        options.out,
        vae_steps=options.vae_steps,
        unet_steps=options.unet_steps,
        minutes=options.minutes,
        start=options.start,
    )
    print(f"the pipeline is in {folder}")


if __name__ == "__main__":
    main()
