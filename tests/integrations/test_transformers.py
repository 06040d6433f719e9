"""Pipelines without a UNet: free steps by their scheduler alone, which `accelerate` names."""

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)

import morse_engine
from morse_engine import Plan, SolverTable
from morse_engine.evaluation import extrapolate, reuse
from morse_engine.integrations import levels
from morse_engine.integrations.scheduler import MorseScheduler
from morse_engine.sampling.loop import sample
from tolerances import assert_close


def vae():
    return AutoencoderKL(
        sample_size=16,
        block_out_channels=(4, 4),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=1,
        latent_channels=4,
        scaling_factor=1.5,
        shift_factor=0.1,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def sd3():
    """A tiny Stable Diffusion 3, and what it is asked."""
    transformer = SD3Transformer2DModel(
        sample_size=16,
        patch_size=1,
        in_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=32,
        caption_projection_dim=32,
        pooled_projection_dim=64,
        out_channels=4,
    )
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    made = StableDiffusion3Pipeline(transformer, scheduler, vae(), *[None] * 6)
    text, pooled = torch.randn(2, 1, 5, 32), torch.randn(2, 1, 64)
    call = {"prompt_embeds": text[0], "negative_prompt_embeds": text[1]}
    call |= {"pooled_prompt_embeds": pooled[0], "negative_pooled_prompt_embeds": pooled[1]}
    return made, call | {"height": 32, "width": 32}


def wan(scheduler):
    """A tiny Wan, which makes video, and what it is asked."""
    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=16,
        out_channels=16,
        text_dim=32,
        freq_dim=256,
        ffn_dim=32,
        num_layers=1,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=32,
    )
    frames = AutoencoderKLWan(
        base_dim=3,
        z_dim=16,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
    )
    made = WanPipeline(None, None, frames, scheduler, transformer)
    text = torch.randn(2, 1, 5, 32)
    call = {"prompt_embeds": text[0], "negative_prompt_embeds": text[1]}
    return made, call | {"height": 16, "width": 16, "num_frames": 9}


FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}
OTHERS = {
    "Stable Diffusion 3": sd3,
    "Wan": lambda: wan(FlowMatchEulerDiscreteScheduler(shift=7.0)),
    "Wan with UniPC": lambda: wan(UniPCMultistepScheduler(**FLOW)),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_families(name):
    """Dash alone is the pipeline; free steps need no more calls of the model."""
    torch.manual_seed(0)
    made, call = OTHERS[name]()
    made.set_progress_bar_config(disable=True)
    seen: list[int] = []
    made.transformer.register_forward_pre_hook(lambda *_: seen.append(1))

    def latents(plan=None):
        if plan is not None:
            kind = type(scheduler)
            made.scheduler = MorseScheduler(kind.from_config(scheduler.config), plan)
        generator = torch.Generator().manual_seed(1)
        return made(**call, num_inference_steps=4, generator=generator, output_type="latent")[0]

    scheduler, expected = made.scheduler, latents()
    assert torch.equal(latents("-"), expected)
    calls = len(seen) // 2
    with_free = latents("-:")
    assert len(seen) == 3 * calls
    assert with_free.shape == expected.shape
    assert 0 < (with_free - expected).square().mean().sqrt() < 0.3 * expected.std()


@pytest.fixture
def pipe():
    """A tiny Flux with random weights, whose prompts are embeddings."""
    torch.manual_seed(0)
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=8,
        pooled_projection_dim=8,
        axes_dims_rope=(2, 2, 4),
    )
    made = FluxPipeline(
        FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        *(vae(), None, None, None, None, transformer),
    )
    made.set_progress_bar_config(disable=True)
    return made


def drawn(pipe, steps, seen=None, **options):
    """Latents `[1, tokens, 16]` of a call."""
    generator = torch.Generator().manual_seed(1)
    embeds = torch.randn(1, 3, 8, generator=generator)
    pooled = torch.randn(1, 8, generator=generator)

    def count(*_):
        if seen is not None:
            seen.append(1)

    hook = pipe.transformer.register_forward_pre_hook(count)
    try:
        return pipe(
            prompt_embeds=embeds,
            pooled_prompt_embeds=pooled,
            num_inference_steps=steps,
            height=16,
            width=16,
            output_type="latent",
            generator=torch.Generator().manual_seed(2),
            **options,
        ).images
    finally:
        hook.remove()


def test_dash_alone_is_the_pipeline(pipe):
    expected = drawn(pipe, 4)
    pipe.scheduler = MorseScheduler(pipe.scheduler, "-")
    assert torch.equal(drawn(pipe, 4), expected)


