"""Dot steps within a call of an accelerated pipeline: by hand, in both of its ways, captured."""

import pytest
import torch
from diffusers import (
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    LCMScheduler,
    UniPCMultistepScheduler,
)

import fake_capture
import morse_engine
from pipelines import LATENT, assert_same, generator, one_thread, our_noise, picture, with_dot
from pipelines import shallow as pipeline

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # what diffusers deprecates
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # what NumPy deprecates in it
]
__all__ = ["one_thread"]  # a fixture of this file

PLAN = "-..-.-"
CALL = {"prompt": ["a cat", "a dog"], "guidance_scale": 3.0, "output_type": "latent"}


def nothing(pipe, i, t, tensors):
    return tensors


def by_hand(pipe, dot, plan, x, dash, cond=None, guidance_scale=None, **step):
    """The loop of a plan written out with the scheduler's own step; tensors of `cond` doubled."""
    scheduler, cond, z_s, t_s = pipe.scheduler, cond or {}, None, None
    for symbol, t in zip(plan, scheduler.timesteps, strict=True):
        x_in = scheduler.scale_model_input(x, t)
        twice = x_in if guidance_scale is None else torch.cat([x_in, x_in])
        guided = dot.guided
        if symbol == "-":
            z = dash(twice, t, **cond)
            if guided:
                z = z[: len(x)] + guidance_scale * (z[len(x) :] - z[: len(x)])
            z_p, t_p = (z, t) if z_s is None else (z_s, t_s)
            x_s, z_s, t_s = x_in if guided else twice, z, t
        elif guided:
            text = {name: value[len(x) :] for name, value in cond.items()}
            eta = dot(x_in, t, x_s, z_s, t_s, z_p, t_p, guidance_scale=guidance_scale, **text)
            z = z_s + eta
        else:
            z = z_s + dot(twice, t, x_s, z_s, t_s, z_p, t_p, **cond)
        if guidance_scale is not None and not guided:
            z = z[: len(x)] + guidance_scale * (z[len(x) :] - z[: len(x)])
        x = scheduler.step(z, t, x, **step).prev_sample
    return x


def texts(pipe, prompts):
    embeds, negative = pipe.encode_prompt(prompts, "cpu", 1, True)
    return torch.cat([negative, embeds])


@pytest.mark.slow
@pytest.mark.parametrize("callback", [None, nothing], ids=["whole", "steps"])
@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("kind", [DPMSolverMultistepScheduler, EulerAncestralDiscreteScheduler])
@torch.no_grad()
def test_a_plan_is_the_loop_written_by_hand(kind, guided, callback):
    pipe, dot = with_dot(scheduler=kind(), guided=guided)
    pipe.scheduler.set_timesteps(len(PLAN))
    gen = generator()
    x = torch.randn(2, 4, LATENT, LATENT, generator=gen) * pipe.scheduler.init_noise_sigma

    def dash(x, t, **cond):
        return pipe.unet(x, t, **cond).sample

    cond = {"encoder_hidden_states": texts(pipe, CALL["prompt"])}
    with our_noise(pipe.scheduler, 2):
        expected = by_hand(pipe, dot, PLAN, x, dash, cond, 3.0, generator=gen)
    accelerated = morse_engine.accelerate(pipe, dot, plan=PLAN)
    actual = pipe(generator=generator(), callback_on_step_end=callback, **CALL).images
    assert_same(actual, expected)
    report = accelerated.report()
    assert (report.num_dash, report.num_dot, str(report.plan)) == (3, 3, PLAN)
    assert report.path == ("step by step" if callback else "whole loop")


@torch.no_grad()
def test_a_plan_without_guidance():
    pipe, dot = with_dot("DDPMPipeline", DDPMScheduler())
    pipe.scheduler.set_timesteps(len(PLAN))
    gen = generator()
    x = torch.randn(3, 1, 16, 16, generator=gen)
    with our_noise(pipe.scheduler, 3):
        dash = lambda x, t: pipe.unet(x, t).sample  # noqa: E731
        expected = by_hand(pipe, dot, PLAN, x, dash, generator=gen)
    morse_engine.accelerate(pipe, dot, plan=PLAN)
    actual = pipe(batch_size=3, generator=generator(), output_type="np").images
    assert_same(actual, (expected / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1))


TEXT_PIPELINES = [
    ("StableDiffusionXLPipeline", UniPCMultistepScheduler(), {}, {}),
    ("LatentConsistencyModelPipeline", LCMScheduler(), {}, {}),
    ("StableDiffusionXLPipeline", LCMScheduler(), {"time_cond_proj_dim": 8}, {}),
    ("StableDiffusionImg2ImgPipeline", None, {}, {"image": picture(), "strength": 0.7}),
    ("StableDiffusionControlNetPipeline", None, {}, {"image": picture(2)}),
    ("StableDiffusionXLControlNetPipeline", None, {}, {"image": picture(2)}),
]


