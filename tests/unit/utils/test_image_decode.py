"""Formats: an explicit list, a limit on pixels, and the exact values of unusual files."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gdpo_sr.types import ImageError, OptionError
from gdpo_sr.utils.image_decode import decode, frame_count, image_size
from gdpo_sr.utils.image_io import list_images, read_image
from gdpo_sr.utils.png_16 import png_16

RNG = np.random.default_rng(0)


@pytest.fixture
def no_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever starts a program fails the test."""

    def start(*args, **options):
        raise AssertionError(f"a program was started: {args}")

    monkeypatch.setattr("subprocess.Popen", start)


@pytest.mark.usefixtures("no_programs")
@pytest.mark.parametrize("read", [decode, image_size, frame_count, read_image])
@pytest.mark.parametrize(
    "start", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"%PDF-1.4\n", b"SIMPLE  ="]
)
def test_documents_are_no_pictures(tmp_path: Path, read, start: bytes):
    """An EPS file named .png went through Ghostscript."""
    (tmp_path / "a.png").write_bytes(start + b" " * 200)
    with pytest.raises(ImageError, match="a.png: not a picture of a known format .PNG, JPEG"):
        read(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", [".eps", ".pdf", ".ps", ".fits", ".ico", ".wmf"])
def test_documents_are_not_listed(tmp_path: Path, suffix: str):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / f"b{suffix}").write_bytes(b"x")
    assert [path.name for path in list_images(tmp_path)] == ["a.png"]


def test_any_suffix_of_a_known_format(tmp_path: Path):
    Image.new("RGB", (4, 4), "red").save(tmp_path / "a.jpg", format="PNG")
    Image.new("RGB", (4, 4), "red").save(tmp_path / "a.tga")
    for name in ("a.jpg", "a.tga"):
        assert decode(tmp_path / name).pixels[0, 0].tolist() == [1, 0, 0]


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds nothing."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return b"\x89PNG\r\n\x1a\n" + parts + struct.pack(">I", 0) + b"IDAT"


def test_limit_of_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "a.png"
    path.write_bytes(png_header(13300, 13300))
    with pytest.raises(ImageError, match="a.png: 13300x13300 is 176.9 million.*--max_pixels"):
        decode(path)
    path.write_bytes(png_header(30000, 30000))  # Pillow itself refuses from 179 million on
    with pytest.raises(ImageError, match="30000x30000 is 900.0 million pixels, the limit is 100"):
        decode(path)
    path.write_bytes(png_header(11000, 9100))
    with pytest.raises(ImageError, match="a.png: (?!.*limit)"):  # now it is decoded, and cut short
        decode(path, max_pixels=100_100_000)
    Image.new("RGB", (20, 10)).save(path)
    for number, good in (("200", True), ("199", False)):
        monkeypatch.setenv("GDPO_SR_MAX_PIXELS", number)
        if good:
            assert decode(path).pixels.shape == (10, 20, 3)
        else:
            with pytest.raises(ImageError, match="20x10"):
                decode(path)
    monkeypatch.setenv("GDPO_SR_MAX_PIXELS", "many")
    with pytest.raises(OptionError, match="GDPO_SR_MAX_PIXELS=many: give a number"):
        decode(path)


def test_limit_of_pixels_of_other_readers(tmp_path: Path):
    """TIFF and deep PPM have readers of their own."""
    import tifffile

    tifffile.imwrite(tmp_path / "a.tif", np.zeros((9, 9), np.uint16))
    (tmp_path / "a.ppm").write_bytes(b"P5 9 9 1023\n" + bytes(162))
    for name in ("a.tif", "a.ppm"):
        assert decode(tmp_path / name, max_pixels=81).pixels.shape == (9, 9, 1)
        with pytest.raises(ImageError, match="9x9 is 0.0 million"):
            decode(tmp_path / name, max_pixels=80)


def with_chunk(png: bytes, name: bytes, data: bytes) -> bytes:
    """The PNG with a chunk behind its header."""
    chunk = struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    return png[:33] + chunk + png[33:]


