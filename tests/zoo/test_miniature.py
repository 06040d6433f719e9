"""The miniature Stable Diffusion: the bundled folders, its captions and its words."""

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

import morse_engine
from morse_engine import zoo
from morse_engine.zoo.miniature import (
    DOT,
    JUDGE,
    WEIGHTS,
    captions,
    data,
    judge,
    text,
)
from morse_engine.zoo.miniature.data import Icon

TIGER = Icon("3d", "tiger face", ("orange", "big cat"), "animal-mammal", "animal")
APPLE = Icon("noto", "red apple", ("fruit", "food"), "food-fruit", "food")


@pytest.mark.slow
def test_the_bundled_folder_is_a_pipeline():
    pipe = StableDiffusionPipeline.from_pretrained(WEIGHTS)
    pipe.set_progress_bar_config(disable=True)
    assert {pipe.unet.dtype, pipe.vae.dtype, pipe.text_encoder.dtype} == {torch.float32}
    pictures = pipe(
        ["a noto red heart", "a 3d animal"],
        num_inference_steps=3,
        guidance_scale=3.0,
        generator=[torch.Generator().manual_seed(seed) for seed in (0, 1)],
        output_type="np",
    ).images
    assert pictures.shape == (2, data.SIZE, data.SIZE, 3)
    assert np.isfinite(pictures).all()
    assert pictures.std() > 0.05


@pytest.mark.slow
def test_the_prompt_decides_the_picture():
    pipe = StableDiffusionPipeline.from_pretrained(WEIGHTS)
    pipe.set_progress_bar_config(disable=True)
    prompts = ["a noto heart", "a noto smiling face"]
    pictures = pipe(
        prompts,
        num_inference_steps=10,
        guidance_scale=3.0,
        generator=[torch.Generator().manual_seed(0) for _ in prompts],
        output_type="np",
    ).images
    middle = pictures[:, 24:40, 24:40].mean((1, 2))
    yellow = middle[:, 1] - middle[:, 2]  # faces are, and hearts are red
    assert yellow[1] > yellow[0] + 0.2


def test_the_bundled_folders_are_small():
    folders = WEIGHTS, DOT, JUDGE
    files = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 12e6


@pytest.mark.slow
def test_the_bundled_dot_belongs_to_the_pipeline():
    pipe = zoo.miniature_pipeline()
    accelerated = morse_engine.accelerate(pipe, zoo.miniature_dot(pipe.unet), plan="-.:-.")
    generator = torch.Generator().manual_seed(0)
    picture = pipe("a noto heart", guidance_scale=3, generator=generator, output_type="np").images
    assert np.isfinite(picture).all()
    report = accelerated.report()
    assert (report.num_dash, report.num_dot) == (2, 2)


@pytest.mark.slow
def test_the_judge_tells_what_a_picture_shows():
    pipe = zoo.miniature_pipeline()
    prompts = ["a noto heart", "a flat cat face", "a 3d smiling face", "a noto flower"]
    generators = [torch.Generator().manual_seed(seed) for seed in range(4)]
    pictures = pipe(
        prompts, generator=generators, num_inference_steps=12, guidance_scale=3, output_type="pt"
    ).images
    critic = judge.load()
    pictures = 2 * pictures - 1
    assert critic.features(pictures).shape == (4, critic.num_features)
    scores = torch.stack([critic.prompt_score(pictures, [prompt] * 4) for prompt in prompts])
    assert scores.argmax(0).tolist() == [0, 1, 2, 3]
    own = critic.prompt_score(pictures, prompts)
    assert (own - scores.diagonal()).abs().max() < 1e-5
    noise = torch.rand(pictures.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert critic.prompt_score(noise, prompts).max() < scores.diagonal().min()


def test_the_ladder_goes_from_nothing_to_the_name():
    assert captions.ladder(TIGER, "orange") == tuple(captions.LADDER)
    assert captions.ladder(APPLE, "food")[5] == "a noto food"  # not "food food"
    assert sum(captions.LADDER.values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("subgroup", "words"),
    [
        ("face-neutral-skeptical", "neutral skeptical face"),
        ("cat-face", "cat face"),
        ("animal-mammal", "mammal"),
        ("plant-other", "plant"),
        ("heart", "heart"),
    ],
)
def test_subgroups_in_words(subgroup, words):
    assert captions.subgroup_words(subgroup) == words


def test_coarse_prompts_are_each_style_with_each_kind():
    prompts = captions.coarse()
    assert len(set(prompts)) == len(prompts) == len(data.PACKAGES) * len(data.SUBGROUPS)
    assert {"a 3d mammal", "a noto heart", "a flat smiling face"} <= set(prompts)
    assert len({prompt.split()[1] for prompt in prompts[:6]}) == 3  # any part is a mixture
    assert len({prompt.split(" ", 2)[2] for prompt in prompts[:6]}) == 6


def test_a_seed_is_a_row_of_captions():
    def drawn(seed):
        generator = torch.Generator().manual_seed(seed)
        return [captions.draw(TIGER, generator) for _ in range(500)]

    assert drawn(0) == drawn(0) != drawn(1)
    assert 0.06 < drawn(0).count("") / 500 < 0.14
    assert {"a 3d orange animal", "a 3d big cat animal"} <= set(drawn(0))


def test_the_tokenizer_is_learnt_from_the_words():
    words = ["tiger face", "red apple", "tiger", "apple", "face", "red"] * 3
    tokenizer = text.learn_tokenizer(words, entries=560)
    assert tokenizer.tokenize("Red tiger") == ["red</w>", "tiger</w>"]
    assert tokenizer.decode(tokenizer("red apple!").input_ids, skip_special_tokens=True) == (
        "red apple !"
    )
    row = text.tokens(tokenizer, ["tiger"])[0]
    assert row.shape == (text.LENGTH,)
    assert row[0] == tokenizer.bos_token_id
    assert (row[2:] == tokenizer.eos_token_id).all()
    with pytest.raises(ValueError, match="entries=100"):
        text.learn_tokenizer(words, entries=100)
