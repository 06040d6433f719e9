"""Accelerated pipelines against diffusers' own: the same scheduler, Dash in every step."""

import inspect

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)

import morse_engine
from pipelines import (
    LATENT,
    SIZE,
    assert_same,
    generator,
    half_mask,
    one_thread,
    our_noise,
    picture,
)
from pipelines import shallow as pipeline
from solvers import FAMILIES

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # what diffusers deprecates
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # what NumPy deprecates in it
]

__all__ = ["one_thread"]  # a fixture of this file

# Stable Diffusion pipelines need init_noise_sigma and step(), which these do not have.
OTHER = ("flow", "vp sde", "ve sde")
SOLVERS = {name: scheduler for name, scheduler in FAMILIES.items() if name not in OTHER}
PROMPTS = ["a cat", "two dogs"]
CONTROL = {"control_image": picture(2), "controlnet_conditioning_scale": 0.7}
INPAINT = {"image": picture(1), "mask_image": half_mask()}


def both(pipe, count, *, seed=3, **call):
    """(the pipeline's own latents or images, the accelerated ones, the report)."""
    defaults = {} if "prompt" not in call else {"output_type": "latent"}
    call = defaults | {"num_inference_steps": 5} | call
    gens = (lambda: [generator(s) for s in seed]) if isinstance(seed, list) else generator
    with our_noise(pipe.scheduler, count):
        expected = pipe(generator=gens(), **call).images
    accelerated = morse_engine.accelerate(pipe)
    try:
        actual = pipe(generator=gens(), **call).images
        report = accelerated.report()
        in_steps = None
        if "callback_on_step_end" in inspect.signature(pipe.__call__).parameters:
            in_steps = pipe(generator=gens(), callback_on_step_end=nothing, **call).images
            assert accelerated.report().why == "callback_on_step_end"
    finally:
        morse_engine.restore(pipe)
    if in_steps is not None:  # a callback does not change the image
        assert_same(in_steps, expected)
    return expected, actual, report


def nothing(pipe, i, t, tensors):
    return tensors


# -- Stable Diffusion ------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", SOLVERS)
def test_every_solver(name):
    pipe = pipeline("StableDiffusionPipeline", SOLVERS[name])
    options = {"num_inference_steps": 4, "num_images_per_prompt": 2, "guidance_scale": 3.0}
    expected, actual, report = both(pipe, 4, prompt=PROMPTS, **options)
    assert_same(actual, expected)
    assert (report.path, report.why, report.num_dot) == ("whole loop", "", 0)
    assert report.num_dash == len(report.plan) == len(pipe.scheduler.timesteps)