@pytest.mark.parametrize("code", ["-:", "-::", "-.", "-:."])
def test_steps_between_those_of_the_model(pipe, code):
    """The model is asked at Dash steps alone; the images are those of the plan of all steps."""
    seen, dot = [], reuse if "." in code else None
    pipe.scheduler = MorseScheduler(pipe.scheduler, code, dot)
    ours = drawn(pipe, 3, seen)
    assert len(seen) == 3
    assert str(pipe.scheduler.plan) == code * 3
    # All steps, as the pipeline spaces and shifts so many of the model's own.
    even = np.linspace(1, 1 / (3 * len(code)), 3 * len(code))
    alone = MorseScheduler(FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), "-")
    whole, pipe.scheduler = pipe.scheduler.inner.sigmas, alone
    expected = drawn(pipe, len(even))
    torch.testing.assert_close(whole, alone.inner.sigmas)
    # Half of the model's calls make other latents, and near ones.
    far = (ours - expected).square().mean().sqrt()
    assert 0 < far < 0.2 * expected.std()


def test_the_steps_of_the_plan_written_out():
    """Against the eager loop with a table of the same noise levels."""
    plan, given = Plan("-::-:.-"), [1.0, 0.6, 0.2]
    scheduler = MorseScheduler(FlowMatchEulerDiscreteScheduler(shift=1.0), plan, extrapolate)
    scheduler.set_timesteps(sigmas=given, device="cpu")
    inner = FlowMatchEulerDiscreteScheduler(shift=1.0)
    inner.set_timesteps(sigmas=levels.of_steps(given, plan), device="cpu")
    torch.testing.assert_close(scheduler.inner.sigmas, inner.sigmas)
    table = SolverTable.of_prepared(inner)

    def model(x, t):
        return torch.tanh(0.5 * x + float(t) / 1000)

    for shape in ((2, 3, 4, 4), (2, 5, 6), (2, 3, 2, 4, 4)):  # images, tokens, video
        start = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        x = start
        scheduler.set_timesteps(sigmas=given, device="cpu")
        for t in scheduler.timesteps:
            x = scheduler.step(model(x, t), t, x, return_dict=False)[0]
        expected = sample(model, extrapolate, plan, table, start, [0, 1])
        assert_close("run_batch", x, expected)


def test_levels_between():
    plan = Plan("-:.-::-")
    found = levels.of_steps([1.0, 0.7, 0.1], plan)
    assert found == pytest.approx([1.0, 0.9, 0.8, 0.7, 0.5, 0.3, 0.1])
    assert levels.of_steps([0.6], Plan("-::")) == pytest.approx([0.6, 0.4, 0.2])
    n, many = 4, Plan("-:" * 4)
    even = levels.of_steps(np.linspace(1, 1 / n, n), many)
    assert even == pytest.approx(np.linspace(1, 1 / (2 * n), 2 * n))  # as the pipeline spaces 2 n


def test_schedulers_that_are_given_the_last_level():
    scheduler = MorseScheduler(
        UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction"), "-:"
    )
    scheduler.set_timesteps(4)
    assert len(scheduler.inner.timesteps) == 8
    from diffusers import EulerDiscreteScheduler

    euler = MorseScheduler(EulerDiscreteScheduler(), "-:")
    euler.set_timesteps(sigmas=[14.0, 3.0, 0.0])
    assert euler.inner.sigmas.tolist() == pytest.approx([14.0, 8.5, 3.0, 1.5, 0.0])
    assert euler.sigmas.tolist() == pytest.approx([14.0, 3.0, 0.0])


@pytest.mark.parametrize(
    ("sigmas", "number", "said"),
    [
        ([1.0, 0.5], 3, "sigmas has 2 noise levels for 3 Dash steps"),
        ([], None, "give a noise level for each Dash step"),
        ("x", None, "give a noise level for each Dash step"),
        ([1.0, float("nan")], None, "give a noise level for each Dash step"),
        (0.5, 1, "give a noise level for each Dash step"),
    ],
)
def test_wrong_levels(sigmas, number, said):
    scheduler = MorseScheduler(FlowMatchEulerDiscreteScheduler(), "-:")
    with pytest.raises(ValueError, match=said):
        scheduler.set_timesteps(number, sigmas=sigmas)


def test_a_scheduler_that_takes_no_levels():
    from diffusers import DDIMScheduler

    with pytest.raises(ValueError, match=r"DDIMScheduler cannot be set to 4 steps: .*sigmas"):
        MorseScheduler(DDIMScheduler(), "-:").set_timesteps(sigmas=[1.0, 0.5])
    with pytest.raises(ValueError, match="number of Dash steps, at least 1"):
        MorseScheduler(DDIMScheduler(), "-:").set_timesteps()


def test_accelerate_says_what_to_use_instead(pipe):
    with pytest.raises(
        ValueError, match=r"FluxPipeline .*MorseScheduler\(pipe.scheduler, \"-:\"\)"
    ):
        morse_engine.accelerate(pipe)
