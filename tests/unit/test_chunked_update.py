"""The gradient of a group in chunks is that of the whole group, in double precision."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from gdpo_sr.checkpoints.lora import add_lora
from gdpo_sr.generators.load import build_generator, load_components
from gdpo_sr.generators.noise_aware_generator import NoiseAwareGenerator
from gdpo_sr.group.chunked_update import ChunkedBackward
from gdpo_sr.group.errors import group_embeds, group_for_noise, group_from_lr
from gdpo_sr.group.group_update import GroupUpdate
from gdpo_sr.group.sample import draw_noise
from gdpo_sr.losses.group_losses import LOSSES, ActionSignal, ErrorSignal

B, G = 2, 3
LATENT = (12, 4, 4)
ERROR_LOSSES = sorted(set(LOSSES.names()) - {"grpo"})


@pytest.fixture(scope="module")
def generator(base: Path) -> NoiseAwareGenerator:
    """Its policy has moved, so that margins are not 0."""
    model = build_generator(load_components(base)).double()
    for parameter in add_lora(model.unet):
        with torch.no_grad():
            parameter.copy_(0.1 * draw(parameter.shape, seed=parameter.numel()))
    return model


def draw(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return draw_noise(tuple(shape), rng, "cpu", torch.float64)


def error_update(generator, kind: str, spatial: bool) -> GroupUpdate:
    latents, noise = draw((B, G, *LATENT), 1), draw((B, G, *LATENT), 2)
    prompts = ["a", "b"]
    if kind == "lr":
        noisy = generator.scheduler.add_noise(draw((B, 1, *LATENT), 3), noise)
        group = group_from_lr(generator, latents, noisy, prompts, spatial=spatial)
    else:
        group = group_for_noise(generator, latents, prompts, noise, kind, spatial=spatial)
    values = draw((B, G), 4)
    shape = (B, G, *LATENT[1:]) if spatial else (B, G)
    advantages = draw(shape, 5)

    def signal(prediction, pictures=slice(None)):
        errors = group.errors(prediction, pictures)
        spread = values.std(-1).mean()
        return ErrorSignal(*errors, advantages[pictures], values[pictures], spread)

    return GroupUpdate(generator, group.noisy, group.embeds, signal)


def action_update(generator, spatial: bool = False) -> GroupUpdate:
    states, mean = draw((B, G, *LATENT), 1), draw((B, G, *LATENT), 2)
    shape = (B, G, *LATENT[1:]) if spatial else (B, G)
    actions, advantages = mean + 0.5 * draw((B, G, *LATENT), 3), draw(shape, 4)
    embeds = group_embeds(generator, ["a", "b"], G)

    def signal(prediction, pictures=slice(None)):
        now = mean[pictures] + 1e-3 * generator.scheduler.predict_x0(states[pictures], prediction)
        return ActionSignal(
            actions[pictures], mean[pictures], now, mean[pictures], advantages[pictures]
        )

    return GroupUpdate(generator, states, embeds, signal)


def parameters(generator) -> list[torch.nn.Parameter]:
    return [p for p in generator.unet.parameters() if p.requires_grad]


def gradient(generator, run) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and gradient of `run`, on top of a gradient that was there before."""
    for index, parameter in enumerate(parameters(generator)):
        parameter.grad = None if index % 2 else torch.ones_like(parameter)
    loss = run()
    return loss, torch.cat([p.grad.flatten() for p in parameters(generator)])


