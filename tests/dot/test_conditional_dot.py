"""Dot of models with conditions: text, classes, SDXL's added ones, LCM's guidance embedding."""

from contextlib import nullcontext

import pytest
import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler

import morse_engine
from models import SDXL, randomised, text_cond, tiny_text_unet, tiny_unet, trajectory
from morse_engine import Dot, kernels
from morse_engine.dot.fingerprint import fingerprint
from tolerances import assert_close

TEXT = {
    "text": (tiny_text_unet, {}, {}),
    "sdxl": (tiny_text_unet, SDXL, {"sdxl": True}),
    "text embedding": (tiny_text_unet, {"addition_embed_type": "text"}, {}),
}


def model(name):
    make, options, of_cond = TEXT[name]
    if name == "text embedding":
        options = options | {"encoder_hid_dim": 8, "addition_embed_type_num_heads": 2}
    return make(**options), of_cond


@pytest.mark.slow
@pytest.mark.parametrize("name", TEXT)
@pytest.mark.parametrize("cut", [0, 1, 2])
def test_every_part_of_the_condition_matters(name, cut):
    unet, options = model(name)
    dot = randomised(Dot(unet, widths=(8, 8), cut=cut))
    inputs, cond = trajectory(unet), text_cond(2, **options)
    before = dot(*inputs, **cond)
    assert before.shape == (2, 4, 16, 16)
    leaves = [("encoder_hidden_states",)]
    if "added_cond_kwargs" in cond:
        leaves += [("added_cond_kwargs", key) for key in cond["added_cond_kwargs"]]
    for path in leaves:
        if path == ("encoder_hidden_states",) and cut == 2 and name != "text embedding":
            # the last level of this model attends to nothing; its middle block does
            assert unet.mid_block.has_cross_attention
        changed = text_cond(2, **options)
        holder = changed
        for key in path[:-1]:
            holder = holder[key]
        holder[path[-1]] = holder[path[-1]] + 1
        assert (dot(*inputs, **changed) - before).abs().max() > 1e-5, path


def test_the_image_of_a_prompt_does_not_depend_on_the_batch():
    unet = tiny_text_unet(**SDXL)
    dot = randomised(Dot(unet))
    inputs, cond = trajectory(unet), text_cond(2, sdxl=True)
    both = dot(*inputs, **cond)
    for i in range(2):
        rows = slice(i, i + 1)
        alone = [v[rows] if v.ndim else v for v in inputs]
        added = {key: value[rows] for key, value in cond["added_cond_kwargs"].items()}
        one = dot(
            *alone, encoder_hidden_states=cond["encoder_hidden_states"][rows],
            added_cond_kwargs=added,
        )  # fmt: skip
        assert_close("model_batch", one, both[rows])


def test_classes():
    unet = tiny_unet(num_class_embeds=4)
    dot = randomised(Dot(unet))
    inputs = trajectory(unet)
    first = dot(*inputs, class_labels=torch.tensor([0, 1]))
    second = dot(*inputs, class_labels=torch.tensor([0, 2]))
    assert torch.equal(first[0], second[0])
    assert (first[1] - second[1]).abs().max() > 1e-5
    with pytest.raises(ValueError, match="needs class_labels"):
        dot(*inputs)


def test_guidance_embedding_of_lcm():
    unet = tiny_text_unet(time_cond_proj_dim=6)
    dot = randomised(Dot(unet))
    inputs, cond = trajectory(unet), text_cond(2)
    plain = dot(*inputs, **cond)
    assert (dot(*inputs, **cond, timestep_cond=torch.ones(2, 6)) - plain).abs().max() > 1e-5


def test_masks_and_what_a_dot_passes_over():
    unet = tiny_text_unet()
    dot = randomised(Dot(unet))
    inputs, cond = trajectory(unet), text_cond(2)
    plain = dot(*inputs, **cond)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    masked = dot(*inputs, **cond, encoder_attention_mask=mask)
    assert_close("model_batch", masked[1], plain[1])
    cond["encoder_hidden_states"][0, 3:] = 7.0
    assert_close("model_batch", dot(*inputs, **cond, encoder_attention_mask=mask), masked)
    cond = text_cond(2)
    controlled = dot(
        *inputs,
        **cond,
        mid_block_additional_residual=torch.ones(2, 16, 4, 4),
        down_block_additional_residuals=(),
        cross_attention_kwargs={"scale": 0.5},
        return_dict=False,
    )
    assert torch.equal(controlled, plain)


@pytest.mark.slow
def test_what_is_missing_or_unknown():
    unet = tiny_text_unet()
    dot = Dot(unet)
    with pytest.raises(ValueError, match="needs encoder_hidden_states"):
        dot(*trajectory(unet))
    with pytest.raises(ValueError, match="takes no prompt"):
        dot(*trajectory(unet), prompt="a dog")
    with pytest.raises(ValueError, match="takes no guidance_scale"):
        dot(*trajectory(unet), guidance_scale=3.0, **text_cond(2))
    with pytest.raises(ValueError, match="needs guidance_scale"):
        Dot(unet, guided=True)(*trajectory(unet), **text_cond(2))
    with pytest.raises(ValueError, match=r"9 input and 4 output"):
        Dot(tiny_text_unet(in_channels=9))
    with pytest.raises(ValueError, match=r"cut=3 for a UNet of 3 levels: give cut=0 to 2"):
        Dot(unet, cut=3)
    bad = tiny_text_unet()
    bad.register_to_config(addition_embed_type="image_hint")
    with pytest.raises(ValueError, match="addition_embed_type='image_hint'"):
        Dot(bad)


