import copy

import pytest
import torch
from diffusers import DDPMScheduler

from models import randomised, tiny_unet, trajectory
from morse_engine import Dot, Refused, train_dot
from morse_engine.dot.free import extrapolate, reuse
from morse_engine.zoo import digits_scheduler
from tolerances import assert_close


def storages(module):
    return {p.data_ptr() for p in module.parameters()}


def test_an_untrained_dot_holds_the_clean_image():
    unet = tiny_unet()
    dot, (x, t, x_s, z_s, t_s, *of_p) = Dot(unet), trajectory(unet)
    held = dot.levels.miss(x, x_s, z_s, t.repeat(2), t_s.repeat(2))
    assert_close("levels", dot(x, t, x_s, z_s, t_s, *of_p), held)


def test_trunk_shares_storage_with_dash_and_is_frozen():
    unet = tiny_unet()
    dot = Dot(unet)
    trained = {p.data_ptr() for p in dot.trained_parameters().values()}
    shared = storages(dot) - trained
    inner = (unet.time_embedding, unet.down_blocks[2], unet.mid_block, unet.up_blocks[0].resnets)
    assert shared == set().union(*map(storages, inner)), (
        "the level below the first two, and nothing else"
    )
    assert all(p.requires_grad for p in unet.parameters()), "Dash itself must stay trainable"
    with torch.no_grad():
        unet.mid_block.resnets[0].conv1.weight.zero_()
    inner = dot.trunk.mid_block.resnets[0].conv1.get_base_layer().weight
    assert not inner.any(), "a weight changed in Dash must change in Dot"


def test_another_trunk_is_the_one_that_runs():
    unet = tiny_unet()
    dot, other = randomised(Dot(unet)), randomised(Dot(tiny_unet(seed=4)))
    inputs = trajectory(unet)
    before = dot(*inputs)
    dot.trunk = other.trunk
    assert not torch.equal(dot(*inputs), before)
    assert set(map(id, dot.trunk.parameters())) <= set(map(id, dot.parameters()))
    for copied in (copy.deepcopy(dot), dot.merged()):
        assert copied.inner.trunk is copied.trunk is not dot.trunk
        assert_close("lora_merge", copied(*inputs), dot(*inputs))


def test_every_trained_parameter_has_a_gradient():
    unet = tiny_unet()
    dot = randomised(Dot(unet, widths=(8, 12), lora_rank=2)).train()
    dot(*trajectory(unet)).square().mean().backward()
    dead = [n for n, p in dot.trained_parameters().items() if p.grad is None or not p.grad.any()]
    assert not dead


@pytest.mark.parametrize("position", range(7), ids=["x", "t", "x_s", "z_s", "t_s", "z_p", "t_p"])
def test_each_part_of_the_trajectory_matters(position):
    unet = tiny_unet()
    dot, inputs = randomised(Dot(unet)), list(trajectory(unet))
    before = dot(*inputs)
    inputs[position] = inputs[position] + 7
    assert (dot(*inputs) - before).abs().max() > 1e-3


def test_one_time_per_image_or_one_for_all():
    unet = tiny_unet()
    dot = randomised(Dot(unet))
    x, t, x_s, z_s, t_s, z_p, t_p = trajectory(unet)
    each = dot(x, t.repeat(2), x_s, z_s, t_s.repeat(2), z_p, t_p.repeat(2))
    assert_close("model_batch", each, dot(x, t, x_s, z_s, t_s, z_p, t_p))


def test_first_dash_step_and_two_at_one_time_have_no_trend():
    unet = tiny_unet()
    dot = randomised(Dot(unet))
    x, t, x_s, z_s, t_s, z_p, _ = trajectory(unet)
    none = dot(x, t, x_s, z_s, t_s, z_s, t_s)
    assert torch.isfinite(none).all()
    assert torch.equal(dot(x, t, x_s, z_s, t_s, z_p, t_s), none)


