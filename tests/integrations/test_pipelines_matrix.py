"""Every supported class with every argument that users combine, against diffusers' own loop.

Each set of arguments is given to each class, without those that the class does not take. What is
put around the unet (LoRA, FreeU, processors, hooks) goes with one of the sets.
"""

import inspect

import diffusers
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
)
from diffusers.models.attention_processor import AttnProcessor, IPAdapterAttnProcessor
from diffusers.models.embeddings import ImageProjection
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from peft import LoraConfig

import morse_engine
from morse_engine.integrations.pipelines import SUPPORTED
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

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
__all__ = ["one_thread"]  # a fixture of this file

TIMES = [901, 701, 401, 101]
SIGMAS = [12.0, 5.0, 1.0, 0.3]
IMAGE, IMAGES, PROMPTS = picture(1), [picture(1)[0]] * 2, ["a cat", "a dog"]
BASE = {"prompt": "a cat", "guidance_scale": 3.0, "num_inference_steps": 4}
BASE |= {"output_type": "latent", "height": SIZE, "width": SIZE, "image": IMAGE}
BASE |= {"mask_image": half_mask(), "control_image": picture(2)}


def damped(pipe, i, t, tensors):
    return {name: 0.9 * tensor for name, tensor in tensors.items()}


def looked_at(i, t, latents):
    assert latents.isfinite().all()


# Name -> (the scheduler, what is put around the unet, arguments, how many images).
SETS = {
    "several images": (
        DDIMScheduler(clip_sample=False),
        None,
        {"num_images_per_prompt": 2, "eta": 0.7, "negative_prompt": "b", "clip_skip": 1,
         "output_type": "np", "strength": 0.6, "controlnet_conditioning_scale": 0.7,
         "adapter_conditioning_scale": 0.7, "batch_size": 2, "pag_scale": 2.0},
        2,
    ),
    "timesteps": (
        EulerDiscreteScheduler(),
        "adapters",
        {"timesteps": TIMES, "strength": 0.8, "cross_attention_kwargs": {"scale": 0.5},
         "original_size": (8, 8), "target_size": (32, 32), "crops_coords_top_left": (2, 3),
         "aesthetic_score": 4.0, "guidance_scale": 1.0},
        1,
    ),
    "sigmas": (
        EulerDiscreteScheduler(),
        "image prompt",
        {"sigmas": SIGMAS, "strength": 0.8, "ip_adapter_image_embeds": [torch.randn(2, 1, 1, 8)],
         "guidance_rescale": 0.7, "control_guidance_start": 0.3, "noise_level": 7,
         "adapter_conditioning_factor": 0.5, "image_guidance_scale": 2.0},
        1,
    ),
    "a callback": (
        EulerAncestralDiscreteScheduler(),
        "hook behind",
        {"callback_on_step_end": damped, "callback": looked_at, "strength": 0.7,
         "guess_mode": True, "pag_adaptive_scale": 0.1, "pag_scale": 3.0},
        1,
    ),
    "embeddings": (
        EulerDiscreteScheduler(),
        "free u",
        {"prompt_embeds": torch.randn(1, 8, 8), "pooled_prompt_embeds": torch.randn(1, 8),
         "negative_prompt_embeds": torch.randn(1, 8, 8), "denoising_end": 0.5, "strength": 0.9,
         "negative_pooled_prompt_embeds": torch.randn(1, 8), "output_type": "pt"},
        1,
    ),
    "a list": (
        DDPMScheduler(clip_sample=False),
        "hook before",
        {"prompt": PROMPTS, "generator": [3, 4], "denoising_start": 0.4, "original_size": (9, 9),
         "callback_on_step_end": damped, "return_dict": False, "control_guidance_end": 0.6},
        2,
    ),
}  # fmt: skip


def around(unet, what):
    """Put it around the unet; how it is reset before a run."""
    if what == "adapters" and hasattr(unet, "attn_processors"):
        for name in "ab":
            lora = LoraConfig(r=2, target_modules=["to_q", "to_k"], init_lora_weights=False)
            unet.add_adapter(lora, adapter_name=name)
        unet.set_adapters(["a", "b"], [0.7, -0.3])
    elif what == "free u" and hasattr(unet, "enable_freeu"):
        unet.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
        unet.set_attn_processor(AttnProcessor())
    elif what == "image prompt" and hasattr(unet, "_load_ip_adapter_weights"):
        unet._load_ip_adapter_weights([image_prompt(unet)])
    elif what and "hook" in what:
        return hooked(unet)
    return lambda: None


