"""Runs of a second on the tiny base, and children that may die in them."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from gdpo_sr.cli import run_main
from gdpo_sr.train import main
from gdpo_sr.utils.image_io import read_image, write_image
from tests.integration import test_stage1, test_training
from tests.tiny_base import tiny_base

PHOTOS = test_training.ROOT / "datasets" / "example" / "train"

FILES = {"stage1": test_stage1.OPTIONS_FILE, "stage2": test_training.OPTIONS_FILE}
SMALL = {
    "datasets:val:max_images": 1,
    "train:total_iter": 3,
    "logger:save_checkpoint_freq": 1,
    "logger:keep_checkpoints": 2,
    "logger:use_tb_logger": "false",
    "val:save_img": "false",
}
LIGHT = {
    "stage1": {
        "train:losses:perceptual": "{}",
        "train:losses:vsd:cfg_scale": 1,
        "val:metrics": "{}",
    },
    "stage2": {
        "train:group_size": 2,
        "train:reward:perception": "{}",
        "train:reward:fidelity": "{psnr_y: {metric: psnr_y}}",
        "val:metrics": "{}",
    },
}


def one_block(folder: Path) -> Path:
    """A base whose network has one block on the way down and one up: most of a short run's time
    goes into adapters, by their number.
    """
    blocks = {"down_block_types": ("CrossAttnDownBlock2D",), "up_block_types": ("UpBlock2D",)}
    return tiny_base(folder, channels=(8,), mid_block_type=None, **blocks)


def photos(folder: Path, count: int) -> Path:
    """Pieces of the example photos: whole ones take longer to decode than an update."""
    if not folder.is_dir():
        folder.mkdir()
        for index, file in enumerate(sorted(PHOTOS.iterdir())[:count]):
            write_image(folder / f"{index}.png", read_image(file)[:, 64:160, 64:160])
    return folder


def command(stage: str, base: Path, root: Path, *flags: str, **changes: object) -> list[str]:
    """Arguments of `train.py`."""
    build = {"stage1": test_stage1, "stage2": test_training}[stage].overrides
    forced = dict(item.split("=", 1) for item in build(base, root))
    changed = {key.replace("__", ":"): str(value) for key, value in changes.items()}
    for part, count in (("train", 6), ("val", 1)):
        folder = photos(base.parent / f"photos_{part}", count)
        forced[f"datasets:{part}:dataroot_gt"] = str(folder)
    forced |= {k: str(v) for k, v in {**SMALL, **LIGHT[stage]}.items()} | changed
    pairs = [f"{key}={value}" for key, value in forced.items()]
    return ["-opt", str(FILES[stage]), *flags, "--force_yml", *pairs]


def train(stage: str, base: Path, root: Path, *flags: str, **changes: object) -> int:
    """Exit status of a run."""
    return run_main(main, command(stage, base, root, *flags, **changes))


def started(action: Callable[[], int]) -> int:
    """Process id of a child that does something and ends with its result."""
    child = os.fork()
    if not child:
        gc.freeze()  # what the parent has imported is no garbage
        torch.set_num_threads(1)
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, 1)
        os.dup2(sink, 2)
        status = 1
        try:
            status = action()
        finally:
            os._exit(status)
    return child


def ended(*children: int) -> list[int]:
    """Exit statuses of children; -9 of one that was killed."""
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def forked(action: Callable[[], int]) -> int:
    """Exit status of a child that does something."""
    return ended(started(action))[0]


def told(action: Callable[[], int], errors: Path) -> tuple[int, list[str]]:
    """Exit status of a child, and the errors that it told."""

    def child() -> int:
        sys.stderr = errors.open("w", buffering=1)
        return action()

    status = forked(child)
    text = errors.read_text()
    assert "Traceback" not in text, text[-600:]
    return status, [line for line in text.splitlines() if line.startswith("error: ")]


def digest(value: object) -> str:
    """Of anything that a state holds, tensors by their bytes."""
    found = hashlib.sha256()

    def add(part: object) -> None:
        if isinstance(part, torch.Tensor):
            found.update(str((part.dtype, tuple(part.shape))).encode())
            found.update(part.contiguous().numpy().tobytes())
        elif isinstance(part, dict):
            for key in sorted(part, key=str):
                found.update(str(key).encode())
                add(part[key])
        elif isinstance(part, list | tuple):
            for entry in part:
                add(entry)
        else:
            found.update(repr(part).encode())

    add(value)
    return found.hexdigest()


def outcome(run: Path) -> dict[str, str]:
    """What a run leaves: every file by its digest, logs and options aside."""
    found = {}
    for file in sorted(f for f in run.rglob("*") if f.is_file()):
        name = str(file.relative_to(run))
        if name.startswith("log/") or name == "options.yml" or name.endswith("SHA256SUMS"):
            continue
        if "set_aside" in name:
            found[name] = ""
        elif file.suffix == ".pt":
            found[name] = digest(torch.load(file, weights_only=True))
        elif file.suffix == ".json":
            found[name] = json.dumps(json.loads(file.read_text()), sort_keys=True)
        else:
            found[name] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found


def bytes_of(folder: Path) -> str:
    """Digest of all names and bytes in a folder, but for those of its logs."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if "log" not in path.parts:
            found.update(os.fsencode(path.relative_to(folder)) + b"\0")
            found.update(path.read_bytes() if path.is_file() else b"")
    return found.hexdigest()


def times(run: Path) -> dict[Path, int]:
    """When every file was last changed, but for the logs."""
    return {f: f.stat().st_mtime_ns for f in run.rglob("*") if "log" not in f.parts}


def log_of(run: Path) -> str:
    """Text of a run's log."""
    return (run / "log" / "train.log").read_text(encoding="utf-8")


if __name__ == "__main__":  # python -m tests.faults.runs STAGE BASE ROOT [FLAGS]
    sys.exit(train(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), *sys.argv[4:]))
