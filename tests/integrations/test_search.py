"""The search of plans with a text-to-image pipeline, and what `accelerate` makes of it."""

import json

import pytest
import torch
from diffusers import DDPMScheduler, PNDMScheduler

import morse_engine
from models import randomised
from morse_engine import Dot, Plan, Refused
from morse_engine.evaluation import search as of_samplers
from morse_engine.evaluation.score import Pyramid, upper_end
from morse_engine.integrations.latents import range_of
from morse_engine.integrations.search import search
from morse_engine.sampling import budget, noise
from pipelines import assert_same, one_thread, shallow

__all__ = ["one_thread"]  # a fixture of this file

SD, SDXL = "StableDiffusionPipeline", "StableDiffusionXLPipeline"
PROMPTS = ["a cat", "dog", "two"]
OPTIONS = {"prompts": PROMPTS, "batch_size": 4, "num_images": 8, "full_steps": 6, "tries": 2}
SEEDS = range(of_samplers.SEED, of_samplers.SEED + 8)


def drawn(pipe, seeds, **words) -> torch.Tensor:
    """By the pipeline itself, from the latents of these seeds."""
    latents = noise.normal(seeds, noise.INITIAL, (4, 8, 8)).to(pipe.unet.dtype)
    prompts = [PROMPTS[seed % 3] for seed in seeds]
    return pipe(prompts, latents=latents, output_type="pt", **words).images.float() * 2 - 1


@pytest.mark.parametrize("kind", [SD, SDXL])
def test_scores_are_of_what_the_pipeline_draws(kind, tmp_path):
    """With its own guidance, and free steps within the range that the search has measured."""
    pipe = shallow(kind)
    ranking = search(pipe, [2], folder=tmp_path, **OPTIONS)
    assert budget.read(tmp_path) == {"ddim": ranking}
    assert {Plan("--"), Plan("-:-:"), Plan("-::-::")} < set(ranking.scores)
    see, full = Pyramid(3), drawn(pipe, SEEDS, num_inference_steps=6)
    for plan in ("--", "-:-:"):
        morse_engine.accelerate(pipe, plan=plan, plans=tmp_path)
        expected = upper_end(see(drawn(pipe, SEEDS)), see(full))
        morse_engine.restore(pipe)
        assert ranking.scores[Plan(plan)] == pytest.approx(expected, rel=0.02)
    accelerated = morse_engine.accelerate(pipe, budget=2, plans=tmp_path)
    within = {plan: score for plan, score in ranking.scores.items() if plan.num_dash <= 2}
    assert within[accelerated.plan] == min(within.values())


def test_the_range_is_that_of_the_full_run(tmp_path):
    pipe = shallow(SD)
    search(pipe, [2], folder=tmp_path, guidance_scale=2.0, **OPTIONS)
    latents = noise.normal(SEEDS[:4], noise.INITIAL, (4, 8, 8))
    prompts = [PROMPTS[seed % 3] for seed in SEEDS[:4]]
    x = pipe(
        prompts, latents=latents, num_inference_steps=30, guidance_scale=2.0, output_type="latent"
    ).images
    low, high = range_of(pipe, tmp_path)
    for channel in range(4):
        values = x[:, channel].double().flatten()
        ends = torch.quantile(values, torch.tensor([0.001, 0.999]).double())
        assert (low[channel], high[channel]) == pytest.approx(ends.tolist(), rel=1e-3, abs=1e-3)


def test_another_range_that_is_known_comes_first(tmp_path):
    pipe = shallow(SD)
    dot = randomised(Dot(pipe.unet, pipe.scheduler, widths=(8,), cut=1))
    dot.clean_range = (-1, 1)
    search(pipe, [2], folder=tmp_path / "dot", dot=dot, dot_speed=2.0, **OPTIONS)
    assert not (tmp_path / "dot" / "latents.json").exists()
    clipped = shallow(SD)
    clipped.scheduler = DDPMScheduler(clip_sample=True)
    search(clipped, [2], folder=tmp_path / "clipped", **OPTIONS)
    assert not (tmp_path / "clipped" / "latents.json").exists()
    folder = tmp_path / "vae"
    pipe.vae.save_pretrained(folder)
    (folder / "latents.json").write_text(json.dumps({"low": [-1] * 4, "high": [1] * 4}))
    known = shallow(SD)
    known.vae = type(known.vae).from_pretrained(folder)
    search(known, [2], folder=tmp_path / "known", **OPTIONS)
    assert not (tmp_path / "known" / "latents.json").exists()
    assert range_of(known, tmp_path) == ((-1.0,) * 4, (1.0,) * 4)


