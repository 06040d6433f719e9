"""A merged Dot computes the same as the one it was made from, with fewer launches."""

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor

from models import SDXL, randomised, text_cond, tiny_text_unet, tiny_unet, trajectory
from morse_engine import Dot
from morse_engine.dot.attention import PixelAttention, Transformer
from morse_engine.dot.layout import CHANNELS_LAST, CONTIGUOUS, layout_of
from morse_engine.dot.resnet import Resnet
from tolerances import assert_close

MASKS = {
    "attention_mask": torch.ones(2, 16),  # of the 4 x 4 pixels of the middle block
    "encoder_attention_mask": torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]),
}
ATTENTION = {
    "block_out_channels": (8, 8, 16),
    "down_block_types": ("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    "add_attention": True,
    "attention_head_dim": 4,
    "sample_size": 32,
}


def count(module, kind):
    return sum(isinstance(m, kind) for m in module.modules())


def merged(unet, cond=None, **options):
    """A merged Dot, after it was compared with the one it was made from."""
    dot = randomised(Dot(unet, **{"widths": (8, 8)} | options))
    made, inputs, cond = dot.merged(), trajectory(unet), cond or {}
    with torch.no_grad():
        assert_close("private trunk", made(*inputs, **cond), dot(*inputs, **cond))
    return made


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("options", "cond"),
    [({}, {}), ({}, MASKS), (SDXL, {}), ({"time_cond_proj_dim": 6}, {"timestep_cond": 1})],
    ids=["text", "masks", "sdxl", "lcm"],
)
def test_text(options, cond, layout):
    unet = tiny_text_unet(**options).to(memory_format=layout)
    given = text_cond(2, sdxl=options is SDXL) | cond
    if "timestep_cond" in given:
        given["timestep_cond"] = torch.ones(2, 6)
    cut = 2 if cond is MASKS else 0  # a mask of pixels fits one level: the middle block alone
    dot = merged(unet, given, cut=cut)
    assert count(dot, Transformer) == (1 if cut else 7)
    assert dot.trunk.of_text.out_features == 2 * (16 if cut else 6 * 8 + 16)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_pixels(layout):
    unet = tiny_unet(**ATTENTION).to(memory_format=layout)
    dot = merged(unet)
    assert count(dot, PixelAttention) == 4
    assert count(dot, Resnet) == 5
    assert dot.trunk.of_text is None


@pytest.mark.parametrize(
    ("kind", "resnets"), [("attention", 5), ("scale", 3), ("time", 0), ("processor", 11)]
)
def test_what_is_of_another_kind_stays_as_it_is(kind, resnets):
    if kind == "processor":
        unet = tiny_text_unet()
        unet.set_attn_processor(AttnProcessor())
        dot = merged(unet, text_cond(2), cut=0)
    else:
        options = {
            "attention": {},
            "scale": {"mid_block_scale_factor": 1.5},
            "time": {"resnet_time_scale_shift": "scale_shift"},
        }[kind]
        unet = tiny_unet(**ATTENTION | options)
        if kind == "attention":
            unet.mid_block.attentions[0].set_processor(AttnProcessor())
        dot = merged(unet)
    assert count(dot, Resnet) == resnets
    assert count(dot, (Transformer, PixelAttention)) == 0


def test_nothing_of_time_and_text_alone_is_computed_in_a_step():
    unet = tiny_text_unet(**SDXL)
    dot = randomised(Dot(unet, widths=(8, 8))).merged()
    given = dot.given(text_cond(2, sdxl=True))
    x, t, x_s, z_s, t_s, z_p, t_p = trajectory(unet)
    times = [torch.stack((first, first + 3)) for first in (t, t_s, t_p)]
    run = dot.when(dot.moments(*times), given, of_a_run=True)
    step = run.unpack(run.pack()[:1])

    def forbidden(layer, *_):
        raise AssertionError(f"{layer} in a step")

    trunk, once = dot.trunk, []
    for module in (trunk.of_text, trunk.projections, trunk.time_embedding, trunk.add_embedding):
        once.append(module.register_forward_hook(forbidden))
    h = dot.features(x, x_s, z_s, z_p, step, given)
    for hook in once:
        hook.remove()
    when = dot.when(dot.moments(t, t_s, t_p), given)
    assert_close("private trunk", h, dot.features(x, x_s, z_s, z_p, when, given))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_layout_is_dashs_and_what_is_shared_stays_shared(layout):
    unet = tiny_unet(block_out_channels=(8, 8, 16)).to(memory_format=layout)
    dot = Dot(unet)
    shared = {p.data_ptr() for p in unet.parameters()} & {p.data_ptr() for p in dot.parameters()}
    strides = [p.stride() for p in unet.parameters()]
    made = dot.merged()
    assert layout_of(made.down) == layout_of(made.up) == layout_of(made.trunk) == layout_of(unet)
    last = layout == torch.channels_last
    assert layout_of(unet) == (CHANNELS_LAST if last else CONTIGUOUS)
    if last:
        weights = [p for p in made.parameters() if p.ndim == 4]
        assert all(p.is_contiguous(memory_format=layout) for p in weights)
    assert len(shared) > 20
    assert shared < {p.data_ptr() for p in dot.parameters()}, "Dash's weights are not there twice"
    assert shared < {p.data_ptr() for p in unet.parameters()}
    assert strides == [p.stride() for p in unet.parameters()]


@pytest.mark.gpu
def test_half_precision_on_a_gpu_is_channels_last():
    unet = tiny_unet().half().cuda()
    assert layout_of(Dot(unet).merged()) == CHANNELS_LAST
    assert layout_of(unet) == CONTIGUOUS
