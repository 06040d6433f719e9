"""A merged Dot remembers what it makes of the times, and no more than that."""

import pytest
import torch

from models import tiny_text_unet
from morse_engine import zoo
from morse_engine.dot import Dot, memo
from morse_engine.runtime.models import own_dtype


@pytest.fixture
def merged(monkeypatch):
    """A merged Dot with the moments that it was asked for in a list."""
    unet = zoo.digits_dash()
    dot = zoo.digits_dot(unet).merged()
    asked, moments = [], dot.moments

    def counted(*times):
        asked.append(times)
        return moments(*times)

    monkeypatch.setattr(dot, "moments", counted)
    return dot, asked


def step(dot, t=400, t_s=600, t_p=800, rows=1, **more):
    generator = torch.Generator().manual_seed(0)
    x, x_s, z_s, z_p = torch.randn((4, rows, 1, 32, 32), generator=generator)
    return dot(x, t, x_s, z_s, t_s, z_p, t_p, **more)


@torch.no_grad()
def test_the_same_bits_as_without_it(merged):
    dot, asked = merged
    first, second = step(dot), step(dot)
    assert len(asked) == 1
    dot.memo = None
    assert torch.equal(first, step(dot))
    assert torch.equal(second, first)


@torch.no_grad()
def test_each_time_is_its_own(merged):
    dot, asked = merged
    images = [step(dot, *times) for times in ((400, 600, 800), (300, 600, 800), (400, 500, 800))]
    images += [step(dot, 400, 600, 700), step(dot, torch.tensor(400), torch.tensor([600]), 800)]
    assert len(asked) == 5
    assert len({image.sum().item() for image in images}) == 4


@torch.no_grad()
def test_several_times_are_not_remembered(merged):
    dot, asked = merged
    times = torch.tensor([400, 300])
    for _ in range(2):
        both = step(dot, times, rows=2)
    assert len(asked) == 2
    assert torch.allclose(both[:1], step(dot, rows=2)[:1], atol=1e-5)


@pytest.mark.parametrize("layer", ["gains", "trajectory_embedding.0", "refine.act.linear"])
@torch.no_grad()
def test_a_changed_weight_is_noticed(merged, layer):
    dot, _ = merged
    before = step(dot)
    dot.get_submodule(layer).weight.mul_(1.5)
    after = step(dot)
    assert not torch.equal(before, after)
    dot.memo = None
    assert torch.equal(after, step(dot))


@pytest.mark.parametrize("layer", ["time_embedding.linear_1", "projections.1"])
@torch.no_grad()
def test_dashs_layers_of_time_are_among_the_weights(merged, layer):
    dot, _ = merged
    before = step(dot)
    dot.trunk.get_submodule(layer).weight.mul_(1.5)
    after = step(dot)
    dot.memo = None
    assert torch.equal(after, step(dot))
    assert not torch.equal(before, after)


@torch.no_grad()
def test_conditions_are_not_remembered():
    dot = zoo.icons_dot(zoo.icons_dash()).merged()
    x = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    labels = [torch.tensor([label]) for label in (3, 7, 3)]
    images = [dot(x, 400, x, x, 600, x, 800, class_labels=label) for label in labels]
    assert torch.equal(images[0], images[2])
    assert not torch.equal(images[0], images[1])
    assert len(dot.memo.made) == 1
    dot.memo = None
    assert torch.equal(images[1], dot(x, 400, x, x, 600, x, 800, class_labels=labels[1]))


@torch.no_grad()
def test_a_weight_in_the_place_of_another(merged):
    dot, asked = merged
    step(dot)
    dot.gains.weight = torch.nn.Parameter(2 * dot.gains.weight)
    after = step(dot)
    assert len(asked) == 2
    dot.memo = None
    assert torch.equal(after, step(dot))


@torch.no_grad()
def test_a_cast_forgets(merged):
    dot, asked = merged
    step(dot)
    dot.to(torch.float64)
    assert not dot.memo.made  # the memory of the weights may be that of others now
    dot.to(torch.float32)
    step(dot)
    assert len(asked) == 2


def test_not_where_gradients_are_wanted(merged):
    dot, asked = merged
    x = torch.randn(1, 1, 32, 32, requires_grad=True)
    with torch.inference_mode():
        step(dot)
    dot(x, 400, x, x, 600, x, 800).sum().backward()
    assert len(asked) == 2
    assert x.grad is not None


@torch.no_grad()
def test_not_within_autocast(merged):
    dot, asked = merged
    plain = step(dot)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        step(dot)
        with own_dtype(torch.device("cpu")):
            assert torch.equal(step(dot), plain)
    assert len(asked) == 2


@torch.no_grad()
def test_not_with_weights_whose_changes_nobody_counts(merged):
    dot, asked = merged
    with torch.inference_mode():
        dot.to(torch.float64).to(torch.float32)
    for _ in range(2):
        step(dot)
    assert len(asked) == 2


@torch.no_grad()
def test_the_guidance_that_an_lcm_is_told_is_a_condition():
    unet = tiny_text_unet(time_cond_proj_dim=6)
    dot = Dot(unet, widths=(8,)).merged()
    dot.gains.weight.add_(0.1)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 4, 16, 16, generator=generator)
    cond = {"encoder_hidden_states": torch.randn(1, 5, 8, generator=generator)}
    told = torch.randn(2, 1, 6, generator=generator)
    images = [dot(x, 400, x, x, 600, x, 800, **cond, timestep_cond=t) for t in (*told, told[0])]
    assert torch.equal(images[0], images[2])
    assert not torch.equal(images[0], images[1])


@torch.no_grad()
def test_it_does_not_grow_without_end(merged, monkeypatch):
    dot, asked = merged
    monkeypatch.setattr(memo, "MOST", 3)
    for t in (100, 200, 300, 400, 500):
        step(dot, t)
        assert len(dot.memo.made) <= 3
    step(dot, 500)
    assert len(asked) == 5


@torch.no_grad()
def test_a_guided_one_by_its_scale(tiny_guided):
    dot, cond = tiny_guided
    x = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    images = [dot(x, 400, x, x, 600, x, 800, guidance_scale=w, **cond) for w in (2.0, 5.0, 2.0)]
    assert torch.equal(images[0], images[2])
    assert not torch.equal(images[0], images[1])
    assert len(dot.memo.made) == 2
    dot.guidance_embedding.weight.mul_(3)
    changed = dot(x, 400, x, x, 600, x, 800, guidance_scale=2.0, **cond)
    dot.memo = None
    assert torch.equal(changed, dot(x, 400, x, x, 600, x, 800, guidance_scale=2.0, **cond))
    assert not torch.equal(changed, images[0])


@pytest.fixture
def tiny_guided():
    unet = zoo.miniature_pipeline().unet
    dot = zoo.miniature_dot(unet).merged()
    text = torch.randn(1, 8, unet.config.cross_attention_dim)
    return dot, {"encoder_hidden_states": text}


def test_a_dot_in_training_has_none():
    unet = zoo.digits_dash()
    assert zoo.digits_dot(unet).memo is None
    assert Dot(unet).memo is None
