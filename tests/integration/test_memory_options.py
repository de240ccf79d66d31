"""Options of memory and speed: the same update with less memory, or faster."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from torch import nn

from benchmarks.sd_layout import build_sd_layout
from gdpo_sr.checkpoints.lora import adapters_disabled, add_lora
from gdpo_sr.config.load import load_options
from gdpo_sr.generators.load import build_generator, load_components
from gdpo_sr.group.sample import group_embeds, predict_group
from gdpo_sr.stage2.gdpo_model import GDPOModel
from gdpo_sr.trainer.build_data import set_up_networks
from gdpo_sr.types import LossOutput, OptionError
from tests.integration.test_training import OPTIONS_FILE, build, overrides, trained


@pytest.fixture(scope="module")
def sd_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stable Diffusion's layers at 1/64 of their width, with an AutoencoderKL."""
    return build_sd_layout(tmp_path_factory.mktemp("base") / "sd", width=1 / 64)


def gradient(model: GDPOModel) -> tuple[LossOutput, torch.Tensor]:
    """Loss and gradient of an update of two accumulated batches, the policy a little moved."""
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.trained.items():
            if ".lora_B." in name:
                parameter.copy_(0.01 * torch.randn(parameter.shape, generator=rng))
    source = model._batches()
    items = model.prepare_update([model.to_batch(next(source)) for _ in range(2)])
    output = [model._backward(item, 2) for item in items][-1]
    return output, torch.cat([p.grad.flatten() for p in model.trained.values()])


@pytest.mark.parametrize(
    "changes",
    [
        {"train__update_input": "lr"},
        {"train__update_input": "candidate", "train__target": "noise", "train__cell_size": 16},
        {"train__cell_size": 32},
        {"train__loss": "{type: multi_pair_dpo, omega: 50}", "train__update_input": "candidate"},
        {"train__loss": "{type: grpo, kl_weight: 0.1}", "train__sampler": "policy"},
    ],
    ids=["lr", "cells, candidate", "cells", "pairs", "grpo"],
)
def test_chunks_leave_the_gradient(base: Path, tmp_path: Path, changes: dict[str, object]):
    """Two pictures, two accumulated batches, float32; in double: unit/group/test_step.py."""
    changes = {**changes, "datasets__train__batch_size": 2, "train__group_chunk": 2}
    whole, expected = gradient(build(base, tmp_path, **changes))
    chunked, found = gradient(build(base, tmp_path, **changes, train__update_chunk=2))
    assert float((found - expected).norm() / expected.norm()) < 1e-5
    assert float(chunked.loss) == pytest.approx(whole.loss.item(), rel=1e-5)
    assert chunked.logs.keys() == whole.logs.keys()


@pytest.mark.parametrize("chunk", ["null", 1])
def test_half_precision_covers_every_network(base: Path, tmp_path: Path, monkeypatch, chunk):
    """Sampling, encoding, reference and policy run under autocast; errors are float32."""
    model = build(
        base,
        tmp_path,
        train__update_chunk=chunk,
        train__update_input="candidate",
        train__target="noise",
    )
    half = torch.bfloat16
    monkeypatch.setattr(model.accelerator, "autocast", lambda: torch.autocast("cpu", half))
    seen = []
    for name in ("encode", "decode", "predict_epsilon"):
        inner = getattr(model.generator, name)
        monkeypatch.setattr(
            model.generator,
            name,
            lambda *a, f=inner, n=name: seen.append((n, torch.is_autocast_enabled("cpu"))) or f(*a),
        )
    losses = []
    margin = model.loss.margin
    model.loss.margin = lambda errors, *rest: (
        losses.append(errors.policy.dtype) or margin(errors, *rest)
    )
    logs = model._update(model._batches())
    assert {name for name, _ in seen} == {"encode", "decode", "predict_epsilon"}
    assert all(half for _, half in seen) and set(losses) == {torch.float32}
    assert [name for name, _ in seen].count("decode") == 1
    assert math.isfinite(logs["gradient_norm"]) and logs["gradient_norm"] > 0


def test_latents_that_were_sampled(base: Path, tmp_path: Path):
    """Nothing is encoded but the LR pictures, and the gradient points almost the same way."""
    changes = {"train__update_input": "candidate", "train__target": "noise"}
    _, exact = gradient(build(base, tmp_path, **changes))
    model = build(base, tmp_path, **changes, train__reuse_latents="true")
    encoded = []
    encode = model.generator.encode
    model.generator.encode = lambda images, *rest: encoded.append(images) or encode(images, *rest)
    _, reused = gradient(model)
    assert [len(images) for images in encoded] == [1, 1]
    assert float(torch.cosine_similarity(exact, reused, dim=0)) > 0.9


def test_the_reference_is_not_asked_twice(base: Path, tmp_path: Path):
    """With update_input lr the update sees the inputs that it sampled from."""
    model = build(base, tmp_path, train__update_input="lr", train__target="x0")
    [item] = model.prepare_update([model.to_batch(next(model._batches()))])
    group = item.group
    embeds = group_embeds(model.generator, group.prompts, 3)
    with torch.no_grad(), adapters_disabled(model.generator.unet):
        epsilon = predict_group(model.generator, group.states, embeds, chunk=1)
    torch.testing.assert_close(group.epsilon, epsilon, rtol=1e-4, atol=1e-4)
    seen = []
    predict = model.generator.predict_epsilon
    model.generator.predict_epsilon = lambda noisy, *a: (
        seen.append(len(noisy)) or predict(noisy, *a)
    )
    model.compute_loss(item)
    assert seen == [3]


