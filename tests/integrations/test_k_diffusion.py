"""Morse as a sampler of k-diffusion, against its published formulas."""

import pytest
import torch

from denoiser import SHAPE, karras, model, start
from morse_engine import Plan, SolverTable
from morse_engine.integrations import k_diffusion
from morse_engine.integrations.k_diffusion import extrapolate, reuse
from tolerances import assert_close


def euler(model, x, sigmas):
    """`sample_euler` without churn, as Karras et al. (2022), algorithm 1, line by line."""
    for i in range(len(sigmas) - 1):
        denoised = model(x, sigmas[i] * x.new_ones(len(x)))
        d = (x - denoised) / sigmas[i]
        x = x + d * (sigmas[i + 1] - sigmas[i])
    return x


def dpmpp_2m(model, x, sigmas):
    """DPM-Solver++ 2M in lambda = -log sigma, as Lu et al. (2022), algorithm 2."""
    before = None
    for i in range(len(sigmas) - 1):
        denoised = model(x, sigmas[i] * x.new_ones(len(x)))
        h = sigmas[i].log() - sigmas[i + 1].log()
        estimate = denoised
        if before is not None and sigmas[i + 1] > 0:
            r = (sigmas[i - 1].log() - sigmas[i].log()) / h
            estimate = (1 + 1 / (2 * r)) * denoised - 1 / (2 * r) * before
        x = sigmas[i + 1] / sigmas[i] * x - torch.expm1(-h) * estimate
        before = denoised
    return x


FORMULAS = {"euler": euler, "dpmpp_2m": dpmpp_2m}


@pytest.mark.parametrize("solver", FORMULAS)
@pytest.mark.parametrize("sigmas", [karras(12), karras(7)[2:], karras(8)[:5]])
def test_dash_alone_is_the_published_sampler(solver, sigmas):
    """From noise to images, from the middle of a schedule, and to the middle of one."""
    ours = k_diffusion.sampler("-", solver=solver)(model, start(sigmas), sigmas, disable=True)
    assert_close("k_diffusion", ours, FORMULAS[solver](model, start(sigmas), sigmas))


RISING = karras(6)[:-1].flip(0)
REPEATED = torch.tensor([4.0, 4.0, 2.0, 2.0, 1.0, 0.0])
DOWN_AND_UP = torch.tensor([4.0, 1.0, 3.0, 0.5, 0.0])


@pytest.mark.parametrize(
    ("solver", "sigmas"),
    [
        ("euler", RISING),
        ("euler", REPEATED),
        ("euler", DOWN_AND_UP),
        ("dpmpp_2m", RISING),
        ("dpmpp_2m", DOWN_AND_UP),
    ],
)
def test_levels_that_do_not_fall_are_the_published_sampler_too(solver, sigmas):
    """ComfyUI's FlipSigmas, and schedules that say a level twice."""
    ours = k_diffusion.sampler("-", solver=solver)(model, start(sigmas), sigmas, disable=True)
    assert_close("k_diffusion", ours, FORMULAS[solver](model, start(sigmas), sigmas))
    some = k_diffusion.sampler("-.", solver=solver)(model, start(sigmas), sigmas, disable=True)
    assert torch.isfinite(some).all()


def test_euler_is_that_of_diffusers():
    from diffusers import EulerDiscreteScheduler

    theirs = EulerDiscreteScheduler()
    table = SolverTable.from_scheduler(theirs, 9)
    theirs.set_timesteps(9)
    ours = k_diffusion._table(theirs.sigmas.tolist(), "euler", torch.float32)
    x, z = torch.randn((2, *SHAPE))
    for i in range(9):
        assert_close("solver/float32", ours.step(i, x, z, [])[0], table.step(i, x, z, [])[0])


