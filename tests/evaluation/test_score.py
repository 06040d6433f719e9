"""The score of a plan: its closed form, its upper end, and the features of any images."""

from statistics import fmean

import pytest
import torch

from morse_engine.evaluation.bootstrap import Bootstrap, between
from morse_engine.evaluation.score import Pyramid, score, upper_end


def test_score_is_the_diagonal_frechet_distance():
    generator = torch.Generator().manual_seed(0)
    full = torch.randn(500, 3, generator=generator)
    assert score(full, full) == 0
    moved = full * torch.tensor([1.0, 1.0, 2.0]) + torch.tensor([0.0, 3.0, 0.0])
    mean, spread = full.double().mean(0)[2], full.double().std(0)[2]
    assert score(moved, full) == pytest.approx(float(9 + mean**2 + spread**2), rel=1e-5)


def test_the_upper_end_holds_for_more_seeds():
    """Of a plan that is noise about the full run: the score of 64 seeds is luck, its end is not."""
    generator = torch.Generator().manual_seed(0)
    full = torch.randn(4096, 20, generator=generator)
    near, noisy = full + 0.12, full + torch.randn(full.shape, generator=generator)
    assert upper_end(full[:64], full[:64]) == 0
    for plan in (near, noisy):
        real = score(plan, full)
        few = [(plan[i : i + 64], full[i : i + 64]) for i in range(0, len(full), 64)]
        assert fmean(upper_end(*both) >= real for both in few) > 0.95
    values = [score(noisy[rows], full[rows]) for rows in Bootstrap(64).rows]
    high = between(torch.tensor([0.0, *values])).high
    assert upper_end(noisy[:64], full[:64]) == pytest.approx(high, rel=1e-5)
    # The same images in another order: the score sees nothing, its end that none is its own.
    other = full[:64].roll(1, 0)
    assert score(other, full[:64]) < 1e-9 < 0.1 < upper_end(other, full[:64])


def blurred(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.avg_pool2d(x, 3, 1, 1)


@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 16, 16), (4, 5, 3)])
def test_pyramid(shape):
    """Any shape, the same numbers each time; what is worse is farther, blur too."""
    x = torch.rand(64, *shape, generator=torch.Generator().manual_seed(1)) * 2 - 1
    see, again = Pyramid(shape[0]), Pyramid(shape[0])
    assert torch.equal(see(x), again(x))
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
    little, much = (score(see(x + sigma * noise), see(x)) for sigma in (0.1, 0.3))
    assert 0 < little < much
    assert score(see(blurred(x)), see(x)) > little
