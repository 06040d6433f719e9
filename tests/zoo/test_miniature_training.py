"""The trainings of the miniature: they go on where they were, and end in a pipeline and its Dot."""

import sys
from functools import partial

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from morse_engine import Dot, Unavailable, zoo
from morse_engine.system.lock import alone
from morse_engine.training.captions import find
from morse_engine.training.dot import DotRecipe
from morse_engine.zoo import train as digits_train
from morse_engine.zoo.miniature import (
    captions,
    data,
    dot,
    judge,
    pipeline,
    text,
    train,
    unet,
    vae,
)
from morse_engine.zoo.miniature.data import Icon
from morse_engine.zoo.miniature.stage import Stage
from tolerances import assert_close

TIGER = Icon("3d", "tiger face", ("orange", "big cat"), "animal-mammal", "animal")
APPLE = Icon("noto", "red apple", ("fruit", "food"), "food-fruit", "food")


def made_up(n: int, size: int = 16) -> torch.Tensor:
    """Pictures of one colour with a square in another, uint8 `[n, 3, size, size]`."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (n, 3, 1, 1), generator=generator).repeat(1, 1, size, size)
    images[:, :, 4:12, 4:12] = torch.randint(256, (n, 3, 1, 1), generator=generator)
    return images.to(torch.uint8)


@pytest.fixture
def tiny(monkeypatch):
    """Models of a few channels, batches of four."""
    new_vae, new_unet = vae.new_vae, unet.new_unet
    monkeypatch.setattr(vae, "BATCH", 4)
    monkeypatch.setattr(unet, "BATCH", 4)
    monkeypatch.setattr(judge, "BATCH", 4)
    monkeypatch.setattr(vae, "new_vae", lambda: new_vae((4, 4, 8)))
    monkeypatch.setattr(unet, "new_unet", lambda **kwargs: new_unet((8, 8, 16), **kwargs))
    monkeypatch.setattr(pipeline, "new_unet", unet.new_unet)


def vae_stage(folder, num_steps, **options):
    return vae.train_vae(made_up(6), [0, 2], folder, num_steps, **options)


def unet_stage(folder, num_steps, **options):
    tokenizer = text.learn_tokenizer(["tiger face", "red apple"] * 4, entries=530)
    latents = torch.randn(6, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    icons = [TIGER, APPLE] * 3
    return unet.train_unet(latents, icons, tokenizer, folder / "state.pt", num_steps, **options)


def judge_stage(folder, num_steps):
    tokenizer = text.learn_tokenizer(["tiger face", "red apple"] * 4, entries=530)
    icons = [TIGER, APPLE] * 3
    return judge.train_judge(made_up(6, 64), icons, tokenizer, folder / "state.pt", num_steps)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "bf16"),
    [
        (vae_stage, False),
        (vae_stage, True),
        (unet_stage, False),
        (unet_stage, True),
        (judge_stage, False),
    ],
)
@pytest.mark.usefixtures("tiny")
def test_a_stopped_training_ends_as_one_that_was_not(stage, bf16, tmp_path):
    stage = partial(stage, bf16=True) if bf16 else stage
    whole = stage(tmp_path / "whole", 6)
    assert whole.run()
    stopped = stage(tmp_path / "stopped", 6)
    assert not stopped.run(seconds=0.0)
    assert stopped.step == 1
    torch.randn(7)  # whatever happened in between
    resumed = stage(tmp_path / "stopped", 6)
    assert resumed.step == 1
    assert resumed.run()
    for a, b in zip(whole.averaged().parameters(), resumed.averaged().parameters(), strict=True):
        assert a.dtype == torch.float32
        assert torch.equal(a, b)


@pytest.mark.parametrize("bf16", [False, True])
def test_a_training_learns_and_a_loss_that_is_none_stops_it(tmp_path, bf16):
    model = torch.nn.Linear(1, 1)

    def loss(model, generator, step):
        x = torch.rand(16, 1, generator=generator)
        y = model(x)
        assert y.dtype == (torch.bfloat16 if bf16 else torch.float32)
        return (y - 3 * x).square().mean(), {}

    file = tmp_path / "state.pt"
    numbers = {"num_steps": 300, "batch_size": 16, "lr": 0.1, "ema": 0.9, "warm_up": 5}
    stage = Stage(model, loss, file, **numbers, bf16=bf16)
    assert stage.rate(0) == pytest.approx(0.02)
    assert stage.rate(100) == 0.1
    assert stage.rate(270) == pytest.approx(0.05)
    stage.run()
    assert abs(stage.averaged().weight.item() - 3) < 0.1

    broken = Stage(
        model,
        lambda *_: (torch.tensor(float("nan")), {}),
        tmp_path / "broken.pt",
        num_steps=1,
        batch_size=1,
        lr=0.1,
    )
    with pytest.raises(RuntimeError, match="loss of step 0 is nan"):
        broken.run()


def test_one_training_in_a_folder(tmp_path):
    stage = Stage(
        torch.nn.Linear(1, 1),
        lambda *_: pytest.fail("it began to work"),
        tmp_path / "state.pt",
        num_steps=1,
        batch_size=1,
        lr=0.1,
    )
    with alone(tmp_path), pytest.raises(Unavailable):
        stage.run()


def test_standardised_latents_give_the_same_pictures():
    model = vae.new_vae((4, 4, 8)).eval()
    images = made_up(5)
    latents = vae.encode(model, images)
    pictures = model.decode(latents).sample
    vae.standardise(model, latents)
    standard = vae.encode(model, images)
    assert_close("miniature/standardised", standard.mean((0, 2, 3)), torch.zeros(4))
    assert_close("miniature/standardised", standard.std((0, 2, 3)), torch.ones(4))
    assert_close("miniature/standardised", model.decode(standard).sample, pictures)


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
def test_a_training_from_pictures_to_a_pipeline(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "load", lambda folder: (made_up(6, 64), [TIGER, APPLE] * 3))
    folder = train.train(tmp_path, vae_steps=2, unet_steps=2)
    first = StableDiffusionPipeline.from_pretrained(folder)
    assert first.vae.config.scaling_factor == 1.0
    assert (folder / "vae" / "latents.json").exists()
    model, step = pipeline.learnt(tmp_path)
    assert step == 2
    for a, b in zip(model.unet.parameters(), first.unet.parameters(), strict=True):
        assert_close("miniature/half", b, a)
    train.train(tmp_path, vae_steps=2, unet_steps=3)
    assert pipeline.learnt(tmp_path)[1] == 3


def test_a_caption_of_the_judge_may_be_right_for_several_pictures():
    fits = torch.tensor([[True, True], [False, True]])
    sure = torch.tensor([[0.0, 0.0], [-50.0, 0.0]])
    assert judge._cross_entropy(sure, fits).item() == pytest.approx(np.log(2) / 2, abs=1e-6)


@pytest.mark.slow
def test_pictures_for_the_dot_have_captions(tmp_path):
    images, icons = made_up(6, 64), [TIGER, APPLE] * 3
    folder = dot.export(images, icons, tmp_path / "captioned")
    examples = find(folder)
    assert len(examples) == 6 * dot.CAPTIONS
    assert {example.caption for example in examples} <= {
        *captions.ladder(TIGER, "orange"), *captions.ladder(TIGER, "big cat"),
        *captions.ladder(APPLE, "fruit"), *captions.ladder(APPLE, "food"),
    }  # fmt: skip
    assert_close("miniature/half", examples[0].pixels(64), data.to_float(images)[0])
    before = (folder / "metadata.jsonl").stat().st_mtime_ns
    assert dot.export(images, icons, folder) == folder
    assert (folder / "metadata.jsonl").stat().st_mtime_ns == before


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
def test_the_dot_is_of_the_pipeline_that_was_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "load", lambda folder: (made_up(6, 64), [TIGER, APPLE] * 3))
    folder = train.train(tmp_path, vae_steps=2, unet_steps=2)
    monkeypatch.setattr(dot, "SHAPE", {"widths": (8,), "cut": 1})
    monkeypatch.setattr(
        dot, "DotRecipe", partial(DotRecipe, batch_size=4, run_steps=(2, 3), num_visits=8)
    )
    made = dot.train(tmp_path, num_steps=2)
    pipe = StableDiffusionPipeline.from_pretrained(folder)
    assert Dot.from_pretrained(made, pipe.unet).guided
    branches = dot.train(tmp_path, num_steps=2, guided=False)
    assert branches != made
    assert not Dot.from_pretrained(branches, pipe.unet).guided
    with pytest.raises(ValueError, match="another Dash"):
        Dot.from_pretrained(made, zoo.miniature_pipeline().unet)


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
def test_calls_of_some_minutes_go_on_and_each_exports(tmp_path, monkeypatch):
    asked = []

    def load(folder):
        asked.append(folder)
        return made_up(6, 64), [TIGER, APPLE] * 3

    monkeypatch.setattr(data, "load", load)
    call = partial(
        train.train,
        tmp_path / "out",
        vae_steps=2,
        unet_steps=9,
        batch_size=3,
        pictures=tmp_path / "pictures",
        bf16=True,
    )
    assert call(minutes=0.0) is None  # one step of the VAE
    folder = call(minutes=0.0)
    assert pipeline.learnt(tmp_path / "out")[1] == 1
    first = (folder / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    assert call() == folder
    assert pipeline.learnt(tmp_path / "out")[1] == 9
    assert (folder / "unet" / "diffusion_pytorch_model.safetensors").read_bytes() != first
    assert asked == [tmp_path / "pictures"] * 3


def test_a_copy_that_was_cut_short_is_made_again(tmp_path):
    source, half = tmp_path / "source", tmp_path / "out" / ".vae.partial"
    source.mkdir()
    half.mkdir(parents=True)
    for name in "config.json", "weights":
        (source / name).write_text(name)
    (half / "weights").write_text("wei")
    train._copy(source, tmp_path / "out" / "vae")
    assert (tmp_path / "out" / "vae" / "weights").read_text() == "weights"
    assert not half.exists()


@pytest.mark.parametrize(
    ("device", "said"), [("cuda", "device 'cuda': torch "), ("gpu", "device 'gpu': choose auto")]
)
def test_a_device_that_is_not_there_is_refused_in_words(
    device, said, monkeypatch, capsys, tmp_path
):
    monkeypatch.chdir(tmp_path)  # where its default folder may be
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(data, "load", lambda folder: pytest.fail("it began to work"))
    monkeypatch.setattr(sys, "argv", ["train.py", "--device", device])
    with pytest.raises(SystemExit, match="2"):
        train.main()
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("script", [train, digits_train])
def test_a_script_that_cannot_write_says_so_in_one_line(script, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("x")
    monkeypatch.setattr(script, "train", lambda *a, **k: pytest.fail("it began to work"))
    monkeypatch.setattr(sys, "argv", ["train.py", "--out", str(tmp_path / "file")])
    with pytest.raises(SystemExit, match="2"):
        script.main()
    said = capsys.readouterr().err
    assert "choose a folder" in said
    assert len(said.splitlines()) == 1
