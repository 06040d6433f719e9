"""Morse as a scheduler: alone the one inside bit for bit, else the eager loop of its plan."""

import copy

import pytest
import torch
from diffusers import (
    DDIMPipeline,
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)

from models import randomised, tiny_unet
from morse_engine import Dot, Plan, SolverTable
from morse_engine.evaluation import extrapolate
from morse_engine.integrations.scheduler import MorseScheduler
from morse_engine.sampling.loop import sample
from tolerances import assert_close

SHAPE = (2, 1, 16, 16)
INNER = [
    DDPMScheduler(),
    DDIMScheduler(timestep_spacing="trailing"),
    DPMSolverMultistepScheduler(use_karras_sigmas=True),
    EulerDiscreteScheduler(),
    EulerAncestralDiscreteScheduler(),
    UniPCMultistepScheduler(),
]
STOCHASTIC = [s for s in INNER if isinstance(s, (DDPMScheduler, EulerAncestralDiscreteScheduler))]
DETERMINISTIC = [s for s in INNER if s not in STOCHASTIC]


def by_name(schedulers):
    return pytest.mark.parametrize("inner", schedulers, ids=lambda s: type(s).__name__)


def model(x, t):
    return torch.tanh(0.5 * x + float(t) / 2000)


def noise():
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))


def loop(scheduler, num_steps, model=model, start=0):
    """The loop of diffusers' pipelines."""
    generator = torch.Generator().manual_seed(1)
    scheduler.set_timesteps(num_steps, device="cpu")
    timesteps = scheduler.timesteps[start * scheduler.order :]
    x = scheduler.init_noise_sigma * noise()
    if start:
        scheduler.set_begin_index(start)
        x = scheduler.add_noise(torch.full(SHAPE, 0.2), noise(), timesteps[:1].repeat(2))
    extra = {} if isinstance(scheduler, UniPCMultistepScheduler) else {"generator": generator}
    for t in timesteps:
        z = model(scheduler.scale_model_input(x, t), t)
        x = scheduler.step(z, t, x, **extra).prev_sample
    return x


@pytest.mark.parametrize(
    ("inner", "start"),
    [(inner, 0) for inner in INNER] + [(inner, 3) for inner in INNER[2:]],
    ids=lambda value: value if isinstance(value, int) else type(value).__name__,
)
def test_dash_alone_is_the_scheduler_inside(inner, start):
    """From noise, and from a noised image where the scheduler has a begin index."""
    theirs = loop(copy.deepcopy(inner), 7, start=start)
    scheduler = MorseScheduler(copy.deepcopy(inner), "-")
    assert torch.equal(loop(scheduler, 7, start=start), theirs)
    assert torch.equal(loop(scheduler, 7, start=start), theirs)  # a second run begins anew


@by_name(DETERMINISTIC)
def test_with_dot_steps_it_is_the_eager_loop(inner):
    """The host asks its model at Dash steps, and gets what `sampler.sample` makes of the plan."""
    asked = []

    def counting(x, t):
        asked.append(float(t))
        return model(x, t)

    scheduler = MorseScheduler(copy.deepcopy(inner), "-..", extrapolate)
    ours = loop(scheduler, 4, counting)
    plan = Plan("-..-..-..-..")
    assert scheduler.plan == plan
    table = SolverTable.from_scheduler(inner, 12)
    assert asked == table.timesteps[list(plan.dash_positions)].tolist()
    assert_close("run_batch", ours, sample(model, extrapolate, plan, table, noise(), [0, 1]))


@pytest.mark.parametrize(
    ("code", "dot"), [("-::", None), ("-.:", extrapolate), ("-:.", extrapolate)]
)
@by_name(DETERMINISTIC)
def test_with_free_steps_it_is_the_eager_loop(inner, code, dot):
    """Within a range that is reached; without a Dot too."""
    scheduler = MorseScheduler(copy.deepcopy(inner), code, dot, clean_range=(-0.4, 0.4))
    for _ in range(3):  # a second run begins anew
        ours = loop(scheduler, 4)
        assert scheduler.plan == Plan(code * 4)
        table = SolverTable.from_scheduler(inner, 12).with_range(((-0.4,), (0.4,)))
        expected = sample(model, dot, scheduler.plan, table, noise(), [0, 1])
        assert_close("run_batch", ours, expected)
    # Once; UniPC does not forget all of its first run.
    assert len(scheduler._tables._read) <= 2
    free = MorseScheduler(copy.deepcopy(inner), code, dot, clean_range=(-9, 9))
    assert not torch.allclose(loop(free, 4), ours, atol=1e-2), "the range has no effect"


