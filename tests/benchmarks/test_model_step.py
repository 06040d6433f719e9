"""The roofline model of a step: what it counts, on the bundled digits and on a tiny model."""

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import morse_engine
from morse_engine import zoo

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def test_counts_of_the_digits():
    from launches import of_steps
    from model_step import GPUS, costs

    unet = zoo.digits_dash()
    sampler = morse_engine.compile(unet, zoo.digits_dot(unet), plan="-.-.", backend="host")
    steps = sampler.start().steps
    dash, dot = costs(steps, GPUS["H100"])
    assert [dash.operations, dot.operations] == list(of_steps(steps).values())

    x, t = torch.zeros_like(steps.state.model_input), torch.tensor(3)
    with torch.no_grad(), FlopCounterMode(display=False) as flops:
        unet(x, t)
    assert dash.flops == flops.get_total_flops() > 0
    weights = sum(p.numel() * p.element_size() for p in unet.parameters())
    assert dash.num_bytes > weights

    # A group norm is three launches; digits have a bias at each convolution but a Dot's merged ones
    assert dash.launches["native_group_norm"] == 3 * dash.operations["native_group_norm"] == 87
    assert dash.launches["bias of a convolution"] == dash.operations["convolution"] == 45
    assert dash.launches.total() == dash.operations.total() + 2 * 29 + 45
    assert dot.launches["group_norm_silu"] == 18
    assert 0 < dot.launches["bias of a convolution"] < dot.operations["convolution"]


def test_a_dot_step_of_the_digits_has_few_launches():
    """What is left is counted, so that nobody adds to it unseen."""
    from launches import of_steps

    unet = zoo.digits_dash()
    sampler = morse_engine.compile(unet, zoo.digits_dot(unet), plan="-.-.", backend="host")
    dot = of_steps(sampler.start().steps)["host Dot"]
    assert dot.total() <= 72
    assert not {"div", "silu", "native_group_norm"} & dot.keys()


def test_the_time_of_a_launch():
    from model_step import LAUNCH_US, Costs, Gpu

    gpu = Gpu(tflops=10.0, tbytes=1.0, processors=4)
    a, b = torch.zeros(1024, 1024), torch.zeros(1024, 1024)
    with Costs(gpu) as counted:
        a + b
    step = counted.step
    assert (step.num_bytes, step.flops) == (3 * 4 * 2**20, 0)
    assert step.us == pytest.approx(LAUNCH_US + 12 * 2**20 / 0.9e6)
    with Costs(gpu) as counted:  # 8 x 8 programs: 16 whole waves of 4
        a @ b
    assert counted.step.flops == 2 * 1024**3
    assert counted.step.us == pytest.approx(LAUNCH_US + 2 * 1024**3 / (0.6 * 10e6))
    with Costs(gpu) as counted:  # 1 of 4 at work
        a[:128] @ b[:, :128]
    assert counted.step.us == pytest.approx(LAUNCH_US + 2 * 128 * 1024 * 128 / (0.6 * 10e6 / 4))


def test_what_is_printed_says_that_nothing_was_timed(capsys):
    import model_step

    model_step.main(["--model", "tiny", "--batch", "2", "--gpu", "A100"])
    head, _, dash, dot = capsys.readouterr().out.splitlines()
    assert head == "A100, float16: prediction, nothing was timed"
    assert dash.split()[:3] == ["tiny", "2", "Dash"]
    assert dot.endswith("(Dash contiguous; prediction, nothing was timed)")
