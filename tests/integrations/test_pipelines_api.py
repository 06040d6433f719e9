"""accelerate and restore: what they leave as it was, the plan, the report, the tables."""

import inspect
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from diffusers import (
    AutoPipelineForImage2Image,
    DDIMScheduler,
    DDPMScheduler,
    DiffusionPipeline,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
)
from peft import LoraConfig

import morse_engine
from models import randomised
from morse_engine import Dot, Plan, Refused, SolverTable
from morse_engine.sampling import budget, probe, schedulers
from morse_engine.sampling.budget import Ranking, choose
from pipelines import LATENT, SIZE, assert_same, generator, half_mask, one_thread, picture
from pipelines import shallow as pipeline
from tolerances import assert_close

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # what diffusers deprecates
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # what NumPy deprecates in it
]
__all__ = ["one_thread"]  # a fixture of this file

CALL = {"prompt": "a cat", "guidance_scale": 3.0, "output_type": "latent"}


def state(thing) -> dict:
    """Attributes as they compare."""
    return {name: value if callable(value) else repr(value) for name, value in vars(thing).items()}


@pytest.fixture
def pipe():
    return pipeline("StableDiffusionPipeline")


# -- as it was -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "scheduler", [DDIMScheduler(), EulerAncestralDiscreteScheduler(), PNDMScheduler()]
)
@pytest.mark.parametrize("callback", [None, lambda p, i, t, k: k], ids=["whole", "steps"])
def test_restore(scheduler, callback):
    pipe = pipeline("StableDiffusionPipeline", scheduler)
    call = CALL | {"num_inference_steps": 5, "output_type": "np"}
    expected = pipe(generator=generator(), **call).images
    cls, before, scheduler_before = type(pipe), state(pipe), state(pipe.scheduler)
    parts = dict(pipe.components)
    morse_engine.accelerate(pipe)
    pipe(generator=generator(), callback_on_step_end=callback, **call)
    morse_engine.restore(pipe)
    assert type(pipe) is cls
    assert state(pipe) == before
    assert state(pipe.scheduler) == scheduler_before
    assert all(pipe.components[name] is part for name, part in parts.items())
    again = pipe(generator=generator(), **call).images
    assert again.tobytes() == expected.tobytes()


@pytest.mark.slow
def test_an_accelerated_pipeline_is_used_as_before(pipe, tmp_path):
    signature, parts = inspect.signature(pipe.__call__), dict(pipe.components)
    morse_engine.accelerate(pipe)
    assert isinstance(pipe, StableDiffusionPipeline)
    assert inspect.signature(pipe.__call__) == signature
    assert all(pipe.components[name] is part for name, part in parts.items())
    expected = pipe(generator=generator(), **CALL).images
    pipe.save_pretrained(tmp_path)
    loaded = DiffusionPipeline.from_pretrained(tmp_path, local_files_only=True)
    assert type(loaded) is StableDiffusionPipeline
    other = AutoPipelineForImage2Image.from_pipe(pipe)
    assert other.unet is pipe.unet
    assert other(image=picture(), **CALL).images.shape == (1, 4, LATENT, LATENT), "not accelerated"
    pipe.to(torch.float32)
    assert torch.equal(pipe(generator=generator(), **CALL).images, expected)


def test_another_scheduler_takes_effect(pipe):
    accelerated = morse_engine.accelerate(pipe, plan="-----")
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    ours = pipe(generator=generator(), **CALL).images
    assert accelerated.report().solver == "EulerDiscreteScheduler"
    morse_engine.restore(pipe)
    assert_same(ours, pipe(generator=generator(), num_inference_steps=5, **CALL).images)


def test_a_lora_that_is_added_later(pipe):
    call = CALL | {"num_inference_steps": 4, "cross_attention_kwargs": {"scale": 0.5}}
    morse_engine.accelerate(pipe)
    lora = LoraConfig(r=2, target_modules=["to_q", "to_k"], init_lora_weights=False)
    pipe.unet.add_adapter(lora)
    ours = pipe(generator=generator(), **call).images
    morse_engine.restore(pipe)
    assert_same(ours, pipe(generator=generator(), **call).images)


def test_requests_of_several_threads_take_turns(pipe):
    call = CALL | {"num_inference_steps": 4}
    morse_engine.accelerate(pipe)
    expected = [pipe(generator=generator(seed), **call).images for seed in range(3)]
    with ThreadPoolExecutor(3) as pool:
        actual = pool.map(lambda seed: pipe(generator=generator(seed), **call).images, range(3))
    assert all(map(torch.equal, actual, expected))