BOTH_DOTS = [(False, *case) for case in TEXT_PIPELINES]
# The LCM models are told the guidance scale: they have one branch, and no guided Dot.
BOTH_DOTS += [(True, *case) for case in TEXT_PIPELINES if not isinstance(case[1], LCMScheduler)]


@pytest.mark.slow
@pytest.mark.parametrize(("guided", "kind", "scheduler", "options", "call"), BOTH_DOTS)
def test_whole_and_step_by_step_are_one(guided, kind, scheduler, options, call):
    """The whole loop is the engine's, the other one this package's: each checks the other."""
    pipe, dot = with_dot(kind, scheduler, guided=guided, **options)
    accelerated = morse_engine.accelerate(pipe, dot, plan=PLAN)
    call = CALL | call
    whole = pipe(generator=generator(), **call).images
    assert accelerated.report().path == "whole loop"
    steps = pipe(generator=generator(), callback_on_step_end=nothing, **call).images
    assert accelerated.report().path == "step by step"
    assert accelerated.report().num_dot
    assert_same(steps, whole)


@pytest.mark.slow
@pytest.mark.parametrize("callback", [None, nothing], ids=["whole", "steps"])
def test_strength_leaves_the_end_of_the_plan(callback):
    pipe, dot = with_dot("StableDiffusionImg2ImgPipeline")
    accelerated = morse_engine.accelerate(pipe, dot, plan="-..-.--.-.")
    pipe(image=picture(), strength=0.6, callback_on_step_end=callback, **CALL)
    report = accelerated.report()
    assert str(report.plan) == "---.-.", "the last six, the first of them made by Dash"
    assert (report.num_dash, report.num_dot) == (4, 2)


@pytest.mark.parametrize("callback", [None, nothing], ids=["whole", "steps"])
def test_controlnet_runs_on_dash_steps_and_dot_is_not_given_it(callback):
    pipe = pipeline("StableDiffusionControlNetPipeline")
    made, given = [], []
    pipe.controlnet.register_forward_hook(lambda *_: made.append("control"))
    pipe.unet.register_forward_hook(lambda *_: made.append("-"))

    def dot(x, t, x_s, z_s, t_s, z_p, t_p, **cond):
        made.append(".")
        given.append(set(cond))
        return torch.zeros_like(z_s)

    morse_engine.accelerate(pipe, dot, plan="-..-")
    pipe(image=picture(2), callback_on_step_end=callback, **CALL)
    assert made == ["control", "-", ".", ".", "control", "-"]
    assert given == [{"encoder_hidden_states"}] * 2


def test_dot_is_given_what_the_unet_is_given():
    pipe, seen = pipeline("StableDiffusionXLPipeline", LCMScheduler(), time_cond_proj_dim=8), []

    def dot(x, t, x_s, z_s, t_s, z_p, t_p, **cond):
        seen.append((x.shape[0], set(cond), set(cond["added_cond_kwargs"])))
        return torch.zeros_like(z_s)

    morse_engine.accelerate(pipe, dot, plan="-.")
    pipe(**CALL)
    keywords = {"encoder_hidden_states", "timestep_cond", "added_cond_kwargs"}
    assert seen == [(2, keywords, {"text_embeds", "time_ids"})]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["host", "device"])
@pytest.mark.parametrize("kind", ["StableDiffusionPipeline", "StableDiffusionControlNetPipeline"])
def test_captured_steps(backend, kind, fake, monkeypatch):
    fake_capture.install(monkeypatch, fake)
    pipe, dot = with_dot(kind, EulerAncestralDiscreteScheduler())
    call = CALL | ({"image": picture(2)} if "Control" in kind else {})
    morse_engine.accelerate(pipe, dot, plan=PLAN)
    expected = pipe(generator=generator(), **call).images
    morse_engine.restore(pipe)
    accelerated = morse_engine.accelerate(pipe, dot, plan=PLAN, backend=backend)
    for _ in range(2):
        assert_same(pipe(generator=generator(), **call).images, expected)
    report = accelerated.report()
    assert (report.sampler.backend, report.sampler.captures) == (backend, 1)
    with pytest.raises(RuntimeError, match=r"callback_on_step_end.*backend=\"auto\""):
        pipe(callback_on_step_end=nothing, **call)
    with pytest.raises(RuntimeError, match="guess_mode" if "Control" in kind else "rescale"):
        pipe(**call, **({"guess_mode": True} if "Control" in kind else {"guidance_rescale": 0.5}))
