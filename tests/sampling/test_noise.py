import itertools

import numpy as np
import pytest
import torch

from morse_engine.sampling import noise
from morse_engine.sampling.noise import INITIAL, normal, philox4x32
from tolerances import assert_close

BIG_SEED = 0xFEDC_BA98_7654_3210


def words(text):
    return torch.tensor([int(word, 16) for word in text.split()], dtype=torch.int64)


# The rows "philox4x32 10" of kat_vectors in Random123.
@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ("0 0 0 0", "0 0", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        (
            "ffffffff ffffffff ffffffff ffffffff",
            "ffffffff ffffffff",
            "408f276d 41c83b0e a20bc7c6 6d5451fd",
        ),
        (
            "243f6a88 85a308d3 13198a2e 03707344",
            "a4093822 299f31d0",
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_known_answers(counter, key, expected):
    assert torch.equal(philox4x32(words(counter), words(key)), words(expected))


def test_philox_broadcasts_keys_over_counters():
    counter = torch.randint(0, 2**32, (5, 4))
    key = torch.randint(0, 2**32, (3, 1, 2))
    every = philox4x32(counter, key)
    assert every.shape == (3, 5, 4)
    for i, j in itertools.product(range(3), range(5)):
        assert torch.equal(every[i, j], philox4x32(counter[j], key[i, 0]))


@pytest.mark.parametrize(
    ("counter", "key"),
    [
        (torch.zeros(3, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)),
        (torch.zeros(4, dtype=torch.int64), torch.zeros(4, dtype=torch.int64)),
        (torch.zeros(4, dtype=torch.int32), torch.zeros(2, dtype=torch.int64)),
        (torch.tensor(0), torch.zeros(2, dtype=torch.int64)),
    ],
)
def test_philox_refuses_other_words(counter, key):
    with pytest.raises(ValueError, match="has to be int64"):
        philox4x32(counter, key)


def by_definition(seed, step, num_elements):
    """The formula of the docstring, one block at a time, in Python integers and numpy floats."""
    numbers = []
    for block in range(-(-num_elements // 4)):
        c, k = [block, step % 2**32, 0, 0], [seed % 2**32, seed >> 32]
        for _ in range(10):
            p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
            c = [(p1 >> 32) ^ c[1] ^ k[0], p1 % 2**32, (p0 >> 32) ^ c[3] ^ k[1], p0 % 2**32]
            k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
        u = [(word + 0.5) / 2**32 for word in c]
        for a, b in ((u[0], u[1]), (u[2], u[3])):
            radius = np.sqrt(-2 * np.log(a))
            numbers += [radius * np.cos(2 * np.pi * b), radius * np.sin(2 * np.pi * b)]
    return torch.tensor(np.array(numbers[:num_elements], dtype=np.float32))


@pytest.mark.parametrize("seed", [0, 1, 2**32, BIG_SEED, 2**64 - 1])
@pytest.mark.parametrize("step", [INITIAL, 0, 1, 2**32 - 2])
def test_numbers_are_those_of_the_definition(seed, step):
    actual = normal([seed], step, (3, 5, 7))
    assert_close("noise/definition", actual.flatten(), by_definition(seed, step, 105))


SHAPES = [(1,), (2,), (3,), (5,), (1, 1, 1), (3, 7, 11), (13, 17), (3, 32, 32), (4, 1, 3), ()]


@pytest.mark.parametrize("shape", SHAPES)
def test_image_of_a_seed_is_the_same_alone_and_in_any_batch(shape):
    seeds = [0, 1, 2, 3, 2**31, 2**32, 2**32 + 1, BIG_SEED, 2**64 - 1, *range(100, 107)]
    alone = {seed: normal([seed], 5, shape)[0] for seed in seeds}
    for order in (seeds, seeds[::-1], seeds[3:8] + seeds[:3] + seeds[8:]):
        batch = normal(order, 5, shape)
        assert batch.shape == (16, *shape)
        assert batch.dtype == torch.float32
        for seed, image in zip(order, batch, strict=True):
            assert torch.equal(image, alone[seed])


def test_position_alone_decides_not_the_shape():
    assert torch.equal(normal([7], 0, (2, 3, 5)).flatten(), normal([7], 0, (30,))[0])
    assert torch.equal(normal([7], 0, (29,))[0], normal([7], 0, (30,))[0, :29])


def test_global_generator_is_neither_read_nor_moved():
    before = torch.get_rng_state()
    first = normal([3], 0, (8,))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    assert torch.equal(normal([3], 0, (8,)), first)


def test_tensor_of_seeds():
    seeds = [5, 2**62 + 3, 0]
    expected = normal(seeds, 2, (3, 5))
    assert torch.equal(normal(torch.tensor(seeds), 2, (3, 5)), expected)
    assert torch.equal(normal(np.array(seeds), 2, (3, 5)), expected)
    assert torch.equal(normal(tuple(seeds), np.int64(2), torch.Size([3, 5])), expected)


def test_numbers_are_normal():
    stats = pytest.importorskip("scipy.stats")
    sample = normal(range(16), 0, (64, 64)).double().flatten()
    n = sample.numel()
    # Five standard errors of each moment; the numbers are fixed, so this cannot fail by chance.
    assert abs(sample.mean()) < 5 / n**0.5
    assert abs(sample.square().mean() - 1) < 5 * (2 / n) ** 0.5
    assert abs((sample**3).mean()) < 5 * (15 / n) ** 0.5
    assert abs((sample**4).mean() - 3) < 5 * (96 / n) ** 0.5
    assert stats.kstest(sample.numpy(), "norm").pvalue > 0.01
    assert torch.isfinite(sample).all()


def test_all_four_numbers_of_a_block_are_normal_and_independent():
    stats = pytest.importorskip("scipy.stats")
    blocks = normal([11], 0, (4096, 4))[0].double()
    for lane in blocks.T:
        assert stats.kstest(lane.numpy(), "norm").pvalue > 0.01
    assert_uncorrelated(blocks.T)


def test_steps_and_seeds_are_independent():
    steps = [INITIAL, 0, 1, 2, 3, 2**31, 2**32 - 2]
    assert_uncorrelated(torch.cat([normal([7], step, (4096,)) for step in steps]))
    # Seeds that share their low or their high word, and neighbours.
    seeds = [0, 1, 2, 2**32, 2**32 + 1, 2**33, 2**63, 2**64 - 1]
    assert_uncorrelated(normal(seeds, 0, (4096,)))


def assert_uncorrelated(rows):
    rows = rows.double()
    for values in (rows, rows.square() - 1):
        correlation = torch.corrcoef(values) - torch.eye(len(rows), dtype=torch.float64)
        assert correlation.abs().max() < 5 / rows.shape[1] ** 0.5


def test_extreme_words_stay_finite():
    # u is never 0 or 1; the largest number that a word of 0 can make is sqrt(66 ln 2) = 6.76.
    assert normal(range(64), 0, (64, 64)).abs().max() < (66 * np.log(2)) ** 0.5


def test_device_is_that_which_was_asked_for():
    assert normal([0], 0, (3,)).device.type == "cpu"
    assert normal([0], 0, (3,), device=torch.device("cpu")).device.type == "cpu"
    assert normal([0], 0, (3,), device="meta").device.type == "meta"


@pytest.mark.gpu
def test_gpu_makes_the_numbers_of_the_cpu():
    seeds, shape = [0, BIG_SEED, 2**64 - 1], (3, 61, 67)
    for step in (INITIAL, 0, 17):
        actual = normal(seeds, step, shape, device="cuda")
        assert actual.device.type == "cuda"
        assert_close("noise/cuda", actual, normal(seeds, step, shape).cuda())


@pytest.mark.parametrize(
    ("seeds", "step", "shape", "message"),
    [
        ([-1], 0, (3,), "seed=-1: "),
        ([0, 2**64], 0, (3,), "seed=18446744073709551616: "),
        ([0.5], 0, (3,), "seed=0.5: has to be an integer"),
        (7, 0, (3,), r"seeds=7: has to be a sequence"),
        (torch.tensor([-5]), 0, (3,), "seed=-5: "),
        (torch.tensor(5), 0, (3,), "one-dimensional"),
        (torch.tensor([5.0]), 0, (3,), "torch.float32"),
        ([0], -2, (3,), "step=-2: "),
        ([0], 2**32 - 1, (3,), "step=4294967295: "),
        ([0], 1.0, (3,), "step=1.0: has to be an integer"),
        ([0], 0, (3, 0), "size in shape=0: "),
        ([0], 0, (3, -1), "size in shape=-1: "),
        ([0], 0, (2**20, 2**14 + 1), "17180917760 elements"),
        ([0], 0, (2**40,), "size in shape=1099511627776"),
    ],
)
def test_what_cannot_be_counted_is_refused(seeds, step, shape, message):
    with pytest.raises(ValueError, match=message):
        normal(seeds, step, shape)


@pytest.mark.parametrize("at_once", [1, 100, 1 << 17])
@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 5, 7)])
def test_of_steps_has_the_bits_of_each_step(monkeypatch, at_once, shape):
    monkeypatch.setattr(noise, "_AT_ONCE", at_once)
    seeds, steps = [3, 1 << 40, 0], [0, 2, 3, 7, 8]
    drawn = list(noise.of_steps(seeds, steps, shape))
    assert len(drawn) == len(steps)
    for step, mine in zip(steps, drawn, strict=True):
        assert torch.equal(mine, noise.normal(seeds, step, shape))


def test_of_steps_draws_no_more_than_is_asked_for(monkeypatch):
    monkeypatch.setattr(noise, "_AT_ONCE", 2 * 16)
    sizes, words = [], noise.philox4x32

    def counted(counter, key):
        sizes.append(len(counter))
        return words(counter, key)

    monkeypatch.setattr(noise, "philox4x32", counted)
    drawn = noise.of_steps([5], range(5), (1, 4, 4))
    next(drawn)
    assert sizes == [2]
    assert len(list(drawn)) == 4
    assert sizes == [2, 2, 1]


def test_of_no_steps_is_nothing():
    assert not list(noise.of_steps([5], [], (1, 4, 4)))
