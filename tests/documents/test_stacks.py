"""docs/stacks.md: its Python runs, with tiny models in the place of the reader's."""

from pathlib import Path

import pytest
from diffusers import DDIMPipeline, DDIMScheduler

from documents import blocks
from models import randomised, tiny_unet
from morse_engine import Dot
from pipelines import pipeline

DOCUMENT = Path(__file__).parents[2] / "docs/stacks.md"


@pytest.mark.slow
def test_python_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
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
