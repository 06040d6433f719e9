"""Around the steps of an accelerated pipeline: callbacks, progress, interruption, failures."""

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    EulerAncestralDiscreteScheduler,
    LCMScheduler,
    UniPCMultistepScheduler,
)

import fake_capture
import morse_engine
from pipelines import LATENT, assert_same, generator, one_thread, our_noise, with_dot
from pipelines import shallow as pipeline

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # what diffusers deprecates
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # what NumPy deprecates in it
]
__all__ = ["one_thread"]  # a fixture of this file

PLAN = "-..-.-"
CALL = {"prompt": ["a cat", "a dog"], "guidance_scale": 3.0, "output_type": "latent"}


def nothing(pipe, i, t, tensors):
    return tensors


# -- callbacks, progress, interruption -------------------------------------------------------------


def test_a_callback_sees_and_changes_the_latents():
    pipe = pipeline("StableDiffusionPipeline")
    seen: list[list] = [[], []]

    def record(into):
        def callback(pipe, i, t, tensors):
            into.append((i, int(t), tensors["latents"].clone()))
            return {"latents": 0.9 * tensors["latents"]}

        return callback

    call = CALL | {"num_inference_steps": 4}
    expected = pipe(generator=generator(), callback_on_step_end=record(seen[0]), **call).images
    morse_engine.accelerate(pipe)
    actual = pipe(generator=generator(), callback_on_step_end=record(seen[1]), **call).images
    assert torch.equal(actual, expected)
    assert len(seen[0]) == 4
    for own, ours in zip(*seen, strict=True):
        assert own[:2] == ours[:2]
        assert torch.equal(own[2], ours[2])


def test_a_callback_sees_the_clean_estimate_of_lcm():
    """Its latents have fresh noise in them; without that it is the estimate, at every step."""
    pipe = pipeline("LatentConsistencyModelPipeline", LCMScheduler())
    seen: list[list] = [[], []]

    def record(into):
        return lambda pipe, i, t, tensors: into.append(tensors["denoised"]) or tensors

    call = CALL | {"num_inference_steps": 4, "callback_on_step_end_tensor_inputs": ["denoised"]}
    with our_noise(pipe.scheduler, 2):
        pipe(generator=generator(), callback_on_step_end=record(seen[0]), **call)
    morse_engine.accelerate(pipe)
    pipe(generator=generator(), callback_on_step_end=record(seen[1]), **call)
    assert len(seen[0]) == 4
    for own, ours in zip(*seen, strict=True):
        assert_same(ours, own)


@pytest.mark.parametrize(
    ("plan", "counts"),
    [("-..-.", (3, 2)), ("-.-..", (2, 3))],
    ids=["before a Dot", "before a Dash"],
)
def test_a_callback_that_ends_guidance(plan, counts):
    """From the third step on there is half of the batch, of which Dash has said nothing yet."""
    pipe, dot = with_dot()

    def end_guidance(pipe, i, t, tensors):
        if i == 1:
            pipe._guidance_scale = 0.0
            tensors["prompt_embeds"] = tensors["prompt_embeds"].chunk(2)[1]
        return tensors

    accelerated = morse_engine.accelerate(pipe, dot, plan=plan)
    call = {"callback_on_step_end_tensor_inputs": ["latents", "prompt_embeds"], **CALL}
    pipe(callback_on_step_end=end_guidance, **call)
    report = accelerated.report()
    assert (report.num_dash, report.num_dot) == counts
    noted = ["step 2 was made by Dash: the batch changed from"] if plan[2] == "." else []
    assert [note[: len(said)] for note, said in zip(report.notes, noted, strict=True)] == noted


def test_progress_follows_the_steps():
    pipe, dot = with_dot()
    steps = []
    pipe.unet.register_forward_hook(lambda *_: steps.append("-"))
    done = []

    class Bar:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def update(self):
            done.append(len(steps))

    pipe.progress_bar = lambda total: Bar()
    morse_engine.accelerate(pipe, dot, plan=PLAN)
    pipe(**CALL)
    assert done == [1, 1, 1, 2, 2, 3], "how many Dash steps had been made at each update"


def interrupt_at(pipe, call):
    """Have the pipeline interrupted from within a call of its unet, as another thread would."""
    count = iter(range(1000))

    def hook(*_):
        if next(count) == call:
            pipe._interrupt = True

    return pipe.unet.register_forward_hook(hook)


