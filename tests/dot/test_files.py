"""Saved Dots: what is written, what is read, and what is refused."""

import json
import os

import pytest
import torch
from diffusers import DDPMScheduler
from safetensors.torch import load_file

from models import randomised, tiny_unet, trajectory
from morse_engine import Dot, Refused


@pytest.fixture
def saved(tmp_path):
    unet = tiny_unet()
    dot = randomised(Dot(unet, widths=(8, 8), lora_rank=2))
    dot.save_pretrained(tmp_path / "dot")
    return tmp_path / "dot", unet, dot


def test_round_trip(saved):
    folder, unet, dot = saved
    again = Dot.from_pretrained(folder, unet)
    assert torch.equal(again(*trajectory(unet)), dot(*trajectory(unet)))
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_plans_of_another_dot_do_not_stay(saved):
    """The same Dot saved again keeps what a search found of it; other weights do not."""
    folder, _, dot = saved
    plans = folder / "plans.json"
    plans.write_text("{}")
    dot.save_pretrained(folder)
    assert plans.exists()
    with torch.no_grad():
        dot.gains.bias += 1
    with pytest.warns(UserWarning, match="search anew"):
        dot.save_pretrained(folder)
    assert not plans.exists()


def test_a_failed_save_leaves_the_old_files(saved, monkeypatch):
    import safetensors.torch

    folder, unet, dot = saved

    def full(*_, **__):
        raise OSError("no space left")

    monkeypatch.setattr(safetensors.torch, "save", full)
    with pytest.raises(OSError, match="no space left"):
        dot.save_pretrained(folder)
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]
    again = Dot.from_pretrained(folder, unet)
    assert torch.equal(again(*trajectory(unet)), dot(*trajectory(unet)))


def test_only_the_trained_part_is_stored(saved):
    folder, _, dot = saved
    assert load_file(folder / "model.safetensors").keys() == dot.trained_parameters().keys()


def test_another_dash_is_refused(saved):
    with pytest.raises(ValueError, match="Dot of another Dash"):
        Dot.from_pretrained(saved[0], tiny_unet(seed=5))


def test_missing_file(saved):
    folder, unet, _ = saved
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing"):
        Dot.from_pretrained(folder, unet)


@pytest.mark.parametrize("keep", [0, 7, 100, 0.5, 0.99])
def test_truncated_weights(saved, keep):
    folder, unet, _ = saved
    path = folder / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: keep if isinstance(keep, int) else int(keep * len(content))])
    with pytest.raises(ValueError, match="damaged file"):
        Dot.from_pretrained(folder, unet)


def test_foreign_weights(saved):
    from safetensors.torch import save_file

    folder, unet, _ = saved
    save_file({"conv.weight": torch.zeros(3)}, folder / "model.safetensors")
    with pytest.raises(ValueError, match="does not fit its config"):
        Dot.from_pretrained(folder, unet)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class": "UNet2DModel"}, "does not describe a Dot"),
        ({"format_version": 99}, "format version 99"),
        ({"widths": None}, "lacks widths"),
    ],
)
def test_foreign_config(saved, change, message):
    folder, unet, _ = saved
    config = json.loads((folder / "config.json").read_text()) | change
    (folder / "config.json").write_text(
        json.dumps({k: v for k, v in config.items() if v is not None})
    )
    with pytest.raises(ValueError, match=message):
        Dot.from_pretrained(folder, unet)


@pytest.mark.parametrize("version", [1, 2])
def test_an_earlier_format_is_refused(saved, version):
    folder, unet, _ = saved
    config = json.loads((folder / "config.json").read_text()) | {"format_version": version}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(Refused, match=r"reads 3: .* train the Dot again for an earlier one"):
        Dot.from_pretrained(folder, unet)


def test_config_that_is_not_json(saved):
    (saved[0] / "config.json").write_text("{")
    with pytest.raises(ValueError, match="damaged file"):
        Dot.from_pretrained(saved[0], saved[1])


def test_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / "file").write_text("x")
    for place in ("file", "file/dot"):
        with pytest.raises(NotADirectoryError, match="choose a folder"):
            Dot(tiny_unet(), widths=(4, 4)).save_pretrained(tmp_path / place)


# -- what a file says is not believed --------------------------------------------------------------


def changed(folder, **change):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


