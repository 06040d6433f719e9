"""The plans that budgets buy with the miniature's Dot: `plans.json` beside it.

    python benchmarks/miniature_plans.py [--solvers ddim dpm]

`evaluation.search.search` with the bundled models: 64 seeds, coarse prompts, guidance 3, in the
features of the bundled judge. N is that of results/miniature-speed.json, at batch 1 and 16, and of
slower and faster machines. A run that was stopped goes on where it was.
"""

import argparse
import json

import torch
from fidelity import MINIATURE, speed_file
from rich.progress import Progress

import morse_engine
from morse_engine import zoo
from morse_engine.evaluation.search import search
from morse_engine.integrations.latents import range_of
from morse_engine.sampling import schedulers
from morse_engine.zoo.miniature import DOT, captions, judge

BUDGETS, BATCH, GUIDANCE = (3, 4, 5, 6, 8), 16, 3.0
OTHER_SPEEDS = 1.5, 9.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--solvers", nargs="+", default=["ddim", "dpm"])
    options = parser.parse_args()
    pipe, critic = zoo.miniature_pipeline(), judge.load()
    dot = zoo.miniature_dot(pipe.unet)
    text, empty = pipe.encode_prompt(captions.coarse()[:BATCH], "cpu", 1, True)
    speeds = [
        *OTHER_SPEEDS,
        *(row["value"] for row in json.loads(speed_file(MINIATURE).read_text())),
    ]

    def features(latents: torch.Tensor) -> torch.Tensor:
        pictures = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample
        return critic.features(pictures.clamp(-1, 1))

    for solver in options.solvers:
        scheduler = schedulers.make(solver, pipe.scheduler.config)
        sampler = morse_engine.compile(
            pipe.unet, dot, scheduler=scheduler, plan="-", clean_range=range_of(pipe)
        )
        with Progress() as bar:
            task = bar.add_task(solver, total=1.0)
            search(
                sampler, BUDGETS, folder=DOT, dot_speed=speeds, batch_size=BATCH,
                features=features, guidance_scale=GUIDANCE,
                encoder_hidden_states=torch.cat([empty, text]),
                on_plan=lambda plan, score, part, task=task: bar.update(task, completed=part),
            )  # fmt: skip


if __name__ == "__main__":
    main()
