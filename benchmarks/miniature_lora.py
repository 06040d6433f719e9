"""Train a LoRA of the bundled miniature on 50 pictures in a new style, and say what it changes.

    python benchmarks/miniature_lora.py --data runs/miniature/data --out runs/miniature-lora
    python benchmarks/miniature_lora.py --out runs/miniature-lora --dot DOT

needs the rendered pictures of `make zoo-miniature`. The recipe is that of diffusers'
`train_text_to_image_lora.py`: rank 4 on the projections of the attention, squared error of the
noise, AdamW, no averaging. The pictures are 50 of noto's in shades of blue, with their captions.
`--dot` puts the finished LoRA under a Dot that knows nothing of it: the rows are how far a plan's
pictures are from those of all steps, with the LoRA and without.

A subgroup that the miniature never drew (noto's vehicles) was tried first: its error fell from 0.34
to 0.13, but the text encoder does not know the words, and all prompts gave the same blurs.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor
from diffusers.utils import convert_state_dict_to_diffusers
from miniature_steps import pictures
from peft import LoraConfig, get_peft_model_state_dict
from torch import Tensor
from torch.nn import functional as F

import morse_engine
from morse_engine import Plan
from morse_engine.evaluation.frechet import rmse_to_full
from morse_engine.system.files import write_rows
from morse_engine.system.machine import now
from morse_engine.zoo.miniature import WEIGHTS, captions, data, text, vae
from morse_engine.zoo.miniature.data import Icon

ROWS = Path(__file__).parent / "results/miniature-lora.json"
STYLE, PICTURES = "noto", 50
NAVY = 0.0, 0.0, 0.5  # what black becomes; white stays
STEPS, BATCH, RATE, RANK = 1000, 8, 1e-3, 4
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
PROMPTS = (
    *("a noto mammal", "a noto fruit", "a noto flower", "a noto heart", "a noto smiling face"),
    *("a noto cat face", "a noto animal", "a noto face"),
    *("a noto red heart", "a noto red apple", "a noto panda", "a noto frog", "a noto rose"),
    *("a noto grinning face", "a noto squirrel", "a noto icon"),
)
FULL = 30  # Dash steps of the pictures that are compared with
PLANS = {  # four Dash steps each, as in the verdict of a training
    "Dot": Plan.spread(4, 8),
    "free steps": Plan(str(Plan.spread(4, 8)).replace(".", ":")),
    "Dash alone": Plan.spread(4, 0),
}


def new_pipe() -> Any:
    """The bundled miniature with DDIM, trailing timesteps, attention that is fast on a CPU."""
    pipe = StableDiffusionPipeline.from_pretrained(WEIGHTS)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, timestep_spacing="trailing")
    pipe.set_progress_bar_config(disable=True)
    pipe.unet.set_attn_processor(AttnProcessor())
    pipe.unet.to(memory_format=torch.channels_last)
    return pipe


def blue(images: Tensor) -> Tensor:
    """Pictures in shades of `NAVY`, uint8 `[n, 3, H, W]` as they come."""
    grey = (images.float() * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, True) / 255
    dark = torch.tensor(NAVY).view(3, 1, 1)
    return ((dark + (1 - dark) * grey) * 255).round().to(torch.uint8)


def loss(pipe: Any, x0: Tensor, prompts: list[str], generator: torch.Generator) -> Tensor:
    """The mean squared error of the noise at random timesteps, for latents `[B, 4, H, W]`."""
    alphas = pipe.scheduler.alphas_cumprod
    noise = torch.randn(x0.shape, generator=generator)
    t = torch.randint(len(alphas), (len(x0),), generator=generator)
    a = alphas[t].view(-1, 1, 1, 1)
    with torch.no_grad():
        cond = pipe.text_encoder(text.tokens(pipe.tokenizer, prompts)).last_hidden_state
    x = (a.sqrt() * x0 + (1 - a).sqrt() * noise).contiguous(memory_format=torch.channels_last)
    return F.mse_loss(pipe.unet(x, t, cond).sample, noise)


def train(pipe: Any, latents: Tensor, icons: list[Icon], out: Path, num_steps: int) -> None:
    """Train a LoRA on scaled latents of n icons and save it into `out`, with progress lines."""
    torch.manual_seed(0)  # of the first weights
    pipe.unet.requires_grad_(False)
    pipe.unet.add_adapter(
        LoraConfig(r=RANK, lora_alpha=RANK, init_lora_weights="gaussian", target_modules=ATTENTION)
    )
    weights = [p for p in pipe.unet.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, RATE, weight_decay=0.01)
    began = shown = time.monotonic()
    mean = 0.0
    for step in range(1, num_steps + 1):
        generator = torch.Generator().manual_seed(step)
        rows = torch.randint(len(icons), (BATCH,), generator=generator)
        prompts = [captions.draw(icons[row], generator) for row in rows]
        value = loss(pipe, latents[rows], prompts, generator)
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        mean = value.item() if step == 1 else 0.98 * mean + 0.02 * value.item()
        if time.monotonic() - shown > 15 or step == num_steps:
            shown = time.monotonic()
            rate = step / (shown - began)
            print(
                f"step {step} of {num_steps}: loss {mean:.4f}, {rate * BATCH:.0f} pictures a "
                f"second, {(num_steps - step) / rate / 60:.1f} min left",
                flush=True,
            )
    layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(pipe.unet))
    StableDiffusionPipeline.save_lora_weights(out, unet_lora_layers=layers)


@torch.no_grad()
def learnt(pipe: Any, latents: Tensor, icons: list[Icon]) -> dict[str, float]:
    """The error on the pictures with their names, "without" and "with" the LoRA of the unet."""
    prompts = [f"a {icon.style} {icon.name}" for icon in icons]
    errors = {}
    for name in "without", "with":
        (pipe.unet.enable_adapters if name == "with" else pipe.unet.disable_adapters)()
        draws = [torch.Generator().manual_seed(seed) for seed in range(4)]
        errors[name] = sum(loss(pipe, latents, prompts, g).item() for g in draws) / len(draws)
    print(
        f"squared error of the noise on its pictures: {errors['without']:.4f} without the LoRA, "
        f"{errors['with']:.4f} with it"
    )
    return errors


def under(lora: Path, dot: str | None) -> list[dict]:
    """Rows: the rms of plans to all steps, of a range of 1, with the LoRA and without."""
    rows, full = [], {}
    for name in "without", "with":
        pipe = new_pipe()
        helper = None if dot is None else morse_engine.Dot.from_pretrained(dot, pipe.unet)
        if name == "with":
            pipe.load_lora_weights(lora)

        def run(plan: Plan, pipe: Any = pipe, helper: Any = helper) -> Tensor:
            morse_engine.accelerate(pipe, helper if plan.num_dot else None, plan=plan)
            found = pictures(pipe, list(PROMPTS), len(plan), 3.0)
            morse_engine.restore(pipe)
            return found

        full[name] = run(Plan.spread(FULL, 0))
        for kind, plan in PLANS.items():
            if plan.num_dot and helper is None:
                continue
            row = {"bench": "miniature lora", "lora": name, "variant": kind, "plan": str(plan)}
            row |= {"solver": "ddim", "guidance": 3.0, "images": len(PROMPTS)}
            row |= {
                "value": rmse_to_full(run(plan), full[name]) / 2,
                "unit": f"rms to {FULL} Dash steps",
            }
            rows.append(row | {"torch": torch.__version__, "date": now()[:10]})
            print(f"{name} the LoRA, {kind}, {plan}: rms {row['value']:.4f}", flush=True)
    changed = rmse_to_full(full["with"], full["without"]) / 2
    print(f"the LoRA changes the pictures of {FULL} Dash steps by rms {changed:.4f}")
    return [row | {"lora_changes": changed} for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="of `make zoo-miniature`, for the training")
    parser.add_argument("--out", type=Path, default=Path("runs/miniature-lora"))
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--dot", help="a Dot of the miniature, to be tried with the LoRA")
    parser.add_argument("--rows", type=Path, default=ROWS)
    options = parser.parse_args()
    if not (options.out / "pytorch_lora_weights.safetensors").exists():
        if options.data is None:
            parser.error(f"there is no LoRA in {options.out} yet: give --data")
        images, every = data.load(options.data)
        rows = [row for row in data.chosen(every) if every[row].style == STYLE]
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0)).tolist()
        rows = [rows[place] for place in order[:PICTURES]]
        pipe, icons = new_pipe(), [every[row] for row in rows]
        latents = vae.encode(pipe.vae, blue(images[rows])) * pipe.vae.config.scaling_factor
        train(pipe, latents, icons, options.out, options.steps)
        learnt(pipe, latents, icons)
    found = under(options.out, options.dot)
    print(f"the LoRA is in {options.out}")
    write_rows(options.rows, found)


if __name__ == "__main__":
    main()
