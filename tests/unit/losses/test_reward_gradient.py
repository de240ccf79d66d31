"""The reward's own gradient: by hand, missing rewards, and what it needs."""

from __future__ import annotations

import pytest
import torch

from gdpo_sr.losses import LOSSES, GroupErrors, RewardValues, reward_gradient_loss


def test_by_hand():
    """0.5 * mean(2, 4) - mean(1, 3, 0 for the missing one, 2)."""
    values = torch.tensor([[1.0, 3.0], [torch.nan, 2.0]], requires_grad=True)
    output = reward_gradient_loss(values, torch.tensor([[2.0], [4.0]]), 0.5)
    assert output.loss.item() == pytest.approx(1.5 - 1.5)
    assert output.logs["value"] == 1.5 and output.logs["kl"] == 3
    assert reward_gradient_loss(values, torch.ones(2, 1)).loss == -1.5  # no drift unless asked
    output.loss.backward()
    assert values.grad.tolist() == [[-0.25, -0.25], [0, -0.25]]


def test_advantages_do_not_matter():
    errors = GroupErrors(torch.ones(1, 2), torch.zeros(1, 2), torch.ones(1, 2))
    values = RewardValues(torch.tensor([[1.0, 2.0]]), torch.tensor(1.0))
    loss = LOSSES.get("reward_gradient")(kl_weight=2.0)
    found = [loss(errors, a, values).loss for a in (torch.ones(1, 2), torch.zeros(1, 2))]
    assert found[0] == found[1] == 2 - 1.5
    with pytest.raises(ValueError, match="needs the values"):
        loss(errors, torch.ones(1, 2))
