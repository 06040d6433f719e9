"""What a training is given, checked before any work: images as a model takes them, the model."""

from typing import Any

import torch
from torch import Tensor, nn

from ..dot.dot import Dot
from ..dot.levels import NoiseLevels
from ..system import checks
from ..system.errors import Refused
from .captioned import Captioned

SLACK = 0.01  # beyond -1 and 1, for filters that overshoot and for rounding


def check_noise(noise_scheduler: Any) -> None:
    """Raise `Refused` for something that adds no noise as a diffusers scheduler does."""
    what = "the diffusers scheduler that Dash was trained with, such as DDPMScheduler()"
    checks.configured("noise_scheduler", noise_scheduler, what)
    if not hasattr(noise_scheduler, "add_noise"):
        raise Refused(f"noise_scheduler is {checks.kind(noise_scheduler)}: pass {what}")


def check_kinds(dot: Any, unet: Any, noise_scheduler: Any, schedulers: Any) -> None:
    """Raise `Refused` where a training is given something else than what it works with."""
    if not isinstance(dot, Dot):
        raise Refused(f"dot is {checks.kind(dot)}: pass a Dot, Dot(unet, noise_scheduler)")
    check_unet(unet)
    check_noise(noise_scheduler)
    if not checks.is_list(schedulers) or not len(schedulers):
        raise Refused(
            f"schedulers={checks.shown(schedulers)}: give a list of at least one scheduler"
        )
    for scheduler in schedulers:
        checks.configured("one of schedulers", scheduler, "diffusers schedulers")
        dot.levels.check(scheduler)
    if not dot.trained_parameters():
        raise Refused("a merged Dot is for inference only: train the one it was made from")
    dot.check_dash(unet)


def check_unet(unet: Any) -> None:
    """Raise `Refused` for something else than a UNet of diffusers."""
    if not isinstance(unet, nn.Module) or not hasattr(unet, "config"):
        raise Refused(f"unet is {checks.kind(unet)}: pass a diffusers UNet, such as UNet2DModel")


def check_model(unet: nn.Module, name: str = "Dash") -> None:
    """Raise `Refused` for a model that is not in float32, or holds no numbers any more."""
    for parameter, value in unet.named_parameters():
        if value.dtype != torch.float32:
            raise Refused(
                f"{name} is in {value.dtype}: training works on float32 weights, call float() on "
                'the model (and use mixed_precision="bf16" to compute in half precision)'
            )
        if not torch.isfinite(value).all():
            raise Refused(f"{name} has values that are not finite in {parameter}: load it again")


def check_images(images: Any, unet: Any, name: str = "images") -> None:
    """Raise `Refused`, with a hint, for images that a model is not to be trained on.

    Args:
        images: a tensor `[n, C, H, W]` in [-1, 1] of the model's channels and size, or `Captioned`,
            which may hold latents of any range and size.
        unet: the model, with diffusers' `config`.
    """
    inner = images.images if isinstance(images, Captioned) else images
    if not isinstance(images, Tensor | Captioned):
        raise Refused(
            f"{name} is a {type(images).__name__}: give a tensor [n, C, H, W] in [-1, 1], "
            "system.images.load_folder reads one from a folder"
        )
    if isinstance(inner, Tensor) and (inner.is_meta or inner.layout != torch.strided):
        raise Refused(f"{name} is {inner.layout} on {inner.device}: give a dense tensor of values")
    shape = tuple(inner.shape)
    if len(shape) != 4:
        fix = f", {name}[:, None] for grey images" if len(shape) == 3 else ""
        raise Refused(f"{name} has the shape {shape}: give [n, C, H, W]{fix}")
    if 0 in shape:
        raise Refused(f"{name} has the shape {shape}: give at least one image")
    _check_size(shape, unet.config, name, exactly=isinstance(images, Tensor))
    if isinstance(inner, Tensor):  # what lies in files was checked when it was encoded
        _check_values(inner, name, latents=isinstance(images, Captioned))


def _check_size(shape: tuple[int, ...], config: Any, name: str, *, exactly: bool) -> None:
    channels, height, width = shape[1:]
    if channels != config.in_channels:
        last = shape[-1] == config.in_channels
        fix = f"{name}.permute(0, 3, 1, 2) puts them first" if last else "convert them"
        raise Refused(f"{name} has {channels} channels, Dash takes {config.in_channels}: {fix}")
    size = config.sample_size
    size = (size, size) if isinstance(size, int) else size
    if exactly and size is not None and (height, width) != tuple(size):
        raise Refused(
            f"{name} is {height} x {width}, Dash is made for {size[0]} x {size[1]} (sample_size): "
            "resize them, or make a Dash of that size"
        )
    multiple = 2 ** (len(config.block_out_channels) - 1)
    if height % multiple or width % multiple:
        raise Refused(f"{name} is {height} x {width}: Dash needs multiples of {multiple}")


def _check_values(images: Tensor, name: str, *, latents: bool) -> None:
    if not images.is_floating_point():
        fix = f"{name}.float() / 127.5 - 1" if images.dtype == torch.uint8 else "floats in [-1, 1]"
        raise Refused(f"{name} is {images.dtype}: give {fix}")
    parts = images.split(1024)  # not all at once: they may fill the memory
    ranges = torch.stack([torch.stack(torch.aminmax(part)).float() for part in parts])
    low, high = float(ranges[:, 0].min()), float(ranges[:, 1].max())
    if not torch.isfinite(ranges).all():
        bad = next(i for i, image in enumerate(images) if not torch.isfinite(image).all())
        raise Refused(f"{name}[{bad}] has values that are not finite: repair or remove it")
    if latents and low < 0:
        return
    spread = f"{name} has values from {low:g} to {high:g}"
    if low >= 0 and 0 < high <= 1:
        raise Refused(f"{spread}: these look like 0..1, multiply by 2 and subtract 1")
    if low >= 0 and 1 < high <= 255:
        raise Refused(f"{spread}: these look like 0..255, divide by 127.5 and subtract 1")
    if low < -1 - SLACK or high > 1 + SLACK:
        raise Refused(
            f"{spread}: give values in [-1, 1]; latents, which have another range, are given as "
            "Captioned(latents, {})"
        )


def check_training(
    dot: Dot,
    unet: nn.Module,
    images: Any,
    noise_scheduler: Any,
    held_out: Any = None,
) -> None:
    """Raise `Refused` for what a Dot is not to be trained with; see `dot.DotTraining`."""
    check_model(unet)
    check_images(images, unet)
    if held_out is not None:
        check_images(held_out, unet, "held_out")
    given = NoiseLevels.from_scheduler(noise_scheduler).config
    for name, value in dot.levels.config.items():
        if value != given[name]:
            raise Refused(
                f"the Dot is made for noise with {name}={value!r}, noise_scheduler has "
                f"{given[name]!r}: make it with Dot(unet, noise_scheduler)"
            )
