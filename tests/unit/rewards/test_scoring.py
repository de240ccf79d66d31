"""Scores with and without a graph, maps among them, and rewards that fail on some candidates."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import torch

from gdpo_sr.rewards.scoring import check_gradients, score_candidates, score_with_gradient
from gdpo_sr.types import GDPOSRError, MetricError, OptionError

Score = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class Named:
    """A reward out of a function."""

    kind, gives_maps = "fidelity", False

    def __init__(self, score: Score, weight: float = 1.0) -> None:
        self.name, self.weight, self.score = "mine", weight, score
        self.seen: list[torch.Size] = []

    def __call__(self, candidates: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
        self.seen.append(candidates.shape)
        return self.score(candidates, hr)


def mean_of(candidates: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
    return candidates.mean((2, 3, 4))


def pictures(groups: int = 2, size: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(1)
    candidates = torch.rand(groups, size, 3, 8, 8, generator=rng)
    return candidates, torch.rand(groups, 3, 8, 8, generator=rng)


def fails_on_bright(candidates: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
    if (candidates.amax((2, 3, 4)) > 2).any():
        raise RuntimeError("too bright")
    assert hr.shape[0] == candidates.shape[0]
    return mean_of(candidates, hr) - hr.mean((1, 2, 3))[:, None]


def test_a_candidate_that_fails_costs_its_own_score_alone(caplog: pytest.LogCaptureFixture):
    candidates, hr = pictures()
    candidates[1, 2] = 3
    reward = Named(fails_on_bright)
    with caplog.at_level(logging.WARNING, "gdpo_sr"):
        scores = score_candidates({"mine": reward}, candidates, hr)["mine"]
    assert scores[1, 2].isnan() and int(scores.isnan().sum()) == 1
    expected = mean_of(candidates, hr) - hr.mean((1, 2, 3))[:, None]
    expected[1, 2] = torch.nan
    torch.testing.assert_close(scores, expected, equal_nan=True)
    assert reward.seen[1:] == [torch.Size((1, 1, 3, 8, 8))] * 6
    assert "candidate 2 of image 1: too bright" in caplog.text


def test_all_that_fail_are_nan():
    candidates, hr = pictures(1, 2)
    scores = score_candidates({"mine": Named(fails_on_bright)}, candidates + 3, hr)["mine"]
    assert scores.shape == (1, 2) and scores.isnan().all()


def test_a_missing_map_has_the_shape_of_the_others():
    candidates, hr = pictures(1, 2)
    candidates[0, 0] = 3

    def maps(c: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
        fails_on_bright(c, hr)
        return c.mean(2)

    scores = score_candidates({"mine": Named(maps)}, candidates, hr)["mine"]
    assert scores.shape == (1, 2, 8, 8) and scores[0, 0].isnan().all()
    torch.testing.assert_close(scores[0, 1], candidates[0, 1].mean(0))


@pytest.mark.parametrize("shape", [(2,), (3, 2), (2, 3, 1), (2, 3, 4, 4, 1)])
@pytest.mark.parametrize("score", [score_candidates, score_with_gradient])
def test_other_shapes_are_refused(shape: tuple[int, ...], score: Callable[..., object]):
    candidates, hr = pictures()
    reward = Named(lambda c, hr: c.new_zeros(shape))
    given = ({"mine": reward},) if score is score_candidates else ("mine", reward)
    with pytest.raises(MetricError, match=r"reward 'mine' returned shape .*\(2, 3\)"):
        score(*given, candidates, hr)


def test_scores_keep_their_graph_and_are_float32():
    candidates, hr = pictures()
    candidates.requires_grad_()
    scores = score_with_gradient(
        "mine", Named(lambda c, hr: mean_of(c, hr).double()), candidates, hr
    )
    assert scores.dtype == torch.float32
    (gradient,) = torch.autograd.grad(scores.sum(), candidates)
    torch.testing.assert_close(gradient, torch.full_like(candidates, 1 / 192))
    assert not score_candidates({"mine": Named(mean_of)}, candidates, hr)["mine"].requires_grad


def raises(error: Exception) -> Score:
    def score(candidates: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
        raise error

    return score


@pytest.mark.parametrize(
    ("score", "reason"),
    [
        (lambda c, hr: mean_of(c, hr).detach(), "do not depend on the pixels"),
        (lambda c, hr: torch.from_numpy(mean_of(c, hr).numpy()), "numpy"),
        (raises(KeyError()), "KeyError"),
        (raises(ValueError("two\nlines " + "x" * 200)), r"\(two lines x{110}\)"),
    ],
)
def test_a_reward_without_a_gradient_is_named_with_the_reason(score: Score, reason: str):
    candidates, hr = pictures()
    with pytest.raises(OptionError, match=f"reward 'mine' has no gradient .*{reason}"):
        score_with_gradient("mine", Named(score), candidates.requires_grad_(), hr)


def test_mistakes_in_options_pass_through():
    candidates, hr = pictures()
    mistake = GDPOSRError("my own line")
    for call in (
        lambda: score_with_gradient("mine", Named(raises(mistake)), candidates, hr),
        lambda: score_candidates({"mine": Named(raises(mistake))}, candidates, hr),
    ):
        with pytest.raises(GDPOSRError, match="^my own line$"):
            call()


@pytest.mark.parametrize(
    "score",
    [
        lambda c, hr: mean_of(c, hr) * 0,
        lambda c, hr: mean_of(c, hr) * torch.inf,
        lambda c, hr: (mean_of(c, hr) * 0).sqrt(),
    ],
)
def test_a_gradient_of_zero_or_infinity_is_refused(score: Score):
    with pytest.raises(OptionError, match="it is 0 or not finite"):
        check_gradients({"mine": Named(score)}, 16, "cpu")


def test_what_is_tried_is_a_group_of_two_in_the_range_and_size_of_the_crops():
    found: list[tuple[torch.Tensor, torch.Tensor]] = []

    def keep(candidates: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
        found.append((candidates.detach(), hr))
        return mean_of(candidates, hr)

    check_gradients({"mine": Named(keep), "off": Named(raises(ValueError()), 0.0)}, 40, "cpu")
    [(candidates, hr)] = found
    assert candidates.shape == (1, 2, 3, 40, 40) and hr.shape == (1, 3, 40, 40)
    assert 0.1 <= float(hr.min()) < 0.12 and 0.88 < float(hr.max()) <= 0.9
    assert float((candidates - hr[:, None]).std()) == pytest.approx(0.05, rel=0.05)
