"""Folders of pictures in, PNG files out."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from morse_engine import Refused
from morse_engine.system import images


def test_load_folder(tmp_path):
    """Colour pictures of odd sizes, one of them in a folder within the folder."""
    (tmp_path / "more").mkdir()
    generator = np.random.default_rng(0)
    for k in range(12):
        array = generator.integers(0, 256, (40 + k, 50 - k, 3), dtype=np.uint8)
        Image.fromarray(array).save(tmp_path / ("more" if k == 5 else ".") / f"{k:02d}.png")
    (tmp_path / "notes.txt").write_text("not a picture")
    colour = images.load_folder(tmp_path, 32, 3)
    assert colour.shape == (12, 3, 32, 32)
    assert colour.dtype == torch.float32
    assert -1 <= colour.min() < -0.5
    assert 0.5 < colour.max() <= 1
    assert images.load_folder(tmp_path, 16, 1).shape == (12, 1, 16, 16)


def test_load_folder_is_sorted_and_cuts_the_centre(tmp_path):
    wide = np.zeros((4, 12), np.uint8)
    wide[:, 4:8] = 255
    Image.fromarray(wide).save(tmp_path / "b.png")
    Image.fromarray(np.full((4, 4), 51, np.uint8)).save(tmp_path / "a.PNG")
    found = images.load_folder(tmp_path, 4, 1)
    assert torch.equal(found[1], torch.ones(1, 4, 4))
    assert torch.allclose(found[0], torch.full((1, 4, 4), -0.6))


def test_load_folder_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        images.load_folder(tmp_path / "none", 8, 3)
    with pytest.raises(ValueError, match=r"holds no images, no file that ends in \.bmp"):
        images.load_folder(tmp_path, 8, 3)
    with pytest.raises(ValueError, match="channels=4"):
        images.load_folder(tmp_path, 8, 4)
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(ValueError, match=r"deep\.png has more than 8 bits"):
        images.load_folder(tmp_path, 8, 3)
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"broken\.jpg cannot be read .*: repair or remove it"):
        images.load_folder(tmp_path, 8, 3)


def png16(path, *, alpha=False):
    """A PNG of 16 bits a channel, which Pillow reads and does not write."""
    import struct
    import zlib

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    channels = 4 if alpha else 3
    head = struct.pack(">IIBBBBB", 2, 2, 16, 6 if alpha else 2, 0, 0, 0)
    rows = b"".join(b"\0" + b"\x12\x34" * 2 * channels for _ in range(2))
    content = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)


@pytest.mark.parametrize("alpha", [False, True])
def test_sixteen_bits_of_colour_are_not_read_as_eight(tmp_path, alpha):
    png16(tmp_path / "deep.png", alpha=alpha)
    with pytest.raises(Refused, match=r"deep\.png has more than 8 bits a channel: convert"):
        images.load_folder(tmp_path, 2, 3)


def test_what_is_transparent_lies_on_white(tmp_path):
    """And does not show the colour that the file hides there."""
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[0] = (255, 0, 0, 0)  # a hidden red
    pixels[1] = (0, 0, 255, 255)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    grey = Image.fromarray(np.zeros((2, 2), np.uint8))
    grey.save(tmp_path / "b.png", transparency=0)
    colour = images.load_folder(tmp_path, 2, 3)
    assert (colour[0, :, 0] == 1).all(), "white, not red"
    assert colour[0, :, 1, 0].tolist() == [-1, -1, 1], "what is opaque is as it was"
    assert (colour[1] == 1).all(), "a colour that the file calls transparent"


def test_a_pipe_among_pictures(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(Refused, match=r"pipe\.png is no file but a pipe or a device: remove it"):
        images.load_folder(tmp_path, 8, 3)
    with pytest.raises(Refused, match="no file but a pipe"):
        images.check(tmp_path / "pipe.png")


def test_a_folder_with_the_name_of_a_picture_is_a_folder(tmp_path):
    (tmp_path / "more.png").mkdir()
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "more.png" / "a.png")
    assert len(images.load_folder(tmp_path, 4, 1)) == 1


def test_a_picture_of_too_many_pixels(tmp_path, monkeypatch):
    Image.fromarray(np.zeros((40, 40), np.uint8)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(
        Refused, match=r"large\.png has too many pixels .*: make it smaller"
    ) as found:
        images.load_folder(tmp_path, 8, 3)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.full((1, 4, 4), torch.nan), "NaN or infinite"),
        (torch.full((3, 4, 4), torch.inf), "NaN or infinite"),
        (torch.zeros(2, 4, 4), r"\(2, 4, 4\): pass \[1, H, W\] or"),
        (torch.zeros(1, 1, 4, 4), r"pass floats \[C, H, W\]"),
        (torch.zeros(1, 4, 4, dtype=torch.uint8), "torch.uint8: pass floats"),
        (np.zeros((1, 4, 4)), "image is a ndarray: pass a tensor"),
    ],
)
def test_what_is_no_picture_is_not_written(tmp_path, image, message):
    with pytest.raises(Refused, match=message):
        images.save_png(image, tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


def test_save_png(tmp_path):
    image = torch.tensor([[-1.0, 1.0], [-2.0, 0.0]])[None]
    images.save_png(image, tmp_path / "a.png", scale=2)
    expected = np.array([[0, 255], [0, 128]]).repeat(2, axis=0).repeat(2, axis=1)
    assert np.array_equal(np.array(Image.open(tmp_path / "a.png")), expected)
    images.save_png(image.expand(3, 2, 2), tmp_path / "b.png")
    assert np.array(Image.open(tmp_path / "b.png")).shape == (2, 2, 3)


def test_eight_bits():
    image = torch.tensor([[-1.0, 1.0], [0.0, 5.0]])
    assert images.eight_bits(image).tolist() == [[0, 255], [128, 255]]
    large = images.eight_bits(image.expand(2, 3, 2, 2), scale=3)
    assert (large.shape, large.dtype) == ((2, 3, 6, 6), torch.uint8)
    assert large[1, 2, ::3, ::3].tolist() == [[0, 255], [128, 255]]
    assert (large[..., :3, :3] == 0).all()  # enlarged, not smoothed


def test_grid():
    sheet = images.grid(-torch.ones(3, 1, 4, 5), gap=2)
    assert sheet.shape == (1, 10, 12)
    assert (sheet == -1).sum() == 3 * 4 * 5
    assert (images.grid(torch.zeros(2, 3, 4, 4), gap=1, between=-0.5) == -0.5).sum() == 3 * 4
