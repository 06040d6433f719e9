"""The icons of classes: their variations, and trainings of Dash and Dot that go on."""

import sys
import warnings

import pytest
import torch

import morse_engine
from morse_engine import zoo
from morse_engine.evaluation.labelled import Labelled
from morse_engine.runtime.models import Models
from morse_engine.sampling.plan import Plan
from morse_engine.zoo.icons import DASH, DOT, dash, data, dot
from morse_engine.zoo.miniature import data as pictures
from morse_engine.zoo.miniature import judge
from morse_engine.zoo.miniature.data import Icon

TIGER = Icon("3d", "tiger face", ("orange", "big cat"), "animal-mammal", "animal")
APPLE = Icon("noto", "red apple", ("fruit", "food"), "food-fruit", "food")


def made_up(n: int) -> torch.Tensor:
    """Squares of one colour on white, uint8 `[n, 3, 64, 64]`."""
    images = torch.full((n, 3, 64, 64), 255, dtype=torch.uint8)
    images[:, :, 16:48, 16:48] = torch.tensor([200, 40, 40]).view(3, 1, 1)
    return images


def drawn(seed: int, images: torch.Tensor | None = None) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return data.varied(made_up(6) if images is None else images, generator)


def test_variations_are_of_one_picture():
    images = drawn(0)
    assert images.shape == (6, 3, data.SIZE, data.SIZE)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert -1 <= images.min() < images.max() <= 1
    assert (images[:, :, 0, 0] > 0.999).all()  # white stays white
    middle = images[:, :, 16, 16]
    grey = torch.tensor([200.0, 40, 40]).mean() / 127.5 - 1
    assert (middle.mean(1) - grey).abs().max() < 0.07  # hue alone, but where it is clamped
    assert middle.std(0)[1:].min() > 0.05
    assert (middle.argmax(1) == 0).all()  # red remains red
    assert torch.equal(images, drawn(0))
    assert not torch.equal(images, drawn(1))


