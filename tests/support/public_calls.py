"""The public functions, each with right values of all of its parameters."""

import os
import shutil
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import torch
from diffusers import DDIMScheduler

import morse_engine
from models import text_cond, tiny_text_unet, tiny_unet
from morse_engine import (
    Dot,
    Plan,
    SolverTable,
    evaluation,
    noise,
    zoo,
)
from morse_engine.evaluation import earlier
from morse_engine.evaluation.search import search
from morse_engine.integrations import k_diffusion
from morse_engine.integrations import search as of_pipelines
from morse_engine.integrations.scheduler import MorseScheduler
from morse_engine.system import images
from morse_engine.training.fit import Fit
from pipelines import shallow as pipeline

X = torch.zeros(2, 1, 16, 16)
SIGMAS = torch.tensor([3.0, 1.0, 0.0])


class Begun(Exception):
    """All that a training is given has been looked at."""


class Brightness(torch.nn.Module):
    """A yardstick of one feature."""

    num_features = 1

    def forward(self, x):
        return x.mean((1, 2, 3))[:, None]


def things() -> SimpleNamespace:
    """What right values are made of; nothing of it is changed by a call."""
    unet, texted = tiny_unet(), tiny_text_unet()
    dot = Dot(unet, widths=(4, 4))
    pipe = pipeline("StableDiffusionPipeline")
    inner = MorseScheduler(DDIMScheduler(), "-.", dot=k_diffusion.reuse)
    inner.set_timesteps(3)
    return SimpleNamespace(
        unet=unet,
        dot=dot,
        sampler=morse_engine.compile(unet, dot, plan="-."),
        texted=morse_engine.compile(texted, plan="-"),
        table=SolverTable.from_scheduler(DDIMScheduler(), 2),
        prepared=_prepared(),
        pipe=pipe,
        morse=inner,
        ksampler=k_diffusion.sampler("-."),
    )


def _prepared() -> DDIMScheduler:
    scheduler = DDIMScheduler()
    scheduler.set_timesteps(3)
    return scheduler


