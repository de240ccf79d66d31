"""What inference makes of odd pictures: every format, mode and size, as a Markdown table.

python benchmarks/odd_inputs.py
python benchmarks/odd_inputs.py --format tif

Writes small pictures of each kind into a temporary folder, restores the folder by `inference.py`,
and reads back what came out.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from gdpo_sr import inference
from gdpo_sr.utils.image_decode import decode
from gdpo_sr.utils.image_io import write_pixels

MODES = {
    ".png": ("1", "L", "LA", "P", "P+alpha", "RGB", "RGBA", "L;16", "LA;16", "RGB;16", "RGBA;16"),
    ".jpg": ("L", "RGB", "CMYK"),
    ".webp": ("RGB", "RGBA"),
    ".tif": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "L;16", "RGB;16", "RGBA;16", "F"),
    ".bmp": ("1", "L", "P", "RGB"),
    ".gif": ("P",),
}
SIZES = ((1, 1), (3, 2), (7, 31), (40, 25))  # width, height
CHANNELS = {1: "grey", 2: "grey + alpha", 3: "RGB", 4: "RGBA"}
HEAD = "| in: file | mode | out: channels | bits | sizes in -> out |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--format", default="png", help="of the results (png)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source, output = Path(folder) / "in", Path(folder) / "out"
        make_pictures(source)
        inference.main(["-i", str(source), "-o", str(output), "--format", args.format])
        print(f"{HEAD}\n|{'---|' * 5}")
        for kind, sizes in by_kind(records(output)).items():
            print(f"| {' | '.join(kind)} | {', '.join(sizes)} |")


def make_pictures(folder: Path, sizes: Sequence[tuple[int, int]] = SIZES) -> None:
    """One picture of every format, mode and size, a rotated one, and two that are damaged."""
    folder.mkdir()
    for suffix, modes in MODES.items():
        for mode in modes:
            for width, height in sizes:
                name = f"{suffix[1:]}_{mode.replace(';', '_').replace('+', '_')}_{width}x{height}"
                _make(folder / f"{name}{suffix}", mode, width, height)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise
    _picture("RGB", 40, 25).save(folder / "jpg_rotated_40x25.jpg", exif=exif)
    (folder / "png_empty.png").write_bytes(b"")
    whole = (folder / "jpg_rotated_40x25.jpg").read_bytes()
    (folder / "jpg_cut.jpg").write_bytes(whole[: len(whole) // 2])


def records(output: Path) -> list[dict]:
    """Lines of the manifest, by file name."""
    lines = (output / "manifest.jsonl").read_text().splitlines()
    return sorted(map(json.loads, lines), key=lambda record: Path(record["file"]).name)


def by_kind(found: list[dict]) -> dict[tuple[str, ...], list[str]]:
    """Cells of each row and its sizes; what came out is read from the files."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for record in found:
        path = Path(record["file"])
        if record["status"] != "done":
            rows[(path.name, "", "", "")] = ["failed: " + record["error"].split(": ", 1)[-1]]
            continue
        out = decode(record["output"])
        height, width, channels = out.pixels.shape
        name = f"{path.stem.rsplit('_', 1)[0]}{path.suffix}"
        kind = (name, record["input"]["mode"], CHANNELS[channels], str(out.bits))
        before = "x".join(map(str, record["input"]["size"]))
        rows.setdefault(kind, []).append(f"{before} -> {width}x{height}")
    return rows


def has_alpha(mode: str, name: str) -> bool:
    """Whether the source had an alpha channel or a transparent palette colour."""
    return mode.split(";")[0] in ("LA", "RGBA", "PA") or "alpha" in name


def _make(path: Path, mode: str, width: int, height: int) -> None:
    if mode.endswith(";16"):
        write_pixels(path, _deep(len(mode[:-3]), width, height))
    elif mode == "P+alpha":
        _picture("P", width, height).save(path, transparency=0)
    else:
        _picture(mode, width, height).save(path)


def _deep(channels: int, width: int, height: int) -> np.ndarray:
    """Smooth 16-bit values whose low bits matter."""
    ramp = np.linspace(3000, 60001, width * height * channels)
    return ramp.astype(np.uint16).reshape(height, width, channels)


def _picture(mode: str, width: int, height: int) -> Image.Image:
    """A gradient in any 8-bit or float mode, with varying alpha where there is one."""
    y, x = np.mgrid[0:height, 0:width]
    channels = [x * 255 // max(width - 1, 1), y * 255 // max(height - 1, 1), (x * y) % 256]
    alpha = 55 + 200 * ((x + y) % 2)
    pixels = np.stack([*channels, alpha], -1).astype(np.uint8)
    if mode == "F":
        return Image.fromarray(pixels[..., 0].astype(np.float32) / 255)
    image = Image.fromarray(pixels)
    return image if mode == "RGBA" else image.convert("LA" if mode == "LA" else "RGB").convert(mode)


if __name__ == "__main__":
    main()