NOISE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "prediction_type": "epsilon",
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"widths": [100_000, 100_000]}, r"does not fit its config: widths=.* block 0 has 8"),
        ({"widths": [8, 16]}, "block 1 has 8"),
        ({"widths": [8]}, "but 2 down blocks"),
        ({"widths": [8] * 1000}, "but 2 down blocks"),
        ({"widths": 8}, "widths=8: has to be a list"),
        ({"widths": "88"}, "widths='88': has to be a list"),
        ({"widths": [8, 8.0]}, r"a width=8\.0: has to be an integer"),
        ({"widths": [8, True]}, "a width=True: has to be an integer"),
        ({"lora_rank": 10**9}, r"lora_rank=1000000000, but ranks \[2\]"),
        ({"lora_rank": "2"}, "lora_rank='2': has to be an integer"),
        ({"lora_rank": None}, "lora_rank=None: has to be an integer"),
        ({"cut": "2"}, "cut='2'"),
        ({"cut": -1}, "cut=-1"),
        ({"cut": 10**12}, "cut=1000000000000 for a UNet of 3 levels"),
        ({"guided": "no"}, "guided='no': has to be True or False"),
        ({"solvers": "ddim"}, "solvers='ddim': has to be a list"),
        ({"dash_fingerprint": 5}, "dash_fingerprint"),
        ({"format_version": True}, "format version True"),
        ({"format_version": "2"}, "format version '2'"),
        ({"noise": "owner/name"}, "noise='owner/name': has to be a dict"),
        ({"noise": [1]}, "has to be a dict"),
        ({"noise": {}}, "noise lacks num_train_timesteps"),
        ({"noise": NOISE | {"beta_end": 2}}, "beta_end=2: has to be between 0 and 1"),
        ({"noise": NOISE | {"beta_end": float("nan")}}, "beta_end=nan"),
        ({"noise": NOISE | {"beta_start": "0"}}, "beta_start='0'"),
        ({"noise": NOISE | {"num_train_timesteps": 10**12}}, "from 2 to 100000"),
        ({"noise": NOISE | {"num_train_timesteps": 1e3}}, "has to be an integer"),
        ({"noise": NOISE | {"beta_schedule": "of my own"}}, "beta_schedule='of my own'"),
        ({"noise": NOISE | {"beta_schedule": ["linear"]}}, "beta_schedule="),
        ({"noise": NOISE | {"prediction_type": None}}, "prediction_type=None"),
        ({"noise": NOISE | {"trained_betas": [0.1]}}, "'trained_betas', which no noise levels"),
        ({"noise": NOISE | {"rescale_betas_zero_snr": True}}, "are no noise levels"),
    ],
)
def test_a_config_that_does_not_fit(saved, change, message, monkeypatch):
    """Nothing is built and nobody is asked."""
    folder, unet, _ = saved
    changed(folder, **change)

    def online(*_, **__):
        pytest.fail("a connection was asked for")

    monkeypatch.setattr("socket.socket.connect", online)
    if "cut" not in change:  # which only Dash's layers contradict
        monkeypatch.setattr(torch.nn.Conv2d, "__init__", lambda *_: pytest.fail("built"))
    with pytest.raises(Refused, match=message):
        Dot.from_pretrained(folder, unet)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite(saved, value):
    from safetensors.torch import save_file

    folder, unet, dot = saved
    tensors = load_file(folder / "model.safetensors")
    tensors["up.0.conv1.weight"].view(-1)[7] = value
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(Refused, match=r"NaN or infinite values in up\.0\.conv1\.weight"):
        Dot.from_pretrained(folder, unet)
    with torch.no_grad():
        dot.gains.bias[0] = value
    with pytest.raises(Refused, match=r"is not saved: it has NaN .* in gains\.bias"):
        dot.save_pretrained(folder)


def test_tensors_of_another_type(saved):
    from safetensors.torch import save_file

    folder, unet, _ = saved
    tensors = load_file(folder / "model.safetensors")
    tensors["gains.bias"] = tensors["gains.bias"].long()
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(Refused, match=r"torch\.int64 in gains\.bias"):
        Dot.from_pretrained(folder, unet)


def test_a_bfloat16_cast_is_not_called_another_dash(saved):
    folder, unet, _ = saved
    with pytest.raises(Refused, match="in bfloat16, whose rounding hides"):
        Dot.from_pretrained(folder, unet.to(torch.bfloat16))


def test_a_dash_without_values(tmp_path):
    dash = tiny_unet()
    Dot(dash, widths=(4, 4)).save_pretrained(tmp_path)
    with pytest.raises(Refused, match="this Dash is on meta"):
        Dot.from_pretrained(tmp_path, tiny_unet().to("meta"))


@pytest.mark.parametrize("folder", [5, None, "", "a\0b", b"dot", "x" * 300])
def test_what_is_no_path(saved, folder):
    with pytest.raises(Refused, match=r"folder=.*has to be a path"):
        Dot.from_pretrained(folder, saved[1])
    with pytest.raises(Refused, match=r"folder=.*has to be a path"):
        saved[2].save_pretrained(folder)


def test_the_levels_of_a_zero_snr_schedule_are_saved(tmp_path):
    unet = tiny_unet()
    noise = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    dot = randomised(Dot(unet, DDPMScheduler(**noise)))
    dot.save_pretrained(tmp_path)
    again = Dot.from_pretrained(tmp_path, unet)
    assert torch.equal(again.levels.alphas_cumprod, dot.levels.alphas_cumprod)
    assert again.levels.alphas_cumprod[-1] == 0
    assert torch.equal(again(*trajectory(unet)), dot(*trajectory(unet)))
    assert torch.isfinite(again(*trajectory(unet))).all()


def test_others_may_read_what_is_saved(saved):
    umask = os.umask(0o022)
    os.umask(umask)
    modes = {p.stat().st_mode & 0o777 for p in saved[0].iterdir()}
    assert modes == {0o666 & ~umask}


def test_a_merged_dot_cannot_be_saved(saved, tmp_path):
    with pytest.raises(ValueError, match="inference only"):
        saved[2].merged().save_pretrained(tmp_path / "merged")