@pytest.mark.parametrize("channels", [1, 3])
def test_16_bit_png_with_one_transparent_colour(tmp_path: Path, channels: int):
    pixels = RNG.integers(0, 65536, (5, 7, channels), dtype=np.uint16)
    clear = pixels[2, 3].astype(">u2").tobytes()
    # a colour that differs in the low byte alone is opaque
    pixels[0, 0] = pixels[2, 3] ^ 1
    (tmp_path / "a.png").write_bytes(with_chunk(png_16(pixels), b"tRNS", clear))
    found = decode(tmp_path / "a.png")
    assert found.bits == 16 and found.pixels.shape == (5, 7, channels + 1)
    assert np.abs(found.pixels[..., :-1] - pixels / 65535).max() < 1e-6
    alpha = np.ones((5, 7))
    alpha[2, 3] = 0
    assert np.array_equal(found.pixels[..., -1], alpha)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_png_of_few_greys_with_a_transparent_one(tmp_path: Path, bits: int):
    """Pillow stretches the greys of 2 and 4 bits, and not the one that is transparent: nothing was
    transparent, or another grey.
    """
    grey = (np.arange(16) % 2**bits).astype(np.uint8)[None]
    digits = (grey[..., None] >> np.arange(bits - 1, -1, -1)) & 1
    row = b"\0" + np.packbits(digits.reshape(-1)).tobytes()
    header = struct.pack(">IIBBBBB", 16, 1, bits, 0, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n"
    for name, data in (
        (b"IHDR", header), (b"tRNS", b"\0\1"), (b"IDAT", zlib.compress(row)), (b"IEND", b"")
    ):  # fmt: skip
        check = struct.pack(">I", zlib.crc32(name + data))
        png += struct.pack(">I", len(data)) + name + data + check
    (tmp_path / "a.png").write_bytes(png)
    wanted = np.stack([grey / (2**bits - 1), grey != 1], -1)
    assert np.abs(decode(tmp_path / "a.png").pixels - wanted).max() < 1e-6


@pytest.mark.parametrize(
    "start, name",
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\xff\x0a\xfa", "JPEG XL"),
        (b"8BPS\0\1", "a Photoshop file"),
        (b"PF\n3 2\n-1.0\n", "PFM of colours"),
        (b"P7\nWIDTH 2\n", "PAM"),
        (b"<!DOCTYPE html>", "a text such as SVG or a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
    ],
)
def test_other_kinds_are_refused_by_name(tmp_path: Path, start: bytes, name: str):
    (tmp_path / "a.jpg").write_bytes(start + b"\0" * 99)
    with pytest.raises(ImageError, match=f"a.jpg: .* but {name}"):
        decode(tmp_path / "a.jpg")


def test_ppm_cut_within_a_value(tmp_path: Path):
    """It said: buffer size must be a multiple of element size."""
    (tmp_path / "a.ppm").write_bytes(b"P5 2 2 1023\n" + bytes(7))
    with pytest.raises(ImageError, match="a.ppm: the file is cut short"):
        decode(tmp_path / "a.ppm")


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bit_png_is_exact(tmp_path: Path, channels: int):
    pixels = RNG.integers(0, 65536, (5, 7, channels), dtype=np.uint16)
    (tmp_path / "a.png").write_bytes(png_16(pixels))
    assert np.abs(decode(tmp_path / "a.png").pixels - pixels / 65535).max() < 1e-6


@pytest.mark.parametrize("maximum", [255, 256, 1023, 4095, 65535])
@pytest.mark.parametrize("kind", [2, 3, 5, 6])
def test_ppm_and_pgm(tmp_path: Path, kind: int, maximum: int):
    channels = 3 if kind in (3, 6) else 1
    values = RNG.integers(0, maximum + 1, (5, 7, channels))
    head = f"P{kind}\n# made by hand\n7 5\n{maximum}\n".encode()
    if kind in (5, 6):
        body = values.astype(">u2" if maximum > 255 else np.uint8).tobytes()
    else:
        body = " ".join(map(str, values.ravel())).encode()
    path = tmp_path / "a.ppm"
    path.write_bytes(head + body)
    found = decode(path)
    assert np.abs(found.pixels - values / maximum).max() < 1e-6
    assert found.bits == (16 if maximum > 255 else 8) and image_size(path) == (5, 7)
    path.write_bytes(head + body[: len(body) // 2])
    with pytest.raises(ImageError, match="a.ppm"):
        decode(path)


def test_ppm_value_above_its_maximum(tmp_path: Path):
    (tmp_path / "a.ppm").write_bytes(b"P2 2 1 1000 5 1001")
    with pytest.raises(ImageError, match="a value above the maximum of 1000"):
        decode(tmp_path / "a.ppm")


def test_mpo_gives_its_first_picture(tmp_path: Path):
    first, second = Image.new("RGB", (16, 16), "red"), Image.new("RGB", (16, 16), "blue")
    first.save(tmp_path / "a.mpo", save_all=True, append_images=[second])
    assert frame_count(tmp_path / "a.mpo") == 2
    assert np.abs(decode(tmp_path / "a.mpo").pixels - [1, 0, 0]).max() < 0.02
    assert np.abs(decode(tmp_path / "a.mpo", frame=1).pixels - [0, 0, 1]).max() < 0.02


@pytest.mark.parametrize("suffix", [".gif", ".tif", ".png", ".webp"])
def test_frames(tmp_path: Path, suffix: str):
    colours = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]
    frames = [Image.new("RGB", (16, 8), colour) for colour in colours]
    options = {"lossless": True} if suffix == ".webp" else {}
    frames[0].save(tmp_path / f"a{suffix}", save_all=True, append_images=frames[1:], **options)
    assert frame_count(tmp_path / f"a{suffix}") == 3
    for index, colour in enumerate(colours):
        found = decode(tmp_path / f"a{suffix}", frame=index).pixels[..., :3]
        assert found.shape == (8, 16, 3) and np.abs(found * 255 - colour).max() < 3
