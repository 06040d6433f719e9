"""The classifier whose features the digits are compared in."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from morse_engine import Refused
from morse_engine.zoo import classifier


def test_classifier_is_small_and_its_training_repeatable(tmp_path):
    images, labels = torch.rand(20, 1, 32, 32) * 2 - 1, torch.arange(20) % 10
    state = torch.get_rng_state()
    first, second = (
        classifier.train_classifier(images, labels, seed=3, num_steps=2, batch_size=8)
        for _ in range(2)
    )
    assert torch.equal(state, torch.get_rng_state())
    assert sum(p.numel() for p in first.parameters()) < 60_000
    assert first.features(images).shape == (20, first.num_features)
    assert first(images).shape == (20, 10)
    assert torch.equal(first(images), second(images))
    classifier.save_classifier(first, tmp_path / "classifier.safetensors")
    loaded = classifier.load_classifier(tmp_path / "classifier.safetensors")
    assert torch.equal(first(images), loaded(images))
    with pytest.raises(FileNotFoundError, match="missing"):
        classifier.load_classifier(tmp_path / "missing.safetensors")
    path = tmp_path / "classifier.safetensors"
    whole = path.read_bytes()
    for content in (b"", b"no tensors", whole[:-4]):
        path.write_bytes(content)
        with pytest.raises(Refused, match=r"is not a classifier of digits .*: copy it again"):
            classifier.load_classifier(path)
    save_file({"other": torch.zeros(3)}, path)
    with pytest.raises(Refused, match="is not a classifier of digits"):
        classifier.load_classifier(path)
    with pytest.raises(ValueError, match="20 images but 19 labels"):
        classifier.train_classifier(images, labels[1:])


def test_the_bundled_classifier_reads_held_out_digits():
    pytest.importorskip("sklearn")
    from morse_engine.zoo import digits

    weights = Path(classifier.__file__).parent / "weights" / "classifier.safetensors"
    assert weights.stat().st_size < 300_000
    model = classifier.load_classifier(weights)
    assert classifier.accuracy(model, *digits.images("held-out")) > 0.97