@pytest.mark.parametrize("scheduler", [DDIMScheduler(), EulerAncestralDiscreteScheduler()])
@pytest.mark.parametrize("callback", [None, nothing], ids=["whole", "steps"])
def test_interruption_leaves_the_latents_reached(scheduler, callback):
    pipe = pipeline("StableDiffusionPipeline", scheduler)
    call = CALL | {"num_inference_steps": 6, "callback_on_step_end": callback}
    with our_noise(pipe.scheduler, 2), interrupt_at(pipe, 2):
        expected = pipe(generator=generator(), **call).images
    accelerated = morse_engine.accelerate(pipe)
    with interrupt_at(pipe, 2):
        actual = pipe(generator=generator(), **call).images
    assert_same(actual, expected)
    assert accelerated.report().num_dash == 3
    assert torch.isfinite(pipe(generator=generator(), **call).images).all()
    assert accelerated.report().num_dash == 6


@pytest.mark.parametrize("backend", ["host", "device"])
def test_interruption_of_captured_steps(backend, fake, monkeypatch):
    fake_capture.install(monkeypatch, fake)
    pipe = pipeline("StableDiffusionPipeline")
    morse_engine.accelerate(pipe, backend=backend)
    call = CALL | {"num_inference_steps": 6}
    expected = pipe(generator=generator(), **call).images
    with interrupt_at(pipe, 2):
        stopped = pipe(generator=generator(), **call).images
    assert torch.isfinite(stopped).all()
    assert stopped.abs().max() > 0
    assert torch.equal(pipe(generator=generator(), **call).images, expected)


# -- requests and failures -------------------------------------------------------------------------


def test_requests_share_no_state():
    pipe, dot = with_dot(scheduler=UniPCMultistepScheduler())
    morse_engine.accelerate(pipe, dot, plan=PLAN)
    first = pipe(generator=generator(), **CALL).images
    pipe(generator=generator(9), **(CALL | {"prompt": "other"}))
    pipe(generator=generator(9), callback_on_step_end=nothing, **CALL)
    assert torch.equal(pipe(generator=generator(), **CALL).images, first)


@pytest.mark.slow
@pytest.mark.parametrize("callback", [None, nothing], ids=["whole", "steps"])
@pytest.mark.parametrize("part", ["unet", "dot", "vae.decoder", "text_encoder"])
def test_a_failed_request_leaves_the_pipeline_usable(part, callback):
    pipe, dot = with_dot()
    morse_engine.accelerate(pipe, dot, plan=PLAN)
    call = CALL | {"output_type": "np", "callback_on_step_end": callback}
    expected = pipe(generator=generator(), **call).images
    parts = dict(vars(pipe))
    fails = pipe._morse.sampler.models.helper if part == "dot" else pipe
    if part != "dot":
        for name in part.split("."):
            fails = getattr(fails, name)
    forward, fails.forward = fails.forward, failing
    if part == "dot":
        fails.given = failing
    with pytest.raises(OSError, match="a cable"):
        pipe(generator=generator(), **call)
    fails.forward = forward
    if part == "dot":
        del fails.given
    assert all(vars(pipe)[name] is value for name, value in parts.items() if "_" not in name)
    assert torch.equal(
        *map(torch.as_tensor, (pipe(generator=generator(), **call).images, expected))
    )


def failing(*args, **kwargs):
    raise OSError("a cable was pulled")


def test_a_callback_that_raises():
    pipe = pipeline("StableDiffusionPipeline")
    morse_engine.accelerate(pipe)
    call = CALL | {"num_inference_steps": 4}
    expected = pipe(generator=generator(), **call).images
    with pytest.raises(OSError, match="a cable"):
        pipe(callback_on_step_end=failing, **call)
    assert torch.equal(pipe(generator=generator(), **call).images, expected)


def test_a_call_within_a_call():
    pipe = pipeline("StableDiffusionPipeline")
    morse_engine.accelerate(pipe)
    with pytest.raises(RuntimeError, match="from within its own call"):
        pipe(callback_on_step_end=lambda p, i, t, k: p(**CALL), **CALL)


def test_generators_are_used_as_by_the_pipeline():
    """A solver without noise draws nothing on the way; one with noise one number an image."""
    for scheduler, numbers in ((DDIMScheduler(), 0), (EulerAncestralDiscreteScheduler(), 2)):
        pipe = pipeline("StableDiffusionPipeline", scheduler)
        morse_engine.accelerate(pipe)
        ours, expected = generator(), generator()
        pipe(generator=ours, num_inference_steps=3, **CALL)
        torch.randn(2, 4, LATENT, LATENT, generator=expected)
        torch.randint(2**63 - 1, (numbers,), generator=expected)
        assert torch.equal(ours.get_state(), expected.get_state())
    torch.manual_seed(4)
    first = pipe(num_inference_steps=3, **CALL).images
    torch.manual_seed(4)
    assert torch.equal(pipe(num_inference_steps=3, **CALL).images, first)