@pytest.mark.parametrize("solver", ["dpm 2m", "ddpm"])
@pytest.mark.parametrize(
    ("call", "count"),
    [
        ({"prompt": "a", "guidance_scale": 1.0}, 1),
        ({"prompt": "a", "guidance_scale": 9.0, "negative_prompt": "b"}, 1),
        ({"prompt": PROMPTS, "seed": [3, 4]}, 2),
        ({"prompt": "a", "num_images_per_prompt": 2, "seed": [3, 4]}, 2),
        ({"prompt": "a", "height": 16, "width": 32}, 1),
        ({"prompt": "a", "guidance_rescale": 0.7}, 1),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_calls(solver, call, count):
    expected, actual, report = both(
        pipeline("StableDiffusionPipeline", SOLVERS[solver]), count, **call
    )
    assert_same(actual, expected)
    stepwise = "guidance_rescale" in call
    assert report.path == ("step by step" if stepwise else "whole loop")


@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_eta(eta):
    pipe = pipeline("StableDiffusionPipeline")
    expected, actual, _ = both(pipe, 1, prompt="a", eta=eta)
    assert_same(actual, expected)


@pytest.mark.parametrize(
    ("scheduler", "call"),
    [
        (EulerDiscreteScheduler(), {"timesteps": [900, 600, 300, 100]}),
        (DPMSolverMultistepScheduler(), {"timesteps": [900, 600, 300, 100]}),
        (EulerDiscreteScheduler(), {"sigmas": [12.0, 5.0, 1.0, 0.3]}),
        (DDPMScheduler(clip_sample=False), {"timesteps": [900, 600, 300, 100]}),
    ],
)
def test_custom_timesteps_and_sigmas(scheduler, call):
    pipe = pipeline("StableDiffusionPipeline", scheduler)
    expected, actual, report = both(pipe, 1, prompt="a", **call)
    assert_same(actual, expected)
    assert (report.path, len(report.plan)) == ("whole loop", len(pipe.scheduler.timesteps))


def test_images_not_latents():
    expected, actual, _ = both(
        pipeline("StableDiffusionPipeline"), 1, prompt="a", output_type="np", guidance_scale=3.0
    )
    assert actual.shape == (1, SIZE, SIZE, 3)
    assert_same(actual, expected)


def test_prompt_embeddings_and_latents_and_tuples():
    pipe = pipeline("StableDiffusionPipeline")
    embeds, negative = torch.randn(2, 2, 8, 8)
    call = {
        "prompt_embeds": embeds, "negative_prompt_embeds": negative, "output_type": "latent",
        "latents": torch.randn(2, 4, LATENT, LATENT), "num_inference_steps": 4,
        "return_dict": False,
    }  # fmt: skip
    expected = pipe(**call)[0]
    morse_engine.accelerate(pipe)
    assert_same(pipe(**call)[0], expected)


def test_half_precision():
    pipe = pipeline("StableDiffusionPipeline", SOLVERS["dpm 2m"])
    pipe.to(torch.bfloat16)
    expected, actual, report = both(pipe, 1, prompt="a")
    assert (actual.dtype, report.path) == (torch.bfloat16, "whole loop")
    assert_same(actual, expected, "pipelines/bfloat16")


def test_a_scheduler_without_a_table_makes_its_own_steps():
    pipe = pipeline("StableDiffusionPipeline", LMSDiscreteScheduler())
    expected, actual, report = both(pipe, 1, prompt="a")
    assert torch.equal(actual, expected)
    assert report.path == "step by step"
    assert report.solver is None
    assert "LMSDiscreteScheduler has no solver table" in report.why


class _Normed(DDIMScheduler):
    """What no probe can tell from DDIM: a factor that depends on the tensors."""

    def step(self, model_output, timestep, sample, **options):
        return super().step(model_output / model_output.std(), timestep, sample, **options)


class _Held(DDIMScheduler):
    """As people write it for a pipeline, which asks for a tuple."""

    def step(self, *args, return_dict=True, **options):
        made = super().step(*args, return_dict=return_dict, **options)
        return made if return_dict else (made[0].clamp(-0.5, 0.5), *made[1:])


class _Named(DDIMScheduler):
    """It changes nothing of a step."""

    def set_timesteps(self, *args, **options):
        super().set_timesteps(*args, **options)


@pytest.mark.parametrize("kind", [_Normed, _Held, _Named])
def test_a_scheduler_with_a_step_of_its_own_makes_it(kind):
    pipe = pipeline("StableDiffusionPipeline", kind())
    expected, actual, report = both(pipe, 1, prompt="a")
    assert_same(actual, expected)
    assert report.path == ("whole loop" if kind is _Named else "step by step")
    assert ("a step() of its own" in (report.why or "")) == (kind is not _Named)


# -- the other pipelines ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "scheduler", "call"),
    [
        ("DDPMPipeline", DDPMScheduler(), {}),
        ("DDPMPipeline", DDPMScheduler(variance_type="fixed_large"), {}),
        ("DDIMPipeline", DDIMScheduler(), {}),
        ("DDIMPipeline", DDIMScheduler(), {"eta": 1.0}),
    ],
)
def test_unconditional_pipelines(kind, scheduler, call):
    pipe = pipeline(kind, scheduler)
    expected, actual, report = both(pipe, 3, batch_size=3, output_type="np", **call)
    assert_same(actual, expected)
    assert report.path == "whole loop"


LCM = {"guidance_scale": 4.0, "num_inference_steps": 4}
# Its last step adds noise, and what the pipeline decodes is the clean estimate, not x.
LCM_CUT = {"guidance_scale": 4.0, "timesteps": [999, 759, 499, 259], "strength": 0.6}


@pytest.mark.parametrize(
    ("kind", "scheduler", "options", "call"),
    [
        ("StableDiffusionXLPipeline", EulerDiscreteScheduler(), {}, {"guidance_scale": 5.0}),
        ("StableDiffusionXLPipeline", UniPCMultistepScheduler(), {}, {"guidance_scale": 1.0}),
        ("StableDiffusionXLPipeline", LCMScheduler(), {"time_cond_proj_dim": 8}, LCM),
        ("StableDiffusionXLPipeline", None, {}, {"denoising_end": 0.5}),
        ("LatentConsistencyModelPipeline", LCMScheduler(), {}, LCM),
        ("LatentConsistencyModelImg2ImgPipeline", LCMScheduler(), {}, LCM | {"strength": 0.6}),
        ("LatentConsistencyModelImg2ImgPipeline", LCMScheduler(), {}, LCM_CUT),
    ],
)
def test_text_pipelines(kind, scheduler, options, call):
    if "Img2Img" in kind:
        call = call | {"image": picture()}
    pipe = pipeline(kind, scheduler, **options)
    expected, actual, report = both(pipe, 2, prompt=PROMPTS, **call)
    assert_same(actual, expected)
    assert report.path == "whole loop"


@pytest.mark.slow
@pytest.mark.parametrize(
    "scheduler", [DDIMScheduler(clip_sample=False), PNDMScheduler(skip_prk_steps=True),
                  SOLVERS["heun"], SOLVERS["dpm 2m sde"], SOLVERS["dpm single"]],
)  # fmt: skip
@pytest.mark.parametrize(
    "kind", ["StableDiffusionImg2ImgPipeline", "StableDiffusionXLImg2ImgPipeline"]
)
@pytest.mark.parametrize("strength", [1.0, 0.6])
def test_image_to_image(kind, scheduler, strength):
    pipe = pipeline(kind, scheduler)
    expected, actual, report = both(pipe, 1, prompt="a", image=picture(), strength=strength)
    assert_same(actual, expected)
    assert report.path == "whole loop"
    assert len(report.plan) < len(pipe.scheduler.timesteps) or strength == 1.0


def test_the_second_half_of_a_run_from_where_the_first_one_ended():
    call = {"prompt": "a", "denoising_start": 0.5, "image": torch.randn(1, 4, LATENT, LATENT)}
    call["num_inference_steps"] = 6
    pipe = pipeline("StableDiffusionXLImg2ImgPipeline", EulerDiscreteScheduler())
    expected, actual, report = both(pipe, 1, **call)
    assert_same(actual, expected)
    assert (report.path, len(report.plan)) == ("whole loop", 3)


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["pndm", "euler ancestral"])
@pytest.mark.parametrize("channels", [4, 9])
@pytest.mark.parametrize("strength", [1.0, 0.6])
@pytest.mark.parametrize(
    "kind", ["StableDiffusionInpaintPipeline", "StableDiffusionXLInpaintPipeline"]
)
def test_inpainting(kind, channels, solver, strength):
    pipe = pipeline(kind, SOLVERS[solver], in_channels=channels)
    call = {"prompt": "a", "height": SIZE, "width": SIZE, "strength": strength} | INPAINT
    expected, actual, report = both(pipe, 1, **call)
    assert_same(actual, expected)
    if channels == 9:
        assert report.path == "whole loop"
    else:
        assert "inpainting with a unet of 4 channels" in report.why


