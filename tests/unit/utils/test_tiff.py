"""TIFF of every kind: values worked out here, or a refusal that names the kind; nothing else."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from gdpo_sr.types import ImageError
from gdpo_sr.utils.image_decode import decode, image_size

H, W = 24, 40
LAYOUTS = (
    {},
    {"tile": (16, 16)},
    {"compression": "zlib"},
    {"compression": "zlib", "predictor": True},
    {"byteorder": ">"},
    {"rowsperstrip": 5},
    {"bigtiff": True},
)
COLOURS = [(1, "minisblack"), (1, "miniswhite"), (2, "minisblack"), (2, "miniswhite")]
COLOURS += [(channels, "rgb") for channels in (3, 4, 5)]


def stored(dtype: type, channels: int) -> np.ndarray:
    """(H, W, C) of random values over the whole range."""
    rng = np.random.default_rng(channels)
    if np.issubdtype(dtype, np.floating):
        return rng.random((H, W, channels)).astype(dtype)
    return rng.integers(0, np.iinfo(dtype).max, (H, W, channels), dtype, endpoint=True)


def meant(values: np.ndarray, photometric: str) -> np.ndarray:
    """What a file with these values shows, in [0, 1]."""
    top = np.iinfo(values.dtype).max if values.dtype.kind == "u" else 1
    shown = values.astype(np.float64) / top
    if photometric == "miniswhite":
        shown[..., 0] = 1 - shown[..., 0]
    return shown[..., :3] if shown.shape[2] == 5 else shown


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("channels, photometric", COLOURS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.float16, np.float32, float])
def test_values_of_every_kind(
    tmp_path: Path, dtype: type, channels: int, photometric: str, planar: str
):
    values, extra = stored(dtype, channels), channels - (3 if photometric == "rgb" else 1)
    options = {"photometric": photometric, "metadata": None}
    options |= {"planarconfig": planar} if channels > 1 else {}
    options |= {"extrasamples": ["unassalpha" if extra == 1 else "unspecified"] * extra}
    data = values[..., 0] if channels == 1 else values
    data = np.moveaxis(data, -1, 0) if planar == "separate" and channels > 1 else data
    for number, layout in enumerate(LAYOUTS):
        if "predictor" in layout and values.dtype.kind == "f":
            continue  # a predictor of its own, which tifffile writes with imagecodecs alone
        path = tmp_path / f"{number}.tif"
        tifffile.imwrite(path, data, **options, **layout)
        found, shown = decode(path), meant(values, photometric)
        assert found.pixels.shape == shown.shape and image_size(path) == (H, W)
        assert found.bits == (8 if dtype == np.uint8 else 16), layout
        assert np.abs(found.pixels - shown).max() < 1e-6, layout


def hand_made(
    values: np.ndarray,
    bits: int,
    white: bool = False,
    deflate: bool = False,
    photometric: int | None = None,
    tags: tuple[tuple[int, int, int], ...] = (),
) -> bytes:
    """A TIFF of (H, W, C) with samples of `bits` bits, rows packed from the highest bit on."""
    height, width, channels = values.shape
    digits = (values.reshape(height, -1, 1) >> np.arange(bits - 1, -1, -1)) & 1
    data = np.packbits(digits.reshape(height, -1).astype(np.uint8), axis=1).tobytes()
    data = zlib.compress(data) if deflate else data
    usual = 2 if channels == 3 else 0 if white else 1
    photometric = usual if photometric is None else photometric
    entries = [(256, 4, width), (257, 4, height), (258, 3, bits), (259, 3, 8 if deflate else 1)]
    entries += [(262, 3, photometric), (273, 4, 8), (277, 3, channels), (278, 4, height)]
    entries = sorted([*entries, (279, 4, len(data)), *tags])
    data += b"\0" * (len(data) % 2)
    place = 8 + len(data) + 2 + 12 * len(entries) + 4
    table = struct.pack("<H", len(entries))
    for number, kind, value in entries:
        count = channels if number == 258 else 1
        cell = struct.pack("<I", place if count > 2 else value * 65537 if count == 2 else value)
        table += struct.pack("<HHI", number, kind, count) + cell
    end = struct.pack("<I", 0) + struct.pack("<4H", *[bits] * 4)
    return struct.pack("<2sHI", b"II", 42, 8 + len(data)) + data + table + end


@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("white", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 8, 9, 10, 12, 14, 15, 24])
def test_bit_depths_of_grey(tmp_path: Path, bits: int, white: bool, deflate: bool):
    values = np.random.default_rng(bits).integers(0, 2**bits, (11, 13, 1))
    (tmp_path / "a.tif").write_bytes(hand_made(values, bits, white, deflate))
    shown = values / (2**bits - 1)
    found = decode(tmp_path / "a.tif")
    assert np.abs(found.pixels - (1 - shown if white else shown)).max() < 1e-6
    assert found.bits == (8 if bits <= 8 else 16)


@pytest.mark.parametrize("bits", [1, 2, 4, 6, 8, 10, 12, 14, 24])
def test_bit_depths_of_colours(tmp_path: Path, bits: int):
    values = np.random.default_rng(bits).integers(0, 2**bits, (11, 13, 3))
    (tmp_path / "a.tif").write_bytes(hand_made(values, bits, white=False))
    assert np.abs(decode(tmp_path / "a.tif").pixels - values / (2**bits - 1)).max() < 1e-6


@pytest.mark.parametrize("white", [False, True])
def test_lzw_which_needs_libtiff(tmp_path: Path, white: bool):
    """Photoshop's and GIMP's usual compression; grey by Pillow, colours by OpenCV."""
    import cv2

    grey, colour = stored(np.uint16, 1), stored(np.uint16, 3)
    path = tmp_path / "grey.tif"
    Image.fromarray(grey[..., 0]).save(path, compression="tiff_lzw")
    if white:
        content = bytearray(path.read_bytes())
        with tifffile.TiffFile(path) as tiff:
            content[tiff.pages[0].tags[262].valueoffset] = 0
        path.write_bytes(content)
    shown = grey / 65535
    assert np.abs(decode(path).pixels - (1 - shown if white else shown)).max() < 1e-6
    lzw = [cv2.IMWRITE_TIFF_COMPRESSION, cv2.IMWRITE_TIFF_COMPRESSION_LZW]
    cv2.imwrite(str(tmp_path / "colour.tif"), colour[..., ::-1], lzw)
    assert np.abs(decode(tmp_path / "colour.tif").pixels - colour / 65535).max() < 1e-6


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_zstd_which_needs_libtiff(tmp_path: Path, dtype: type):
    """It was refused for a module of Python 3.14."""
    values = stored(dtype, 1)
    Image.fromarray(values[..., 0]).save(tmp_path / "a.tif", compression="zstd")
    top = 65535 if dtype == np.uint16 else 1
    assert np.abs(decode(tmp_path / "a.tif").pixels - values / top).max() < 1e-6


def test_grey_and_a_sample_that_nothing_is_said_of(tmp_path: Path):
    """Of 16 bits it was read, of 8 bits refused; it is taken for opacity, as of colours."""
    values = stored(np.uint8, 2)
    (tmp_path / "a.tif").write_bytes(hand_made(values, 8))
    assert np.abs(decode(tmp_path / "a.tif").pixels - values / 255).max() < 1e-6


@pytest.mark.parametrize("kind", ["unspecified", "assocalpha"])
def test_planes_of_8_bits_with_a_fourth_sample(tmp_path: Path, kind: str):
    values = stored(np.uint8, 4)
    values[..., :3] = np.minimum(values[..., :3], values[..., 3:])
    options = {"photometric": "rgb", "planarconfig": "separate", "extrasamples": [kind]}
    tifffile.imwrite(tmp_path / "a.tif", np.moveaxis(values, -1, 0), metadata=None, **options)
    shown = values / 255
    shown[..., :3] /= np.maximum(shown[..., 3:], 1e-6) if kind == "assocalpha" else 1
    shown = shown if kind == "assocalpha" else shown[..., :3]
    assert np.abs(decode(tmp_path / "a.tif").pixels - shown).max() < 1e-6


def test_premultiplied_alpha_is_divided_out(tmp_path: Path):
    pixels = np.full((4, 4, 4), 20000, np.uint16)
    pixels[..., 3] = 40000
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", extrasamples=["assocalpha"])
    found = decode(tmp_path / "a.tif").pixels
    assert np.allclose(found[..., :3], 0.5, atol=1e-5)
    assert np.allclose(found[..., 3], 40000 / 65535)


def save_signed(path: Path) -> None:
    tifffile.imwrite(path, np.zeros((H, W), np.int16), photometric="minisblack")


def save_lab(path: Path) -> None:
    tifffile.imwrite(path, np.zeros((H, W, 3), np.uint16), photometric="cielab")


def save_deep_cmyk(path: Path) -> None:
    tifffile.imwrite(path, np.zeros((H, W, 4), np.uint16), photometric="separated")


def save_wide_float(path: Path) -> None:
    tifffile.imwrite(path, np.full((H, W), 200, np.float64), photometric="minisblack")


def save_nan(path: Path) -> None:
    tifffile.imwrite(path, np.full((H, W, 3), np.nan, np.float32), photometric="rgb")


def save_grey_of_three(path: Path) -> None:
    """What tifffile writes of colours that are called minisblack; only the first was read."""
    options = {"photometric": "minisblack", "planarconfig": "contig"}
    tifffile.imwrite(path, stored(np.uint16, 3), **options)


def save_grey_of_three_bytes(path: Path) -> None:
    path.write_bytes(hand_made(stored(np.uint8, 3), 8, photometric=1))


def save_volume(path: Path) -> None:
    volume = np.zeros((32, 16, 16), np.uint8)
    tifffile.imwrite(path, volume, photometric="minisblack", volumetric=True, tile=(16, 16, 16))


def save_other_inks(path: Path) -> None:
    inks = (332, 3, 2)
    path.write_bytes(hand_made(stored(np.uint8, 4), 8, photometric=5, tags=(inks,)))


def save_subsampled_ycbcr(path: Path) -> None:
    """Without compression, and with the subsampling that is usual where none is given."""
    path.write_bytes(hand_made(stored(np.uint8, 3), 8, photometric=6))


def save_mixed_bits(path: Path) -> None:
    content = bytearray(hand_made(stored(np.uint8, 3), 8))
    content[-8:-6] = struct.pack("<H", 5)
    path.write_bytes(content)


def save_40_bits(path: Path) -> None:
    path.write_bytes(hand_made(np.zeros((H, W, 1), int), 40))


def save_24_bit_float(path: Path) -> None:
    path.write_bytes(hand_made(np.zeros((H, W, 1), int), 24, tags=((339, 3, 3),)))


@pytest.mark.parametrize(
    "save, reason",
    [
        (save_grey_of_three, "grey TIFF of 3 samples a pixel does not say what they are; save"),
        (save_grey_of_three_bytes, "grey TIFF of 3 samples a pixel does not say what they are"),
        (save_volume, "samples of shape .32, 16, 16. is not a picture"),
        (save_other_inks, "CMYK with 8 bits and other inks is not supported"),
        (save_subsampled_ycbcr, "YCbCr with 8 bits, uncompressed and subsampled or of other"),
        (save_mixed_bits, r"samples of .5, 8, 8. bits is not supported; save 8 or 16"),
        (save_40_bits, "samples of 40 bits is not supported; save 8 or 16 bits"),
        (save_24_bit_float, "24-bit floats is not supported"),
        (save_signed, "signed integers is not supported; save 8 or 16 bits"),
        (save_lab, "CIE L.a.b. with 16 bits is not supported; save it as RGB"),
        (save_deep_cmyk, "CMYK with 16 bits is not supported"),
        (save_wide_float, "beyond the range 0 to 1; scale it"),
        (save_nan, "beyond the range 0 to 1"),
    ],
)
def test_refused_by_name(tmp_path: Path, save, reason: str):
    save(tmp_path / "a.tif")
    with pytest.raises(ImageError, match=f"a.tif: .*{reason}"):
        decode(tmp_path / "a.tif")


@pytest.mark.parametrize("layout", LAYOUTS[:4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float64])
def test_cut_file_is_no_picture_of_zeros(tmp_path: Path, dtype: type, layout: dict):
    if dtype == np.float64 and "predictor" in layout:
        pytest.skip("tifffile writes it with imagecodecs alone")
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, stored(dtype, 1)[..., 0], photometric="minisblack", **layout)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) - 300])
    with pytest.raises(ImageError, match="a.tif"):
        decode(path)


@pytest.mark.parametrize("turned", range(1, 9))
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_orientation(tmp_path: Path, dtype: type, layout: dict, turned: int):
    values = stored(dtype, 1)[..., 0]
    options = {"extratags": [(274, "H", 1, turned, False)], **layout}
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="minisblack", **options)
    upright = {
        1: values, 2: values[:, ::-1], 3: values[::-1, ::-1], 4: values[::-1],
        5: values.T, 6: values.T[:, ::-1], 7: values.T[::-1, ::-1], 8: values.T[::-1],
    }[turned]  # fmt: skip
    found = decode(tmp_path / "a.tif").pixels[..., 0]
    assert image_size(tmp_path / "a.tif") == found.shape == upright.shape
    assert np.abs(found - upright / np.iinfo(dtype).max).max() < 1e-6