def hooked(unet):
    """As DeepCache is: a forward on the object, which counts the steps and changes every second."""
    forward, made = unet.forward, []

    def instead(*args, return_dict=True, **kwargs):
        made.append(1)
        z = forward(*args, return_dict=False, **kwargs)[0] * (1.0 if len(made) % 2 else 0.8)
        return UNet2DConditionOutput(sample=z) if return_dict else (z,)

    unet.forward = instead
    return made.clear


def image_prompt(unet) -> dict:
    """Random weights of an IP adapter, by the names of its files."""
    torch.manual_seed(0)
    width, layers, i = unet.config.cross_attention_dim, {}, 1
    for name in unet.attn_processors:
        if name.endswith("attn2.processor"):
            inner = unet.get_submodule(name.removesuffix(".processor")).inner_dim
            state = IPAdapterAttnProcessor(inner, width).state_dict()
            layers |= {f"{i}.{k}.weight": state[f"{k}.0.weight"] for k in ("to_k_ip", "to_v_ip")}
            i += 2
    image = ImageProjection(width, width, num_image_text_embeds=4).state_dict()
    names = {"proj.weight": "image_embeds.weight", "proj.bias": "image_embeds.bias"}
    names |= {"norm.weight": "norm.weight", "norm.bias": "norm.bias"}
    return {
        "ip_adapter": layers,
        "image_proj": {name: image[own] for name, own in names.items()},
    }


def arguments(kind: str, given: dict) -> dict:
    """Those that the class takes, in a form that it accepts."""
    taken = inspect.signature(getattr(diffusers, kind).__call__).parameters
    call = {name: value for name, value in (BASE | given).items() if name in taken}
    if isinstance(given.get("prompt"), list) and "generator" in call:
        call["generator"] = [generator(seed) for seed in given["generator"]]
        if "batch_size" in taken:
            call["batch_size"] = 2
    else:
        call["generator"] = generator()
    if "prompt_embeds" in call:
        call.pop("prompt", None)
        call.pop("negative_prompt", None)
    if "timesteps" in call or "sigmas" in call:
        call.pop("num_inference_steps", None)
    if any(word in kind for word in ("InstructPix2Pix", "Depth2Img", "Upscale")):
        call.pop("height", None)
        call.pop("width", None)
    if "XL" not in kind:  # diffusers' own fails with transformers 5
        call.pop("clip_skip", None)
    if "PAG" in kind or "Union" in kind:  # diffusers' own fails
        call.pop("guess_mode", None)
    if kind == "StableDiffusionInstructPix2PixPipeline":  # likewise
        call.pop("ip_adapter_image_embeds", None)
    if kind == "StableDiffusionPAGInpaintPipeline":
        call.pop("guidance_rescale", None)
    several = isinstance(call["generator"], list)
    if "Upscale" in kind:
        call["image"] = IMAGE[..., :LATENT, :LATENT]
    if "InstructPix2Pix" in kind and "ip_adapter_image_embeds" in call:  # guides by three
        call["ip_adapter_image_embeds"] = [torch.randn(3, 1, 1, 8, generator=generator())]
    if "Depth2Img" in kind:
        call["depth_map"] = picture(2, 1)[0]
    if "Union" in kind:
        call |= {"control_image": [picture(2)], "control_mode": [1]}
    if "denoising_start" in call and "Inpaint" not in kind:
        call["image"] = torch.randn(1, 4, LATENT, LATENT, generator=generator(7))
    for name in ("image", "mask_image", "control_image", "depth_map"):
        if several and isinstance(call.get(name), torch.Tensor):
            call[name] = call[name].repeat(2, *[1] * (call[name].ndim - 1))
    if "LatentConsistency" in kind:
        call["original_inference_steps"] = 50
    return call


def first(out):
    """The images, however they are returned."""
    images = out[0] if isinstance(out, tuple) else out.images
    return torch.as_tensor(images)


@pytest.mark.parametrize("kind", SUPPORTED)
@pytest.mark.parametrize("name", SETS)
def test_dash_alone_is_the_pipeline(kind, name):
    scheduler, what, given, count = SETS[name]
    if "LatentConsistency" in kind:
        scheduler = LCMScheduler()
    if kind in ("DDPMPipeline", "DDIMPipeline"):  # which scale nothing
        scheduler = DDIMScheduler()
    pipe = pipeline(kind, scheduler)
    if what == "image prompt" and "ip_adapter_image_embeds" not in arguments(kind, given):
        what = None
    reset = around(pipe.unet, what)
    reset()
    with our_noise(pipe.scheduler, count):
        expected = first(pipe(**arguments(kind, given)))
    if what == "hook behind":
        del pipe.unet.forward
    accelerated = morse_engine.accelerate(pipe)
    if what == "hook behind":
        reset = around(pipe.unet, what)
    reset()
    assert_same(first(pipe(**arguments(kind, given))), expected)
    assert accelerated.report().num_dash > 0