def test_guided_dot_knows_the_scale():
    unet = tiny_text_unet()
    dot = randomised(Dot(unet, guided=True))
    inputs, cond = trajectory(unet), text_cond(2)
    low, high = (dot(*inputs, guidance_scale=scale, **cond) for scale in (3.0, 7.5))
    assert (low - high).abs().max() > 1e-4
    each = dot(*inputs, guidance_scale=torch.tensor([3.0, 7.5]), **cond)
    assert_close("model_batch", each, torch.stack([low[0], high[1]]))


@pytest.mark.slow
@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("sdxl", [False, True])
def test_fused_steps_are_the_specification(guided, sdxl):
    # Outputs are v, so that x_0 = alpha x - sigma v. For noise x_0 is divided by alpha, 0.006 at
    # the first step. The output of a random model is not the noise in x, so nothing cancels: x
    # reaches 900, and its float32 rounding, which depends on the number of threads, the tolerance.
    v = {"prediction_type": "v_prediction"}
    unet = tiny_text_unet(**(SDXL if sdxl else {}))
    dot = randomised(Dot(unet, DDPMScheduler(**v), widths=(8, 8), guided=guided))
    options = {"plan": "-.-.", "scheduler": DPMSolverMultistepScheduler(**v)}
    eager, host = (
        morse_engine.compile(unet, dot, backend=name, **options) for name in ("eager", "host")
    )
    call = {"batch_size": 2, "seed": 3, "guidance_scale": 3.0, **text_cond(4, sdxl=sdxl)}
    expected = eager(**call)
    with kernels.interpreter() if not torch.cuda.is_available() else nullcontext():
        assert_close("steps", host(**call), expected)
        host(**call | text_cond(4, sdxl=sdxl, seed=6))
        assert_close("steps", host(**call), expected)
        if guided:
            with pytest.raises(ValueError, match="needs guidance_scale"):
                host(batch_size=2, **text_cond(2, sdxl=sdxl))
        elif sdxl:
            plain = {"batch_size": 2, "seed": 3, **text_cond(2, sdxl=sdxl)}
            assert_close("steps", host(**plain), eager(**plain))


def test_a_guided_dot_is_measured_by_every_backend():
    unet = tiny_text_unet()
    dot = Dot(unet, guided=True)
    for backend in ("eager", "host"):
        sampler = morse_engine.compile(unet, dot, plan="-.", backend=backend)
        assert sampler.measure(batch_size=1, guidance_scale=3.0, **text_cond(2)).dot_speed > 0


@pytest.mark.slow
def test_guided_dot_corrects_the_guided_estimate():
    """An untrained Dot holds the clean image, of each branch or of the guided estimate."""
    unet = tiny_text_unet()
    call = {"batch_size": 2, "seed": 3, "guidance_scale": 3.0, **text_cond(4)}
    runs = [
        morse_engine.compile(unet, Dot(unet, guided=guided), plan="-..-.", backend="eager")(**call)
        for guided in (False, True)
    ]
    assert_close("run_batch", *runs)


@pytest.mark.slow
def test_files(tmp_path):
    unet = tiny_text_unet(**SDXL)
    dot = randomised(Dot(unet, widths=(8, 12), lora_rank=2, cut=0, guided=True))
    dot.save_pretrained(tmp_path)
    again = Dot.from_pretrained(tmp_path, unet)
    assert (again.cut, again.guided, again.widths) == (0, True, (8, 12))
    call = {"guidance_scale": 4.0, **text_cond(2, sdxl=True)}
    assert torch.equal(again(*trajectory(unet), **call), dot(*trajectory(unet), **call))
    assert_close(
        "lora_merge", dot.merged()(*trajectory(unet), **call), dot(*trajectory(unet), **call)
    )


@pytest.mark.slow
def test_dash_with_a_lora_keeps_its_name_and_dot_warns(tmp_path):
    from peft import LoraConfig

    unet = tiny_text_unet()
    dot = randomised(Dot(unet))
    dot.save_pretrained(tmp_path)
    before, name = dot(*trajectory(unet), **text_cond(2)), fingerprint(unet)
    unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    assert fingerprint(unet) == name
    with pytest.warns(UserWarning, match="LoRA that its Dot was not trained with") as found:
        sampler = morse_engine.compile(unet, dot, plan="-.")
    assert found[0].filename == __file__, "the line of the caller"
    assert torch.isfinite(sampler(**text_cond(1))).all()
    again = Dot.from_pretrained(tmp_path, unet)
    assert torch.equal(again(*trajectory(unet), **text_cond(2)), before), "the trunk is the base's"
    unet.fuse_lora()
    with pytest.raises(ValueError, match="not merged"):
        morse_engine.compile(unet, dot, plan="-.")


def test_a_trunk_of_all_levels_is_smaller_per_pixel():
    """cut=0 is the paper's: every level of Dash, on 1 / 16 of the pixels."""
    unet = tiny_text_unet()
    whole, inner = (Dot(unet, widths=(8, 8), cut=cut) for cut in (0, 2))
    assert len(whole.trunk.down_blocks) == 3
    assert len(inner.trunk.down_blocks) == 1
    with pytest.raises(ValueError, match="multiples of 16"):
        whole(*[torch.zeros(1, 4, 24, 24), 1, *[torch.zeros(1, 4, 24, 24)] * 2, 2,
                torch.zeros(1, 4, 24, 24), 3], **text_cond(1))  # fmt: skip
