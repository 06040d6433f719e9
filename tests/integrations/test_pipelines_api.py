"""accelerate and restore: what they leave as it was, what they refuse, what they report."""

import copy
import inspect
import re
from concurrent.futures import ThreadPoolExecutor

import diffusers
import pytest
import torch
from diffusers import (
    AutoPipelineForImage2Image,
    DDIMScheduler,
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
from models import randomised, tiny_text_unet
from morse_engine import Dot, Refused, SolverTable, Unavailable
from morse_engine.sampling import probe
from morse_engine.sampling.budget import choose
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


# -- what is refused, before any model runs --------------------------------------------------------


@pytest.fixture
def asleep(pipe):
    pipe.unet.register_forward_hook(lambda *_: pytest.fail("the unet was called"))
    pipe.text_encoder.register_forward_hook(lambda *_: pytest.fail("the encoder was called"))
    return pipe


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"plan": ".-"}, "first step"),
        ({"plan": 10.0}, "a number of LSD is a budget="),
        ({"plan": "-.-"}, "no dot"),
        ({"plan": "--", "budget": 3.0}, "one of the two"),
        ({"budget": 0.5}, "budget=0.5: a finite number, 1"),
        ({"backend": "fast"}, "fast"),
        ({"dot": "a Dot"}, "not a Dot"),
    ],
)
def test_wrong_options(asleep, options, message):
    with pytest.raises(ValueError, match=message):
        morse_engine.accelerate(asleep, **options)
    assert type(asleep) is StableDiffusionPipeline


@pytest.mark.parametrize("kind", ["StableDiffusionPipeline", "StableDiffusionControlNetPipeline"])
def test_the_dot_of_another_dash(kind):
    with pytest.raises(ValueError, match="another Dash"):
        morse_engine.accelerate(pipeline(kind), Dot(tiny_text_unet(seed=4), widths=(8, 8)))


def test_twice_and_never(asleep):
    with pytest.raises(ValueError, match="not accelerated"):
        morse_engine.restore(asleep)
    morse_engine.accelerate(asleep)
    with pytest.raises(ValueError, match=r"accelerated already.*restore"):
        morse_engine.accelerate(asleep)
    morse_engine.restore(asleep)
    with pytest.raises(ValueError, match="not accelerated"):
        morse_engine.restore(asleep)


def test_plans_that_the_scheduler_cannot_make():
    pipe = pipeline("StableDiffusionPipeline", HeunDiscreteScheduler())
    with pytest.raises(ValueError, match=r"Heun.*cannot make 4 model calls; nearest: 3 or 5"):
        morse_engine.accelerate(pipe, plan="----")


def test_other_pipelines():
    class Own(StableDiffusionPipeline):
        def __call__(self):
            pass

    own = pipeline("StableDiffusionPipeline")
    own.__class__ = Own
    with pytest.raises(ValueError, match=r"Own cannot be accelerated.*StableDiffusionXLPipeline"):
        morse_engine.accelerate(own)
    with pytest.raises(ValueError, match="int cannot be accelerated"):
        morse_engine.accelerate(3)
    own.__class__ = type("Mine", (StableDiffusionPipeline,), {})
    morse_engine.accelerate(own)  # its loop is diffusers'
    with pytest.raises(ValueError, match="predict a variance"):
        morse_engine.accelerate(pipeline("DDPMPipeline", out_channels=2))


def test_offloaded_models(asleep):
    from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module

    add_hook_to_module(asleep.unet, ModelHook())
    with pytest.raises(RuntimeError, match="remove_all_hooks"):
        morse_engine.accelerate(asleep)
    remove_hook_from_module(asleep.unet)
    morse_engine.accelerate(asleep)
    add_hook_to_module(asleep.unet, ModelHook())
    with pytest.raises(RuntimeError, match=r"offloaded.*restore\(pipe\)"):
        asleep(**CALL)