@pytest.mark.parametrize(
    "changes",
    [
        {"train__update_chunk": 4},
        {"train__reuse_latents": "true", "train__loss": "{type: grpo}"},
    ],
)
def test_options_that_do_nothing_are_refused(base: Path, tmp_path: Path, changes):
    with pytest.raises(OptionError, match="update_chunk = 4|reuse_latents = true"):
        load_options(OPTIONS_FILE, overrides(base, tmp_path, **changes))


class Scaler(torch.amp.GradScaler):
    """A GPU's gradient scaler, on the CPU."""

    def __init__(self) -> None:
        super().__init__("cpu", init_scale=8.0)


def test_an_overflow_skips_the_update(base: Path, tmp_path: Path):
    """With a gradient scaler: skipped, counted, scale halved, weights and their mean untouched."""
    model = build(base, tmp_path, train__ema_decay=0.5, train__update_chunk=1)
    model.weight_update.scaler = Scaler()
    before = trained(model)
    margin = model.loss.margin
    model.loss.margin = lambda *args: (margin(*args)[0] * math.inf, None)
    source = model._batches()
    assert model._update(source)["skipped_updates"] == 1
    assert model.weight_update.scaler.get_scale() == 4
    for name, value in before.items():
        assert torch.equal(model.trained[name], value), name
    model.loss.margin = margin
    logs = model._update(source)
    assert logs["skipped_updates"] == 1 and math.isfinite(logs["gradient_norm"])
    assert any(not torch.equal(v, model.trained[name]) for name, v in before.items())
    assert all(p.isfinite().all() for p in model.trained.values())


# Networks ------------------------------------------------------------------------------------


def networks(folder: Path, **changes: object) -> tuple[nn.Module, nn.Module]:
    """UNet with an adapter, and VAE, set up as options say."""
    generator = build_generator(load_components(folder))
    torch.manual_seed(0)
    add_lora(generator.unet)
    values = {key: str(value).lower() for key, value in changes.items()}
    options = load_options(OPTIONS_FILE, [f"train:{key}={value}" for key, value in values.items()])
    set_up_networks([generator.unet, generator.vae], options.train)
    return generator.unet, generator.vae


def outputs(unet: nn.Module, vae: nn.Module) -> list[torch.Tensor]:
    """Decoded pictures, and gradients through the VAE's encoder and the UNet, in float64."""
    unet, vae = unet.double(), vae.double()
    rng = torch.Generator().manual_seed(0)
    images = (torch.rand(2, 3, 64, 64, generator=rng).double() * 2 - 1).requires_grad_()
    latents = vae.encode(images).latent_dist.mean
    tokens = torch.randn(2, 4, unet.config.cross_attention_dim, generator=rng).double()
    predicted = unet(latents, 100, encoder_hidden_states=tokens).sample
    predicted.square().mean().backward()
    with torch.no_grad():
        pictures = vae.decode(latents).sample
    grads = [p.grad for p in unet.parameters() if p.grad is not None]
    return [pictures, images.grad, torch.cat([g.flatten() for g in grads])]


@pytest.mark.parametrize("option", ["gradient_checkpointing", "channels_last", "vae_slicing"])
def test_networks_compute_the_same(sd_base: Path, option: str):
    """In float64, where no processor's rounding comes near the bound."""
    expected = outputs(*networks(sd_base))
    found = outputs(*networks(sd_base, **{option: True}))
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-10 * float(other.abs().max()))


def test_checkpointing_keeps_less(sd_base: Path):
    """Of the UNet and of the VAE's encoder, which stage 1 trains."""

    def kept(network: nn.Module, run) -> int:
        sizes = []
        weights = {p.data_ptr() for p in network.parameters()}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            sizes.append(0 if tensor.data_ptr() in weights else tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            run(network)
        return sum(sizes)

    images = torch.zeros(1, 3, 64, 64, requires_grad=True)
    latents = torch.zeros(1, 4, 8, 8)
    runs = (
        lambda unet: unet(latents, 1, encoder_hidden_states=torch.zeros(1, 4, 16)),
        lambda vae: vae.encode(images),
    )
    plain, saving = networks(sd_base), networks(sd_base, gradient_checkpointing=True)
    for one, other, run in zip(plain, saving, runs, strict=True):
        assert kept(other, run) < 0.5 * kept(one, run)


def test_attention_is_torchs_own(sd_base: Path):
    unet, vae = networks(sd_base)
    processors = [*unet.attn_processors.values(), *vae.attn_processors.values()]
    assert processors and all(isinstance(p, AttnProcessor2_0) for p in processors)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_networks_compute_the_same(base: Path):
    """The adapter on and off, with a graph and without."""
    inputs = torch.randn(2, 12, 8, 8, generator=torch.Generator().manual_seed(0))
    tokens = torch.zeros(2, 8, 16)
    results = []
    for compiled in (False, True):
        unet, _ = networks(base, compile=compiled)
        with torch.no_grad():
            for name, parameter in unet.named_parameters():
                if ".lora_B." in name:
                    parameter.fill_(0.01)
            unet.disable_adapters()
            off = unet(inputs, 100, encoder_hidden_states=tokens).sample
        unet.enable_adapters()
        on = unet(inputs, 100, encoder_hidden_states=tokens).sample
        on.square().mean().backward()
        grads = [p.grad.flatten() for p in unet.parameters() if p.grad is not None]
        results.append([off, on.detach(), torch.cat(grads)])
    for eager, found in zip(*results, strict=True):
        torch.testing.assert_close(found, eager, rtol=1e-4, atol=1e-4)
