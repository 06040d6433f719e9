"""Distances: closed forms, and what cannot be measured."""

import importlib.util
import math

import pytest
import torch

from extractor import Pixels
from morse_engine.evaluation.frechet import Frechet, rmse_to_full
from morse_engine.zoo import classifier


def standardised(n: int, d: int) -> torch.Tensor:
    """`[n, d]` float64 samples with mean exactly 0 and covariance exactly I."""
    x = torch.randn(n, d, dtype=torch.float64)
    x = x - x.mean(0)
    return torch.linalg.solve_triangular(torch.linalg.cholesky(x.T.cov()), x.T, upper=False).T


def test_frechet_of_a_set_with_itself_is_zero():
    images = torch.rand(200, 1, 2, 2) * 2 - 1
    frechet = Frechet(Pixels(), images)
    assert frechet.distance(images.flip(0)) == pytest.approx(0.0, abs=1e-9)


def test_frechet_of_gaussians_is_the_closed_form():
    mean = torch.tensor([0.05, -0.1, 0.0, 0.2], dtype=torch.float64)
    spread = torch.tensor([0.05, 0.1, 0.15, 0.12], dtype=torch.float64)
    unit = standardised(300, 4)
    images = (unit * spread + mean).reshape(-1, 1, 2, 2)
    assert images.abs().max() < 1  # nothing is clamped
    frechet = Frechet(Pixels(), 0.1 * unit.reshape(-1, 1, 2, 2), batch_size=77)
    expected = (mean.square() + (spread - 0.1).square()).sum().item()
    distance = frechet.distance(images)
    assert distance == pytest.approx(expected, rel=1e-9)
    # The real statistics stay, those of the images before are forgotten.
    assert frechet.distance(images) == distance


def test_frechet_takes_images_as_they_are_shown():
    images = torch.rand(200, 1, 2, 2) * 4 - 2
    assert Frechet(Pixels(), images.clamp(-1, 1)).distance(images) == pytest.approx(0.0, abs=1e-9)


def test_frechet_uses_the_features_of_the_classifier_and_leaves_it_alone():
    model = classifier.DigitClassifier()
    images = torch.rand(130, 1, 32, 32) * 2 - 1
    frechet = Frechet(model, images[:65])
    assert not model.training
    features = model.features(images).detach().double()
    real, fake = features[:65], features[65:]
    product = torch.linalg.eigvals(real.T.cov() @ fake.T.cov()).sqrt().real.sum()
    expected = (real.mean(0) - fake.mean(0)).square().sum()
    expected += real.T.cov().trace() + fake.T.cov().trace() - 2 * product
    assert frechet.distance(images[65:]) == pytest.approx(expected.item(), rel=1e-6)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_frechet_refuses_what_it_cannot_measure():
    images = torch.randn(5, 1, 2, 2)
    with pytest.raises(ValueError, match="4 images for 4 features"):
        Frechet(Pixels(), images[:4])
    with pytest.raises(ValueError, match="at least 5 images"):
        Frechet(Pixels(), images).distance(images[:4])
    with pytest.raises(ValueError, match=r"gave \(5, 4\).*\(5, 3\)"):
        Frechet(Pixels(3), images)
    with pytest.raises(ValueError, match="num_features"):
        Frechet("resnet", images)


@pytest.mark.skipif(importlib.util.find_spec("torch_fidelity") is not None, reason="it is there")
def test_inception_without_its_package_names_it():
    with pytest.raises(RuntimeError, match="pip install torch-fidelity"):
        Frechet("inception", torch.zeros(3000, 1, 2, 2))


def test_rmse():
    full = torch.zeros(3, 1, 2, 2)
    assert rmse_to_full(full + 0.5, full) == 0.5
    half = full.clone()
    half[..., 0] = 2.0
    assert rmse_to_full(half, full) == pytest.approx(math.sqrt(2.0))
    with pytest.raises(ValueError, match="same seeds"):
        rmse_to_full(full[:2], full)
