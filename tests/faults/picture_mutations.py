"""Pictures of every format with bits flipped, cut, or with other bytes inside: they are read as
finite colours, or one line names them.
"""

from __future__ import annotations

import io
import random
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageCms

from gdpo_sr.utils.image_decode import frame_count
from gdpo_sr.utils.image_io import image_size, read_image
from gdpo_sr.utils.png_16 import png_16
from gdpo_sr.utils.tiff_file import tiff_file
from tests.faults.tally import Tally

SIDE = 24
MODES = {
    "png": ("RGB", "RGBA", "L", "LA", "P", "1", "I;16"),
    "jpg": ("RGB", "L", "CMYK"),
    "webp": ("RGB", "RGBA"),
    "tif": ("RGB", "RGBA", "L", "CMYK", "F", "1", "P"),
    "bmp": ("RGB", "L", "P", "1"),
    "gif": ("P", "L"),
    "ppm": ("RGB", "L"),
    "jp2": ("RGB", "RGBA", "L"),
    "avif": ("RGB", "RGBA"),
    "tga": ("RGB", "RGBA", "L", "P"),
}


@cache
def samples() -> list[tuple[str, bytes]]:
    """Suffix and bytes of whole files: modes, depths, profiles, orientation, several frames."""
    levels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    picture = Image.fromarray(levels)
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    turned = Image.Exif()
    turned[0x0112] = 6
    found = [
        (suffix, _saved(_in_mode(picture, mode), suffix))
        for suffix, modes in MODES.items()
        for mode in modes
    ]
    frames = {"save_all": True, "append_images": [picture.rotate(90), picture.rotate(180)]}
    found += [(s, _saved(picture, s, **frames)) for s in ("gif", "webp", "png", "tif")]
    found += [(s, _saved(picture, s, exif=turned)) for s in ("jpg", "png", "webp", "tif")]
    found += [(s, _saved(picture, s, icc_profile=icc)) for s in ("jpg", "png", "webp", "tif")]
    found += [("jpg", _saved(picture.convert("CMYK"), "jpg", icc_profile=icc))]
    deep = levels.astype(np.uint16) * 257
    found += [("png", png_16(deep, icc, None, None)), ("tif", tiff_file(deep, icc, None, None))]
    return found


def _in_mode(picture: Image.Image, mode: str) -> Image.Image:
    if mode == "F":  # from 0 to 1
        return Image.fromarray(np.asarray(picture.convert("L"), np.float32) / 255)
    return picture.convert("L" if mode == "I;16" else mode).convert(mode)


def _saved(picture: Image.Image, suffix: str, **options: object) -> bytes:
    stream = io.BytesIO()
    form = {"jpg": "JPEG", "tif": "TIFF", "jp2": "JPEG2000"}.get(suffix, suffix.upper())
    picture.save(stream, form, **options)
    return stream.getvalue()


def mutated(data: bytes, draw: random.Random) -> bytes:
    """One thing wrong."""
    kind, changed, at = draw.randrange(6), bytearray(data), draw.randrange(len(data))
    if kind == 0:
        return data[:at]
    if kind == 1:  # sizes and offsets stand near the start
        for _ in range(draw.randint(1, 4)):
            changed[draw.randrange(min(len(data), 128))] = draw.choice([0, 1, 127, 128, 255])
    elif kind == 2:
        changed[at : at + draw.randint(1, 64)] = draw.randbytes(draw.randint(0, 64))
    elif kind == 3:
        return data[:at] + data[draw.randrange(len(data)) :]
    else:
        for _ in range(draw.randint(1, 20)):
            changed[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def spoil_pictures(folder: Path, seeds: range) -> Tally:
    """Mutated files; a tenth has the suffix of another format."""
    tally = Tally("pictures mutated")
    for seed in seeds:
        draw = random.Random(seed)
        suffix, data = draw.choice(samples())
        name = suffix if draw.random() < 0.9 else draw.choice(list(MODES))
        file = folder / f"a.{name}"
        file.write_bytes(mutated(data, draw))
        with tally.case(f"seed {seed}, {suffix} as {name}"):
            height, width = image_size(file)
            assert height > 0 and width > 0 and frame_count(file) > 0
            found = read_image(file)
            assert found.shape == (3, height, width), (found.shape, height, width)
            assert found.dtype == torch.float32 and 0 <= found.min() and found.max() <= 1
    return tally


def check_whole(folder: Path) -> None:
    """Every sample is read as it is."""
    for index, (suffix, data) in enumerate(samples()):
        (folder / f"{index}.{suffix}").write_bytes(data)
        assert read_image(folder / f"{index}.{suffix}").shape == (3, SIDE, SIDE), (index, suffix)
