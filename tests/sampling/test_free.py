import copy
import math

import diffusers
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
)
from diffusers.schedulers import ScoreSdeVeScheduler, ScoreSdeVpScheduler

from morse_engine import Plan, SolverTable
from morse_engine.sampling import noise
from morse_engine.sampling.free import NO_RANGE, as_range, slopes
from morse_engine.sampling.loop import sample
from morse_engine.sampling.schedulers import LINEAR_BETAS, make
from morse_engine.sampling.solver import Column
from morse_engine.system.errors import Refused

SHAPE = (1, 16, 16)
BETAS = (
    "DDPM",
    "DDIM",
    "LCM",
    "DPMSolverMultistep",
    "DPMSolverSinglestep",
    "UniPCMultistep",
    "DEISMultistep",
    "EulerDiscrete",
    "EulerAncestralDiscrete",
    "HeunDiscrete",
)


def start(count=2):
    return noise.normal(range(count), noise.INITIAL, SHAPE)


def model(x, t):
    return torch.tanh(0.5 * x + t / 2000)


def ddim(steps, **options):
    options = {"timestep_spacing": "trailing"} | options
    return SolverTable.from_scheduler(DDIMScheduler(**options), steps)


def says(scheduler, prediction_type, x_0, eps, t):
    """z of a perfect model at the noisy image of x_0 and eps."""
    alpha_bar = scheduler.alphas_cumprod[t.long()].double()
    alpha, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    return {"epsilon": eps, "sample": x_0, "v_prediction": alpha * eps - sigma * x_0}[
        prediction_type
    ]


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("kind", BETAS)
def test_the_clean_image_of_each_call(kind, prediction_type):
    """By diffusers' own `add_noise`: U x + V z is the image that was noised."""
    if (kind, prediction_type) == ("EulerAncestralDiscrete", "sample"):
        pytest.skip("diffusers has none")
    scheduler = getattr(diffusers, f"{kind}Scheduler")(prediction_type=prediction_type)
    table = SolverTable.from_scheduler(scheduler, 7)
    scheduler.set_timesteps(7)
    x_0, eps = torch.randn(2, 1, 1, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    for i, t in enumerate(scheduler.timesteps[: len(table)]):
        x = scheduler.add_noise(x_0, eps, t.reshape(1))
        z = says(scheduler, prediction_type, x_0, eps, t)
        torch.testing.assert_close(table.clean(i, x, z), x_0, rtol=0, atol=3e-3)


def test_the_clean_image_without_betas():
    x_0, eps = torch.randn(2, 1, 1, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    flow = FlowMatchEulerDiscreteScheduler(shift=3.0)
    table = SolverTable.from_scheduler(flow, 5)
    flow.set_timesteps(5)
    for i, t in enumerate(flow.timesteps):
        x = flow.scale_noise(x_0, t.reshape(1), eps)
        torch.testing.assert_close(table.clean(i, x, eps - x_0), x_0, rtol=0, atol=1e-5)
    ve = SolverTable.from_scheduler(ScoreSdeVeScheduler(), 5)
    for i, sigma in enumerate(ve.timesteps.double()):
        x, score = x_0 + sigma * eps, -eps / sigma
        torch.testing.assert_close(ve.clean(i, x, score), x_0, rtol=0, atol=1e-4)
    vp = ScoreSdeVpScheduler()
    table = SolverTable.from_scheduler(vp, 5)
    vp.set_timesteps(5)
    for i, t in enumerate(vp.timesteps.double()):
        alpha = torch.exp(-0.25 * t**2 * (20 - 0.1) - 0.5 * t * 0.1)
        x = alpha * x_0 + (1 - alpha**2).sqrt() * eps
        torch.testing.assert_close(table.clean(i, x, eps), x_0, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", ["DDPM", "DDIM", "DPMSolverMultistep", "UniPCMultistep", "LCM"])
def test_where_the_solver_itself_keeps_the_clean_image(kind):
    rows = SolverTable.from_scheduler(getattr(diffusers, f"{kind}Scheduler")(), 6).rows
    torch.testing.assert_close(rows[:, Column.U], rows[:, Column.P], rtol=1e-5, atol=0)
    torch.testing.assert_close(rows[:, Column.V], rows[:, Column.Q], rtol=1e-5, atol=0)


def test_slopes():
    times = torch.tensor([1000.0, 800, 700, 600, 500, 400])
    assert slopes(Plan("-:.::-"), times, False) == pytest.approx([0, 0, 0, 1 / 3, 2 / 3, 0])
    # Two calls at one time, as Heun makes them: no line goes through the two.
    times = torch.tensor([1000.0, 800, 800, 600])
    assert slopes(Plan("-.-:"), times, False) == [0, 0, 0, 0]
    levels = torch.tensor([8.0, 4.0, 2.0, 1.0])
    assert slopes(Plan("-.::"), levels.log(), False) == pytest.approx([0, 0, 1, 2])


@pytest.mark.parametrize("name", ["ddim", "ddpm", "dpm", "dpm-sde", "euler", "euler-ancestral"])
def test_with_noise_there_is_no_line_through_the_first_two_calls(name):
    plan = Plan("-:-::-:.:")
    table = SolverTable.for_calls(make(name, LINEAR_BETAS), len(plan)).for_plan(plan)
    found = table.rows[:, Column.SLOPE].tolist()
    assert table.uses_noise == (name in {"ddpm", "dpm-sde", "euler-ancestral"})
    lines = [i for i, f in enumerate(found) if f > 0]
    assert lines == ([6, 8] if table.uses_noise else [3, 4, 6, 8])


SPACED = {
    "karras": DPMSolverMultistepScheduler(use_karras_sigmas=True, timestep_spacing="trailing"),
    "exponential": diffusers.EulerDiscreteScheduler(use_exponential_sigmas=True),
    "lu": DPMSolverMultistepScheduler(use_lu_lambdas=True),
    "heun": diffusers.HeunDiscreteScheduler(use_karras_sigmas=True),
    "v": diffusers.UniPCMultistepScheduler(use_karras_sigmas=True, prediction_type="v_prediction"),
}


@pytest.mark.parametrize("name", SPACED)
def test_where_calls_lie_with_sigmas_of_karras(name):
    """By the noise itself, not by timesteps that are rounded: log(10 + sigma)."""
    table = SolverTable.from_scheduler(SPACED[name], 6)
    scheduler = copy.deepcopy(SPACED[name])
    scheduler.set_timesteps(6)
    sigmas = scheduler.sigmas[: len(scheduler.timesteps)].double()
    torch.testing.assert_close(table.places, (10 + sigmas).log(), rtol=0, atol=1e-12)
    assert len(table.places) == len(table)
    # A part of the run has the places of that part.
    rest = SolverTable.of_prepared(scheduler, 2)
    torch.testing.assert_close(rest.up_to(3).places, table.places[2:5])
    p = table.places.tolist()
    plan = Plan("--:" + "-" * (len(table) - 3))
    slope = table.for_plan(plan).rows[2, Column.SLOPE].item()
    assert slope == pytest.approx((p[2] - p[1]) / (p[1] - p[0]) if p[1] != p[0] else 0)


def test_where_calls_lie_otherwise():
    even = SolverTable.from_scheduler(DPMSolverMultistepScheduler(), 5)
    assert even.places.equal(even.timesteps.double())
    scheduler = ScoreSdeVeScheduler(sigma_max=50.0)
    table = SolverTable.from_scheduler(scheduler, 5)
    torch.testing.assert_close(table.places, table.timesteps.double().log())


def test_a_free_step_by_hand():
    """DDIM written out: after two Dash steps the clean image goes on, within [-1, 1]."""
    table = ddim(4, clip_sample_range=1.0)
    scheduler = DDIMScheduler()
    alpha_bar = [*scheduler.alphas_cumprod[table.timesteps.long()].double(), torch.tensor(1.0)]
    x, seen = 3 * start().double(), []
    for i, t in enumerate(table.timesteps):
        alpha, sigma = alpha_bar[i].sqrt(), (1 - alpha_bar[i]).sqrt()
        if i < 3:
            z = model(x, t)
            seen.append((x - sigma * z) / alpha)
            x_0 = seen[-1].clamp(-1, 1)
        else:  # equal gaps: as far again
            x_0 = (seen[2] + (seen[2] - seen[1])).clamp(-1, 1)
            assert 0.05 < (x_0.abs() == 1).double().mean() < 0.95
            z = (x - alpha * x_0) / sigma
        x = alpha_bar[i + 1].sqrt() * x_0 + (1 - alpha_bar[i + 1]).sqrt() * z
    ours = sample(model, None, Plan("---:"), table, 3 * start(), [0, 1])
    torch.testing.assert_close(ours.double(), x, rtol=0, atol=2e-5)


def test_after_one_call_the_image_stays():
    table = ddim(3, clip_sample=False)
    first = model(start(), table.timesteps[0])
    x_0 = table.clean(0, start(), first)
    ours = sample(model, None, Plan("-::"), table, start(), [0, 1])
    torch.testing.assert_close(ours, x_0, rtol=0, atol=1e-4)


def test_a_dot_is_an_end_of_the_line():
    """The line goes through what Dot says as well, and Dot still sees Dash's trajectory."""
    table, given = ddim(5, clip_sample=False), []

    def dot(x, t, x_s, z_s, t_s, z_p, t_p):
        given.append((float(t_s), float(t_p)))
        return torch.full_like(x, 0.1)

    states = []
    plan = Plan("-.:.:")
    ours = sample(
        model, dot, plan, table, start(), [0, 1], on_step=lambda i, n: states.append((i, n))
    )
    assert states == [(i, 5) for i in range(5)]
    t = table.timesteps
    assert given == [(float(t[0]), float(t[0]))] * 2
    z_s, x, clean = model(start(), t[0]), start(), {}
    lines = {2: (1, 0), 4: (3, 1)}  # the last two calls of each free step
    for i in range(5):
        if i in lines:
            a, b = lines[i]
            goes_on = clean[a] + (t[i] - t[a]) / (t[a] - t[b]) * (clean[a] - clean[b])
            u, v = table.rows[i, [Column.U, Column.V]].tolist()
            z = (goes_on - u * x) / v
        else:
            z = z_s + (0.1 if i else 0.0)
            clean[i] = table.clean(i, x, z)
        x, _ = table.step(i, x, z, [])
    torch.testing.assert_close(ours, x, rtol=0, atol=1e-4)


def test_guidance():
    """The line is that of the guided estimate; a free step has no branches."""
    table, scale = ddim(4, clip_sample=False), 3.0
    offset = torch.tensor([0.0, 0.0, 0.2, 0.2]).view(4, 1, 1, 1)

    def branches(x, t, offset):
        return model(x, t) + offset

    def guided(x, t):
        return model(x, t) + scale * 0.2

    plan = Plan("--::")
    ours = sample(branches, None, plan, table, start(), [0, 1], {"offset": offset}, scale)
    plain = sample(guided, None, plan, table, start(), [0, 1])
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-4)


def test_fresh_noise_is_added_as_on_every_step():
    scheduler = DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++")
    table = SolverTable.from_scheduler(scheduler, 4)
    assert all(table.adds_noise(i) for i in range(3))
    one, other = (sample(model, None, Plan("--::"), table, start(), s) for s in ([0, 1], [0, 2]))
    assert torch.equal(one[0], other[0])
    assert not torch.equal(one[1], other[1])


def test_ranges():
    assert ddim(4).clean_range == ((-1.0,), (1.0,))
    assert ddim(4, clip_sample_range=2.5).clean_range == ((-2.5,), (2.5,))
    assert ddim(4, clip_sample=False).clean_range == NO_RANGE
    model_config = {"clip_sample": True, "clip_sample_range": 2.0}
    carried = DPMSolverMultistepScheduler.from_config(model_config)
    assert SolverTable.from_scheduler(carried, 4).clean_range == ((-2.0,), (2.0,))
    assert as_range((-1, 2)) == ((-1.0,), (2.0,))
    assert as_range(([-1, -2], (1, 2))) == ((-1.0, -2.0), (1.0, 2.0))
    assert as_range(torch.tensor([[-1.0, -2], [1, 2]])) == ((-1.0, -2.0), (1.0, 2.0))
    for wrong in (1, (1,), (1, 1), (math.nan, 1), ([-1, -1], 1), ("a", "b"), None, ([], [])):
        with pytest.raises(Refused, match="clean_range="):
            as_range(wrong)


def test_a_range_for_each_channel():
    start = noise.normal([0, 1], noise.INITIAL, (2, 8, 8))
    low_high = ((-0.1, -0.3), (0.1, 0.2))
    plan = Plan("-" * 4 + ":")
    table = ddim(5, clip_sample=False).with_range(low_high)
    x = sample(model, None, plan, table, start, [0, 1])  # the last x of DDIM is the clean image
    reached = x.amin((0, 2, 3)), x.amax((0, 2, 3))
    # It comes back out of z, in float32: 1.07e-5 on some processors.
    torch.testing.assert_close(torch.stack(reached), torch.tensor(low_high), rtol=0, atol=5e-5)
    with pytest.raises(Refused, match="2 channels, the images have 1"):
        sample(model, None, plan, table, start[:, :1], [0, 1])


def test_an_x_without_an_image_has_no_line():
    table = ddim(4, rescale_betas_zero_snr=True, prediction_type="v_prediction")
    assert sample(model, None, Plan("--::"), table, start(), [0, 1]).isfinite().all()
    scheduler = PNDMScheduler(skip_prk_steps=True)
    scheduler.alphas_cumprod[-1] = 0.0
    scheduler.set_timesteps(4)
    table = SolverTable.from_scheduler(scheduler, 4)
    table.rows[0, Column.U] = math.inf
    with pytest.raises(Refused, match="holds nothing of the image"):
        table.for_plan(Plan("--:::"))
    assert table.for_plan(Plan("-----")) is table


def test_plans():
    plan = Plan("-:.::-")
    assert (plan.num_dash, plan.num_dot, plan.num_free, len(plan)) == (2, 1, 3, 6)
    assert plan.lsd(4) == 2.25
    assert plan.gain(4) == 6 / 2.25
    assert [plan.free_behind(i) for i in range(6)] == [1, 0, 2, 1, 0, 0]
    assert [plan.whole(k) for k in range(1, 7)] == [2, 2, 5, 5, 5, 6]
    assert Plan("-.-").with_free(2) == Plan("-::.::-::")
    assert Plan("-::.::-::").with_free(0) == Plan("-.-")
    with pytest.raises(Refused, match="first step"):
        Plan(":-")
    with pytest.raises(Refused, match=r"each=1\.5"):
        plan.with_free(1.5)
