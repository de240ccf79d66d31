"""DiffusionNFT: errors of mixed answers against answers that were mixed, and by hand."""

from __future__ import annotations

import math

import pytest
import torch

from gdpo_sr.losses import LOSSES, GroupErrors, diffusion_nft_loss
from gdpo_sr.losses.diffusion_nft import mixed_errors


def answers() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Policy, reference and candidates, (2, 4, 3, 5)."""
    rng = torch.Generator().manual_seed(0)
    p, o, x = (torch.randn(2, 4, 3, 5, generator=rng).double() for _ in range(3))
    return p.requires_grad_(), o, x


def errors_of(p: torch.Tensor, o: torch.Tensor, x: torch.Tensor) -> GroupErrors:
    return GroupErrors(*((a - b).square().mean((-2, -1)) for a, b in ((p, x), (o, x), (p, o))))


@pytest.mark.parametrize("mix", [0.1, 0.7, 1.0])
def test_errors_of_mixed_answers(mix: float):
    """The paper's two answers, mix p + (1 - mix) o and (1 + mix) o - mix p, and their gradient."""
    p, o, x = answers()
    found = mixed_errors(errors_of(p, o, x), mix)
    mixed = mix * p + (1 - mix) * o, (1 + mix) * o - mix * p
    for error, answer in zip(found, mixed, strict=True):
        expected = (answer - x).square().mean((-2, -1))
        torch.testing.assert_close(error, expected)
        ours, theirs = (
            torch.autograd.grad(e.sum(), p, retain_graph=True) for e in (error, expected)
        )
        torch.testing.assert_close(ours[0], theirs[0])


def test_by_hand():
    """Candidates 3 and -1, reference 1, policy 2, mix 1, clip 2. The positive answer 2 errs by 1
    and 9, the negative answer 0 by 9 and 1; divided by their roots: 1, 3 and 3, 1. r is 1 and 1/4.
    """
    p, o, x = torch.tensor([[2.0, 2.0]]), torch.ones(1, 2), torch.tensor([[3.0, -1.0]])
    errors = GroupErrors((p - x).square(), (o - x).square(), (p - o).square())
    positive, negative = mixed_errors(errors, 1.0)
    assert positive.tolist() == [[1, 9]] and negative.tolist() == [[9, 1]]
    for best in (2.0, 5.0):  # no advantage counts for more than the clip
        output = diffusion_nft_loss(errors, torch.tensor([[best, -1.0]]), 1.0, 2.0)
        assert float(output.loss) == pytest.approx(2 * (1 + 0.25 * 3 + 0.75 * 1) / 2)
        assert float(output.logs["good"]) == (1 + 0.25) / 2
    assert diffusion_nft_loss(errors, torch.ones(1, 2)).loss == 0


def test_small_errors_and_what_rounding_makes_negative():
    """Candidate -0.2, reference 0.1, policy 0.3: the answers 0.3 and -0.1 err by 0.25 and 0.01."""
    errors = GroupErrors(*(torch.tensor([[v]]) for v in (0.25, 0.09, 0.04)))
    found = torch.cat(mixed_errors(errors, 1.0), 1)
    torch.testing.assert_close(found, torch.tensor([[0.25, 0.01]]))
    below = GroupErrors(*(torch.tensor([[v]]) for v in (-1e-9, 0.0, 0.0)))
    assert mixed_errors(below, 1.0)[0] == 0


def test_the_defaults_are_those_of_the_options():
    p, o, x = answers()
    errors, advantages = errors_of(p, o, x), torch.tensor([[1.0, -0.5, 0.2, -0.7]] * 2).double()
    plain = diffusion_nft_loss(errors, advantages).loss
    assert plain == diffusion_nft_loss(errors, advantages, 1.0, 5.0).loss
    assert plain == LOSSES.get("diffusion_nft")()(errors, advantages).loss


def test_first_gradient_is_that_of_advantages():
    """Policy = reference: both answers err alike, and what is left is A_i dl_i / (clip |e|) times
    clip / G per group.
    """
    p, o, x = answers()
    p.data.copy_(o)
    advantages = torch.tensor([[1.0, -0.5, 0.2, -0.7], [0.3, 0.3, 0.4, -1.0]]).double()
    errors = errors_of(p, o, x)
    [found] = torch.autograd.grad(diffusion_nft_loss(errors, advantages, 0.4).loss, p)
    size = errors.reference.sqrt()
    by_advantage = (advantages * errors_of(p, o, x).policy / size).mean()
    torch.testing.assert_close(found, torch.autograd.grad(by_advantage, p)[0])


def test_elements_weigh_by_their_own_advantages():
    """Equal advantages and errors in all elements: as one number per candidate."""
    p, o, x = answers()
    errors, advantages = errors_of(p, o, x), torch.tensor([[1.0, -1.0, 2.0, -2.0]] * 2).double()
    maps = [e[..., None, None].expand(2, 4, 3, 3) for e in errors]
    whole = diffusion_nft_loss(errors, advantages, 0.5).loss
    found = diffusion_nft_loss(
        GroupErrors(*maps), advantages[..., None, None].expand(2, 4, 3, 3), 0.5
    )
    torch.testing.assert_close(found.loss, whole)


def test_distance_from_the_reference_and_its_need():
    p, o, x = answers()
    errors, advantages = errors_of(p, o, x), torch.tensor([[1.0, -1.0, 0.0, 0.0]] * 2).double()
    free, held = (
        LOSSES.get("diffusion_nft")(kl_weight=0.0),
        LOSSES.get("diffusion_nft")(kl_weight=2.0),
    )
    gap = held(errors, advantages).loss - free(errors, advantages).loss
    torch.testing.assert_close(gap, 2 * errors.drift.mean())
    with pytest.raises(ValueError, match="needs the drift"):
        free(errors._replace(drift=None), advantages)
    assert math.isfinite(float(held(errors_of(o, o, o), advantages).loss))
