"""Pipelines whose model, guidance or conditions are less common than text, image and mask."""

import inspect

import diffusers
import pytest
from diffusers import EulerDiscreteScheduler

import morse_engine
from models import randomised
from morse_engine import Dot, Refused, Unavailable
from morse_engine.dot.free import extrapolate
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

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # what diffusers deprecates
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # what NumPy deprecates in it
]
__all__ = ["one_thread"]  # a fixture of this file

OF_THEIR_SIZE = ("InstructPix2Pix", "Depth2Img", "Upscale")  # that of the image
IMAGE = {"image": picture(1)}
INPAINT = {"image": picture(1), "mask_image": half_mask()}
CONTROL = {"control_image": picture(2), "controlnet_conditioning_scale": 0.7}
UNION = {"control_image": [picture(2)], "control_mode": [1]}
WHOLE, STEPS = "whole loop", "step by step"
KINDS = {
    "StableDiffusionDepth2ImgPipeline": (IMAGE | {"depth_map": picture(2, 1)[0]}, WHOLE),
    "StableDiffusionUpscalePipeline": ({"image": picture(1)[..., :LATENT, :LATENT]}, WHOLE),
    "StableDiffusionImageVariationPipeline": (IMAGE, WHOLE),
    "StableDiffusionAdapterPipeline": (IMAGE, WHOLE),
    "StableDiffusionXLAdapterPipeline": (IMAGE, WHOLE),
    "StableDiffusionXLControlNetUnionPipeline": (UNION, WHOLE),
    "StableDiffusionXLControlNetUnionImg2ImgPipeline": (IMAGE | UNION, WHOLE),
    "StableDiffusionXLControlNetUnionInpaintPipeline": (INPAINT | UNION, STEPS),
    "StableDiffusionInstructPix2PixPipeline": (IMAGE, STEPS),
    "StableDiffusionXLInstructPix2PixPipeline": (IMAGE, STEPS),
    "StableDiffusionPAGPipeline": ({}, STEPS),
    "StableDiffusionPAGImg2ImgPipeline": (IMAGE, STEPS),
    "StableDiffusionPAGInpaintPipeline": (INPAINT, STEPS),
    "StableDiffusionXLPAGPipeline": ({}, STEPS),
    "StableDiffusionXLPAGImg2ImgPipeline": (IMAGE, STEPS),
    "StableDiffusionXLPAGInpaintPipeline": (INPAINT, STEPS),
    "StableDiffusionControlNetPAGPipeline": (IMAGE, STEPS),
    "StableDiffusionControlNetPAGInpaintPipeline": (INPAINT | CONTROL, STEPS),
    "StableDiffusionXLControlNetPAGPipeline": (IMAGE, STEPS),
    "StableDiffusionXLControlNetPAGImg2ImgPipeline": (IMAGE | CONTROL, STEPS),
}


def arguments(pipe, **call):
    """Of a call: a prompt where it takes one, guidance, latents in the place of an image."""
    taken = inspect.signature(pipe.__call__).parameters
    words = {"prompt": "a cat", "guidance_scale": 3.0, "num_inference_steps": 4}
    words |= {"output_type": "latent", "height": SIZE, "width": SIZE}
    if any(word in type(pipe).__name__ for word in OF_THEIR_SIZE):
        words = {k: v for k, v in words.items() if k not in ("height", "width")}
    return {name: word for name, word in words.items() if name in taken} | call