def test_the_range_of_free_steps():
    """The one given, else the Dot's, else that of the scheduler's clip_sample, else none."""

    def held(scheduler, *dot, **given):
        code = "-.:" if dot else "-:"
        return loop(MorseScheduler(copy.deepcopy(scheduler), code, *dot, **given), 5)

    clips, other = DDIMScheduler(clip_sample_range=0.3), DDIMScheduler(clip_sample=False)
    assert torch.equal(held(clips), held(clips, clean_range=(-0.3, 0.3)))
    assert not torch.equal(held(clips), held(clips, clean_range=(-0.2, 0.2)))
    assert torch.equal(held(other), held(other, clean_range=(-1e9, 1e9)))
    dot = randomised(Dot(tiny_unet()))
    dot.clean_range = (-0.2, 0.2)
    assert torch.equal(held(clips, dot), held(clips, dot, clean_range=(-0.2, 0.2)))
    assert not torch.equal(held(clips, dot), held(clips, dot, clean_range=(-0.3, 0.3)))


@pytest.mark.parametrize(
    ("inner", "option"),
    [(DDIMScheduler(), "eta"), (EulerDiscreteScheduler(), "s_churn")],
    ids=["eta", "s_churn"],
)
def test_noise_that_a_host_asks_for_is_drawn(inner, option):
    """Free steps are corrected by a table, which knows nothing of it: then they are not."""

    def made(value, seed):
        scheduler, x = MorseScheduler(copy.deepcopy(inner), "-:", clean_range=(-1, 1)), noise()
        generator = torch.Generator().manual_seed(seed)
        scheduler.set_timesteps(4)
        for t in scheduler.timesteps:
            z = model(scheduler.scale_model_input(x, t), t)
            x = scheduler.step(z, t, x, generator=generator, **{option: value}).prev_sample
        return x

    assert torch.equal(made(0.0, 0), made(0.0, 1))
    assert not torch.allclose(made(1.0, 0), made(1.0, 1), atol=1e-2)


@by_name(STOCHASTIC)
def test_with_free_steps_and_noise(inner):
    """Written out with the noise that the scheduler inside draws from the host's generator."""
    ours = loop(MorseScheduler(copy.deepcopy(inner), "-:", clean_range=(-0.5, 0.5)), 4)
    scheduler, table = copy.deepcopy(inner), SolverTable.from_scheduler(inner, 8)
    said, place = [], iter(range(8))

    class Told:
        """The scheduler inside, whose odd steps are given z of the line, not of a model."""

        def __getattr__(self, name):
            return getattr(scheduler, name)

        def step(self, z, t, x, **options):
            i, times = next(place), table.timesteps
            if i % 2 == 0:
                said.append(table.clean(i, x, z))
            else:
                a, b, slope = said[-1], said[-2 if i > 3 else -1], 0.0
                if i > 3:  # no line goes through the first two
                    slope = (times[i] - times[i - 1]) / (times[i - 1] - times[i - 3])
                u, v = table.clean(i, torch.ones(()), 0.0), table.clean(i, 0.0, torch.ones(()))
                z = ((a + slope * (a - b)).clamp(-0.5, 0.5) - u * x) / v
            return scheduler.step(z, t, x, **options)

    assert_close("run_batch", ours, loop(Told(), 8))


@by_name(STOCHASTIC)
def test_with_dot_steps_and_noise(inner):
    """Written out, with the noise that the scheduler inside draws from the host's generator."""
    ours = loop(MorseScheduler(copy.deepcopy(inner), "-.", extrapolate), 3)
    scheduler, kept = copy.deepcopy(inner), []

    def both(x, t):
        i = int((scheduler.timesteps == t).nonzero())
        if i % 2 == 0:
            kept.append((t, model(x, t)))
            return kept[-1][1]
        (t_p, z_p), (t_s, z_s) = kept[-2:] if len(kept) > 1 else 2 * kept
        return z_s + extrapolate(x, t, x, z_s, t_s, z_p, t_p)

    assert torch.equal(ours, loop(scheduler, 6, both))