def public_calls(it: SimpleNamespace, folder: Path) -> dict:
    """Name -> (function, right values of all of its parameters)."""
    trajectory = dict(
        zip(
            ("x", "timestep", "x_s", "z_s", "timestep_s", "z_p", "timestep_p"),
            (X, 300, X, X, 500, X, 800),
            strict=True,
        )
    )
    call = {"noise": None, "batch_size": 2, "seed": 0, "guidance_scale": None}
    text = text_cond(4)["encoder_hidden_states"]
    plan = Plan("-..")
    budget = {"lsd": 4, "dot_speed": 3.0, "dots_per_dash": 2.0}
    solver = {"scheduler": DDIMScheduler(), "num_steps": 3, "eta": 0.0}
    step = {"model_output": X, "timestep": it.morse.timesteps[0], "sample": X}

    def morse() -> MorseScheduler:
        made = MorseScheduler(DDIMScheduler(), "-.", dot=k_diffusion.reuse)
        made.set_timesteps(3)
        return made

    def accelerate(**options):
        try:
            return morse_engine.accelerate(**options)
        finally:
            if type(it.pipe).__dict__.get("_morse"):
                morse_engine.restore(it.pipe)

    def save(folder):
        it.dot.save_pretrained(folder)
        for name in ("config.json", "model.safetensors"):
            Path(folder, name).unlink()
        for made in (Path(folder), *Path(folder).parents):
            if made != Path() and not made.is_absolute():
                made.rmdir()

    def save_png(image, path, scale):
        images.save_png(image, path, scale=scale)
        Path(path).unlink()

    def up_to(owner, name, function):
        def run(**options):
            before = set(os.listdir())
            try:
                with mock.patch.object(owner, name, side_effect=Begun):
                    return function(**options)
            except Begun:
                return None
            finally:  # what it keeps in its folder is tested elsewhere
                for made in map(Path, set(os.listdir()) - before):
                    shutil.rmtree(made) if made.is_dir() else made.unlink()

        return run

    up_to_the_first_step = partial(up_to, Fit, "run")
    up_to_the_first_plan = partial(up_to, earlier, "check_same")
    fit = {"warmup": 1, "clip": 1.0, "ema_decay": 0.9, "accumulate": 1, "mixed_precision": "no"}
    fit |= {"seed": 0, "checkpoint_every": 2, "progress": False, "report_to": None}
    fit |= {"num_steps": 2, "batch_size": 2, "lr": 1e-3, "held_out": None, "out_dir": "run"}
    fit |= {"images": X, "unet": it.unet, "noise_scheduler": DDIMScheduler()}
    walks = {"schedulers": [DDIMScheduler()], "own_way_from": 0.5, "data_share": 0.5}
    walks |= {"num_visits": 8, "refresh_every": 1, "run_steps": (2, 3), "dropout": 0.1}

    curve = [(1.0, 4.0), (2.0, 2.0), (3.0, 1.0)]
    shades = torch.linspace(-1, 1, 5).view(5, 1, 1, 1).expand(5, 1, 4, 4)
    look = {"budgets": [2, 3], "folder": "plans", "features": lambda x: x.flatten(1)}
    look |= {"batch_size": 2, "num_images": 4, "full_steps": 4, "tries": 1, "dot_speed": [2.0]}
    look |= {"guidance_scale": None, "on_plan": lambda plan, score, part: None}
    of_samplers = {"sampler": it.sampler, "clamp": True, "told": lambda seeds: {}}
    of_prompts = {"pipe": it.pipe, "prompts": ["a frog", "a heart"], "dot": k_diffusion.reuse}
    of_prompts |= {"backend": "eager", "guidance_scale": 2.0}
    many = {"dash": lambda x, t, **cond: x / 2, "dot": k_diffusion.reuse, "plan": Plan("-.")}
    many |= {"table": it.table, "seeds": [1, 2, 3], "shape": (1, 4, 4), "batch_size": 2}
    many |= {"device": "cpu", "progress": False, "on_step": None, "told": lambda seeds: {}}
    many |= {"guidance_scale": None, "guided_dot": False}

    def run(method, **options):
        return getattr(it.sampler.start(), method)(**options)

    return {
        "Plan": (Plan, {"morse": "-.."}),
        "Plan.spread": (Plan.spread, {"num_dash": 2, "num_dot": 3}),
        "Plan.from_positions": (Plan.from_positions, {"num_steps": 4, "dash": [0, 2]}),
        "Plan.from_budget": (Plan.from_budget, budget),
        "Plan.lsd": (plan.lsd, {"dot_speed": 3.0}),
        "Plan.gain": (plan.gain, {"dot_speed": 3.0}),
        "Plan.with_free": (plan.with_free, {"each": 2}),
        "SolverTable.from_scheduler": (SolverTable.from_scheduler, solver),
        "SolverTable.of_prepared": (
            SolverTable.of_prepared,
            {"scheduler": it.prepared, "first": 1, "eta": 0.0},
        ),
        "SolverTable.for_calls": (
            SolverTable.for_calls,
            {"scheduler": DDIMScheduler(), "num_calls": 3, "eta": 0.0},
        ),
        "SolverTable.adds_noise": (it.table.adds_noise, {"i": 0}),
        "SolverTable.scale_model_input": (it.table.scale_model_input, {"i": 0, "x": X}),
        "SolverTable.step": (
            it.table.step,
            {"i": 0, "x": X, "z": X, "history": [X], "noise": X},
        ),
        "noise.normal": (
            noise.normal,
            {"seeds": [1, 2], "step": 0, "shape": (1, 4, 4), "device": "cpu"},
        ),
        "noise.philox4x32": (
            noise.philox4x32,
            {
                "counter": torch.zeros(2, 4, dtype=torch.int64),
                "key": torch.zeros(2, dtype=torch.int64),
            },
        ),
        "compile": (
            morse_engine.compile,
            {
                "unet": it.unet,
                "dot": it.dot,
                "scheduler": DDIMScheduler(),
                "plan": "-.",
                "budget": None,
                "plans": None,
                "batch_size": 1,
                "backend": "eager",
                "dot_speed": 2.0,
                "shape": (1, 16, 16),
                "clean_range": (-1, 1),
                "merge_dot": True,
                "inductor": False,
                "graph_memory": 0,
            },
        ),
        "compile within a budget": (
            partial(morse_engine.compile, it.unet, it.dot),
            {"plan": "auto", "budget": 4, "plans": None, "batch_size": 2, "dot_speed": 2.0},
        ),
        "Sampler.__call__": (it.sampler, {**call, "on_step": None}),
        "Sampler.__call__ with text": (
            it.texted,
            {**call, "guidance_scale": 2.0, "on_step": None, "encoder_hidden_states": text},
        ),
        "Sampler.start": (it.sampler.start, call),
        "Sampler.with_plan": (
            it.sampler.with_plan,
            {"plan": "-..", "scheduler": DDIMScheduler()},
        ),
        "Sampler.with_table": (it.sampler.with_table, {"plan": Plan("--"), "table": it.table}),
        "Sampler.with_backend": (it.sampler.with_backend, {"backend": "host"}),
        "Sampler.measure": (it.sampler.measure, {"batch_size": 1, "guidance_scale": None}),
        "Sampler.report": (it.sampler.report, {"measure": False, "batch_size": 1}),
        "Run.segment": (partial(run, "segment"), {"k": 1}),
        "Run.watch": (partial(run, "watch"), {"on_step": lambda i, n: None}),
        "Run.reach": (partial(run, "reach"), {"k": 1, "stop": lambda: False}),
        "Dot": (
            Dot,
            {
                "unet": it.unet,
                "noise_scheduler": None,
                "widths": (4, 4),
                "lora_rank": 1,
                "cut": 2,
                "guided": False,
            },
        ),
        "Dot.forward": (it.dot, {**trajectory, "guidance_scale": None}),
        "Dot.save_pretrained": (save, {"folder": "dot"}),
        "Dot.from_pretrained": (
            Dot.from_pretrained,
            {"folder": zoo.WEIGHTS / "dot", "unet": it.unet},
        ),
        "accelerate": (
            accelerate,
            {
                "pipe": it.pipe,
                "dot": k_diffusion.reuse,
                "plan": None,
                "budget": 3,
                "plans": None,
                "dot_speed": 4.0,
                "clean_range": (-1, 1),
                "backend": "eager",
            },
        ),
        "restore": (morse_engine.restore, {"pipe": it.pipe}),
        "train_dash": (up_to_the_first_step(morse_engine.train_dash), fit),
        "train_dot": (
            up_to_the_first_step(morse_engine.train_dot),
            {**fit, **walks, "dot": it.dot, "guidance": (2.0, 3.0)},
        ),
        "MorseScheduler": (
            MorseScheduler,
            {
                "inner": DDIMScheduler(),
                "plan": "-.",
                "dot": it.dot,
                "cond": {},
                "clean_range": (-1, 1),
            },
        ),
        "MorseScheduler.set_timesteps": (
            lambda **options: morse().set_timesteps(**options),
            {"num_inference_steps": 3, "device": "cpu"},
        ),
        "MorseScheduler.set_begin_index": (
            lambda **options: morse().set_begin_index(**options),
            {"begin_index": 1},
        ),
        "MorseScheduler.step": (
            lambda **options: morse().step(**options),
            {**step, "eta": 0.0, "generator": None, "return_dict": False},
        ),
        "MorseScheduler.scale_model_input": (
            lambda **options: morse().scale_model_input(**options),
            {"sample": X, "timestep": it.morse.timesteps[0]},
        ),
        "k_diffusion.sampler": (
            k_diffusion.sampler,
            {
                "plan": "-.",
                "dot": it.dot,
                "solver": "euler",
                "cond": {},
                "clean_range": (-1, 1),
            },
        ),
        "k_diffusion.sampler()": (
            it.ksampler,
            {
                "model": lambda x, sigma: x / 2,
                "x": X,
                "sigmas": SIGMAS,
                "extra_args": {},
                "callback": None,
                "disable": True,
            },
        ),
        "search": (up_to_the_first_plan(search), look | of_samplers),
        "integrations.search": (up_to_the_first_plan(of_pipelines.search), look | of_prompts),
        "evaluation.speedup": (evaluation.speedup, {"baseline": curve, "morse": curve[1:]}),
        "evaluation.speedup_over_sets": (
            evaluation.speedup_over_sets,
            {"baselines": [curve] * 3, "morses": [curve[1:]] * 3},
        ),
        "evaluation.rmse_to_full": (evaluation.rmse_to_full, {"images": X, "full_images": X}),
        "evaluation.Frechet": (
            evaluation.Frechet,
            {"extractor": Brightness(), "real_images": shades, "batch_size": 2},
        ),
        "evaluation.Frechet.distance": (
            evaluation.Frechet(Brightness(), shades).distance,
            {"images": shades},
        ),
        "evaluation.sample_many": (evaluation.sample_many, many),
        "evaluation.extrapolate": (
            evaluation.extrapolate,
            {**trajectory, "way": lambda t, t_s: t - t_s, "at_most": 2.0},
        ),
        "evaluation.reuse": (evaluation.reuse, trajectory),
        "reuse": (k_diffusion.reuse, trajectory),
        "extrapolate": (k_diffusion.extrapolate, trajectory),
        "zoo.digits_dot": (zoo.digits_dot, {"unet": it.unet}),
        "zoo.digits_scheduler": (zoo.digits_scheduler, {"solver": "ddim"}),
        "images.load_folder": (
            images.load_folder,
            {"folder": folder / "pictures", "size": 8, "channels": 3, "skip_bad": False},
        ),
        "images.save_png": (
            save_png,
            {"image": X[0], "path": "picture.png", "scale": 1},
        ),
        "images.grid": (images.grid, {"images": X, "gap": 1, "between": 1.0}),
    }