def test_tables_are_read_once(pipe, monkeypatch):
    read = []
    of_prepared = SolverTable.of_prepared.__func__
    monkeypatch.setattr(
        SolverTable,
        "of_prepared",
        classmethod(lambda cls, *a, **k: read.append(1) or of_prepared(cls, *a, **k)),
    )
    morse_engine.accelerate(pipe)
    for steps in (4, 5, 4, 5, 4):
        pipe(num_inference_steps=steps, **CALL)
    assert len(read) == 2
    pipe(num_inference_steps=4, eta=0.5, **CALL)
    assert len(read) == 3


# -- the plan --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scheduler", "steps"), [(DDIMScheduler(), 5), (PNDMScheduler(skip_prk_steps=True), 4),
                             (HeunDiscreteScheduler(), 3)],
)  # fmt: skip
def test_the_plan_says_how_many_steps(scheduler, steps):
    pipe = pipeline("StableDiffusionPipeline", scheduler)
    accelerated = morse_engine.accelerate(pipe, plan="-----")
    expected = pipe(generator=generator(), **CALL).images
    assert accelerated.report().num_dash == 5
    given = pipe(generator=generator(), num_inference_steps=steps, **CALL).images
    assert torch.equal(given, expected)
    with pytest.raises(ValueError, match=f"num_inference_steps=50.*num_inference_steps={steps};"):
        pipe(num_inference_steps=50, **CALL)
    if isinstance(scheduler, PNDMScheduler):
        return
    morse_engine.restore(pipe)
    assert_same(expected, pipe(generator=generator(), num_inference_steps=steps, **CALL).images)


def test_timesteps_that_do_not_fit_the_plan():
    pipe = pipeline("StableDiffusionPipeline", EulerDiscreteScheduler())
    morse_engine.accelerate(pipe, plan="----")
    pipe.unet.register_forward_hook(lambda *_: pytest.fail("a model was called"))
    with pytest.raises(ValueError, match=r"has 4 steps, the timesteps .* make 3"):
        pipe(timesteps=[900, 500, 100], **CALL)


def test_plans_of_a_search(pipe, tmp_path):
    name = schedulers.ranked_as(pipe.scheduler)
    ranking = Ranking({Plan("--"): 0.3, Plan("-.."): 0.1}, (2,), (4.0, 4.0))
    budget.write(tmp_path, {name: ranking})
    options = {"dot": randomised(Dot(pipe.unet, widths=(8, 8))), "dot_speed": 4.0}
    assert str(morse_engine.accelerate(pipe, **options, budget=2, plans=tmp_path).plan) == "-.."
    morse_engine.restore(pipe)
    assert (
        morse_engine.accelerate(pipe, **options, budget=2).plan
        == choose(2, pipe.scheduler, 4.0).plan
    )
    morse_engine.restore(pipe)
    with pytest.raises(Refused, match="plans=5"):
        morse_engine.accelerate(pipe, budget=2, plans=5)


def test_a_budget_knows_that_the_pipeline_has_guidance():
    """With it few Dash steps of a solver that adds noise have no free steps of the table."""
    pipe = pipeline("StableDiffusionPipeline", DDPMScheduler())
    told = {"budget": 4, "clean_range": (-1, 1)}
    assert choose(4, pipe.scheduler, None, clean_range=(-1, 1)).plan.num_free
    assert str(morse_engine.accelerate(pipe, **told).plan) == "----"