def check(generator, update: GroupUpdate, name: str, chunk: int, strength: float | str) -> None:
    options = {"gdpo": {"omega": strength}, "grpo": {"kl_weight": 0.1, "clip": 0.5}}.get(name, {})
    options = {"beta": strength} if name.endswith("dpo") and name != "gdpo" else options
    whole, loss = (LOSSES.get(name)(**options) for _ in range(2))

    def at_once() -> torch.Tensor:
        value = whole(update.signal(update.predict())).loss / 2
        value.backward()
        return 2 * value.detach()

    expected_loss, expected = gradient(generator, at_once)
    chunked = ChunkedBackward(loss, parameters(generator), chunk, Accelerator())
    found_loss, found = gradient(generator, lambda: chunked(update, count=2).loss)
    torch.testing.assert_close(found_loss, expected_loss, rtol=1e-12, atol=0)
    error = float((found - expected).norm() / (expected - 1).norm())
    assert error < 1e-10
    if getattr(loss, "scale", None) is not None:
        assert loss.scale.state_dict() == pytest.approx(whole.scale.state_dict(), rel=1e-12)


@pytest.mark.parametrize("kind", ["noise", "lr"])
@pytest.mark.parametrize("name", ERROR_LOSSES)
def test_every_loss_and_input(generator, name: str, kind: str):
    check(generator, error_update(generator, kind, False), name, 2, strength=3.0)


@pytest.mark.parametrize("chunk", [1, G])
def test_chunks_of_any_size(generator, chunk: int):
    check(generator, error_update(generator, "x0", False), "gdpo", chunk, strength=3.0)


@pytest.mark.parametrize("kind", ["noise", "lr"])
@pytest.mark.parametrize("name", ["gdpo", "diffusion_dpo", "reward_weighted", "sft_best"])
def test_advantages_by_element(generator, name: str, kind: str):
    check(generator, error_update(generator, kind, True), name, 2, strength=3.0)


def test_automatic_strength_is_asked_once(generator):
    check(generator, error_update(generator, "x0", False), "gdpo", 2, strength="auto")


def test_saturated_preferences(generator):
    """Logits of thousands: k is 0 for one picture and omega / 2 for another."""
    check(generator, error_update(generator, "x0", False), "gdpo", 2, strength=1e5)


@pytest.mark.parametrize("spatial", [False, True])
def test_gaussian_policy(generator, spatial: bool):
    check(generator, action_update(generator, spatial), "grpo", 3, strength=1.0)


def test_one_forward_pass_where_a_margin_decides(generator, monkeypatch):
    """Candidates that the UNet sees with a graph, and without."""
    update = error_update(generator, "noise", False)
    seen = {True: 0, False: 0}
    predict = generator.predict_epsilon

    def counted(noisy, *args):
        seen[torch.is_grad_enabled()] += len(noisy)
        return predict(noisy, *args)

    monkeypatch.setattr(generator, "predict_epsilon", counted)
    for name, expected in (
        ("gdpo", {True: B * G, False: 0}),
        ("multi_pair_dpo", {True: B * G, False: B * G}),
    ):
        seen.update({True: 0, False: 0})
        ChunkedBackward(LOSSES.get(name)(), parameters(generator), 2, Accelerator())(update)
        assert seen == expected


def saved_bytes(run) -> int:
    """Largest amount of activations held for a backward pass at one time."""
    held, peak = 0, 0

    class Kept:
        def __init__(self, tensor: torch.Tensor) -> None:
            nonlocal held, peak
            self.tensor, self.size = tensor, tensor.numel() * tensor.element_size()
            held += self.size
            peak = max(peak, held)

        def __del__(self) -> None:
            nonlocal held
            held -= self.size

    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
        run()
    return peak


def test_activations_do_not_grow_with_the_group(generator):
    def peak(size: int) -> int:
        noise = draw((1, size, *LATENT), 2)
        group = group_for_noise(generator, noise, ["a"], noise)
        advantages = draw((1, size), 5)

        def signal(prediction, pictures=slice(None)):
            errors = group.errors(prediction, pictures)
            return ErrorSignal(*errors, advantages, advantages, advantages.std())

        update = GroupUpdate(generator, group.noisy, group.embeds, signal)
        chunked = ChunkedBackward(LOSSES.get("gdpo")(), parameters(generator), 1, Accelerator())
        return saved_bytes(lambda: chunked(update))

    assert peak(5) < 1.05 * peak(2)
