"""What the page shows, without the page and without gradio."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gdpo_sr.cli import run_main
from gdpo_sr.demo import command
from gdpo_sr.demo.session import NO_LORA, OWN_BASE, Request, Restored, Session
from gdpo_sr.pipelines.one_step_sr import OneStepSRPipeline
from gdpo_sr.types import ImageError, OptionError
from gdpo_sr.utils.image_io import read_image
from gdpo_sr.utils.resample import enlarge


@pytest.fixture(scope="module")
def picture(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("demo") / "a.png"
    pixels = np.random.default_rng(0).integers(0, 255, (20, 28, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def session(base: Path) -> Session:
    return Session([str(base)], [], ["piqe"], torch.device("cpu"), 100_000)


def test_candidates_come_one_after_the_other_and_are_the_pipeline_s(session, base, picture):
    request = Request(picture, base=str(base), candidates=3, seed=5, scale=4, t_add=200)
    counts, last = [], None
    for last in session.restore(request):
        counts.append(len(last.candidates))
        assert (last.spread is None) == (counts[-1] == 1)
    assert counts == [1, 2, 3]
    pipe = OneStepSRPipeline.from_pretrained(base)
    for index, candidate in enumerate(last.candidates):
        rng = torch.Generator().manual_seed(5 + index)
        wanted = pipe(picture, 4, rng, t_add=200, output_type="np").images[0]
        assert np.abs(candidate / 255 - wanted).max() < 0.51 / 255 + 1e-6
    bicubic = enlarge(read_image(picture), 4).clamp(0, 1).permute(1, 2, 0).numpy()
    assert np.abs(last.before / 255 - bicubic).max() < 0.51 / 255 + 1e-6


def test_the_best_has_the_best_first_score_and_says_so(session):
    scores = [{"piqe": 30.0, "niqe": 5.0}, {"piqe": 20.0}, {"piqe": float("nan"), "niqe": 1.0}]
    assert session._best(scores) == 1  # PIQE: lower is better
    shown = Restored(np.zeros((1, 1, 3), np.uint8), scores=scores, best=1).captions()
    assert shown == ["1, piqe 30.0, niqe 5.0", "2 (best), piqe 20.0", "3, niqe 1.0"]
    session.metrics = {}
    assert session._best([{}, {}]) == 0


def test_scores_are_the_metric_s(session, base, picture):
    def darkness(image: torch.Tensor) -> torch.Tensor:
        return 1 - image.mean()

    darkness.lower_better = True
    session.metrics = {"darkness": darkness}
    *_, found = session.restore(Request(picture, base=str(base), candidates=2))
    for candidate, scores in zip(found.candidates, found.scores, strict=True):
        assert scores == {"darkness": pytest.approx(1 - candidate.mean() / 255, abs=2e-3)}


def test_the_map_is_bright_where_candidates_differ(session, base, picture):
    *_, found = session.restore(Request(picture, base=str(base), candidates=3))
    spread = np.stack(found.candidates).astype(float).std(0, ddof=1).mean(-1)
    light = found.spread.astype(float).sum(-1)
    assert found.spread.shape == found.before.shape
    assert light[spread > np.quantile(spread, 0.9)].mean() > light[spread < spread.mean()].mean()


def test_what_was_not_offered_or_does_not_fit_is_refused(session, base, picture):
    request = Request(picture, base=str(base))
    for change, message in (
        ({"base": "/etc"}, "base '/etc': choose one of that of the LoRA"),
        ({"lora": "/etc"}, "LoRA '/etc': choose one of none"),
        ({"candidates": 0}, "candidates = 0: use 1 to 16"),
        ({"candidates": 17}, "candidates = 17: use 1 to 16"),
    ):
        with pytest.raises(OptionError, match=message):
            next(session.restore(replace(request, **change)))
    with pytest.raises(ImageError, match=r"28x20 times 16 is more than 0\.1 million pixels"):
        next(session.restore(replace(request, scale=16)))
    with pytest.raises(OptionError, match="psnr_y: it needs a reference"):
        Session([], [], ["psnr_y"], torch.device("cpu"), 1)


def test_only_the_latest_model_is_kept(session, base):
    first = session.pipeline(str(base), NO_LORA, 1.0)
    assert session.pipeline(str(base), NO_LORA, 1.0) is first
    assert session.pipeline(OWN_BASE, NO_LORA, 1.0) is not first


def test_without_gradio_the_remedy_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert run_main(command.main, []) == 2
    assert capsys.readouterr().err == (
        "error: gdpo-sr demo: gradio is not installed; pip install 'gdpo-sr[demo]'\n"
    )


def test_help_names_the_limits(capsys):
    with pytest.raises(SystemExit):
        command.main(["--help"])
    assert "127.0.0.1: this computer only" in capsys.readouterr().out
