"""Pictures: every mode and defect in, rounded 8-bit files out."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gdpo_sr.types import DatasetError, ImageError
from gdpo_sr.utils.image_io import image_size, list_images, read_image, write_image

HEIGHT, WIDTH = 6, 10


@pytest.fixture
def rgb() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def test_rgb_is_exact(tmp_path: Path, rgb: np.ndarray):
    Image.fromarray(rgb).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert image.dtype == torch.float32 and image.shape == (3, HEIGHT, WIDTH)
    assert np.array_equal((image * 255).round().numpy().transpose(1, 2, 0), rgb)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_every_mode_becomes_rgb(tmp_path: Path, rgb: np.ndarray, mode: str, suffix: str):
    if mode == "CMYK" and suffix == ".png":
        pytest.skip("PNG has no CMYK")
    picture = Image.fromarray(rgb)
    picture = (
        Image.fromarray(rgb[..., 0].astype(np.uint16) * 257)
        if mode == "I;16"
        else picture.convert(mode)
    )
    picture.save(tmp_path / f"a{suffix}")
    image = read_image(tmp_path / f"a{suffix}")
    assert image.shape == (3, HEIGHT, WIDTH)
    assert 0.0 <= float(image.min()) < float(image.max()) <= 1.0
    if mode in ("L", "I;16"):
        assert torch.equal(image[0], image[1]) and torch.equal(image[0], image[2])


def test_16_bit_grey_keeps_its_steps(tmp_path: Path):
    """One step of 16 bits is 1 / 65535, far below one of 8 bits."""
    values = np.arange(1000, 1000 + HEIGHT * WIDTH, dtype=np.uint16).reshape(HEIGHT, WIDTH)
    Image.fromarray(values).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert np.allclose(image[0].numpy(), values / 65535.0, atol=1e-7)


def test_16_bit_rgb(tmp_path: Path, rgb: np.ndarray):
    import cv2

    cv2.imwrite(str(tmp_path / "a.png"), rgb[..., ::-1].astype(np.uint16) * 257)
    expected = torch.from_numpy(rgb).permute(2, 0, 1) / 255
    assert torch.allclose(read_image(tmp_path / "a.png"), expected, atol=1 / 255)


def test_alpha_is_dropped(tmp_path: Path, rgb: np.ndarray):
    alpha = np.full((HEIGHT, WIDTH, 1), 128, dtype=np.uint8)
    Image.fromarray(np.concatenate([rgb, alpha], 2)).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert np.array_equal((image * 255).round().numpy().transpose(1, 2, 0), rgb)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg", ".webp"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_orientation_agrees_with_header(tmp_path: Path, suffix: str, orientation: int):
    """A picture whose left half is bright; 6 means 'turn clockwise', so the top becomes bright."""
    pixels = np.zeros((32, 64, 3), dtype=np.uint8)
    pixels[:, :32] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a{suffix}"
    Image.fromarray(pixels).save(path, exif=exif)
    image = read_image(path)
    bright = {1: image[:, :, :32], 3: image[:, :, 32:], 6: image[:, :32], 8: image[:, 32:]}[
        orientation
    ]
    assert image_size(path) == tuple(image.shape[1:]) == ((64, 32) if orientation > 4 else (32, 64))
    assert float(bright.mean()) > 0.95


def test_values_beyond_float_range_are_refused(tmp_path: Path):
    Image.fromarray(np.full((4, 4), 200.0, dtype=np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(ImageError, match="range"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("read", [read_image, image_size])
@pytest.mark.parametrize("content, reason", [(b"", "empty"), (b"no picture", "not a picture")])
def test_bad_files_are_named(tmp_path: Path, read, content: bytes, reason: str):
    path = tmp_path / "bad.png"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=f"bad.png: .*{reason}"):
        read(path)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".tif", ".gif"])
def test_truncated_file_is_named(tmp_path: Path, suffix: str):
    buffer, noise = (
        io.BytesIO(),
        np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8),
    )
    Image.fromarray(noise).save(buffer, format=Image.registered_extensions()[suffix])
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    with pytest.raises(ImageError, match=f"cut{suffix}"):
        read_image(path)


def test_missing_file_is_named(tmp_path: Path):
    with pytest.raises(ImageError, match="nowhere.png: no such file"):
        read_image(tmp_path / "nowhere.png")


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".jpg", ".jpeg", ".webp"])
def test_write_and_read_back(tmp_path: Path, suffix: str):
    image = torch.linspace(0, 1, 32).repeat(3, 32, 1)
    path = tmp_path / "new" / f"a{suffix}"
    write_image(path, image)
    tolerance = 0.5 / 255 + 1e-6 if suffix.lower() == ".png" else 0.04
    assert (read_image(path) - image).abs().max() <= tolerance
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_write_rounds_and_clips(tmp_path: Path):
    """100.6 / 255 is nearer to 101 than to 100; values outside [0, 1] are clipped."""
    image = torch.tensor([100.6 / 255, 100.4 / 255, -0.5, 1.5]).view(1, 1, 4).repeat(3, 1, 1)
    write_image(tmp_path / "a.png", image)
    assert (read_image(tmp_path / "a.png")[0, 0] * 255).round().tolist() == [101, 100, 0, 255]


@pytest.mark.parametrize(
    "name, image, reason",
    [
        ("a.xyz", torch.zeros(3, 4, 4), "suffix '.xyz' is not one of"),
        ("a.png", torch.zeros(4, 4), "shape"),
        ("a.png", torch.full((3, 4, 4), torch.nan), "NaN"),
    ],
)
def test_nothing_is_written_on_error(tmp_path: Path, name: str, image: torch.Tensor, reason: str):
    with pytest.raises(ImageError, match=reason):
        write_image(tmp_path / name, image)
    assert not list(tmp_path.iterdir())


def test_list_images(tmp_path: Path, rgb: np.ndarray):
    (tmp_path / "sub").mkdir()
    for name in ("b.JPG", "a.png", "sub/c.webp"):
        Image.fromarray(rgb).save(tmp_path / name)
    for name in ("notes.txt", ".hidden.png", "data.h5"):
        (tmp_path / name).write_text("x")
    assert [p.name for p in list_images(tmp_path)] == ["a.png", "b.JPG"]
    assert [p.name for p in list_images(tmp_path, recursive=True)] == ["a.png", "b.JPG", "c.webp"]
    assert list_images(tmp_path / "a.png") == [tmp_path / "a.png"]


def test_list_images_missing_or_empty(tmp_path: Path):
    with pytest.raises(DatasetError, match="no such file or folder"):
        list_images(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="no picture in the folder"):
        list_images(tmp_path)


def test_folder_that_is_a_file_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ImageError, match="cannot write"):
        write_image(tmp_path / "file" / "a.png", torch.zeros(3, 4, 4))


def test_pictures_of_kinds_that_are_not_read_are_told_once(tmp_path: Path, capsys):
    """Photos of a phone: the half that is HEIC was left out in silence."""
    for name in ("a.HEIC", "b.heic", "c.psd", ".d.heic", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DatasetError, match=r"3 of kinds that are not read \(.heic, .psd\); put"):
        list_images(tmp_path)
    Image.new("RGB", (4, 4)).save(tmp_path / "e.png")
    for _ in range(2):
        assert [path.name for path in list_images(tmp_path)] == ["e.png"]
    told = capsys.readouterr().err
    assert told.count("3 of kinds that are not read (.heic, .psd) left out") == 1
