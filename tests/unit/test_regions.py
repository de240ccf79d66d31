"""Rewards by region: what each metric is shown, and where its advantage goes."""

from __future__ import annotations

import torch

from gdpo_sr.rewards.content_weights import texture_map, texture_ratio
from gdpo_sr.rewards.iqa_reward import IQAReward
from gdpo_sr.rewards.regions import advantage_map, composite, latent_texture, score_regions


def photo(height: int = 53, width: int = 67) -> torch.Tensor:
    """(1, 3, H, W): flat on the left, noise on the right."""
    image = torch.full((1, 3, height, width), 0.5)
    rng = torch.Generator().manual_seed(0)
    image[..., width // 2 :] = torch.rand(image[..., width // 2 :].shape, generator=rng)
    return image


def group(hr: torch.Tensor, size: int = 3) -> torch.Tensor:
    rng = torch.Generator().manual_seed(1)
    noise = torch.randn(len(hr), size, *hr.shape[1:], generator=rng)
    strength = torch.linspace(0.02, 0.06, size).view(1, size, 1, 1, 1)
    return (hr[:, None] + strength * noise).clamp(0, 1)


def test_the_map_has_the_ratio_as_its_mean():
    hr = photo()
    texture = texture_map(hr)
    assert texture.shape == (1, 1, 53, 67) and set(texture.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(texture.mean((1, 2, 3)), texture_ratio(hr))


def test_latent_elements_hold_the_share_of_their_pixels():
    """Patches of 10 and cells of 4 pixels: cell 2 (pixels 8 to 11) is half of each patch."""
    texture = torch.zeros(1, 1, 40, 40)
    texture[..., 10:20] = 1
    share = latent_texture(texture, (10, 10))
    assert share[0, 0].tolist() == [0, 0, 0.5, 1, 1, 0, 0, 0, 0, 0]
    torch.testing.assert_close(share.mean(), texture.mean())


def test_fidelity_of_the_composite_is_the_masked_psnr():
    """Up to a constant: 10 log10 of all pixels over the smooth ones."""
    hr = photo(64, 64)
    candidates, texture = group(hr), texture_map(hr)
    psnr = IQAReward("psnr", "fidelity")
    scores = psnr(composite("fidelity", candidates, hr, texture), hr)[0]
    smooth = (texture == 0).expand_as(hr)
    masked = torch.stack(
        [-10 * (candidates[0, g][None] - hr)[smooth].square().mean().log10() for g in range(3)]
    )
    offset = 10 * (hr.numel() / smooth.sum()).log10()
    torch.testing.assert_close(scores, masked + offset, atol=1e-3, rtol=0)


def test_perception_is_blind_to_the_smooth_area():
    hr = photo()
    candidates, texture = group(hr), texture_map(hr)
    shown = composite("perception", candidates, hr, texture)
    smooth, textured = (texture == 0).expand_as(hr)[0], (texture == 1).expand_as(hr)[0]
    assert torch.equal(shown[0, 0][smooth], shown[0, 2][smooth])
    assert torch.equal(shown[0, 1][textured], candidates[0, 1][textured])


def test_each_reward_sees_its_region():
    hr = photo()
    texture = texture_map(hr)
    seen = {}

    def watcher(kind: str):
        def reward(candidates: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
            seen[kind] = candidates
            return candidates.mean((2, 3, 4))

        reward.kind, reward.weight = kind, 1.0
        return reward

    rewards = {"p": watcher("perception"), "f": watcher("fidelity")}
    scores = score_regions(rewards, group(hr), hr, texture)
    assert list(scores) == ["p", "f"] and scores["p"].shape == (1, 3)
    assert torch.equal(seen["fidelity"], composite("fidelity", group(hr), hr, texture))
    assert torch.equal(seen["perception"], composite("perception", group(hr), hr, texture))


def test_advantages_go_to_their_region_by_area():
    smooth, textured = torch.tensor([[1.0, -1.0]]), torch.tensor([[-0.5, 0.5]])
    share = torch.tensor([[[0.0, 1.0, 0.5]]])
    found = advantage_map(smooth, textured, share)
    expected = torch.tensor([[[[1.0, -0.5, 0.25]], [[-1.0, 0.5, -0.25]]]])
    torch.testing.assert_close(found, expected)