def test_the_trend_is_continued_to_twice_the_way_between_two_estimates():
    dot = Dot(tiny_unet())

    def slope(t):
        """Of the last thing that Dot looks at, the weights of z_s and of z_p."""
        x, x_s, z_s, z_p = dot.moments(t, 500, 600).look[0, 3].tolist()
        assert (x, x_s, z_p) == (0, 0, -z_s)
        return z_s

    assert [slope(t) for t in (500, 450, 300, 299, 0)] == [0, 0.5, 2, 2, 2]


def test_attention_and_more_levels_and_channels():
    unet = tiny_unet(
        in_channels=3,
        out_channels=3,
        sample_size=32,
        block_out_channels=(8, 8, 16),
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        add_attention=True,
        attention_head_dim=4,
        layers_per_block=2,
    )
    dot = randomised(Dot(unet, widths=(8, 8), lora_rank=2))
    assert dot(*trajectory(unet)).shape == (2, 3, 32, 32)


def test_merged_is_the_same_function_with_fewer_layers():
    unet = tiny_unet()
    dot = randomised(Dot(unet))
    merged = dot.merged()
    assert_close("lora_merge", merged(*trajectory(unet)), dot(*trajectory(unet)))
    assert not merged.trained_parameters()
    assert not any("lora" in name for name, _ in merged.named_modules())
    assert not storages(merged) & storages(unet), "merging must not write into Dash's weights"


def test_a_merged_dot_computes_what_depends_on_time_alone_before_its_steps():
    unet = tiny_unet()
    dot = randomised(Dot(unet)).merged()
    x, t, x_s, z_s, t_s, z_p, t_p = trajectory(unet)
    given = dot.given({})
    when = dot.when(dot.moments(t, t_s, t_p), given)

    def forbidden(layer, *_):
        raise AssertionError(f"{layer} in a step")

    linear = [m for m in dot.modules() if isinstance(m, torch.nn.Linear)]
    assert len(linear) > 5
    hooks = [layer.register_forward_hook(forbidden) for layer in linear]
    h = dot.features(x, x_s, z_s, z_p, when, given)
    for hook in hooks:
        hook.remove()
    assert h.isfinite().all()
    linear[0].register_forward_hook(forbidden)
    with pytest.raises(AssertionError):  # of what does compute it
        dot.when(dot.moments(t, t_s, t_p), given)


def test_merged_with_a_scale_and_shift_by_time_in_dash():
    unet = tiny_unet(resnet_time_scale_shift="scale_shift")
    dot = randomised(Dot(unet))
    assert dot.merged().trunk.projections is not None
    assert_close("lora_merge", dot.merged()(*trajectory(unet)), dot(*trajectory(unet)))


@pytest.mark.slow
def test_dash_is_bit_identical_after_a_dot_was_built_trained_and_merged(tmp_path):
    unet = tiny_unet()
    x, t = trajectory(unet)[:2]
    with torch.no_grad():
        before = unet(x, t).sample
    weights = {n: p.clone() for n, p in unet.state_dict().items()}
    images = 2 * torch.rand(8, 1, 16, 16) - 1
    dot = train_dot(
        Dot(unet), unet, images, DDPMScheduler(), tmp_path,
        schedulers=[digits_scheduler("ddim")], num_steps=3, batch_size=4, refresh_every=2,
        num_visits=64, progress=False,
    )  # fmt: skip
    dot.merged()
    assert dot(*trajectory(unet)).any(), "training must have changed the Dot"
    with torch.no_grad():
        assert torch.equal(unet(x, t).sample, before)
    assert all(torch.equal(p, weights[n]) for n, p in unet.state_dict().items())


# -- wrong input -----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2, 3, 16, 16), (2, 1, 16, 18), (2, 1, 10, 16)])
def test_wrong_size(shape):
    x = torch.zeros(shape)
    with pytest.raises(ValueError, match="multiples of 4"):
        Dot(tiny_unet())(x, 1, x, x, 2, x, 3)


