"""Side-by-side pictures with captions."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

from gdpo_sr.utils.image_io import write_image

CAPTION_HEIGHT = 22
GAP = 4


def captioned(images: dict[str, torch.Tensor]) -> torch.Tensor:
    """One row: pictures (3, H, W) in [0, 1] of one size beside each other, each under its name; (3,
    H', W').
    """
    columns = [
        torch.cat([_caption(name, image.shape[-1]), image.float().cpu().clamp(0, 1)], 1)
        for name, image in images.items()
    ]
    gap = torch.ones(3, columns[0].shape[1], GAP)
    row = [part for column in columns for part in (column, gap)][:-1]
    return torch.cat(row, 2)


def _caption(text: str, width: int) -> torch.Tensor:
    strip = Image.new("RGB", (width, CAPTION_HEIGHT), "white")
    font = ImageFont.load_default(size=14)
    ImageDraw.Draw(strip).text((4, 3), text, fill="black", font=font)
    data = torch.frombuffer(bytearray(strip.tobytes()), dtype=torch.uint8)
    return data.view(CAPTION_HEIGHT, width, 3).permute(2, 0, 1).float() / 255


def write_side_by_side(path: Path, rows: list[dict[str, torch.Tensor]]) -> Path:
    """Write rows of captioned pictures under each other; rows may differ in size."""
    panels = [captioned(row) for row in rows]
    width = max(panel.shape[2] for panel in panels)
    padded = []
    for panel in panels:
        blank = torch.ones(3, panel.shape[1], width - panel.shape[2])
        padded += [torch.cat([panel, blank], 2), torch.ones(3, GAP, width)]
    write_image(path, torch.cat(padded[:-1], 1))
    return path
