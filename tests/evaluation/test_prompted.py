"""A pipeline in an experiment draws what it draws by itself, and is priced with its guidance."""

import pytest
import torch
from diffusers import LCMScheduler
from torch import nn

import morse_engine
from models import randomised
from morse_engine import Dot
from morse_engine.evaluation.experiment import Experiment, Point
from morse_engine.evaluation.paired import Paired
from morse_engine.evaluation.prompted import Prompted
from morse_engine.evaluation.score import Pyramid, score
from morse_engine.evaluation.subject import Subject
from morse_engine.runtime.models import Models
from morse_engine.sampling import noise
from morse_engine.sampling.budget import choose
from morse_engine.sampling.plan import Plan
from pipelines import assert_same, shallow

pytestmark = pytest.mark.slow

PROMPTS = ["a cat", "dog", "two"]
SEEDS = range(4, 8)  # of the second, third, first and second prompt
RANGE = ((-0.5,) * 4, (0.5,) * 4)
KINDS = ("StableDiffusionPipeline", "StableDiffusionXLPipeline", "LatentConsistencyModelPipeline")


def prompted(pipe, dot=None, **options) -> Prompted:
    return Prompted("tiny", pipe, dot, PROMPTS, **({"guidance_scale": 3.0} | options))


def drawn(pipe, seeds=SEEDS, **words) -> torch.Tensor:
    """By the pipeline itself from the latents of these seeds."""
    latents = noise.normal(seeds, noise.INITIAL, (4, 8, 8))
    prompts = [PROMPTS[seed % 3] for seed in seeds]
    words = {"guidance_scale": 3.0, "output_type": "latent"} | words
    return pipe(prompts, latents=latents, **words).images


@pytest.mark.parametrize("kind", KINDS)
def test_dash_alone_draws_what_the_pipeline_draws(kind):
    """Of a consistency model, which adds noise of its own, one step, which adds none."""
    consistency = kind.startswith("Latent")
    pipe = shallow(kind, LCMScheduler() if consistency else None)
    subject, steps = prompted(pipe), 1 if consistency else 4
    expected = drawn(pipe, num_inference_steps=steps)
    found = subject.sample(Plan("-" * steps), SEEDS, 3)
    assert_same(found, expected)
    pictures = drawn(pipe, num_inference_steps=steps, output_type="pt") * 2 - 1
    assert_same(subject.pictures(found).clamp(-1, 1), pictures)
    assert subject.prompts(SEEDS) == ["dog", "two", "a cat", "dog"]


@pytest.mark.parametrize("guided", [True, False])
def test_dots_and_free_steps_are_those_of_accelerate(guided, monkeypatch):
    """Free steps within the range of the latents, a Dot on each branch or on the guided one."""
    from morse_engine.integrations import pipelines

    monkeypatch.setattr(pipelines, "range_of", lambda *_: RANGE)
    pipe = shallow("StableDiffusionPipeline")
    dot = randomised(Dot(pipe.unet, pipe.scheduler, widths=(8,), cut=1, guided=guided))
    subject = prompted(pipe, dot, latents=RANGE)
    found = subject.sample(Plan("-:.-:."), SEEDS, 4)
    morse_engine.accelerate(pipe, dot, plan="-:.-:.", backend="eager")
    assert_same(found, drawn(pipe))
    morse_engine.restore(pipe)
    free = prompted(pipe, dot).sample(Plan("-:.-:."), SEEDS, 4)
    assert (free - found).abs().max() > 1e-3, "the range matters"


def test_without_guidance_there_is_one_branch():
    pipe = shallow("StableDiffusionPipeline")
    subject = prompted(pipe, guidance_scale=1.0)
    assert len(subject.told(SEEDS)["encoder_hidden_states"]) == 4
    expected = drawn(pipe, num_inference_steps=3, guidance_scale=1.0)
    assert_same(subject.sample(Plan("---"), SEEDS, 4), expected)
    dot = Dot(pipe.unet, pipe.scheduler, widths=(8,), cut=1, guided=True)
    with pytest.raises(ValueError, match="a guidance of 1 has none"):
        prompted(pipe, dot, guidance_scale=1.0)


def test_the_budget_knows_whether_there_is_guidance():
    pipe = shallow("StableDiffusionPipeline")
    assert prompted(pipe).known["guided"]
    assert not prompted(pipe, guidance_scale=1.0).known["guided"]


def test_the_budget_knows_the_range_of_the_latents():
    pipe = shallow("StableDiffusionPipeline")
    subject = prompted(pipe, latents=RANGE)
    assert ":" in choose(4, subject.scheduler, None, **subject.known).plan.morse
    assert prompted(pipe).known["clean_range"] is None
    clipped = Subject("pixels", Models(pipe.unet, None, (-2, 2)), (4, 8, 8), pipe.scheduler)
    clipped.latents = RANGE
    assert clipped.known["clean_range"] == ((-2.0,), (2.0,)), "what the models know comes first"


def test_latency_is_measured_as_the_loop_calls_the_models(monkeypatch):
    pipe, seen = shallow("StableDiffusionPipeline"), {}
    dot = randomised(Dot(pipe.unet, pipe.scheduler, widths=(8,), cut=1, guided=True))
    subject = prompted(pipe, dot)
    for name in ("dash", "dot"):
        function = getattr(subject.models, name)

        def called(x, *rest, name=name, function=function, **cond):
            seen[name] = len(x), len(cond["encoder_hidden_states"])
            return function(x, *rest, **cond)

        monkeypatch.setattr(subject.models, name, called)
    speed = subject.measure(5, repeats=3)
    assert seen == {"dash": (10, 10), "dot": (5, 5)}
    assert speed.dot_speed == pytest.approx(speed.lsd_ms / speed.dot_ms)


class Judge(nn.Module):
    """Features of a corner; a picture shows a prompt as well as the prompt is long."""

    num_features = 3

    def features(self, x):
        return x[:, :, 0, 0] + 2

    def prompt_score(self, images, prompts):
        assert len(images) == len(prompts)
        return torch.tensor([len(prompt) / 100 for prompt in prompts])


def test_rows_of_a_pipeline():
    subject, judge = prompted(shallow("StableDiffusionPipeline")), Judge()
    made = Experiment(
        subject, Paired(judge), solver="ddim", num_images=4, batch_size=4, seed=4, full_steps=5,
        judge=judge,
    )  # fmt: skip
    made.measure(repeats=3)
    full, _ = made.evaluate(Point("dash only", Plan("-----"), 5, 5))
    assert (full["value"], full["rmse_to_full"]) == (0, 0)
    assert full["unlike"] == pytest.approx(0, abs=1e-12)
    row, images = made.evaluate(Point("dash only", Plan("--"), 2, 2))
    whole = made.sample(Point("dash only", Plan("-----"), 5, 5), 4)[0]
    assert row["unit"] == "distance to the full run"
    a, b = images[:, :, 0, 0].double() + 2, whole[:, :, 0, 0].double() + 2
    assert row["value"] == pytest.approx(score(a, b), rel=1e-3)
    cosine = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))
    assert row["unlike"] == pytest.approx(float((1 - cosine).mean()), rel=1e-3)
    assert row["prompt_score"] == pytest.approx(sum(map(len, subject.prompts(SEEDS))) / 400)
    assert row["value"] > 0


def test_paired_needs_a_full_run():
    subject = prompted(shallow("StableDiffusionPipeline"))
    with pytest.raises(ValueError, match="full_steps"):
        Experiment(subject, Paired(Pyramid(3)), solver="ddim", num_images=4)
