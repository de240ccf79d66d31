"""The step with a run's options: what each option reaches, and that the gradient of a group in
chunks is that of the whole group, in double precision.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from gdpo_sr.advantages import group_advantages, normalize_min_max
from gdpo_sr.checkpoints.lora import add_lora
from gdpo_sr.config.train_options import DiversityOptions, TrainOptions
from gdpo_sr.generators.load import build_generator, load_components
from gdpo_sr.generators.noise_aware_generator import NoiseAwareGenerator
from gdpo_sr.group.sample import Group, draw_noise, group_embeds, predict_group
from gdpo_sr.group.step import GroupStep, ScoredGroup
from gdpo_sr.losses import LOSSES, RewardValues
from gdpo_sr.rewards.feature_reward import FeatureReward
from gdpo_sr.rewards.iqa_reward import IQAReward
from gdpo_sr.rewards.scoring import check_gradients
from gdpo_sr.rewards.texture_share import texture_share
from gdpo_sr.types import OptionError, SRBatch

B, G = 2, 3
LATENT = (12, 4, 4)
LR = {"update_input": "lr", "target": "x0"}


@pytest.fixture(scope="module")
def network(base: Path) -> NoiseAwareGenerator:
    """Its policy has moved, so that margins are not 0."""
    model = build_generator(load_components(base)).double()
    for parameter in add_lora(model.unet):
        with torch.no_grad():
            parameter.copy_(0.1 * draw(parameter.shape, seed=parameter.numel()))
    return model


def draw(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return draw_noise(tuple(shape), rng, "cpu", torch.float64)


class Brightness:
    """A reward: the mean of a candidate, or of its distance from the HR picture."""

    weight = 1.0
    metric = SimpleNamespace(lower_better=False)

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __call__(self, candidates: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
        if self.kind == "fidelity":
            return -(candidates - hr[:, None]).abs().mean((2, 3, 4))
        return candidates.mean((2, 3, 4))


REWARDS = {"close": Brightness("fidelity"), "bright": Brightness("perception")}


def make_step(network, loss=None, rewards=None, **train) -> GroupStep:
    options = TrainOptions.model_validate(
        {"group_size": G, "reward": {"fidelity": {"psnr_y": {"metric": "psnr_y"}}}, **train}
    )
    names = ("sampling", "update", "control")
    random = {name: torch.Generator().manual_seed(len(name)) for name in names}
    loss = loss or LOSSES.get("gdpo")(3.0)
    return GroupStep(network, rewards or REWARDS, loss, options, random)


def batch(height: int = 32, width: int = 32) -> SRBatch:
    rng = torch.Generator().manual_seed(0)
    hr = torch.rand(B, 3, height, width, generator=rng).double()
    return SRBatch(hr[..., ::4, ::4].contiguous(), hr, ["a", "b"], ["x", "y"])


def item(network, by_element: bool = False, count: int = B) -> ScoredGroup:
    """A group of random latents, 16 px, with random advantages."""
    latents, states = draw((count, G, *LATENT), 1), draw((count, G, *LATENT), 2)
    epsilon = draw((count, G, *LATENT), 3)
    images = torch.rand(count, G, 3, 16, 16).double()
    group = Group(images[:, 0], ["a", "b"][:count], images, latents, states, epsilon)
    values = draw((count, G), 4)
    advantages = draw((count, G, *LATENT[1:]) if by_element else (count, G), 5)
    scores = {name: values for name in REWARDS}
    spread = RewardValues(values, values.std(-1).mean())
    hr = torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(6)).double()
    return ScoredGroup(group, scores, torch.full((count,), 0.5), advantages, spread, hr)


# Options


def test_texture_weighs_the_kinds(network):
    """The released step: perception counts by the textured share of the HR picture."""
    step = make_step(network)
    scored = step.score(step.sample(batch()), batch().hr)
    assert torch.equal(scored.texture, texture_share(batch().hr)) and scored.texture.min() > 0.5
    step.set_advantages([scored])
    close, bright = (normalize_min_max(scored.scores[name]) for name in ("close", "bright"))
    share = scored.texture[:, None].float()
    expected = group_advantages((1 - share) * close + share * bright)
    torch.testing.assert_close(scored.advantages, expected, rtol=1e-3, atol=1e-4)
    smooth = make_step(network, reward=reward_options(texture={"threshold": 1e5}))
    scored = smooth.score(smooth.sample(batch()), batch().hr)
    smooth.set_advantages([scored])
    by_distance = group_advantages(scored.scores["close"])
    assert torch.equal(scored.texture, torch.zeros(B))
    torch.testing.assert_close(scored.advantages, by_distance, rtol=1e-3, atol=1e-3)


def reward_options(**changes) -> dict:
    return {"fidelity": {"psnr_y": {"metric": "psnr_y"}}, **changes}


def test_cells_have_advantages_of_their_own(network):
    """Four cells of 16 px of pictures of 32 px, 4 x 4 latent elements each."""
    fixed = reward_options(fixed_perception_weight=0.0)
    step = make_step(network, cell_size=16, reward=fixed, reuse_latents=True)
    scored = step.score(step.sample(batch()), batch().hr)
    assert scored.scores["close"].shape == (4 * B, G)
    assert torch.equal(scored.texture, torch.zeros(4 * B, dtype=torch.float64))
    step.set_advantages([scored])
    assert scored.advantages.shape == (B, G, 8, 8)
    corner = group_advantages(scored.scores["close"][5:6])
    torch.testing.assert_close(scored.advantages[1, :, 1, 6], corner[0], rtol=1e-3, atol=1e-3)
    assert step(scored).loss.isfinite()


def test_cells_of_pictures_that_are_not_square(network):
    """Two rows of three cells, as the pictures lie."""
    step = make_step(network, cell_size=16, reward=reward_options(fixed_perception_weight=0.0))
    scored = step.score(step.sample(batch(32, 48)), batch(32, 48).hr)
    assert scored.advantages.numel() == 0
    step.set_advantages([scored])
    assert scored.advantages.shape == (B, G, 8, 12)
    last_of_first_row = group_advantages(scored.scores["close"][2:3])
    torch.testing.assert_close(scored.advantages[0, :, 0, 11], last_of_first_row[0])


def test_texture_may_be_found_on_another_device(network):
    step = make_step(network, reward=reward_options(fixed_perception_weight=None))
    group, other = step.sample(batch()), batch().hr.flip(-1) * 0.5
    expected = step.score(group, other).texture
    assert torch.equal(step.score(group, batch().hr, other).texture, expected)


def test_all_batches_of_an_update_share_their_statistics(network):
    step = make_step(network, advantage={"type": "batch_std", "clip": None})
    items = [step.score(step.sample(batch()), batch().hr) for _ in range(2)]
    items[1].scores = {name: 10 * s for name, s in items[1].scores.items()}
    step.set_advantages(items)
    first = items[0].advantages
    step.set_advantages(items[:1])
    assert not torch.allclose(first, items[0].advantages)
    assert len(items[0].advantages) == len(items[1].advantages) == B


def test_values_of_pairs_span_the_update(network):
    step = make_step(network, LOSSES.get("multi_pair_dpo")())
    items = [step.score(step.sample(batch()), batch().hr) for _ in range(2)]
    step.set_advantages(items)
    everything = torch.cat([i.values.values for i in items])
    for scored in items:
        torch.testing.assert_close(scored.values.mean_spread, everything.std(-1).mean())
        own = group_advantages(scored.values.values)
        torch.testing.assert_close(own, scored.advantages, rtol=1e-3, atol=1e-3)
    assert make_step(network).score(items[0].group, batch().hr).values is None


def test_the_control_hands_scores_round(network):
    """The same scores in each group, in another order."""
    fixed = reward_options(fixed_perception_weight=0.5)
    plain = make_step(network, reward=fixed)
    control = make_step(network, reward=fixed, control="permuted_advantages")
    control.random["control"].manual_seed(3)
    group = plain.sample(batch())
    own, shuffled = (s.score(group, batch().hr).scores for s in (plain, control))
    for name in REWARDS:
        assert torch.equal(own[name].sort(-1).values, shuffled[name].sort(-1).values)
        assert not torch.equal(own[name], shuffled[name])


@pytest.mark.parametrize(
    ("loss", "train", "expected"),
    [
        ("gdpo", {}, ("candidate", "noise", False, False, False)),
        ("gdpo", LR, ("lr", "x0", False, False, False)),
        ("gdpo", {"target": "x0", "cell_size": 16}, ("candidate", "x0", True, False, False)),
        ("diffusion_dpo", {}, ("candidate", "noise", False, True, False)),
        ("sft_best", LR, ("lr", "x0", False, False, True)),
        ("grpo", LR, ("action", "x0", False, False, False)),
    ],
)
def test_what_is_compared(network, loss: str, train: dict, expected: tuple):
    c = make_step(network, LOSSES.get(loss)(), **train).comparison
    found = c.update_input, c.target, c.per_element, c.same_noise, c.imitate
    assert found == expected and c.chunk is None and not c.reuse_latents and not c.drift


def test_how_groups_are_sampled(network):
    plain = make_step(network).sampling
    assert (plain.by_policy, plain.t_adds, plain.action_sigma, plain.chunk) == (
        False,
        None,
        0,
        None,
    )
    other = make_step(
        network,
        LOSSES.get("grpo")(sigma=0.3, kl_weight=0.1),
        sampler="policy",
        group_chunk=2,
        diversity={"source": "t_add", "t_add_range": [100, 401]},
    )
    assert other.sampling.by_policy and other.sampling.t_adds == (100, 250, 401)
    assert (other.sampling.action_sigma, other.sampling.chunk) == (0.3, 2)
    assert other.comparison.drift and other.comparison.chunk == 2
    assert DiversityOptions().steps(6) is None
    drawn = make_step(network, diversity={"source": "posterior"}).sampling
    assert drawn.posteriors and not plain.posteriors and not other.sampling.posteriors


# Through the rewards


def test_the_gradient_goes_through_the_rewards(network):
    """Loss = kl_weight drift - mean of (1/2 close / its spread + 1/2 bright / its spread), of what
    the policy makes of the group's states; spreads are without a graph.
    """
    fixed = reward_options(fixed_perception_weight=0.5)
    step = make_step(network, LOSSES.get("reward_gradient")(0.3), reward=fixed, **LR)
    scored = step.score(step.sample(batch()), batch().hr)
    step.set_advantages([scored])
    output = step(scored)
    group = scored.group
    embeds = group_embeds(network, group.prompts, G)
    epsilon = predict_group(network, group.states, embeds)
    latents = network.scheduler.predict_x0(group.states, epsilon)
    images = network.decode(latents.flatten(0, 1)).unflatten(0, (B, G)) / 2 + 0.5
    total = 0.3 * (epsilon - group.epsilon).square().mean()
    for reward in REWARDS.values():
        scores = reward(images.float(), batch().hr.float())
        total = total - 0.5 * (scores / scores.detach().std(-1, keepdim=True)).mean()
    torch.testing.assert_close(output.loss.double(), total.double(), rtol=1e-4, atol=1e-4)
    ours, theirs = (torch.autograd.grad(x, parameters(network)) for x in (output.loss, total))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-5)


def test_the_kinds_weigh_by_the_texture_of_all_cells(network):
    """Cells of a picture with texture 0, 0, 0 and 1 are a picture with a quarter of texture."""
    seen = []

    class Seeing(LOSSES.get("reward_gradient")):
        def __call__(self, errors, advantages, values=None):
            seen.append(values)
            return super().__call__(errors, advantages, values)

    loss = Seeing(0.0)
    step = make_step(network, loss, cell_size=16, sampler="policy", **LR)
    scored = step.score(step.sample(batch()), batch().hr)
    step.set_advantages([scored])
    scored.texture = torch.tensor([0.0, 0, 0, 1, 1, 1, 1, 1])
    textured = torch.tensor([[0.25], [1.0]])
    whole = make_step(network, loss, **LR)
    scores = whole.score(scored.group, batch().hr).scores
    close, bright = (scores[name] / scores[name].std(-1, keepdim=True) for name in REWARDS)
    expected = ((1 - textured) * close + textured * bright).mean()
    value = step(scored).logs["value"]
    torch.testing.assert_close(value, expected.to(value), rtol=1e-3, atol=1e-3)
    [values] = seen
    assert values.values.shape == (B, G)
    torch.testing.assert_close(values.mean_spread, values.values.detach().std(-1).mean())


def test_rewards_without_a_gradient_are_named():
    """PIQE counts blocks above thresholds; a reward that only reports need not have a gradient."""
    rewards = {"piqe": IQAReward("piqe", "perception"), "psnr_y": IQAReward("psnr_y", "fidelity")}
    with pytest.raises(OptionError, match="reward 'piqe' has no gradient .*such as psnr_y"):
        check_gradients(rewards, 64, "cpu")
    rewards["piqe"].weight = 0.0
    rewards["tex"] = FeatureReward("texture_energy", "perception")
    check_gradients(rewards, 64, "cpu")


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"update_input": "candidate"}, "needs update_input = lr, not candidate"),
        ({**LR, "control": "permuted_advantages"}, "does not go with loss.type = reward_gradient"),
    ],
)
def test_what_the_rewards_gradient_needs(train: dict, message: str):
    with pytest.raises(ValueError, match=message):
        TrainOptions.model_validate(
            {"loss": {"type": "reward_gradient"}, "reward": reward_options(), **train}
        )


# Gradient in chunks


def parameters(network) -> list[torch.nn.Parameter]:
    return [p for p in network.unet.parameters() if p.requires_grad]


def gradient(network, run) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and gradient of `run`, on top of a gradient that was there before."""
    for index, parameter in enumerate(parameters(network)):
        parameter.grad = None if index % 2 else torch.ones_like(parameter)
    loss = run()
    return loss, torch.cat([p.grad.flatten() for p in parameters(network)])