def test_budgets(pipe):
    dot = randomised(Dot(pipe.unet, widths=(8, 8)))
    assert str(morse_engine.accelerate(pipe, budget=4.7).plan) == "----"
    morse_engine.restore(pipe)
    plan = morse_engine.accelerate(pipe, dot, budget=4.0, dot_speed=6.0).plan
    assert plan == choose(4.0, pipe.scheduler, 6.0).plan
    morse_engine.restore(pipe)
    assert morse_engine.accelerate(pipe, dot, dot_speed=6.0).plan.lsd(6.0) <= 10


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "options", "call"),
    [
        ("StableDiffusionPipeline", {}, {}),
        ("StableDiffusionXLControlNetPipeline", {}, {"image": picture()}),
        (
            "StableDiffusionControlNetPipeline",
            {"controlnets": 2},
            {"image": [picture(), picture()]},
        ),
        ("LatentConsistencyModelPipeline", {}, {}),
        (
            "StableDiffusionInpaintPipeline",
            {"in_channels": 9},
            {"image": picture(), "mask_image": half_mask(), "height": SIZE, "width": SIZE},
        ),
    ],
)
def test_a_budget_is_measured_on_inputs_like_the_real_ones(kind, options, call):
    pipe = pipeline(kind, LCMScheduler() if "Consistency" in kind else None, **options)
    given, seen = [], []

    def sizes(inputs):
        """All but the number of tokens."""
        return {
            name: sizes(value) if isinstance(value, dict) else (value.shape[0], value.shape[-1])
            for name, value in inputs.items()
        }

    def dot(x, t, x_s, z_s, t_s, z_p, t_p, **cond):
        seen.append((x.shape, sizes(cond)))
        return torch.zeros_like(z_s)

    pipe.unet.register_forward_hook(
        lambda module, args, kwargs, out: given.append(args[0].shape), with_kwargs=True
    )
    morse_engine.accelerate(pipe, dot, budget=3.0)
    if isinstance(pipe.scheduler, LCMScheduler):  # no plans of it were compared
        assert not given, "nothing to measure"
        return
    measured = given[0], seen[0]
    morse_engine.restore(pipe)
    morse_engine.accelerate(pipe, dot, plan="-.")
    given.clear()
    seen.clear()
    pipe(**CALL, **call)
    assert (given[0], seen[0]) == measured


# -- the report ------------------------------------------------------------------------------------


def test_report(pipe):
    dot = randomised(Dot(pipe.unet, widths=(8, 8)))
    accelerated = morse_engine.accelerate(pipe, dot, plan="-..-.")
    before = accelerated.report()
    assert (before.path, str(before.plan), before.num_dash) == ("none", "-..-.", 0)
    pipe(**CALL)
    report = accelerated.report()
    assert (report.path, report.why, report.num_dash, report.num_dot) == ("whole loop", "", 2, 3)
    for words in ("whole loop", "-..-.", "2 Dash, 3 Dot", "DDIM", "eager on cpu"):
        assert words in str(report)
    pipe(callback_on_step_end=lambda p, i, t, k: k, **CALL)
    assert "step by step (callback_on_step_end)" in str(accelerated.report())


# -- the tables of prepared schedulers -------------------------------------------------------------


def test_a_prepared_scheduler_is_read_as_it_stands():
    scheduler = EulerDiscreteScheduler()
    scheduler.set_timesteps(6)
    whole, table = SolverTable.from_scheduler(scheduler, 6), SolverTable.of_prepared(scheduler)
    assert_close("solver/repeated", table.rows, whole.rows)
    assert (table.init_noise_sigma, whole.init_noise_sigma > 1) == (1.0, True)
    end = SolverTable.of_prepared(scheduler, 2)
    assert_close("solver/repeated", end.rows, whole.rows[2:])
    assert torch.equal(end.timesteps, whole.timesteps[2:])
    assert scheduler.step_index is None, "not modified"


def test_number_of_steps_for_a_number_of_calls():
    assert probe.steps_for_calls(HeunDiscreteScheduler(), 7) == 4
    assert probe.steps_for_calls(LMSDiscreteScheduler(), 7) == 7
    with pytest.raises(ValueError, match="nearest: 5 or 7"):
        probe.steps_for_calls(HeunDiscreteScheduler(), 6)


def test_reading_a_table_steps_nobody_s_scheduler():
    """Not even where a step is watched on the object itself."""
    scheduler, called = EulerDiscreteScheduler(), []
    step, scale = scheduler.step, scheduler.scale_model_input
    expected = SolverTable.from_scheduler(scheduler, 4)
    scheduler.step = lambda *args, **kwargs: (called.append("step"), step(*args, **kwargs))[1]
    scheduler.scale_model_input = lambda *args: (called.append("scale"), scale(*args))[1]
    before = state(scheduler)
    found = SolverTable.from_scheduler(scheduler, 4)
    assert not called
    assert_close("solver/repeated", found.rows, expected.rows)
    assert state(scheduler) == before


@pytest.mark.slow
def test_a_watched_scheduler_is_not_stepped_by_an_accelerated_call(pipe):
    morse_engine.accelerate(pipe)
    expected = pipe(generator=generator(), num_inference_steps=2, **CALL).images
    called = []
    pipe.scheduler.step = lambda *args, **kwargs: called.append(args)
    actual = pipe(generator=generator(), num_inference_steps=2, **CALL).images
    assert torch.equal(actual, expected)
    assert not called
