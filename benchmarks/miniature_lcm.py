"""Distil the bundled miniature into a latent consistency model, and say what it reaches.

    python benchmarks/miniature_lcm.py --data runs/miniature/data --out runs/miniature-lcm

needs the rendered pictures of `make zoo-miniature`. Interrupt it at any time; the same command goes
on. `OUT/pipeline` is then what `LatentConsistencyModelPipeline` reads, and the rows compare its
pictures in 1 to 8 steps, one model call each, with DDIM of the miniature, two calls a step. With
`--dot OUT/dot/dot`, which `morse-engine train-dot --model OUT/pipeline` has trained, also with its
Dot's steps between.

Source: Luo et al., "Latent Consistency Models", 2023, arXiv 2310.04378, with the details of
diffusers' `train_lcm_distill_sd_wds.py`.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.models.attention_processor import AttnProcessor
from miniature_steps import coarse, pictures
from torch import Tensor, nn

from morse_engine import Dot, Plan
from morse_engine.evaluation.frechet import rmse_to_full
from morse_engine.evaluation.prompted import Prompted
from morse_engine.evaluation.score import Pyramid, score
from morse_engine.system.files import write_rows
from morse_engine.system.machine import now
from morse_engine.zoo.miniature import WEIGHTS, captions, data, judge, pipeline, text, vae
from morse_engine.zoo.miniature.data import Icon
from morse_engine.zoo.miniature.stage import Stage

ROWS = Path(__file__).parent / "results/miniature-lcm.json"
STEPS = 2000
BATCH = 16
RATE = 3e-4
SKIP = 20  # k: the solver's step, in timesteps
EMBEDDING = 256  # numbers that tell the UNet the guidance scale
GUIDANCE = 1.0, 6.0  # scales that are distilled
GIVEN = 3.0  # what pictures are measured with
PLANS = "-", "--", "---", "----", "-.", "-..", "-.-.", "-..-..", "-.-.-.-."
HUBER = 1e-3
TARGET = 0.95  # decay of the averaged weights, which are the target


class Distillation:
    """The loss of a student that maps all points of one way of the teacher to the way's end.

        f(x, t, w) = c_skip(t) x + c_out(t) x0(student(x, t, w))
        loss       = huber(f(x_t, t, w) - f_target(x_s, s, w)),   s = t - SKIP

    with x_s from x_t by one step of DDIM with the teacher's estimate, guided by w. The target is
    the student with averaged weights.

    Args:
        pipe: the teacher, a `StableDiffusionPipeline`.
        latents: scaled, `[n, 4, H, W]`.
        icons: n of them.
        file: the checkpoint of `stage`.
    """

    def __init__(
        self, pipe: Any, latents: Tensor, icons: list[Icon], file: Path, num_steps: int = STEPS
    ):
        self.pipe, self.latents, self.icons = pipe, latents, icons
        self.alphas = pipe.scheduler.alphas_cumprod
        self.lcm = LCMScheduler.from_config(pipe.scheduler.config)
        self.teacher = pipe.unet.requires_grad_(False)
        self.teacher.set_attn_processor(AttnProcessor())  # faster on a CPU for so small heads
        self.target = new_student(self.teacher).requires_grad_(False)
        self.stage = Stage(
            new_student(self.teacher),
            self.loss,
            file,
            num_steps=num_steps,
            batch_size=BATCH,
            lr=RATE,
            ema=TARGET,
            every=60.0,
        )

    def loss(
        self, student: nn.Module, generator: torch.Generator, step: int
    ) -> tuple[Tensor, dict[str, float]]:
        """The mean loss of a batch, and the root of its mean square error."""
        self.stage.ema.copy_to(self.target.parameters())
        rows = torch.randint(len(self.icons), (BATCH,), generator=generator)
        x0, noise = (
            self.latents[rows],
            torch.randn(BATCH, *self.latents.shape[1:], generator=generator),
        )
        t = SKIP * torch.randint(1, len(self.alphas) // SKIP + 1, (BATCH,), generator=generator) - 1
        a = self._alpha(t)
        x = (a.sqrt() * x0 + (1 - a).sqrt() * noise).contiguous(memory_format=torch.channels_last)
        low, high = GUIDANCE
        scale = low + (high - low) * torch.rand(BATCH, generator=generator)
        w = self.pipe.get_guidance_scale_embedding(scale - 1, EMBEDDING)
        cond = self._embedded([captions.draw(self.icons[row], generator) for row in rows])
        found = self._clean(student, x, t, w, cond)
        with torch.no_grad():
            empty = self._embedded([""]).expand_as(cond)
            both = self.teacher(x.repeat(2, 1, 1, 1), t.repeat(2), torch.cat([empty, cond])).sample
            without, with_prompt = both.chunk(2)
            e = without + scale.view(-1, 1, 1, 1) * (with_prompt - without)
            ahead = (x - (1 - a).sqrt() * e) / a.sqrt()
            s = (t - SKIP).clamp(min=0)
            b = self._alpha(s)
            wanted = self._clean(self.target, b.sqrt() * ahead + (1 - b).sqrt() * e, s, w, cond)
        error = found - wanted
        huber = ((error.square() + HUBER**2).sqrt() - HUBER).mean()
        return huber, {"rms": error.detach().square().mean().sqrt().item()}

    def _clean(self, unet: nn.Module, x: Tensor, t: Tensor, w: Tensor, cond: Tensor) -> Tensor:
        """f of a batch."""
        a = self._alpha(t)
        e = unet(x, t, cond, timestep_cond=w).sample
        skip, out = self.lcm.get_scalings_for_boundary_condition_discrete(t.view(-1, 1, 1, 1))
        return skip * x + out * (x - (1 - a).sqrt() * e) / a.sqrt()

    def _alpha(self, t: Tensor) -> Tensor:
        return self.alphas[t].view(-1, 1, 1, 1)

    @torch.no_grad()
    def _embedded(self, prompts: list[str]) -> Tensor:
        return self.pipe.text_encoder(text.tokens(self.pipe.tokenizer, prompts)).last_hidden_state


def new_student(teacher: Any) -> Any:
    """The teacher with an input for the guidance scale, which has no effect at first."""
    student = UNet2DConditionModel.from_config(teacher.config, time_cond_proj_dim=EMBEDDING)
    student.load_state_dict(teacher.state_dict(), strict=False)
    nn.init.zeros_(student.time_embedding.cond_proj.weight)
    student.set_attn_processor(AttnProcessor())
    return student.to(memory_format=torch.channels_last)


def save(teacher: Any, student: Any, folder: Path) -> None:
    """Write the pipeline of a student, with the other parts of the teacher's."""
    pipe = LatentConsistencyModelPipeline(
        vae=teacher.vae,
        text_encoder=teacher.text_encoder,
        tokenizer=teacher.tokenizer,
        unet=student,
        scheduler=LCMScheduler.from_config(teacher.scheduler.config),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save(pipe, WEIGHTS / "vae" / "latents.json", folder)


def measure(folder: Path, images: Tensor, icons: list[Icon], count: int) -> list[dict]:
    """Rows: distance to real pictures, prompt score, and rms to DDIM with 50 steps.

    Args:
        images: all pictures of the training, uint8 `[n, 3, 64, 64]`, of n icons.
        count: pictures of each row.
    """
    ddim = StableDiffusionPipeline.from_pretrained(WEIGHTS)
    ddim.scheduler = DDIMScheduler.from_config(ddim.scheduler.config, timestep_spacing="trailing")
    lcm = LatentConsistencyModelPipeline.from_pretrained(folder)
    prompts, rows, full = coarse(icons, count), [], None
    told = Told(images, prompts)
    for name, pipe, steps in [
        *(("ddim", ddim, steps) for steps in (50, 8, 4, 2)),
        *(("lcm", lcm, steps) for steps in (8, 4, 2, 1)),
    ]:
        pipe.set_progress_bar_config(disable=True)
        pipe.unet.to(memory_format=torch.channels_last)
        found = pictures(pipe, prompts, steps, GIVEN)
        full = found if full is None else full
        row = {"bench": "miniature lcm", "solver": name, "steps": steps, "guidance": GIVEN}
        row |= {"calls": steps * (2 if name == "ddim" else 1)}
        rows.append(row | told.numbers(found) | {"rms": rmse_to_full(found, full) / 2})
        print(f"{name}, {steps} steps, {row['calls']} calls: {rows[-1]['value']:.4f}", flush=True)
    return rows


class Told:
    """What pictures are compared with: all real ones, and their prompts."""

    def __init__(self, images: Tensor, prompts: list[str]):
        self.see, self.judge, self.prompts = Pyramid(3), judge.load(), prompts
        self.real = self.see(data.to_float(images))

    def numbers(self, found: Tensor) -> dict:
        """The part of a row that says how good pictures `[n, 3, 64, 64]` in [-1, 1] are."""
        cosines = self.judge.prompt_score(found, self.prompts)
        row = {"value": score(self.see(found), self.real), "unit": "distance to real pictures"}
        row |= {"prompt_score": float(cosines.mean()), "images": len(found)}
        return row | {"torch": torch.__version__, "date": now()[:10]}


def with_dot(folder: Path, dot: Path, images: Tensor, icons: list[Icon], count: int) -> list[dict]:
    """Rows of the student alone and with its Dot, from the same seeds; N measured at batch 1."""
    pipe = LatentConsistencyModelPipeline.from_pretrained(folder)
    pipe.unet.to(memory_format=torch.channels_last)
    prompts = coarse(icons, count)
    told = Told(images, prompts)
    helper = Dot.from_pretrained(dot, pipe.unet).to(memory_format=torch.channels_last)
    student = Prompted("lcm", pipe, helper, prompts, guidance_scale=GIVEN)
    speed, rows = student.measure(1, 40).dot_speed, []
    for plan in map(Plan, PLANS):
        found = student.pictures(student.sample(plan, range(count), 32)).clamp(-1, 1)
        row = {"bench": "miniature lcm", "solver": "lcm", "plan": str(plan), "guidance": GIVEN}
        row |= {"dot_speed": speed, "lsd": plan.lsd(speed)}
        rows.append(row | told.numbers(found))
        print(f"lcm, {plan}, {row['lsd']:.2f} LSD: {rows[-1]['value']:.4f}", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/miniature-lcm"))
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--minutes", type=float, help="train for so long, then save and measure")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--dot", type=Path, help="of the student, from train-dot: its rows too")
    parser.add_argument("--rows", type=Path, default=ROWS)
    options = parser.parse_args()
    images, every = data.load(options.data)
    rows = data.chosen(every)
    icons, pipe = [every[row] for row in rows], StableDiffusionPipeline.from_pretrained(WEIGHTS)
    latents = vae.encode(pipe.vae, images[rows]) * pipe.vae.config.scaling_factor
    stage = Distillation(pipe, latents, icons, options.out / "state.pt", options.steps).stage
    stage.run(None if options.minutes is None else 60 * options.minutes)
    save(pipe, stage.averaged(), options.out / "pipeline")
    print(f"step {stage.step} of {stage.num_steps}: the pipeline is in {options.out / 'pipeline'}")
    where = options.out / "pipeline"
    found = measure(where, images[rows], icons, options.images)
    if options.dot is not None:
        found += with_dot(where, options.dot, images[rows], icons, options.images)
    found = [row | {"trained": stage.step * BATCH} for row in found]
    write_rows(options.rows, found)


if __name__ == "__main__":
    main()
