"""Lapped transform and autoencoder: orthonormal, invertible, exact at the borders."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from gdpo_sr.generators.lapped_autoencoder import LappedAutoencoder
from gdpo_sr.generators.lapped_transform import lapped_basis, lapped_kernels

MEAN = torch.tensor([0.1, -0.2, 0.3])


def autoencoder(channels: int, hop: int = 4) -> LappedAutoencoder:
    vae = LappedAutoencoder(hop, channels)
    kernels = lapped_kernels(torch.eye(3), hop)[:channels]
    vae.set_kernels(MEAN, kernels, torch.linspace(0.5, 3, channels))
    return vae.requires_grad_(False)


@pytest.mark.parametrize("hop", [2, 4, 8])
def test_rows_are_orthonormal_and_so_are_their_shifted_copies(hop: int):
    basis = lapped_basis(hop)
    torch.testing.assert_close(basis @ basis.T, torch.eye(hop), rtol=0, atol=1e-6)
    overlap = basis[:, :hop] @ basis[:, hop:].T
    torch.testing.assert_close(overlap, torch.zeros(hop, hop), rtol=0, atol=1e-6)


def test_rows_fade_out_and_the_first_is_the_smoothest():
    basis = lapped_basis(4)
    assert float(basis[:, [0, -1]].abs().max()) < 0.2 * float(basis.abs().max())
    assert abs(float(basis[0].sum())) == pytest.approx(2, abs=0.01)
    changes = (basis[:, 1:] - basis[:, :-1]).square().sum(1)
    assert int(changes.argmin()) == 0


@pytest.mark.parametrize("hop", [2, 4])
def test_all_coefficients_rebuild_any_picture_up_to_its_edges(hop: int):
    vae = autoencoder(3 * hop**2, hop)
    image = torch.rand(2, 3, 6 * hop, 9 * hop) * 2 - 1
    torch.testing.assert_close(vae(image), image, rtol=0, atol=1e-5)


def test_encoding_a_decoded_picture_returns_its_latents():
    vae = autoencoder(12)
    latents = torch.randn(2, 12, 5, 7)
    again = vae.encode(vae.decode(latents).sample).latent_dist.mode()
    torch.testing.assert_close(again, latents, rtol=0, atol=1e-4)


def test_smooth_pictures_need_only_the_leading_coefficients():
    vae = autoencoder(12)
    noise = torch.randn(1, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    image = F.interpolate(noise, size=(64, 64), mode="bicubic") / 4
    error = (vae(image) - image).square().mean() / (image - MEAN.view(3, 1, 1)).square().mean()
    assert float(error) < 2e-3


def test_an_error_in_one_latent_fades_out_instead_of_ending_in_a_step():
    vae = autoencoder(12)
    empty = torch.zeros(1, 12, 7, 7)
    marked = empty.clone()
    marked[0, 0, 3, 3] = 1
    line = (vae.decode(marked).sample - vae.decode(empty).sample)[0, 0, 13].abs()
    assert float(line.diff().abs().max()) < 0.6 * float(line.max())


def test_it_is_saved_and_loaded(tmp_path):
    vae = autoencoder(12)
    vae.save_pretrained(tmp_path)
    loaded = LappedAutoencoder.from_pretrained(tmp_path)
    image = torch.rand(1, 3, 16, 16)
    torch.testing.assert_close(loaded(image), vae(image))