@pytest.mark.parametrize(
    ("code", "num_dash", "plan"),
    [("-.", 3, "-.-.-."), ("-..-", 3, "-..--.."), ("--.", 2, "--."), ("-.--.", 4, "-.--.-.")],
)
def test_the_plan_is_repeated_to_the_number_of_dash_steps(code, num_dash, plan):
    scheduler = MorseScheduler(DDIMScheduler(), code, extrapolate)
    scheduler.set_timesteps(num_dash)
    assert str(scheduler.plan) == plan
    assert len(scheduler.timesteps) == num_dash


def test_what_a_host_reads():
    inner = EulerDiscreteScheduler()
    scheduler = MorseScheduler(inner, "-..", extrapolate)
    assert scheduler.config is inner.config
    assert scheduler.config.num_train_timesteps == len(scheduler) == 1000
    assert (scheduler.order, scheduler.plan, scheduler.step_index) == (1, None, None)
    scheduler.set_timesteps(3)
    assert torch.equal(scheduler.sigmas, inner.sigmas[[0, 3, 6, 9]])
    assert torch.equal(scheduler.timesteps, inner.timesteps[[0, 3, 6]])
    assert scheduler.init_noise_sigma == inner.init_noise_sigma
    assert not hasattr(MorseScheduler(DDIMScheduler(), "-"), "sigmas")
    t = scheduler.timesteps[0]
    out = scheduler.step(noise(), t, noise(), return_dict=False)
    assert isinstance(out, tuple)
    assert scheduler.step_index == 1
    assert inner.step_index == 3
    again = copy.deepcopy(scheduler)
    assert (again.step_index, again.inner.step_index) == (1, 3)
    assert again.inner is not inner


def test_image_to_image():
    """A run that begins at the second Dash step; the noise is added at its level."""
    scheduler = MorseScheduler(EulerDiscreteScheduler(), "-..", extrapolate)
    ours = loop(scheduler, 4, start=1)
    inner = EulerDiscreteScheduler()
    inner.set_timesteps(12)
    x = 0.2 + inner.sigmas[3] * noise()
    table = SolverTable.from_scheduler(EulerDiscreteScheduler(), 12)
    rest = SolverTable(table.name, table.rows[3:], table.timesteps[3:], 1.0)
    expected = sample(model, extrapolate, Plan("-..-..-.."), rest, x, [0, 1])
    assert_close("run_batch", ours, expected)


def test_image_to_image_with_free_steps():
    """The line begins with the first Dash step that is made."""
    scheduler = MorseScheduler(EulerDiscreteScheduler(), "-::")
    loop(scheduler, 4)  # a run before it, of which nothing may be left
    ours = loop(scheduler, 4, start=1)
    inner = EulerDiscreteScheduler()
    inner.set_timesteps(12)
    x = 0.2 + inner.sigmas[3] * noise()
    table = SolverTable.from_scheduler(EulerDiscreteScheduler(), 12)
    rest = SolverTable(table.name, table.rows[3:], table.timesteps[3:], 1.0)
    assert_close("run_batch", ours, sample(model, None, Plan("-::-::-::"), rest, x, [0, 1]))


def test_half_precision_with_free_steps():
    scheduler = MorseScheduler(DDIMScheduler(timestep_spacing="trailing"), "-::")
    scheduler.set_timesteps(3)
    x = noise().half()
    for t in scheduler.timesteps:
        x = scheduler.step(model(x.float(), t).half(), t, x, return_dict=False)[0]
        assert x.dtype == torch.float16
    full = MorseScheduler(DDIMScheduler(timestep_spacing="trailing"), "-::")
    assert_close("steps/float16", x.float(), loop(full, 3))


