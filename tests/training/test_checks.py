"""Images that a model is not trained on: each kind has its own hint."""

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from torch import nn

from models import text_cond, tiny_text_unet, tiny_unet
from morse_engine import Dot, Refused, train_dash, train_dot
from morse_engine.training import Captioned
from morse_engine.training.checks import check_images, check_kinds, check_model, check_training

WAYS = [DDIMScheduler()]
GOOD = torch.linspace(-1, 1, 4)[:, None, None, None].expand(-1, 1, 16, 16).contiguous()


def with_nan(images):
    images = images.clone()
    images[2, 0, 3, 3] = torch.nan
    return images


WRONG = [
    ([1, 2], "images is a list: give a tensor"),
    (None, "images is a NoneType: give a tensor"),
    (GOOD.numpy(), "images is a ndarray: give a tensor"),
    (GOOD[:, 0], r"shape \(4, 16, 16\): give \[n, C, H, W\], images\[:, None\] for grey"),
    (GOOD[0, 0, 0], r"shape \(16,\): give \[n, C, H, W\]"),
    (GOOD[:0], r"shape \(0, 1, 16, 16\): give at least one image"),
    (GOOD.expand(-1, 3, -1, -1), "has 3 channels, Dash takes 1: convert them"),
    (GOOD.permute(0, 2, 3, 1), r"Dash takes 1: images\.permute\(0, 3, 1, 2\) puts them first"),
    (GOOD[..., :8, :8], r"is 8 x 8, Dash is made for 16 x 16 \(sample_size\): resize them"),
    (((GOOD + 1) * 127.5).byte(), r"is torch\.uint8: give images\.float\(\) / 127\.5 - 1"),
    (GOOD.long(), r"is torch\.int64: give floats in \[-1, 1\]"),
    ((GOOD + 1) * 127.5, r"from 0 to 255: these look like 0\.\.255, divide by 127\.5 and subtract"),
    ((GOOD + 1) / 2, r"from 0 to 1: these look like 0\.\.1, multiply by 2 and subtract 1"),
    (2.2 * GOOD, r"from -2\.2 to 2\.2: give values in \[-1, 1\]; latents"),
    (with_nan(GOOD), r"images\[2\] has values that are not finite"),
    (GOOD / 0.0, r"images\[0\] has values that are not finite"),
]


@pytest.mark.parametrize(("images", "said"), WRONG)
def test_a_hint_for_each_kind(images, said, tmp_path):
    unet = tiny_unet()
    with pytest.raises(Refused, match=said):
        train_dash(unet, images, DDPMScheduler(), tmp_path / "dash", num_steps=1)
    dot = Dot(unet, widths=(8, 8))
    with pytest.raises(Refused, match=said):
        train_dot(
            dot, unet, images, DDPMScheduler(), tmp_path / "dot", schedulers=WAYS, num_steps=1
        )
    with pytest.raises(Refused, match=said.replace("images", "held_out", 1)):
        check_images(images, unet, "held_out")
    assert not list(tmp_path.iterdir())


def test_what_is_right():
    check_images(GOOD, tiny_unet())
    check_images(GOOD.half(), tiny_unet())
    check_images(GOOD * 1.005, tiny_unet())  # a filter has overshot
    check_images(torch.zeros(2, 1, 16, 16), tiny_unet())
    check_images(-torch.ones(2, 1, 16, 16), tiny_unet())


def test_latents_have_another_range_and_size():
    unet = tiny_text_unet()
    latents = 4 * torch.randn(3, 4, 8, 24)
    check_images(Captioned(latents, text_cond(3)), unet)
    with pytest.raises(Refused, match="is 8 x 26: Dash needs multiples of 4"):
        check_images(Captioned(torch.randn(3, 4, 8, 26), text_cond(3)), unet)
    with pytest.raises(Refused, match=r"these look like 0\.\.255"):
        check_images(Captioned(255 * torch.rand(3, 4, 16, 16), text_cond(3)), unet)
    with pytest.raises(Refused, match="has 1 channels, Dash takes 4"):
        check_images(Captioned(GOOD, text_cond(4)), unet)


def test_a_model_of_another_type():
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        with pytest.raises(Refused, match=rf"Dash is in {dtype}: training works on float32"):
            check_model(tiny_unet().to(dtype))
    broken = tiny_unet()
    nn.init.constant_(broken.conv_in.bias, torch.inf)
    with pytest.raises(Refused, match=r"not finite in conv_in\.bias"):
        check_model(broken)


def test_a_default_of_double_changes_nothing(tmp_path):
    """Random numbers are drawn in float32, whatever torch's default is."""
    unet = tiny_unet()
    numbers = {"num_steps": 2, "batch_size": 2, "progress": False}
    wanted = train_dash(tiny_unet(), GOOD, DDPMScheduler(), tmp_path / "a", **numbers)
    torch.set_default_dtype(torch.float64)
    try:
        found = train_dash(unet, GOOD, DDPMScheduler(), tmp_path / "b", **numbers)
    finally:
        torch.set_default_dtype(torch.float32)
    for p, q in zip(wanted.parameters(), found.parameters(), strict=True):
        assert torch.equal(p, q)


def test_the_noise_of_another_dot():
    unet = tiny_unet()
    dot = Dot(unet, DDPMScheduler(), widths=(8, 8))
    with pytest.raises(Refused, match=r"noise with beta_end=0\.02, noise_scheduler has 0\.01"):
        check_training(dot, unet, GOOD, DDPMScheduler(beta_end=0.01))


def test_no_solver():
    unet = tiny_unet()
    for wrong in ([], None, DDPMScheduler()):
        with pytest.raises(Refused, match="give a list of at least one scheduler"):
            check_kinds(Dot(unet, widths=(8, 8)), unet, DDPMScheduler(), wrong)