def check(network, name: str, chunk: int, train: dict, options: dict, by_element=False) -> None:
    """Both ways on the same group, with the same noise."""
    train = {"reuse_latents": True, **train}
    if by_element:
        train["cell_size"] = 16
    found = []
    for chunks in (False, True):
        loss = LOSSES.get(name)(**options)
        step = make_step(network, loss, **train)
        scored = item(network, by_element)

        def run(step=step, scored=scored, chunks=chunks) -> torch.Tensor:
            if chunks:
                return step.backward(scored, chunk, lambda part: (part / 2).backward()).loss
            value = step(scored).loss
            (value / 2).backward()
            return value.detach()

        found.append((*gradient(network, run), loss.state_dict()))
    (expected_loss, expected, state), (chunked_loss, chunked, chunked_state) = found
    torch.testing.assert_close(chunked_loss, expected_loss, rtol=1e-12, atol=0)
    assert float((chunked - expected).norm() / (expected - 1).norm()) < 1e-10
    assert chunked_state == pytest.approx(state, rel=1e-6)


OMEGA = {"gdpo", "dgpo", "diffusion_dpo", "multi_pair_dpo"}
GAUSSIAN = {"sigma": 5.0, "kl_weight": 0.1, "clip": 0.5}


def options_of(name: str) -> dict:
    return {"omega": 3.0} if name in OMEGA else GAUSSIAN if name == "grpo" else {}