def test_every_second_picture_is_mirrored():
    images = torch.full((64, 3, 64, 64), 255, dtype=torch.uint8)
    images[:, :, :, 8:24] = 0
    left = drawn(0, images)[:, :, :, : data.SIZE // 2].mean((1, 2, 3)) < 0.5
    assert 20 < left.sum() < 44


def test_classes_are_styles_with_groups():
    assert data.CLASSES[data.label(TIGER)] == ("3d", "animal")
    assert data.WORDS[data.label(APPLE)] == "a noto food"
    assert data.labels([TIGER, APPLE]).tolist() == [data.label(TIGER), data.label(APPLE)]
    found = data.labels_of(range(400))
    assert found.tolist()[7:9] == data.labels_of([7, 8]).tolist()  # of the seed alone
    counts = torch.bincount(found, minlength=len(data.CLASSES)).view(len(data.STYLES), -1).sum(0)
    assert counts.argsort(descending=True).tolist()[:2] == [0, 1]  # faces, then animals
    assert counts.min() > 0


def test_the_training_of_dash_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(dash, "new_unet", small_unet)

    def stage(steps: int):
        return dash.train_dash(
            made_up(4), [TIGER, APPLE] * 2, tmp_path / "state.pt", steps, batch_size=4
        )

    assert stage(4).run()
    whole = stage(4).averaged().state_dict()
    (tmp_path / "state.pt").unlink()
    assert not stage(4).run(seconds=0)  # one step
    assert stage(4).run()
    again = stage(4).averaged().state_dict()
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_a_dot_is_trained_with_classes(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "load", lambda folder: (made_up(4), [TIGER, APPLE] * 2))
    monkeypatch.setattr(dot, "SAMPLES", 16)
    monkeypatch.setattr(dot, "HELD_OUT", 8)
    small_unet().save_pretrained(tmp_path / "dash" / "weights")
    first, last = [stage._replace(num_steps=1) for stage in dot.STAGES]
    unet = zoo.icons_dash(tmp_path / "dash" / "weights")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one step makes no good Dot
        dot.train(tmp_path, tmp_path, [first._replace(solvers=("ddim",))])
        before = morse_engine.Dot.from_pretrained(tmp_path / "dot", unet)
        folder = dot.train(tmp_path, tmp_path, [first._replace(solvers=("ddim",)), last])
    made = morse_engine.Dot.from_pretrained(folder, unet)
    assert made.conditional
    assert set(made.solvers) == set(last.solvers)
    assert before.solvers == ("ddim",)
    log = (tmp_path / "dot-0" / "log.jsonl").read_text()
    assert len(log.splitlines()) == 1  # which was not trained again


@pytest.mark.parametrize("script", [dash, dot])
def test_a_script_that_cannot_write_says_so_in_one_line(script, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("x")
    monkeypatch.setattr(pictures, "load", lambda folder: pytest.fail("it began to work"))
    monkeypatch.setattr(sys, "argv", ["script", "--out", str(tmp_path / "file")])
    with pytest.raises(SystemExit, match="2"):
        script.main()
    assert "choose a folder" in capsys.readouterr().err


def test_the_command_of_dash_writes_what_is_read(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pictures, "load", lambda folder: (made_up(4), [TIGER, APPLE] * 2))
    monkeypatch.setattr(dash, "new_unet", small_unet)
    monkeypatch.setattr(dash, "VARIATIONS", 50)
    words = ["dash", "--out", str(tmp_path), "--steps", "2", "--batch-size", "2"]
    monkeypatch.setattr(sys, "argv", words)
    dash.main()
    folder = tmp_path / "dash" / "weights"
    assert f"the Dash is in {folder}" in capsys.readouterr().out
    images = morse_engine.compile(zoo.icons_dash(folder), plan="-")(
        batch_size=1, class_labels=torch.tensor([3])
    )
    assert images.shape == (1, 3, data.SIZE, data.SIZE)
    critic = judge.load()
    learnt = data.shown(data.varied(made_up(4).repeat(50, 1, 1, 1), torch.Generator()))
    near = judge.to_real(judge.seen(critic, learnt), folder)
    assert near < 0.5 < judge.to_real(judge.seen(critic, -learnt), folder)


def test_the_scheduler_of_the_icons():
    """That of their noise; DDIM alone does not clip."""
    for solver in ("ddim", "ddpm", "dpm", "euler-ancestral"):
        made = zoo.icons_scheduler(solver)
        assert torch.equal(made.alphas_cumprod, zoo.digits_scheduler(solver).alphas_cumprod)
    assert not zoo.icons_scheduler("ddim").config.clip_sample
    assert zoo.icons_scheduler("ddpm").config.clip_sample


def small_unet():
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=data.SIZE,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D",) * 4,
        up_block_types=("UpBlock2D",) * 4,
        add_attention=False,
        num_class_embeds=len(data.CLASSES),
    )


@pytest.mark.slow
def test_the_bundled_icons():
    """Dash draws what it is asked, and its Dot belongs to it."""
    unet = zoo.icons_dash()
    made = zoo.icons_dot(unet)
    sampler = morse_engine.compile(unet, made, plan="-.:-.:-.:-.:")
    heart, face = data.CLASSES.index(("noto", "heart")), data.CLASSES.index(("noto", "face"))
    images = sampler(batch_size=2, seed=0, class_labels=torch.tensor([heart, face]))
    assert images.shape == (2, 3, data.SIZE, data.SIZE)
    assert images.isfinite().all()
    assert (images[:, :, :2] > 0.5).float().mean() > 0.9  # on white
    assert images.std() > 0.2
    bought = morse_engine.compile(unet, made, plan="auto", budget=4)  # N is measured
    assert 1 < bought.plan.num_dash <= 4


def test_the_bundled_folders_are_small():
    files = [file for folder in (DASH, DOT) for file in folder.rglob("*") if file.is_file()]
    assert {file.name for file in files} >= {"config.json", "MODEL_CARD.md"}
    assert sum(file.stat().st_size for file in files) < 7e6


def test_a_subject_with_classes_tells_them():
    asked = []

    def model(x, t, class_labels):
        asked.append(class_labels)
        return torch.zeros_like(x)

    subject = Labelled(
        "icons",
        Models(model, None),
        (3, 4, 4),
        zoo.digits_scheduler("ddim"),
        labels_of=lambda seeds: torch.tensor(seeds) % 3,
        words=["a", "b", "c"],
        scale=2,
    )
    images = subject.sample(Plan("-"), [4, 5, 6], 2)
    assert [labels.tolist() for labels in asked] == [[1, 2], [0]]
    assert subject.prompts([4, 5, 6]) == ["b", "c", "a"]
    shown = subject.pictures(images)
    assert shown.shape == (3, 3, 8, 8)
    assert torch.equal(shown[:, :, ::2, ::2], images)
    assert torch.equal(shown[:, :, 1::2, 1::2], images)