def test_wrong_model():
    with pytest.raises(ValueError, match="not on a Linear"):
        Dot(torch.nn.Linear(1, 1))
    with pytest.raises(ValueError, match="widths"):
        Dot(tiny_unet(), widths=())
    with pytest.raises(ValueError, match="cut=3 for a UNet of 3 levels"):
        Dot(tiny_unet(), widths=(8, 8, 8))


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        (2, r"cut=2 for a UNet of 2 levels: 1 widths or fewer fit, such as widths=\(16,\); else"),
        (1, "cut=2 for a UNet of 1 levels: give cut=0"),
    ],
)
def test_widths_that_fit_are_named(levels, message):
    blocks = {"down_block_types": ("DownBlock2D",) * levels}
    blocks |= {"up_block_types": ("UpBlock2D",) * levels, "block_out_channels": (8,) * levels}
    unet = tiny_unet(**blocks)
    with pytest.raises(Refused, match=message):
        Dot(unet)
    Dot(unet, widths=(16,), cut=0)
    if levels == 2:
        Dot(unet, widths=(16,))


def test_a_type_that_no_dot_computes_in():
    with pytest.raises(Refused, match=r"in torch\.float64: .*unet\.float\(\) first"):
        Dot(tiny_unet().double())


def test_the_default_dtype_has_no_say():
    unet = tiny_unet()
    dot = randomised(Dot(unet))
    expected = dot(*trajectory(unet))
    torch.set_default_dtype(torch.float64)
    try:
        x, *rest = (v.float() if v.is_floating_point() else v for v in trajectory(unet))
        found = dot(x, *rest)
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.dtype == expected.dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": 16}, "widths=16"),
        ({"widths": "16"}, "widths='16'"),
        ({"widths": (16, 0)}, "a width=0"),
        ({"widths": (16, 32.0)}, r"a width=32\.0"),
        ({"widths": (10**9, 10**9)}, "from 1 to 2048"),
        ({"widths": (8,) * 9}, "give 1 to 8 integers"),
        ({"lora_rank": -1}, "lora_rank=-1"),
        ({"lora_rank": "1"}, "lora_rank='1'"),
        ({"lora_rank": True}, "lora_rank=True"),
        ({"cut": 1.0}, r"cut=1\.0"),
        ({"guided": 1}, "guided=1"),
        ({"noise_scheduler": 5}, "int is not a noise schedule"),
        ({"noise_scheduler": DDPMScheduler}, "not a noise schedule"),
        ({"noise_scheduler": DDPMScheduler(beta_end=2)}, "are no noise levels"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(Refused, match=message):
        Dot(tiny_unet(), **options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: None}, "x is None"),
        ({0: torch.zeros(16, 16)}, "pass floats"),
        ({0: torch.zeros(2, 1, 16, 16, dtype=torch.long)}, "pass floats"),
        ({2: torch.zeros(1, 1, 16, 16)}, r"x_s has shape \(1, 1, 16, 16\)"),
        ({3: torch.zeros(2, 1, 8, 8)}, "z_[sp] has shape"),
        ({5: [1]}, "z_p is a list"),
        ({1: None}, "timestep=None"),
        ({1: float("nan")}, "timestep=nan"),
        ({4: torch.tensor(float("nan"))}, r"timestep_s=.*finite"),
        ({4: torch.tensor([1, 2, 3])}, "3 times for 2 images"),
        ({6: "800"}, "timestep_p='800'"),
        ({6: torch.tensor(True)}, "timestep_p is"),
    ],
)
def test_wrong_trajectories(change, message):
    unet = tiny_unet()
    inputs = list(trajectory(unet))
    for place, value in change.items():
        inputs[place] = value
    images = change.keys() <= {0, 2}  # which those without training do not look at
    for dot in (Dot(unet), *(() if images else (reuse, extrapolate))):
        with pytest.raises(Refused, match=message):
            dot(*inputs)


def test_unknown_conditioning():
    unet = tiny_unet()
    with pytest.raises(ValueError, match="takes no conditioning"):
        Dot(unet)(*trajectory(unet), class_labels=torch.zeros(2))
