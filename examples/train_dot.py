"""Train a Dot for the bundled digits model, and see how far it brings five LSD.

    python examples/train_dot.py [STEPS]

The bundled Dot took 4,700 steps; 500 show the direction. Stop it at any time: the same command
continues. For a model of yours, replace `unet`, `images` and the two kinds of scheduler.
"""

import sys

import torch
from diffusers import DDPMScheduler

import morse_engine
from morse_engine import zoo
from morse_engine.evaluation.frechet import rmse_to_full
from morse_engine.zoo import digits


def main(num_steps: int = 500) -> None:
    unet = zoo.digits_dash()
    images, _ = digits.images("train")
    held_out, _ = digits.images("held-out")
    noise_scheduler = DDPMScheduler()  # that Dash was trained with
    torch.manual_seed(0)  # of Dot's first weights

    dot = morse_engine.train_dot(
        morse_engine.Dot(unet, noise_scheduler),
        unet,
        images,
        noise_scheduler,
        f"runs/example-dot-{num_steps}",  # checkpoint.pt and log.jsonl
        schedulers=[zoo.digits_scheduler("ddim"), zoo.digits_scheduler("dpm")],
        num_steps=num_steps,
        held_out=held_out,
    )
    dot.save_pretrained("runs/example-dot")

    seeds = range(64)
    speed = morse_engine.compile(unet, dot, plan="-").measure(batch_size=64)
    full = morse_engine.compile(unet, plan=100)(seed=seeds)
    for name, sampler in {
        "Dash alone": morse_engine.compile(unet, plan="-----"),
        "with Dot": morse_engine.compile(unet, dot, plan=5, dot_speed=speed.dot_speed),
    }.items():
        error = rmse_to_full(sampler(seed=seeds), full)
        print(f"{name:<12} {sampler.plan!s:<14} {error:.4f} from 100 Dash steps")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
