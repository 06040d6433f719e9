"""The command `evaluate` on a folder where it was stopped, or where another experiment lies."""

import json

import pytest
import torch

from commands import run
from morse_engine.evaluation.experiment import Experiment
from morse_engine.system.lock import alone

WORDS = ["evaluate", "--budgets", "2", "--steps", "2,3", "--num-images", "66", "--device", "cpu"]


@pytest.fixture
def sampled(monkeypatch):
    """The plans that are sampled: images of noise, the same for the same plan, take no time."""
    plans: list[str] = []

    def sample(self, point, num_images, on_cost=None):
        plans.append(str(point.plan))
        generator = torch.Generator().manual_seed(len(point.plan))
        images = torch.rand((num_images, 1, 32, 32), generator=generator) * 2 - 1
        return images, 0.1 * point.cost_lsd

    monkeypatch.setattr(Experiment, "sample", sample)
    return plans


@pytest.mark.slow
def test_a_stopped_experiment_continues(sampled, tmp_path, monkeypatch, fails, capsys):
    one_row = Experiment.evaluate

    def stopped(self, point, *rest):
        if len(sampled) >= 1:
            raise KeyboardInterrupt
        return one_row(self, point, *rest)

    monkeypatch.setattr(Experiment, "evaluate", stopped)
    assert run(*WORDS, "--out", tmp_path) == 130
    assert "the same command continues" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"partial"}
    before = sampled.copy()

    # Not with other numbers, models or images.
    for words, said in (
        (["--seed", 1], "made with seed=0, this run has 1: delete the folder"),
        (["--num-images", 67], "made with num_images=66, this run has 67"),
        (["--solver", "dpm"], "made with solver=ddim, this run has dpm"),
        (["--batch-size", 33], "made with batch_size=100, this run has 33"),
    ):
        assert said in fails(*WORDS, *words, "--out", tmp_path)
    with alone(tmp_path):
        assert "is in use by process" in fails(*WORDS, "--out", tmp_path)

    monkeypatch.setattr(Experiment, "evaluate", one_row)
    monkeypatch.setattr(Experiment, "measure", lambda self: pytest.fail("measured again"))
    assert run(*WORDS, "--out", tmp_path) == 0
    assert sampled[: len(before)] == before
    assert len(set(sampled)) == len(sampled) > len(before), "what was there is not sampled again"
    assert {path.name for path in tmp_path.iterdir()} == {"rows.json", "quality.png"}
    rows = [row for row in json.loads((tmp_path / "rows.json").read_text()) if "plan" in row]
    assert list(dict.fromkeys(row["plan"] for row in rows)) == sampled