@pytest.mark.slow
@pytest.mark.parametrize("inputs", ["", "Img2Img", "Inpaint"])
@pytest.mark.parametrize("model", ["StableDiffusion", "StableDiffusionXL"])
def test_controlnet(model, inputs):
    pipe = pipeline(f"{model}ControlNet{inputs}Pipeline", UniPCMultistepScheduler())
    call = dict(CONTROL)
    if not inputs:
        call["image"] = call.pop("control_image")
    elif inputs == "Img2Img":
        call |= {"image": picture(1), "strength": 0.6}
    else:
        call |= INPAINT | {"strength": 0.6}
    expected, actual, report = both(pipe, 1, prompt="a", **call)
    assert_same(actual, expected)
    assert report.path == ("step by step" if inputs == "Inpaint" else "whole loop")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("nets", "call", "why"),
    [
        (2, {"controlnet_conditioning_scale": [0.3, 0.8]}, ""),
        (1, {"guidance_scale": 1.0}, ""),
        (1, {"guess_mode": True}, "guess_mode"),
        (1, {"control_guidance_end": 0.5}, "control_guidance_end=0.5"),
        (2, {"control_guidance_start": [0.0, 0.5]}, "control_guidance_start=[0.0, 0.5]"),
    ],
)
def test_options_of_controlnet(nets, call, why):
    pipe = pipeline("StableDiffusionControlNetPipeline", controlnets=nets)
    image = picture(2) if nets == 1 else [picture(2), picture(4)]
    expected, actual, report = both(pipe, 1, prompt="a", image=image, **call)
    assert_same(actual, expected)
    assert report.why == why
