"""Free steps within a call of an accelerated pipeline, in both of its ways, and their range."""

import json

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    LCMScheduler,
    LMSDiscreteScheduler,
)

import morse_engine
from models import randomised
from morse_engine import Dot, Plan, SolverTable
from morse_engine.integrations.latents import range_of
from morse_engine.sampling.free import NO_RANGE
from morse_engine.sampling.loop import sample
from pipelines import assert_same, generator, half_mask, one_thread, picture
from pipelines import shallow as pipeline

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # what diffusers deprecates
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # what NumPy deprecates in it
]
__all__ = ["one_thread"]  # a fixture of this file

CALL = {"prompt": ["a cat", "a dog"], "guidance_scale": 3.0, "output_type": "latent"}
FREE = "-:-::-:"


def nothing(pipe, i, t, tensors):
    return tensors


@pytest.mark.parametrize("callback", [None, nothing], ids=["whole", "steps"])
@torch.no_grad()
def test_a_plan_is_the_loop_of_the_specification(callback):
    """With guidance the line is that of the guided estimate."""
    pipe = pipeline("StableDiffusionPipeline", DPMSolverMultistepScheduler())
    table = SolverTable.from_scheduler(pipe.scheduler, len(FREE)).with_range(((-1,), (2,)))
    embeds, negative = pipe.encode_prompt(CALL["prompt"], "cpu", 1, True)
    cond = {"encoder_hidden_states": torch.cat([negative, embeds])}
    x = torch.randn(2, 4, 8, 8, generator=generator())
    dash = lambda x, t, **cond: pipe.unet(x, t, **cond).sample  # noqa: E731
    expected = sample(dash, None, Plan(FREE), table, x, [0, 0], cond, 3.0)
    accelerated = morse_engine.accelerate(pipe, plan=FREE, clean_range=(-1, 2))
    actual = pipe(generator=generator(), callback_on_step_end=callback, **CALL).images
    assert_same(actual, expected, "pipelines/free")
    report = accelerated.report()
    assert (report.num_dash, report.num_dot, report.num_free) == (3, 0, 4)
    assert f"{FREE}   (made: 3 Dash, 0 Dot, 4 free)" in str(report)
    assert report.path == ("step by step" if callback else "whole loop")


MIXED = "-.:-:.-.:"
CASES = [
    ("StableDiffusionPipeline", EulerAncestralDiscreteScheduler(), False, {}),
    ("StableDiffusionPipeline", DDIMScheduler(timestep_spacing="trailing"), True, {}),
    ("LatentConsistencyModelPipeline", LCMScheduler(), False, {}),
    ("StableDiffusionImg2ImgPipeline", None, False, {"image": picture(), "strength": 0.7}),
    ("StableDiffusionControlNetPipeline", None, False, {"image": picture(2)}),
]


@pytest.mark.slow
@pytest.mark.parametrize("with_dot", [False, True])
@pytest.mark.parametrize(("kind", "scheduler", "guided", "call"), CASES)
def test_whole_and_step_by_step_are_one(kind, scheduler, guided, call, with_dot):
    """The whole loop is the engine's, the other one this package's: each checks the other."""
    pipe = pipeline(kind, scheduler)
    dot = Dot(pipe.unet, pipe.scheduler, widths=(8, 8), guided=guided) if with_dot else None
    dot = dot and randomised(dot)
    plan = MIXED if with_dot else FREE
    accelerated = morse_engine.accelerate(pipe, dot, plan=plan, clean_range=(-2, 2))
    call = CALL | call
    whole = pipe(generator=generator(), **call).images
    first = accelerated.report()
    assert first.path == "whole loop"
    steps = pipe(generator=generator(), callback_on_step_end=nothing, **call).images
    second = accelerated.report()
    assert second.path == "step by step"
    counts = [(r.num_dash, r.num_dot, r.num_free) for r in (first, second)]
    assert counts[0] == counts[1]
    assert counts[0][2] > 0
    assert sum(counts[0]) == len(first.plan)
    assert_same(steps, whole, "pipelines/free")