def test_a_measured_range_is_used_by_accelerate(tmp_path):
    """Without it the same plan makes other pictures; a budget alone has no free steps."""
    pipe = shallow(SD)
    search(pipe, [2], folder=tmp_path, **OPTIONS)
    (tmp_path / "latents.json").write_text(json.dumps({"low": [-0.1] * 4, "high": [0.1] * 4}))
    pictures = []
    for plans in (tmp_path, None):
        morse_engine.accelerate(pipe, plan="-:-:", plans=plans)
        pictures.append(drawn(pipe, SEEDS))
        morse_engine.restore(pipe)
    assert (pictures[0] - pictures[1]).abs().max() > 1e-3
    morse_engine.accelerate(pipe, plan="-:-:", clean_range=([-0.1] * 4, [0.1] * 4))
    assert_same(drawn(pipe, SEEDS), pictures[0])
    morse_engine.restore(pipe)
    assert not morse_engine.accelerate(pipe, budget=3).plan.num_free


def test_beside_the_dot_it_is_found_by_itself(tmp_path):
    pipe = shallow(SD)
    randomised(Dot(pipe.unet, pipe.scheduler, widths=(8,), cut=1)).save_pretrained(tmp_path)
    dot = Dot.from_pretrained(tmp_path, pipe.unet)
    ranking = search(pipe, [2], folder=tmp_path, dot=dot, dot_speed=2.0, **OPTIONS)
    assert any(plan.num_dot for plan in ranking.scores)
    for words in ({}, {"plans": tmp_path}):
        accelerated = morse_engine.accelerate(pipe, dot, budget=2, dot_speed=2.0, **words)
        made = [drawn(pipe, SEEDS)]
        morse_engine.restore(pipe)
        within = {p: s for p, s in ranking.scores.items() if p.lsd(2.0) <= 2}
        assert within[accelerated.plan] == min(within.values())
        morse_engine.accelerate(
            pipe, dot, plan=accelerated.plan, clean_range=range_of(pipe, tmp_path)
        )
        assert_same(drawn(pipe, SEEDS), made[0])
        morse_engine.restore(pipe)


def test_the_pipeline_is_left_as_it_was(tmp_path):
    """In half precision too: pictures are decoded in float32 for the search alone."""
    pipe = shallow(SD, PNDMScheduler(skip_prk_steps=True)).to(torch.bfloat16)
    expected = drawn(pipe, SEEDS[:2], num_inference_steps=3)
    search(pipe, [3], folder=tmp_path, **OPTIONS)
    assert pipe.vae.dtype == torch.bfloat16
    assert torch.equal(drawn(pipe, SEEDS[:2], num_inference_steps=3), expected)
    assert {*budget.read(tmp_path)} == {"pndm"}


def test_a_search_that_goes_on_knows_its_prompts(tmp_path):
    pipe = shallow(SD)
    ranking = search(pipe, [2], folder=tmp_path, **OPTIONS)
    seen = []
    again = search(pipe, [2], folder=tmp_path, on_plan=lambda *a: seen.append(a), **OPTIONS)
    assert again == ranking
    assert seen
    with pytest.raises(Refused, match="made with told="):
        search(pipe, [2], folder=tmp_path, **OPTIONS | {"prompts": ["a cat", "dog"]})
    with pytest.raises(Refused, match="made with guidance_scale="):
        search(pipe, [2], folder=tmp_path, guidance_scale=2.0, **OPTIONS)


def test_a_noisy_solver_has_more_images(tmp_path):
    pipe = shallow(SD, DDPMScheduler())
    calls = []
    options = OPTIONS | {"num_images": None, "batch_size": 100, "tries": 0, "full_steps": 3}
    told = {"features": lambda x: calls.append(len(x)) or x.flatten(1)[:, :2]}
    search(pipe, [2], folder=tmp_path / "noisy", **options | told)
    assert sum(calls) == 100 + 300 + 3 * 300  # a look, the full run, three plans
    pipe.scheduler = shallow(SD).scheduler
    calls.clear()
    search(pipe, [2], folder=tmp_path / "ddim", **options | told)
    assert sum(calls) == 100 + 100 + 3 * 100


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"prompts": []}, "prompts=.*give a list of texts"),
        ({"prompts": "a cat"}, "give a list of texts"),
        ({"prompts": ["a cat", 3]}, "prompts holds 3"),
        ({"guidance_scale": "x"}, "guidance_scale='x'"),
        ({"features": 3}, "features is a int"),
        ({"folder": ""}, "folder=''"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"budgets": [0]}, "budget=0"),
        ({"num_images": 6}, "whole batches"),
    ],
)
def test_wrong_searches(words, said, tmp_path):
    pipe = shallow(SD)
    with pytest.raises(Refused, match=said):
        search(pipe, **{"budgets": [2], "folder": tmp_path, **OPTIONS, **words})
    assert not list(tmp_path.iterdir())
    morse_engine.accelerate(pipe, plan="--")


def test_other_pipelines_are_refused(tmp_path):
    with pytest.raises(Refused, match="a text-to-image one is needed"):
        search(shallow("StableDiffusionImg2ImgPipeline"), [2], folder=tmp_path, **OPTIONS)
    with pytest.raises(Refused, match="a text-to-image one is needed"):
        search(shallow("DDIMPipeline"), [2], folder=tmp_path, **OPTIONS)
    pipe = shallow(SD)
    morse_engine.accelerate(pipe, plan="--")
    with pytest.raises(Refused, match="accelerated already"):
        search(pipe, [2], folder=tmp_path, **OPTIONS)