@pytest.mark.parametrize("solver", FORMULAS)
def test_extrapolation_written_out(solver):
    """Plan -.-. : the third step extrapolates nothing, the fourth from the first and third."""
    sigmas = karras(4)
    ours = k_diffusion.sampler("-.", solver=solver)(model, start(sigmas), sigmas, disable=True)
    kept = {}

    def stepwise(x, sigma):
        i = int((sigmas == sigma[0]).nonzero())
        s = sigmas[i]
        if i in (0, 2):
            kept[i] = (x - model(x, sigma)) / s
            return x - s * kept[i]
        if i == 1:
            return x - s * kept[0]
        slope = min(float((s / sigmas[2]).log() / (sigmas[2] / sigmas[0]).log()), 2.0)
        return x - s * (kept[2] + slope * (kept[2] - kept[0]))

    assert_close("k_diffusion", ours, FORMULAS[solver](stepwise, start(sigmas), sigmas))


@pytest.mark.parametrize("held", [None, (-0.7, 0.8)], ids=["no bounds", "bounds"])
@pytest.mark.parametrize("plan", ["-:::::::", "---:::::"])
@pytest.mark.parametrize("solver", FORMULAS)
def test_free_steps_written_out(solver, plan, held):
    """The clean image stays after one call; later it goes on in log(10 + sigma)."""
    sigmas = karras(8)
    ours = k_diffusion.sampler(Plan(plan), solver=solver, clean_range=held)
    said = []

    def stepwise(x, sigma):
        i = int((sigmas == sigma[0]).nonzero())
        if plan[i] == "-":
            said.append(((10 + sigmas[i]).log(), model(x, sigma)))
            return said[-1][1]
        (at_a, a), (at_b, b) = said[-1], said[max(0, len(said) - 2)]
        slope = ((10 + sigmas[i]).log() - at_a) / (at_a - at_b) if len(said) > 1 else 0.0
        line = a + slope * (a - b)
        return line if held is None else line.clamp(*held)

    seen = []
    x = ours(model, start(sigmas), sigmas, callback=seen.append, disable=True)
    assert_close("k_diffusion", x, FORMULAS[solver](stepwise, start(sigmas), sigmas))
    said.clear()
    for i, at in enumerate(seen):  # what each step says of the image
        expected = stepwise(at["x"], sigmas[i] * torch.ones(2))
        assert_close("k_diffusion", at["denoised"], expected)
    if held:
        assert float(seen[5]["denoised"].max()) == pytest.approx(0.8)


@pytest.mark.parametrize("shape", [(2, 3, 4, 5, 6), (2, 3, 40)])
@pytest.mark.parametrize("plan", ["-:.", "-.:", "-"])
def test_video_and_sound(plan, shape):
    """Element by element what images of the same numbers are, within the range of each channel."""
    flat, sigmas = (2, 3, 1, -1), karras(9)

    def asked(x, sigma):
        assert x.shape == shape
        return model(x.reshape(flat), sigma).reshape(shape)

    run = k_diffusion.sampler(plan, clean_range=((-0.2, -0.3, -0.4), (0.5, 0.6, 0.7)))
    x = sigmas[0] * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    as_images = run(model, x.reshape(flat), sigmas, disable=True)
    seen = []
    made = run(
        asked, x, sigmas, callback=lambda at: seen.append(at["denoised"].shape), disable=True
    )
    assert torch.equal(made.reshape(flat), as_images)
    assert seen == [shape] * 9
    with pytest.raises(ValueError, match=r"pass floats \[B, C, \.\.\.\]"):
        run(asked, x.reshape(2, -1), sigmas)


def test_the_model_is_asked_at_dash_steps_only():
    asked = []

    def counting(x, sigma, shift):
        asked.append(float(sigma[0]))
        return model(x, sigma, shift)

    sigmas = karras(8)
    run = k_diffusion.sampler("-..", reuse)
    run(counting, start(sigmas), sigmas, extra_args={"shift": 0.1}, disable=True)
    assert asked == sigmas[[0, 3, 6]].tolist()