@pytest.mark.parametrize("train", [{}, LR], ids=["candidate", "lr"])
@pytest.mark.parametrize("name", LOSSES.names())
def test_every_loss_and_input(network, name: str, train: dict):
    check(network, name, 2, train, options_of(name))


@pytest.mark.parametrize("chunk", [1, G])
def test_chunks_of_any_size(network, chunk: int):
    check(network, "gdpo", chunk, {"target": "x0"}, {"omega": 3.0})


@pytest.mark.parametrize("name", [n for n in LOSSES.names() if LOSSES.get(n).by_element])
def test_advantages_by_element(network, name: str):
    check(network, name, 2, LR, options_of(name), by_element=True)


def test_automatic_omega_is_asked_once(network):
    check(network, "gdpo", 2, {"target": "x0"}, {"omega": "auto"})


def test_saturated_preferences(network):
    """Logits of thousands: k is 0 for one picture and omega / 2 for another."""
    check(network, "gdpo", 2, {"target": "x0"}, {"omega": 1e5})


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


def test_activations_do_not_grow_with_the_group(network):
    def peak(count: int) -> int:
        step = make_step(network, reuse_latents=True)
        scored = item(network, count=count)
        return saved_bytes(lambda: step.backward(scored, 1, lambda part: part.backward()))

    assert peak(2) < 1.05 * peak(1)