@torch.no_grad()
def test_pixels_stay_in_the_range_of_the_scheduler():
    pipe = pipeline("DDPMPipeline", DDPMScheduler(clip_sample_range=0.5))
    table = SolverTable.from_scheduler(pipe.scheduler, len(FREE))
    x, gen = torch.randn(2, 1, 16, 16, generator=generator()), generator()
    torch.randn(2, 1, 16, 16, generator=gen)
    seeds = torch.randint(2**63 - 1, (2,), generator=gen).tolist()
    dash = lambda x, t: pipe.unet(x, t).sample  # noqa: E731
    expected = sample(dash, None, Plan(FREE), table, x, seeds)
    morse_engine.accelerate(pipe, plan=FREE)
    actual = pipe(batch_size=2, generator=generator(), output_type="np").images
    assert_same(actual, (expected / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1))


@pytest.mark.parametrize("callback", [None, nothing], ids=["whole", "steps"])
def test_controlnet_and_unet_are_not_asked(callback):
    pipe, made = pipeline("StableDiffusionControlNetPipeline"), []
    pipe.controlnet.register_forward_hook(lambda *_: made.append("control"))
    pipe.unet.register_forward_hook(lambda *_: made.append("-"))
    morse_engine.accelerate(pipe, plan="-::-")
    pipe(image=picture(2), callback_on_step_end=callback, **CALL)
    assert made == ["control", "-"] * 2


@pytest.mark.parametrize("callback", [None, nothing], ids=["whole", "steps"])
def test_strength_leaves_the_end_of_the_plan(callback):
    """It begins with a Dash step, and so does the line."""
    pipe = pipeline("StableDiffusionImg2ImgPipeline")
    accelerated = morse_engine.accelerate(pipe, plan="-::-:::-:")
    pipe(image=picture(), strength=0.5, callback_on_step_end=callback, **CALL)
    report = accelerated.report()
    assert str(report.plan) == "-:-:", "the last four, the first of them made by Dash"
    assert (report.num_dash, report.num_free) == (2, 2)


def test_inpainting_goes_on_from_what_was_mixed_in():
    """A unet of four channels: the pipeline puts the image back after each step."""
    pipe = pipeline("StableDiffusionInpaintPipeline")
    accelerated = morse_engine.accelerate(pipe, plan=FREE)
    call = CALL | {"prompt": "a cat", "image": picture(), "mask_image": half_mask()}
    out = pipe(generator=generator(), **call).images
    assert torch.isfinite(out).all()
    assert (accelerated.report().path, accelerated.report().num_free) == ("step by step", 4)


def test_a_callback_that_ends_guidance_does_not_end_the_line():
    pipe = pipeline("StableDiffusionPipeline")

    def end_guidance(pipe, i, t, tensors):
        if i == 3:
            pipe._guidance_scale = 0.0
            tensors["prompt_embeds"] = tensors["prompt_embeds"].chunk(2)[1]
        return tensors

    accelerated = morse_engine.accelerate(pipe, plan="-:-:::-:")
    call = {"callback_on_step_end_tensor_inputs": ["latents", "prompt_embeds"], **CALL}
    pipe(callback_on_step_end=end_guidance, **call)
    report = accelerated.report()
    assert (report.num_dash, report.num_free, report.notes) == (3, 5, [])


def test_interruption_keeps_the_free_steps_made_with_a_call():
    pipe = pipeline("StableDiffusionPipeline")
    accelerated = morse_engine.accelerate(pipe, plan="-:-::-:")
    count = iter(range(9))

    def hook(*_):
        if next(count) == 1:
            pipe._interrupt = True

    with pipe.unet.register_forward_hook(hook):
        stopped = pipe(generator=generator(), **CALL).images
    report = accelerated.report()
    assert (report.num_dash, report.num_free) == (2, 3)
    full = pipe(generator=generator(), **CALL).images
    assert not torch.equal(full, stopped)
    latents = []
    keep = lambda p, i, t, tensors: latents.append(tensors["latents"]) or tensors  # noqa: E731
    pipe(generator=generator(), callback_on_step_end=keep, **CALL)
    assert_same(stopped, latents[4])