def test_conditions_reach_dot():
    def dot(x, t, x_s, z_s, t_s, z_p, t_p, *, label):
        assert label == 3
        return 0 * x

    scheduler = MorseScheduler(DDIMScheduler(), "-.", dot, {"label": 3})
    loop(scheduler, 2)
    scheduler.cond = {"label": 4}
    with pytest.raises(AssertionError):
        loop(scheduler, 2)


def test_in_a_pipeline(tmp_path):
    """DDIMPipeline, where nothing but the scheduler is replaced, beside `morse_engine.compile`."""
    import morse_engine

    unet = tiny_unet()
    dot, inner = randomised(Dot(unet)), DDIMScheduler(timestep_spacing="trailing")
    pipe = DDIMPipeline(unet, inner)
    pipe.scheduler = MorseScheduler(inner, "-..", dot)
    pipe.set_progress_bar_config(disable=True)
    run = {"batch_size": 2, "num_inference_steps": 3, "output_type": "pt"}
    image = pipe(**run, generator=torch.Generator().manual_seed(0)).images
    ours = morse_engine.compile(unet, dot, scheduler=inner, plan="-..-..-..")(noise())
    assert_close("run_batch", image, (ours / 2 + 0.5).clamp(0, 1))
    # its folder is that of a plain pipeline, with the scheduler inside
    pipe.scheduler.save_pretrained(tmp_path)
    assert DDIMScheduler.from_pretrained(tmp_path).config.timestep_spacing == "trailing"


# -- what is refused ---------------------------------------------------------------------------


def test_wrong_arguments():
    with pytest.raises(ValueError, match="first step has to be a Dash"):
        MorseScheduler(DDIMScheduler(), ".-", extrapolate)
    with pytest.raises(ValueError, match="has Dot steps, but dot is None"):
        MorseScheduler(DDIMScheduler(), "-.")
    with pytest.raises(ValueError, match="HeunDiscreteScheduler asks its model several times"):
        MorseScheduler(HeunDiscreteScheduler(), "-")


def test_a_dot_of_other_noise():
    from diffusers import DDPMScheduler

    dot = Dot(tiny_unet(), DDPMScheduler(beta_end=0.01))
    with pytest.raises(ValueError, match=r"beta_end=0\.02, the Dot was trained with .*0\.01"):
        MorseScheduler(DDIMScheduler(), "-.", dot)


@pytest.mark.parametrize("steps", [0, -2, 2.0, None])
def test_wrong_number_of_steps(steps):
    with pytest.raises(ValueError, match="the number of Dash steps, at least 1"):
        MorseScheduler(DDIMScheduler(), "-").set_timesteps(steps)


def test_wrong_runs():
    scheduler = MorseScheduler(DDIMScheduler(), "-.-.", extrapolate)
    with pytest.raises(ValueError, match="set_timesteps has not been called"):
        scheduler.step(noise(), 1, noise())
    with pytest.raises(ValueError, match="has 2 Dash steps"):
        scheduler.set_timesteps(1)
    with pytest.raises(ValueError, match="makes 6 calls for 5 steps"):
        MorseScheduler(PNDMScheduler(skip_prk_steps=True), "-").set_timesteps(5)
    zero_snr = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    free = MorseScheduler(DDIMScheduler(**zero_snr), "-:")
    with pytest.raises(ValueError, match="its first x holds nothing of the image"):
        free.set_timesteps(2)
    with pytest.raises(ValueError, match="LMSDiscreteScheduler has no solver table"):
        MorseScheduler(LMSDiscreteScheduler(), "-:").set_timesteps(2)
    with pytest.raises(ValueError, match="clean_range="):
        MorseScheduler(DDIMScheduler(), "-:", clean_range=(1, -1))
    loop(scheduler, 2)
    with pytest.raises(ValueError, match="all 2 Dash steps of this run are made"):
        scheduler.step(noise(), scheduler.timesteps[-1], noise())
    scheduler.set_timesteps(2)
    with pytest.raises(ValueError, match="timestep 3 is not a Dash step"):
        scheduler.step(noise(), 3, noise())
    with pytest.raises(ValueError, match="predict no variance"):
        scheduler.step(torch.zeros(2, 2, 16, 16), scheduler.timesteps[0], noise())