class Rough:
    """A reward of how much neighbours differ: noise is what it likes."""

    kind, weight = "perception", 1.0
    metric = SimpleNamespace(lower_better=False)

    def __call__(self, candidates: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
        return candidates.diff(dim=-1).abs().mean((2, 3, 4))


def test_cheap_changes_that_the_rewards_like_are_named(network):
    """Fidelity to the candidates' own mean likes none of them; roughness likes all that is rough.
    With both, the kinds' shares decide.
    """
    images = 0.5 + 0.02 * torch.rand(B, G, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    images = images.double()
    group = Group(images[:, 0], ["a", "b"], images, *(torch.zeros(B, G, *LATENT) for _ in range(3)))
    hr = images.mean(1)
    rough, close = {"rough": Rough()}, {"close": Brightness("fidelity")}

    def liked(rewards, share: float) -> dict[str, float]:
        kinds = {"fidelity": {"psnr_y": {"metric": "psnr_y"}}, "fixed_perception_weight": share}
        return make_step(network, None, rewards, cell_size=8, reward=kinds).liked_hacks(group, hr)

    found = liked(rough, 1.0)
    assert set(found) == {"noise", "grid", "sharpening"} and min(found.values()) > 1
    assert liked(close, 0.0).keys() <= {"blur"}
    assert liked({**close, **rough}, 1.0) == found
    assert "noise" not in liked({**close, **rough}, 0.0)


def test_by_how_much_changes_are_liked(network):
    """Candidates of 0.4, 0.5 and 0.6 have a spread of 0.1, and lines of 5 levels every 4 pixels,
    across and down, make them brighter by 2.5 levels. A reward that says nothing likes nothing.
    """
    images = torch.tensor([0.4, 0.5, 0.6]).view(1, G, 1, 1, 1).expand(B, G, 3, 32, 32).double()
    group = Group(images[:, 0], ["a", "b"], images, *(torch.zeros(B, G, *LATENT) for _ in range(3)))
    fixed = reward_options(fixed_perception_weight=1.0)
    rewards = {"bright": Brightness("perception")}, {"flat": Rough()}
    bright, silent = (make_step(network, None, r, reward=fixed) for r in rewards)
    gains = bright.liked_hacks(group, images[:, 0])
    assert gains["grid"] == pytest.approx(2.5 / 255 / 0.1, rel=1e-3)
    assert silent.liked_hacks(group, images[:, 0]) == {}