def test_callback():
    """k-diffusion's dict before each step's update, with Dash's own answer; raising ends it."""
    sigmas, seen = karras(5), []
    x = start(sigmas)
    out = k_diffusion.sampler("-.")(model, x, sigmas, callback=seen.append, disable=True)
    assert [at["i"] for at in seen] == list(range(5))
    assert set(seen[0]) == {"x", "i", "sigma", "sigma_hat", "denoised"}
    assert torch.equal(seen[0]["x"], x)
    assert torch.equal(seen[2]["denoised"], model(seen[2]["x"], sigmas[2] * torch.ones(2)))
    assert all(at["sigma"] == at["sigma_hat"] == sigmas[at["i"]] for at in seen)
    # the last level is 0, where both solvers end on the clean image
    assert_close("k_diffusion", out, seen[-1]["denoised"])

    class Interrupt(Exception):
        pass

    asked = []

    def stop(at):
        if at["i"] == 1:
            raise Interrupt

    def counting(x, sigma):
        asked.append(sigma)
        return model(x, sigma)

    with pytest.raises(Interrupt):
        k_diffusion.sampler("-")(counting, x, sigmas, callback=stop, disable=True)
    assert len(asked) == 2


def test_plans_that_nobody_has_named():
    """Free steps; Dot steps where there is a Dot; `.` without one continues the noise."""
    sigmas = karras(6)
    for ours, same in (({}, ("-:",)), ({"dot": reuse}, ("-.", reuse)), (
        {"plan": "-."}, ("-.", extrapolate)
    )):  # fmt: skip
        made, expected = (
            run(model, start(sigmas), sigmas, disable=True)
            for run in (k_diffusion.sampler(**ours), k_diffusion.sampler(*same))
        )
        assert torch.equal(made, expected)


def test_two_runs_share_nothing():
    """One sampler, another model and another number of steps in between."""
    run, sigmas = k_diffusion.sampler("-.."), karras(6)
    first = run(model, start(sigmas), sigmas, disable=True)
    run(lambda x, sigma: 0 * x, start(karras(9)), karras(9), disable=True)
    assert torch.equal(run(model, start(sigmas), sigmas, disable=True), first)


def test_a_whole_plan_and_half_precision():
    sigmas = karras(5)
    x = start(sigmas)
    whole = k_diffusion.sampler(Plan("-.--."), reuse)
    seen = []

    def half_model(x, sigma):
        seen.append((x.dtype, sigma.dtype))
        return model(x.float(), sigma.float()).to(x.dtype)

    low = whole(half_model, x.half(), sigmas, disable=True)
    assert low.dtype == torch.float16
    assert set(seen) == {(torch.float16, torch.float16)}
    assert len(seen) == 3
    full = whole(model, x, sigmas, disable=True)
    assert_close("steps/float16", low.float(), full)


# -- what is refused ---------------------------------------------------------------------------


def never(x, sigma):
    pytest.fail("the model was asked before the check")


@pytest.mark.parametrize(
    ("sigmas", "said"),
    [
        ([0.0, 2.0, 0.0], "sigmas 0 and 1 are 0 and 2"),
        ([2.0, 2.0, 0.0], r'are both 2, .*use solver="euler"'),
        ([2.0, 1.0, -1.0], "sigmas 1 and 2 are 1 and -1"),
        ([float("inf"), 1.0, 0.0], "finite"),
        ([float("nan"), 1.0, 0.0], "finite"),
        ([[2.0, 0.0]], r"sigmas is \[1, 2\]"),
        ([], r"sigmas is \[0\]"),
    ],
)
def test_wrong_levels(sigmas, said):
    with pytest.raises(ValueError, match=said):
        k_diffusion.sampler("-")(never, torch.zeros(SHAPE), torch.tensor(sigmas))


def test_one_level_is_no_step():
    x = torch.ones(SHAPE)
    assert k_diffusion.sampler("-.")(never, x, torch.tensor([3.0])) is x


def test_wrong_arguments():
    with pytest.raises(ValueError, match="first step has to be a Dash"):
        k_diffusion.sampler(".-")
    with pytest.raises(ValueError, match="choose euler or dpmpp_2m"):
        k_diffusion.sampler("-", solver="heun")
    with pytest.raises(ValueError, match="dot is a str"):
        k_diffusion.sampler("-.", "extrapolate")
    with pytest.raises(ValueError, match="has 5 steps, but this run 4"):
        k_diffusion.sampler("-....", extrapolate)(never, torch.zeros(SHAPE), karras(4))
