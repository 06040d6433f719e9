"""docs/stacks.md: its Python runs, with tiny models in the place of the reader's."""

from itertools import product
from pathlib import Path

import pytest
from diffusers import DDIMPipeline, DDIMScheduler

from documents import blocks
from models import randomised, tiny_unet
from morse_engine import Dot
from morse_engine.evaluation import search
from pipelines import pipeline

DOCUMENT = Path(__file__).parents[2] / "docs/stacks.md"


@pytest.mark.slow
def test_python_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(search, "IMAGES", 16)  # and less of the rest: a search takes minutes
    for function, (option, value) in product(
        (search.search, search.check), {"tries": 1, "full_steps": 12}.items()
    ):
        monkeypatch.setitem(function.__kwdefaults__, option, value)
    pipe = pipeline("StableDiffusionPipeline")
    pipe.save_pretrained("my-pipeline")
    randomised(Dot(pipe.unet, pipe.scheduler)).save_pretrained("my-dot")
    unet = tiny_unet()
    DDIMPipeline(unet, DDIMScheduler()).save_pretrained("my-pixels")
    randomised(Dot(unet)).save_pretrained("my-pixels-dot")
    names = {"__name__": "stacks"}
    for number, source in enumerate(blocks("python", DOCUMENT.read_text())):
        assert source.count("\n") <= 10
        exec(compile(source, f"stacks.md, block {number}", "exec"), names)
    assert "whole loop" in capsys.readouterr().out