def diffusers_own(pipe, call):
    with our_noise(pipe.scheduler, 1):
        return pipe(generator=generator(), **call).images


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_dash_alone_is_the_pipeline(kind):
    given, path = KINDS[kind]
    pipe = pipeline(kind)
    call = arguments(pipe, **given)
    expected = diffusers_own(pipe, call)
    accelerated = morse_engine.accelerate(pipe)
    assert_same(pipe(generator=generator(), **call).images, expected)
    assert accelerated.report().path == path
    morse_engine.restore(pipe)
    assert_same(diffusers_own(pipe, call), expected)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_another_solver_and_no_guidance(kind):
    """Euler scales what the model is given, whatever stands behind it in further channels."""
    pipe = pipeline(kind, EulerDiscreteScheduler(timestep_spacing="trailing"))
    call = arguments(pipe, **KINDS[kind][0]) | {"guidance_scale": 1.0}
    expected = diffusers_own(pipe, call)
    morse_engine.accelerate(pipe)
    assert_same(pipe(generator=generator(), **call).images, expected)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_dot_whole_and_step_by_step(kind):
    """A Dot of each branch, or the line in z where the unet is given more channels than it makes.

    Where the loop is whole, a callback leads through the other way.
    """
    given, path = KINDS[kind]
    pipe = pipeline(kind)
    same = pipe.unet.config.in_channels == pipe.unet.config.out_channels
    dot = randomised(Dot(pipe.unet, pipe.scheduler)) if same else extrapolate
    accelerated = morse_engine.accelerate(pipe, dot, plan="-.-.")
    call = arguments(pipe, **given)
    del call["num_inference_steps"]
    if "strength" in inspect.signature(pipe.__call__).parameters:
        call["strength"] = 1.0
    images = pipe(generator=generator(), **call).images
    report = accelerated.report()
    assert (report.num_dash, report.num_dot, report.notes) == (2, 2, [])
    if path == WHOLE and "callback" in inspect.signature(pipe.__call__).parameters:
        again = pipe(generator=generator(), callback=lambda *_: None, **call).images
        assert accelerated.report().path == STEPS
        assert_same(again, images)
    if path == WHOLE and "callback_on_step_end" in inspect.signature(pipe.__call__).parameters:
        nothing = lambda pipe, i, t, tensors: tensors  # noqa: E731
        again = pipe(generator=generator(), callback_on_step_end=nothing, **call).images
        assert accelerated.report().path == STEPS
        assert_same(again, images)


@pytest.mark.slow
def test_an_adapter_for_a_part_of_the_run():
    pipe = pipeline("StableDiffusionXLAdapterPipeline")
    call = arguments(pipe, adapter_conditioning_factor=0.5, **IMAGE)
    expected = diffusers_own(pipe, call)
    accelerated = morse_engine.accelerate(pipe)
    assert_same(pipe(generator=generator(), **call).images, expected)
    assert accelerated.report().why == "adapter_conditioning_factor=0.5"


@pytest.mark.slow
def test_pag_of_scale_zero_is_a_whole_loop():
    pipe = pipeline("StableDiffusionPAGPipeline")
    call = arguments(pipe, pag_scale=0.0)
    expected = diffusers_own(pipe, call)
    accelerated = morse_engine.accelerate(pipe)
    assert_same(pipe(generator=generator(), **call).images, expected)
    assert accelerated.report().path == WHOLE


@pytest.mark.slow
@pytest.mark.parametrize("pag_scale", [0.0, 2.0])
def test_a_guided_dot_knows_two_branches(pag_scale):
    pipe = pipeline("StableDiffusionPAGPipeline")
    dot = randomised(Dot(pipe.unet, pipe.scheduler, guided=True))
    accelerated = morse_engine.accelerate(pipe, dot, plan="-.-.")
    call = arguments(pipe, pag_scale=pag_scale)
    del call["num_inference_steps"]
    if pag_scale:
        with pytest.raises(Unavailable, match="3 samples for 1 images, a guided Dot knows"):
            pipe(generator=generator(), **call)
    else:
        assert pipe(generator=generator(), **call).images.isfinite().all()
        assert accelerated.report().num_dot == 2


def test_a_loop_of_another_kind_is_refused():
    pipe = pipeline("StableDiffusionPAGPipeline")
    pipe.__class__ = type("Own", (diffusers.DiffusionPipeline,), {"__call__": lambda self: None})
    with pytest.raises(Refused, match="Own cannot be accelerated"):
        morse_engine.accelerate(pipe)
