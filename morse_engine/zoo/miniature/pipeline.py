"""The finished miniature: a folder that `StableDiffusionPipeline.from_pretrained` reads.

    python -m morse_engine.zoo.miniature.pipeline --out runs/miniature --to FOLDER

writes what a training in `--out` has learnt so far, while it goes on or afterwards.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch

from ...system.errors import one_line
from ...system.files import whole
from . import text
from .unet import SCHEDULE, Denoiser, new_unet


def assemble(vae_folder: Path, tokenizer_folder: Path, model: Denoiser) -> Any:
    """`StableDiffusionPipeline` with DDIM, without a safety checker, of trained parts."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline

    decoder = AutoencoderKL.from_pretrained(vae_folder, low_cpu_mem_usage=False)
    decoder.register_to_config(_name_or_path="")  # the folder of the training is nobody's business
    return StableDiffusionPipeline(
        vae=decoder,
        text_encoder=model.text_encoder,
        tokenizer=text.load_tokenizer(tokenizer_folder),
        unet=model.unet,
        scheduler=DDIMScheduler(**SCHEDULE),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def save(pipe: Any, latents: Path, folder: Path) -> int:
    """Write the pipeline in half precision with `latents.json` of its VAE; returns its bytes.

    The folder is written beside its place first, so an older one stays until the new one is there.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        part.half()
    pipe.save_pretrained(partial, safe_serialization=True)
    # Loaded without a type, as plain users do, the weights are to be float32 again.
    config = partial / "text_encoder" / "config.json"
    config.write_text(config.read_text().replace('"float16"', '"float32"'))
    _save_vocabulary(pipe.tokenizer, partial / "tokenizer")
    shutil.copy(latents, partial / "vae" / "latents.json")
    if (folder / "MODEL_CARD.md").exists():
        shutil.copy(folder / "MODEL_CARD.md", partial)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def learnt(out: Path) -> tuple[Denoiser, int]:
    """The averaged weights of the training in `out`, and the steps that they took.

    Raises:
        FileNotFoundError: the UNet of this training has no checkpoint yet.
    """
    file = out / "unet" / "state.pt"
    if not file.exists():
        raise FileNotFoundError(f"{file} is not there yet: train the UNet first")
    tokenizer = text.load_tokenizer(out / "tokenizer")
    text_encoder = text.new_text_encoder(tokenizer)
    model = Denoiser(new_unet(cross=text_encoder.config.hidden_size), text_encoder)
    state = torch.load(file, map_location="cpu", weights_only=True)
    for parameter, mean in zip(model.parameters(), state["ema"]["shadow_params"], strict=True):
        parameter.data.copy_(mean)
    return model.eval(), state["step"]


def _save_vocabulary(tokenizer: Any, folder: Path) -> None:
    """vocab.json and merges.txt, which transformers before 5 reads in place of tokenizer.json."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in model["merges"]]
    with whole(folder / "vocab.json") as path:
        path.write_text(json.dumps(model["vocab"], ensure_ascii=False) + "\n")
    with whole(folder / "merges.txt") as path:
        path.write_text("\n".join(["#version: 0.2", *merges]) + "\n")


@one_line
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/miniature"))
    parser.add_argument("--to", type=Path, required=True)
    options = parser.parse_args()
    model, step = learnt(options.out)
    pipe = assemble(options.out / "vae", options.out / "tokenizer", model)
    size = save(pipe, options.out / "vae" / "latents.json", options.to)
    print(f"{options.to}: step {step}, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
