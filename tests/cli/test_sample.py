"""The command `sample` on a folder that holds images already, and its shards."""

import json

import pytest
from safetensors.torch import load_file

from commands import run
from models import tiny_unet
from morse_engine import engine, zoo
from tolerances import assert_close


@pytest.mark.slow
def test_sample_continues_but_mixes_nothing(tmp_path, fails, capsys, monkeypatch):
    words = ["--num-images", 3, "--batch-size", 2, "--device", "cpu", "--out", tmp_path]
    assert run("sample", "--steps", 2, *words) == 0
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(engine.Sampler, "__call__", lambda *_, **__: pytest.fail("sampled again"))
    assert run("sample", "--steps", 2, *words) == 0
    capsys.readouterr()
    message = fails("sample", "--steps", 3, *words)
    assert f'{tmp_path} holds images with plan "--", these are with "---"' in message
    assert "with budget null, these are with 2.0" in fails("sample", "--budget", 2, *words)
    assert "with solver" in fails("sample", "--steps", 2, "--solver", "dpm", *words)
    assert 'format "png"' in fails("sample", "--steps", 2, "--format", "safetensors", *words)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    path = tmp_path / "seed-0000001.png"
    path.write_bytes(before[path][:40])
    assert f"{path} is cut off: delete it" in fails("sample", "--steps", 2, *words)


@pytest.mark.slow
def test_sample_within_a_budget_keeps_its_plan(tmp_path, capsys, monkeypatch):
    """The plan follows from a measured speed; a run that continues does not measure again."""
    words = ["sample", "--budget", 2, "--num-images", 1, "--out", tmp_path]
    assert run(*words) == 0
    plan = json.loads((tmp_path / "settings.json").read_text())["plan"]
    (tmp_path / "seed-0000000.png").unlink()
    monkeypatch.setattr(engine.Sampler, "measure", lambda *_: pytest.fail("measured again"))
    capsys.readouterr()
    assert run(*words) == 0
    assert f"plan    {plan}  " in capsys.readouterr().out


def test_sample_into_shards(tmp_path, fails):
    """Tensors that are the sampler's own; which seeds a file holds is fixed with the set."""
    words = ["sample", "--steps", 2, "--num-images", 3, "--batch-size", 2, "--device", "cpu"]
    words += ["--format", "safetensors", "--out", tmp_path]
    assert run(*words) == 0
    names = ["samples-0000000-0000001.safetensors", "samples-0000002-0000002.safetensors"]
    others = {"grid.png", "index.json", "settings.json"}
    assert {path.name for path in tmp_path.iterdir()} == {*names, *others}
    scheduler = zoo.digits_scheduler()
    sampler = engine.compile(zoo.digits_dash(), scheduler=scheduler, plan="--")
    assert_close("model_batch", load_file(tmp_path / names[1])["samples"], sampler(seed=2))
    assert "with batch_size 2, these are with 3" in fails(*words, "--batch-size", 3)
    (tmp_path / names[0]).write_bytes((tmp_path / names[0]).read_bytes()[:-1])
    assert f"{names[0]} is damaged" in fails(*words)


def test_sample_of_many_channels(tmp_path, fails):
    tiny_unet(in_channels=4, out_channels=4).save_pretrained(tmp_path / "unet")
    words = ["sample", "--unet", tmp_path / "unet", "--steps", 2, "--num-images", 1]
    out = tmp_path / "out"
    assert "use --format safetensors" in fails(*words, "--out", out)
    assert not list(out.iterdir())
    assert run(*words, "--format", "safetensors", "--out", out) == 0
    assert not (out / "grid.png").exists()
