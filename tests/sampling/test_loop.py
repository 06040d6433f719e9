import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
)

from models import randomised, tiny_unet
from morse_engine import Dot, Plan, SolverTable
from morse_engine.sampling import noise
from morse_engine.sampling.loop import sample
from tolerances import assert_close

SHAPE = (1, 16, 16)


def start(count=2, seed=0):
    return noise.normal(range(seed, seed + count), noise.INITIAL, SHAPE)


def model(x, t):
    return torch.tanh(0.5 * x + t / 2000)


def test_all_dash_is_the_diffusers_loop():
    scheduler = DDIMScheduler(timestep_spacing="trailing")
    x = start()
    scheduler.set_timesteps(7)
    for t in scheduler.timesteps:
        x = scheduler.step(model(x, t), t, x).prev_sample
    table = SolverTable.from_scheduler(DDIMScheduler(timestep_spacing="trailing"), 7)
    assert_close("exact_ode", sample(model, None, Plan("-" * 7), table, start(), [0, 1]), x)


def test_what_each_model_is_given():
    """The plan decides who is asked; Dot sees the last Dash step's x, z and t."""
    calls = []

    def dash(x, t):
        calls.append(("-", float(t), x))
        return model(x, t)

    def dot(x, t, x_s, z_s, t_s, z_p, t_p):
        calls.append((".", float(t), x, x_s, z_s, float(t_s), z_p, float(t_p)))
        return torch.full_like(x, 0.01)

    table = SolverTable.from_scheduler(DDIMScheduler(timestep_spacing="trailing"), 6)
    plan = Plan("-..-.-")
    sample(dash, dot, plan, table, start(), [0, 1])
    assert "".join(call[0] for call in calls) == str(plan)
    assert [call[1] for call in calls] == table.timesteps.tolist()
    for i, s, p in [(1, 0, 0), (2, 0, 0), (4, 3, 0)]:
        _, _, _, x_s, z_s, t_s, z_p, t_p = calls[i]
        assert (t_s, t_p) == (calls[s][1], calls[p][1])
        assert torch.equal(z_p, model(calls[p][2], table.timesteps[p]))
        assert torch.equal(x_s, calls[s][2])
        assert torch.equal(z_s, model(calls[s][2], table.timesteps[s]))


def test_the_residual_is_added_to_the_last_estimate():
    """DDIM written out by hand, with a Dot that returns a constant."""
    scheduler = DDIMScheduler(timestep_spacing="trailing", clip_sample=False)
    table = SolverTable.from_scheduler(scheduler, 4)
    x = start().double()
    alpha_bar = [*scheduler.alphas_cumprod[table.timesteps.long()].double(), torch.tensor(1.0)]
    z = model(x, table.timesteps[0])
    for i, extra in enumerate((0.0, 0.1, -0.2, 0.3)):
        x_0 = (x - (1 - alpha_bar[i]).sqrt() * (z + extra)) / alpha_bar[i].sqrt()
        x = alpha_bar[i + 1].sqrt() * x_0 + (1 - alpha_bar[i + 1]).sqrt() * (z + extra)
    residuals = iter((0.1, -0.2, 0.3))

    def dot(x, t, x_s, z_s, t_s, z_p, t_p):
        return torch.full_like(x, next(residuals))

    ours = sample(model, dot, Plan("-..."), table, start(), [0, 1])
    assert_close("exact_ode", ours.double(), x)


def test_noise_of_a_step_is_the_function_of_seed_and_step():
    scheduler = DDPMScheduler(clip_sample=False)
    table = SolverTable.from_scheduler(scheduler, 4)
    x, history = start(), []
    for i in range(4):
        z = model(x, table.timesteps[i])
        fresh = noise.normal([0, 1], i, SHAPE) if table.adds_noise(i) else None
        x, m = table.step(i, x, z, history, fresh)
        history = [m]
    assert torch.equal(sample(model, None, Plan("----"), table, start(), [0, 1]), x)


@pytest.mark.parametrize(
    "scheduler",
    [
        DDIMScheduler(timestep_spacing="trailing"),
        DDPMScheduler(),
        DPMSolverMultistepScheduler(),
        EulerAncestralDiscreteScheduler(),
    ],
    ids=lambda s: type(s).__name__,
)
def test_image_of_a_seed_does_not_depend_on_the_batch(scheduler):
    unet = tiny_unet()
    dot = randomised(Dot(unet))
    plan, seeds = Plan("-..-.."), list(range(16))
    table = SolverTable.from_scheduler(scheduler, len(plan))

    def run(seeds):
        x = noise.normal(seeds, noise.INITIAL, SHAPE)
        return sample(lambda x, t: unet(x, t).sample, dot, plan, table, x, seeds)

    together = run(seeds)
    backwards = run(seeds[::-1]).flip(0)
    assert_close("run_batch", backwards, together)
    assert_close("run_batch", torch.cat([run([s]) for s in (0, 7, 15)]), together[[0, 7, 15]])


def test_progress_and_conditioning_reach_the_models():
    seen = []

    def dash(x, t, *, label):
        assert label == 3
        return model(x, t)

    def dot(x, t, x_s, z_s, t_s, z_p, t_p, *, label):
        assert label == 3
        return torch.zeros_like(x)

    table = SolverTable.from_scheduler(DDIMScheduler(), 3)
    plan = Plan("-.-")
    sample(
        dash, dot, plan, table, start(), [0, 1], {"label": 3}, on_step=lambda *at: seen.append(at)
    )
    assert seen == [(0, 3), (1, 3), (2, 3)]


def test_guidance_is_the_line_through_two_estimates():
    """A run with guidance equals one whose Dash and Dot are the guided models themselves."""

    def dash(x, t, *, label):
        return model(x, t) + label[:, None, None, None] * x

    def dot(x, t, x_s, z_s, t_s, z_p, t_p, *, label):
        return 0.1 * (z_s - z_p) + label[:, None, None, None] * (x - x_s)

    def guided_dash(x, t):
        return model(x, t) + 3.0 * x

    def guided_dot(x, t, x_s, z_s, t_s, z_p, t_p):
        return 0.1 * (z_s - z_p) + 3.0 * (x - x_s)

    plan = Plan("-.-..")
    table = SolverTable.from_scheduler(DPMSolverMultistepScheduler(), 5)
    label = torch.tensor([0.0, 0.0, 0.4, 0.4])  # 0 + 7.5 (0.4 - 0) = 3
    ours = sample(dash, dot, plan, table, start(), [0, 1], {"label": label}, 7.5)
    expected = sample(guided_dash, guided_dot, plan, table, start(), [0, 1])
    assert_close("run_batch", ours, expected)