def test_hooks_of_diffusers_get_advice_that_helps(asleep):
    from diffusers.hooks import HookRegistry, ModelHook

    registry = HookRegistry.check_if_exists_or_initialize(asleep.unet)
    registry.register_hook(ModelHook(), "taylorseer_cache")
    with pytest.raises(Unavailable, match=r"\"taylorseer_cache\".*remove_hook") as found:
        morse_engine.accelerate(asleep)
    advice = re.search(r"diffusers\.hooks\.\S+\)", str(found.value))[0]
    eval(advice, {"diffusers": diffusers, "pipe": asleep})
    morse_engine.accelerate(asleep)


def test_layerwise_casting_gets_advice_that_helps(asleep):
    asleep.unet.enable_layerwise_casting(torch.float8_e4m3fn, torch.float32)
    message = r"casts its weights layer by layer.*load it again, without enable_layerwise_casting"
    with pytest.raises(Unavailable, match=message) as found:
        morse_engine.accelerate(asleep)
    assert "remove_all_hooks" not in str(found.value)


def test_pipelines_without_a_unet(asleep):
    class Other(diffusers.DiffusionPipeline):
        def __call__(self):
            pass

    with pytest.raises(Refused, match="Other cannot be accelerated: it has no unet") as found:
        morse_engine.accelerate(Other())
    assert "compile(unet" not in str(found.value)
    asleep.unet = None
    with pytest.raises(Refused, match="StableDiffusionPipeline has no unet: load it with"):
        morse_engine.accelerate(asleep)


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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": "4"}, "budget='4'"),
        ({"budget": float("nan")}, "budget=nan"),
        ({"dot_speed": -1.0}, "dot_speed=-1"),
        ({"plan": ["-"]}, "a Plan or Morse code"),
        ({"plan": "x" * 100_000}, r"100000 in all"),
    ],
)
def test_values_that_are_no_budget_and_no_plan(asleep, options, message):
    with pytest.raises(Refused, match=message):
        morse_engine.accelerate(asleep, **options)


def test_models_that_changed_behind_its_back(asleep):
    dot = randomised(Dot(asleep.unet, widths=(8, 8)))
    morse_engine.accelerate(asleep, dot, plan="-.")
    unet = asleep.unet
    asleep.unet = tiny_text_unet()
    with pytest.raises(RuntimeError, match=r"another one than when.*restore\(pipe\)"):
        asleep(**CALL)
    asleep.unet = unet
    asleep.unet.to(torch.float16)
    with pytest.raises(RuntimeError, match=r"float16, its Dot.*restore\(pipe\)"):
        asleep(**CALL)
    asleep.unet.to(torch.float32)


def test_a_copy_of_an_accelerated_pipeline(asleep):
    morse_engine.accelerate(asleep)
    twin = copy.copy(asleep)
    with pytest.raises(RuntimeError, match="copy of an accelerated one"):
        twin(**CALL)
    morse_engine.restore(twin)
    assert type(twin) is StableDiffusionPipeline
    assert type(asleep) is not StableDiffusionPipeline


def test_a_scheduler_without_a_table_on_a_backend_that_needs_one():
    pipe = pipeline("StableDiffusionPipeline", LMSDiscreteScheduler())
    morse_engine.accelerate(pipe, backend="host")
    pipe.unet.register_forward_hook(lambda *_: pytest.fail("the unet was called"))
    with pytest.raises(RuntimeError, match=r"LMSDiscreteScheduler has no solver table.*auto"):
        pipe(**CALL)


def test_wrong_arguments_are_the_pipelines_own_error():
    pipe = pipeline("DDPMPipeline")
    with pytest.raises(TypeError) as own:
        pipe(num_steps=3)
    morse_engine.accelerate(pipe)
    with pytest.raises(TypeError, match="num_steps"):
        pipe(num_steps=3)
    assert "num_steps" in str(own.value)


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
