"""evaluate.py --protocol osediff on OSEDiff's published outputs, against the log that its authors
published: PSNR, SSIM and NIQE of every picture.
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean

import pytest

from gdpo_sr.evaluate import main

TOLERANCE = {"psnr_y": ("PSNR", 1e-4), "ssim_y": ("SSIM", 1e-5), "niqe": ("NIQE", 0.05)}
NIQE_MEAN = 1e-3  # rounding ties move single pictures, not the mean


def scores_and_log(shared_dir: Path, folder: Path, dataset: str, every: int) -> tuple[dict, dict]:
    """What the command saves for every n-th picture, and the authors' figures, by name."""
    source = shared_dir / "bench" / dataset
    for side in ("osediff", "HR"):
        (folder / side).mkdir()
        for path in sorted((source / side).glob("*.png"))[::every]:
            (folder / side / path.name).symlink_to(path)
    saved = folder / "scores.json"
    arguments = ["-i", str(folder / "osediff"), "-g", str(folder / "HR"), "--protocol", "osediff"]
    assert main([*arguments, "--save_json", str(saved)]) == 0
    images = json.loads(saved.read_text())["methods"]["osediff"][0]["images"]
    reference = json.loads((shared_dir / "bench" / "reference.json").read_text())
    log = reference["sets"][dataset]["per_image"]
    return (
        {name: entry["scores"] for name, entry in images.items()},
        {name: log[f"{name}.png"]["authors_log"] for name in images},
    )


def check(shared_dir: Path, folder: Path, dataset: str, every: int, count: int) -> None:
    ours, theirs = scores_and_log(shared_dir, folder, dataset, every)
    assert len(ours) == count
    for metric, (logged, tolerance) in TOLERANCE.items():
        for name, scores in ours.items():
            assert scores[metric] == pytest.approx(theirs[name][logged], abs=tolerance), name
    gaps = [ours[name]["niqe"] - theirs[name]["NIQE"] for name in ours]
    if every == 1:
        assert abs(fmean(gaps)) < NIQE_MEAN


@pytest.mark.parametrize("dataset", ["realsr", "drealsr"])
def test_published_scores_of_two_pictures(shared_dir: Path, tmp_path: Path, dataset: str):
    check(shared_dir, tmp_path, dataset, every=6, count=2)


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["realsr", "drealsr"])
def test_published_scores(shared_dir: Path, tmp_path: Path, dataset: str):
    check(shared_dir, tmp_path, dataset, every=1, count=12)
