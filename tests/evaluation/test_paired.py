"""Distances to the full run from the same seeds, image by image."""

import pytest
import torch

from extractor import Pixels
from morse_engine import evaluation
from morse_engine.evaluation.frechet import Frechet
from morse_engine.evaluation.paired import Paired, rms, unlike


def test_distances_by_image():
    full = torch.zeros(2, 3, 4, 4)
    images = torch.stack([torch.full((3, 4, 4), 0.5), torch.full((3, 4, 4), -2.0)])
    assert rms(images, full).tolist() == [0.25, 1.0]
    assert unlike(torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 3.0]])).item() == pytest.approx(
        1 - 0.5**0.5
    )
    assert evaluation.rmse_to_full(images[:1], full[:1]) == 2 * rms(images, full)[0]


def test_a_yardstick_of_pixels():
    full = torch.rand(6, 1, 2, 2) * 2 - 1
    paired = Paired(Pixels())
    assert paired.distance(full, full) == 0
    moved = (full + 0.1).clamp(max=1)
    assert paired.distance(moved, full) == pytest.approx(
        float((moved.double().mean(0) - full.double().mean(0)).square().sum())
        + float((moved.double().std(0) - full.double().std(0)).square().sum())
    )
    assert paired.distance(torch.full_like(full, 9.0), full) == paired.distance(
        torch.ones_like(full), full
    ), "pictures count as they would be shown"


def test_a_judge_of_prompts_does_not_classify():
    class Judge(torch.nn.Module):
        num_features = 4

        def features(self, x):
            return x.flatten(1)

        def prompt_score(self, images, prompts):
            return torch.zeros(len(images))

    frechet = Frechet(Judge(), torch.randn(9, 1, 2, 2))
    images = torch.rand(5, 1, 2, 2)
    assert frechet.classes(images) is None
    assert torch.equal(frechet.features(images), images.flatten(1).double())
