"""Pictures beside their differences."""

import io

import numpy as np
import torch
from PIL import Image

from morse_engine.evaluation import beside
from morse_engine.evaluation.beside import BRIGHTEST, Method, heat


def brightness(image: torch.Tensor) -> torch.Tensor:
    return image.sum(0)


def test_heat_is_black_without_a_difference_and_rises_with_it():
    full = torch.zeros(3, 2, 3)
    image = full.clone()
    image[:, 0, 0] += BRIGHTEST / 2  # of a range of 2 this is a quarter of the scale
    image[:, 0, 1] -= 2 * BRIGHTEST
    image[:, 0, 2] += 5
    image[:, 1, 0] += 1.6 * BRIGHTEST
    found = brightness(heat(image, full))
    assert brightness(heat(full, full)).unique().tolist() == [found[1, 1]]
    assert found[1, 1] < -2.9, "black"
    assert found[1, 1] < found[0, 0] < found[0, 1]
    assert found[0, 0] < found[1, 0] < found[0, 1], "the brightest is BRIGHTEST of a range of 1"
    assert found[0, 1] == found[0, 2], "no brighter than the brightest"
    assert heat(image, full).abs().max() <= 1


def methods(k: int = 2) -> list[Method]:
    torch.manual_seed(0)
    full = torch.rand(k, 3, 8, 8) * 2 - 1
    return [
        Method("All", ("---", "3 LSD"), full, ("a",) * k),
        Method("Few", ("-", "1 LSD"), full.flip(0), ("b",) * k),
    ]


def test_cells_have_the_pictures_themselves():
    made = methods()
    first, second = beside.cells(made, 1)
    with Image.open(io.BytesIO(second["picture"])) as picture:
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    assert torch.equal(pixels, ((made[1].images[1] + 1) * 127.5).round().byte())
    assert first["difference"] is None
    with Image.open(io.BytesIO(second["difference"])) as picture:
        assert picture.size == (8, 8)
    assert (second["name"], second["notes"], second["numbers"]) == ("Few", ("-", "1 LSD"), "b")


def test_side_by_side_keeps_pixels_crisp(tmp_path):
    """Each pixel of a picture is a square of whole pixels of the file."""
    made = methods()
    checks = torch.ones(3, 8, 8)
    checks[1:, ::2, ::2] = checks[1:, 1::2, 1::2] = -1  # red and white
    made[0].images[0] = checks
    beside.side_by_side(["one", "two"], made, tmp_path / "s.png", "title")
    with Image.open(tmp_path / "s.png") as picture:
        found = np.array(picture.convert("RGB")).astype(int)
    red = (found == [255, 0, 0]).all(2)
    assert red.sum() == 32 * beside.SCALE**2
    rows, columns = np.where(red)
    assert rows.max() - rows.min() + 1 == columns.max() - columns.min() + 1 == 8 * beside.SCALE