# -- the range -----------------------------------------------------------------------------------


def saved(pipe, folder, told):
    """The pipeline with its VAE loaded from a folder that also has a latents.json."""
    pipe.vae.save_pretrained(folder)
    (folder / "latents.json").write_text(told if isinstance(told, str) else json.dumps(told))
    pipe.vae = AutoencoderKL.from_pretrained(folder, low_cpu_mem_usage=False)
    return pipe


def test_latents_stay_in_the_range_beside_the_vae(tmp_path):
    told = {"low": [-0.1, -0.2, -0.3, -0.4], "high": [0.1, 0.2, 0.3, 0.4]}

    def latents(pipe, callback=None, **options):
        morse_engine.accelerate(pipe, plan=FREE, **options)
        return pipe(generator=generator(), callback_on_step_end=callback, **CALL).images

    kind = "StableDiffusionPipeline"
    known = saved(pipeline(kind), tmp_path, told)
    assert range_of(known) == (tuple(told["low"]), tuple(told["high"]))
    given = latents(pipeline(kind), clean_range=(told["low"], told["high"]))
    assert_same(latents(known), given)
    morse_engine.restore(known)
    assert_same(latents(known, nothing), given)
    free = latents(pipeline(kind))
    assert not torch.allclose(free, given, atol=0.1)
    morse_engine.restore(known)
    wide = latents(known, clean_range=(-1e9, 1e9))
    assert_same(wide, free)  # the one given, before that of the file
    kind = "LatentConsistencyModelPipeline"  # whose scheduler clips, which says more
    clips = LCMScheduler(clip_sample=True)
    ours = latents(saved(pipeline(kind, clips), tmp_path, told))
    assert_same(ours, latents(pipeline(kind, clips)))


def test_where_no_range_is_known():
    assert range_of(pipeline("DDPMPipeline")) == NO_RANGE
    assert range_of(pipeline("StableDiffusionPipeline")) == NO_RANGE


@pytest.mark.parametrize("told", ["no json", {"low": [1.0]}, {"low": [1.0], "high": [0.0]}, []])
def test_a_wrong_file(told, tmp_path):
    with pytest.raises(ValueError, match=r"latents\.json: not the range of latents"):
        morse_engine.accelerate(saved(pipeline("StableDiffusionPipeline"), tmp_path, told))


# -- what is refused -----------------------------------------------------------------------------


def test_no_table_no_free_steps():
    pipe = pipeline("StableDiffusionPipeline", LMSDiscreteScheduler())
    morse_engine.accelerate(pipe, plan="-:-:")
    with pytest.raises(
        ValueError, match=r"which this call has not \(LMSDiscreteScheduler has no solver table"
    ):
        pipe(**CALL)
    with pytest.raises(ValueError, match="first step has to be a Dash"):
        morse_engine.accelerate(pipeline("StableDiffusionPipeline"), plan=":-")


def test_wrong_ranges():
    pipe = pipeline("StableDiffusionPipeline")
    with pytest.raises(ValueError, match="clean_range="):
        morse_engine.accelerate(pipe, plan="-:", clean_range=(1, 1))
    morse_engine.accelerate(pipe, plan="-:", clean_range=([-1, -1], [1, 1]))
    with pytest.raises(ValueError, match="2 channels, the images have 4"):
        pipe(**CALL)


def test_without_a_plan_the_images_are_the_pipelines():
    """Free steps are never made unasked."""
    pipe = pipeline("StableDiffusionPipeline")
    expected = pipe(generator=generator(), num_inference_steps=4, **CALL).images
    accelerated = morse_engine.accelerate(pipe)
    assert_same(pipe(generator=generator(), num_inference_steps=4, **CALL).images, expected)
    assert accelerated.report().num_free == 0
