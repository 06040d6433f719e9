"""benchmarks/k_diffusion.py: its model is that of a pipeline, and it goes on where it was."""

import json
import sys

import pytest
import torch

from morse_engine import zoo
from morse_engine.dot.levels import NoiseLevels
from morse_engine.evaluation.prompted import Prompted
from morse_engine.sampling import noise, schedulers
from morse_engine.sampling.plan import Plan
from morse_engine.zoo.miniature import captions


@pytest.mark.slow
def test_rows(tmp_path, monkeypatch):
    import k_diffusion as bench

    monkeypatch.setattr(bench, "FULL", 4)
    monkeypatch.setattr(bench, "CALLS", (2,))
    monkeypatch.setattr(bench, "BATCH", 2)
    out = tmp_path / "rows.json"
    monkeypatch.setattr(sys, "argv", ["k_diffusion", "--images", "2", "--out", str(out)])
    bench.main()
    rows = json.loads(out.read_text())
    assert len(rows) == len(bench.SCHEDULES) * 2 * len(bench.PLANS)
    assert all(0 < row["low"] <= row["value"] <= row["high"] for row in rows)
    monkeypatch.setattr(bench.Host, "sample", None)  # all is there: nothing is made
    bench.main()
    assert json.loads(out.read_text()) == rows


def test_levels():
    import k_diffusion as bench

    host = bench.Host.__new__(bench.Host)
    host.noise = NoiseLevels.from_scheduler()
    alpha, sigma = host.noise.at(torch.tensor([999.0, 0.0]))
    for schedule in bench.SCHEDULES:
        levels = host.levels(schedule, 5)
        assert levels[0].item() == pytest.approx((sigma / alpha)[0].item(), rel=1e-5)
        assert levels[-2].item() == pytest.approx((sigma / alpha)[1].item(), rel=1e-5)
        assert levels[-1] == 0
        assert (levels.diff() < 0).all()
    karras = host.levels("karras", 5)[:-1] ** (1 / bench.RHO)
    torch.testing.assert_close(karras.diff(), karras.diff().mean().expand(4), rtol=1e-3, atol=0)


@pytest.mark.slow
def test_its_model_is_that_of_a_pipeline(monkeypatch):
    """Euler at the pipeline's own noise levels makes what `compile` makes with that scheduler."""
    import k_diffusion as bench

    import morse_engine

    monkeypatch.setattr(bench, "BATCH", 1)
    host, pipe = bench.Host(1), zoo.miniature_pipeline()
    scheduler = schedulers.make("euler", pipe.scheduler.config)
    scheduler.set_timesteps(3)
    levels = scheduler.sigmas.clone()
    monkeypatch.setattr(host, "levels", lambda schedule, steps: levels)
    found = host.sample("karras", "euler", "-", 3)
    subject = Prompted("miniature", pipe, None, captions.coarse(), guidance_scale=bench.GUIDANCE)
    sampler = morse_engine.compile(pipe.unet, scheduler=scheduler, plan=Plan("---"))
    seeds = [bench.FIRST_SEED]
    x = noise.normal(seeds, noise.INITIAL, sampler.models.shape)
    # The run begins at sigma times the noise here, there at sqrt(1 + sigma^2) times.
    x = x * levels[0] / scheduler.init_noise_sigma
    made = sampler(x, guidance_scale=bench.GUIDANCE, **subject.told(seeds))
    expected = (subject.pictures(made) / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-3)
