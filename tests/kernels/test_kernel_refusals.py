"""What the kernels refuse: the wrong argument is named."""

from contextlib import nullcontext

import pytest
import torch

from kernel_inputs import (
    DEVICE,
    down_inputs,
    randn,
    residual_inputs,
    state,
)
from morse_engine import kernels
from morse_engine.kernels import checks, solver_step

pytest.importorskip("triton", reason="the kernels are written in Triton")


@pytest.fixture(autouse=True)
def _kernels_run():
    with nullcontext() if DEVICE == "cuda" else kernels.interpreter():
        yield


def broken(name, st, z):
    x, doubled = st.x, torch.zeros(2, *st.x.shape[1:], device=DEVICE)
    return {
        "x": x.double(),
        "z": z[:, :, :, :3],
        "history": torch.zeros(0, *x.shape, device=DEVICE),
        "model_input": doubled.repeat(2, 1, 1, 1),
        "timestep": torch.zeros(2, device=DEVICE),
        "rows": st.rows[:, :12],
        "step": st.step.float(),
        "seeds": st.seeds[:1],
        "guidance": torch.zeros(1, dtype=torch.float64, device=DEVICE),
        "clean": x[:1],
        "bounds": torch.zeros(2, 3, device=DEVICE),
        "advance": st.step.float(),
        "x_s": x.transpose(2, 3),
        "z_s": x[:1],
        "z_p": x.double(),
    }[name]


@pytest.mark.parametrize(
    "name",
    [*solver_step.State._fields, "z", "x_s", "z_s", "z_p"],
)
def test_dash_update_names_what_is_wrong(name):
    guidance = 2.0 if name == "guidance" else None
    st = state((2, 1, 4, 4), guidance=guidance, free=1)
    z = randn(*st.model_input.shape)
    args = {"z": z, **st._asdict(), "x_s": z.clone(), "z_s": z.clone(), "z_p": z.clone()}
    args[name] = broken(name, st, z)
    with pytest.raises(ValueError, match=rf"^{name} (has|is)"):
        kernels.dash_update(**args)


def test_the_memory_of_free_steps_is_given_whole():
    st = state((2, 1, 4, 4), free=1)
    with pytest.raises(ValueError, match="give all three or none"):
        kernels.dash_update(st.x, *st._replace(bounds=None), None, None, None)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("features", lambda t: t[:, :, :1]),
        ("weight", lambda t: t.half()),
        ("bias", lambda t: t[:3]),
        ("mix", lambda t: t.half()),
        ("x_s", lambda t: t[:1]),
        ("z_s", lambda t: t.transpose(2, 3)),
        ("z_p", lambda t: t[:, :, 1:]),
    ],
)
def test_residual_up_update_names_what_is_wrong(name, wrong):
    inputs = residual_inputs((2, 1, 4, 4), torch.float32, 16)
    names = ("features", "weight", "bias", "mix", "x_s", "z_s", "z_p")
    args = dict(zip(names, inputs, strict=True))
    args[name] = wrong(args[name])
    with pytest.raises(ValueError, match=rf"^{name} (has|is)"):
        kernels.residual_up_update(**args, **state((2, 1, 4, 4))._asdict())


def test_residual_up_update_refuses_odd_sizes():
    inputs = residual_inputs((1, 1, 6, 6), torch.float32, 16)
    with pytest.raises(ValueError, match=r"\[1, 1, 5, 6\]: height and width have to be even"):
        kernels.residual_up_update(*inputs, *state((1, 1, 5, 6)))


@pytest.mark.parametrize(
    ("index", "name"),
    list(enumerate(("x", "x_s", "z_s", "z_p", "mix", "weight", "bias", "scale_shift"))),
)
def test_trajectory_down_names_what_is_wrong(index, name):
    inputs = down_inputs((2, 1, 4, 4), torch.float32, 4)
    inputs[index] = inputs[index].double()
    with pytest.raises(ValueError, match=rf"^{name} is torch.float64: has to be"):
        kernels.trajectory_down(*inputs)


def test_time_silu_names_what_is_wrong():
    h, bias, scale_shift = randn(2, 4, 3, 3), randn(4), randn(2, 8)
    for name, args in {
        "h": (h.transpose(2, 3), bias, scale_shift),
        "bias": (h, bias[:3], scale_shift),
        "scale_shift": (h, bias, scale_shift[:, :7]),
    }.items():
        with pytest.raises(ValueError, match=rf"^{name} has"):
            kernels.time_silu(*args)


def test_images_of_two_to_the_31_elements_are_refused():
    x = torch.empty(1, 1, 1, 1, device=DEVICE).expand(1, 2, 2**15, 2**15)
    with pytest.raises(ValueError, match="x has 2147483648 elements an image"):
        checks.check_image("x", x)
