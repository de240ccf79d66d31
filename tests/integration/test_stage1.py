"""The stage-1 trainer: what moves, what stays, that a stopped run goes on unchanged, and that its
result merges into a model for inference and stage 2.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from gdpo_sr import merge
from gdpo_sr.checkpoints.lora import add_lora, load_lora, lora_parameters, save_lora
from gdpo_sr.config.load import dump_options, load_options
from gdpo_sr.config.paths import ExperimentPaths
from gdpo_sr.generators.load import build_generator, load_components
from gdpo_sr.pipelines.one_step_sr import OneStepSRPipeline
from gdpo_sr.stage1.naosd_model import NAOSDModel
from gdpo_sr.stage2.gdpo_model import GDPOModel
from gdpo_sr.train import main
from gdpo_sr.types import CheckpointError, LossOutput, OptionError, SRBatch
from tests.tiny_base import tiny_base

ROOT = Path(__file__).resolve().parents[2]
OPTIONS_FILE = ROOT / "options" / "naosd.yml"
FULL = {"train__generator": "full"}


def overrides(base: Path, root: Path, **changes: object) -> list[str]:
    """A run of seconds on the example photos."""
    values = {
        "name": "run",
        "num_threads": 1,
        "network_g:base": base,
        "network_score:base": "null",
        "path:experiments_root": root,
        "datasets:train:gt_size": 64,
        "datasets:train:batch_size": 1,
        "datasets:val:gt_size": 64,
        "datasets:val:max_images": 1,
        "train:total_iter": 4,
        "train:optim_g:lr": 1e-2,
        "train:losses:vsd:optim:lr": 1e-2,
        "val:metrics": "{gmsd: {metric: gmsd}}",
        "val:val_freq": 0,
        "logger:save_checkpoint_freq": 2,
        "logger:show_progress": "false",
        **{key.replace("__", ":"): value for key, value in changes.items()},
    }
    return [f"{key}={value}" for key, value in values.items()]


def build(base: Path, root: Path, **changes: object) -> NAOSDModel:
    options = load_options(OPTIONS_FILE, overrides(base, root, **changes))
    paths = ExperimentPaths(options.path.experiments_root, options.name)
    paths.prepare(dump_options(options), resume=True)
    return NAOSDModel(options, paths, Accelerator())


def weights(model: NAOSDModel) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.all_trained.items()}


@torch.no_grad()
def restore(generator: torch.nn.Module) -> torch.Tensor:
    """A picture of fixed noise."""
    rng = torch.Generator().manual_seed(3)
    lr, noise = torch.rand(1, 3, 64, 64, generator=rng) * 2 - 1, torch.randn(1, 12, 16, 16)
    return generator(lr, noise.zero_() + torch.randn(noise.shape, generator=rng))


@torch.no_grad()
def fill(parameters: list[torch.nn.Parameter]) -> None:
    rng = torch.Generator().manual_seed(2)
    for parameter in parameters:
        parameter.copy_(0.05 * torch.randn(parameter.shape, generator=rng))


# What moves --------------------------------------------------------------------------------------


def test_adapters_and_conv_in_move_and_the_base_stays(base: Path, tmp_path: Path):
    """One UNet is generator, fake and real score; switched off, it is the base bit for bit."""
    model = build(base, tmp_path, train__total_iter=2)
    assert model.score.unet is model.generator.unet
    ours = build_generator(load_components(base))
    before = weights(model)
    frozen = {
        name: p.detach().clone()
        for name, p in model.generator.named_parameters()
        if f"{name}" not in model.trained and ".fake." not in name
    }
    assert model.fit()
    after = {**dict(model.generator.named_parameters())}
    assert all(torch.equal(after[name], value) for name, value in frozen.items())
    moved = {name for name, value in weights(model).items() if not torch.equal(value, before[name])}
    assert moved == set(before)
    assert {"unet.conv_in.base_layer.weight", "vae.encoder.lora_B.default.weight"} <= moved
    assert any(name.startswith("score.") for name in moved)
    assert (restore(model.generator) - restore(ours)).abs().max() > 1e-3
    with model.adapters.disabled():
        assert torch.equal(restore(model.generator), restore(ours))


def test_every_trained_tensor_is_in_one_optimizer_once(base: Path, tmp_path: Path):
    model = build(base, tmp_path)
    generator = [p for group in model.weight_update.optimizer.param_groups for p in group["params"]]
    fake = [p for group in model.beside["fake"].optimizer.param_groups for p in group["params"]]
    ids = [id(p) for p in generator + fake]
    assert len(ids) == len(set(ids)) == len(model.all_trained)
    trainable = {id(p) for p in model.generator.parameters() if p.requires_grad}
    assert trainable == set(ids)


def test_a_full_generator_has_a_second_unet(base: Path, tmp_path: Path):
    model = build(base, tmp_path, train__total_iter=2, **FULL)
    assert model.score.unet is not model.generator.unet
    before = {name: p.detach().clone() for name, p in model.generator.named_parameters()}
    first = restore(model.generator)
    assert model.fit()
    moved = {n for n, p in model.generator.named_parameters() if not torch.equal(p, before[n])}
    unet = {f"unet.{name}" for name, _ in model.generator.unet.named_parameters()}
    # cross-attention to one token a word may leave a query without a gradient
    assert moved <= unet and len(moved) > 0.9 * len(unet)
    saved = build_generator(load_components(model.paths.models / "latest"))
    assert torch.equal(restore(saved), restore(model.generator))
    base_row = model.last_comparison.metrics[0]
    assert base_row.base != base_row.policy
    assert torch.equal(first, restore(build_generator(load_components(base))))
    assert all(p.requires_grad for p in model.generator.unet.parameters())


def test_another_diffusion_model_gives_the_score(base: Path, tmp_path: Path):
    other = tiny_base(tmp_path / "other", channels=(8, 16), seed=1)
    model = build(base, tmp_path, train__total_iter=1, network_score__base=other)
    assert model.score.unet is not model.generator.unet
    assert tuple(model.score.unet.config.block_out_channels) == (8, 16)
    assert model.fit() and model.beside


def test_a_score_with_other_latents_is_refused(base: Path, tmp_path: Path, golden):
    with pytest.raises(OptionError, match="its latents"):
        build(base, tmp_path, network_score__base=golden("tiny_base"))


def test_without_vsd_there_is_no_fake_score(base: Path, tmp_path: Path):
    for number, off in enumerate(("null", "{weight: 0}")):
        model = build(base, tmp_path / str(number), train__losses__vsd=off, train__total_iter=1)
        assert model.score is None and not model.beside
        assert model.fit()


# Losses ------------------------------------------------------------------------------------------


def first_loss(model: NAOSDModel) -> LossOutput:
    return model.compute_loss(model.to_batch(next(model._batches())))


def test_the_loss_is_the_weighted_sum(base: Path, tmp_path: Path):
    changes = {
        "train__losses__reconstruction": "{type: l1, weight: 3}",
        "train__losses__perceptual": "{ssim: {metric: ssim, weight: 0.5}}",
        "train__losses__vsd__weight": 7,
        "train__losses__energy": "{weight: 2, beta: 0.5}",
        "train__noises_per_image": 2,
    }
    output = first_loss(build(base, tmp_path, **changes))
    logs = {name: float(value) for name, value in output.logs.items()}
    parts = {"reconstruction": 3, "ssim": 0.5, "vsd": 7, "energy": 2}
    expected = sum(weight * logs[f"loss_{name}"] for name, weight in parts.items())
    assert float(output.loss.detach()) == pytest.approx(expected, rel=1e-5)
    assert logs["loss_ssim"] == pytest.approx(-logs["ssim_score"])


def test_two_noises_restore_each_picture_twice(base: Path, tmp_path: Path):
    model = build(base, tmp_path, train__noises_per_image=2, datasets__train__batch_size=2)
    restored = model._restore(model.to_batch(next(model._batches())))
    assert restored.latents.shape[0] == 4 and len(restored.prompts) == 4
    pairs = restored.latents.unflatten(0, (2, 2))
    assert (pairs[:, 0] - pairs[:, 1]).abs().mean() < (pairs[0] - pairs[1]).abs().mean()


def test_nothing_is_decoded_for_vsd_alone(base: Path, tmp_path: Path):
    changes = {"train__losses__reconstruction__weight": 0, "train__losses__perceptual": "{}"}
    model = build(base, tmp_path, **changes)

    def fail(*args: object) -> None:
        raise AssertionError("decoded")

    model.generator.vae.decode = fail
    assert set(first_loss(model).logs) == {"loss_vsd", "vsd_gradient"}


def test_a_metric_without_a_gradient_is_refused(base: Path, tmp_path: Path):
    from gdpo_sr.types import MetricError

    with pytest.raises(MetricError, match="'piqe' cannot be a loss.*choose a differentiable one"):
        build(base, tmp_path, train__losses__perceptual="{piqe: {metric: piqe}}")


def test_an_update_that_is_not_finite_is_skipped_for_its_network_alone(base: Path, tmp_path: Path):
    model = build(base, tmp_path)
    before = weights(model)
    fake_loss = model.score.fake_loss
    model.score.fake_loss = lambda *arguments: fake_loss(*arguments) * math.nan
    model._update(model._batches())
    after = weights(model)
    assert (model.weight_update.skipped, model.beside["fake"].skipped) == (0, 1)
    assert all(torch.equal(before[name], after[name]) for name in model.beside["fake"].parameters)
    assert not all(torch.equal(before[name], after[name]) for name in model.trained)


@pytest.mark.parametrize("generator", ["lora", "full"])
def test_accumulation_equals_a_larger_batch(base: Path, tmp_path: Path, generator: str):
    """Two pictures in one batch, or one after the other: the same gradients of both networks."""
    results = []
    for size in (2, 1):
        changes = {"datasets__train__batch_size": size, "train__accumulation": 2 // size}
        model = build(base, tmp_path / str(size), train__generator=generator, **changes)
        model.degrade = lambda hr, rng: F.avg_pool2d(hr, 4)
        fix_noise(model)
        results.append(gradients_of_one_update(model))
    assert_equal_gradients(*results)


def gradients_of_one_update(model: NAOSDModel) -> dict[str, torch.Tensor]:
    """Of generator and fake score, before they are clipped and applied."""
    model.weight_update.step = lambda: 0.0
    for other in model.beside.values():
        other.step = lambda: 0.0
    model._update(model._batches())
    return {name: p.grad.clone() for name, p in model.all_trained.items()}


def assert_equal_gradients(first: dict, second: dict, rtol: float = 1e-3) -> None:
    """To `rtol` in relative L2; a tensor whose gradient is almost 0 is compared with the rest."""
    assert first.keys() == second.keys()
    typical = torch.stack([g.norm() for g in first.values()]).median()
    for name, expected in first.items():
        error = (second[name] - expected).norm() / (expected.norm() + 1e-2 * typical)
        assert error < rtol, f"{name}: {error:.1e}"


@pytest.mark.parametrize("generator", ["lora", "full"])
def test_recomputed_activations_give_the_same_gradients(base: Path, tmp_path: Path, generator: str):
    """The backward pass repeats each forward pass with the adapters that it had."""
    results = []
    for switch in ("false", "true"):
        changes = {"train__gradient_checkpointing": switch, "train__generator": generator}
        results.append(gradients_of_one_update(build(base, tmp_path / switch, **changes)))
    assert_equal_gradients(*results, rtol=1e-5)


def test_half_precision_trains_the_same_tensors(base: Path, tmp_path: Path):
    """With bfloat16 autocast gradients reach every adapter and differ by its rounding only."""
    results = []
    for precision in ("no", "bf16"):
        options = load_options(OPTIONS_FILE, overrides(base, tmp_path))
        paths = ExperimentPaths(options.path.experiments_root, options.name)
        model = NAOSDModel(options, paths, Accelerator(mixed_precision=precision))
        results.append(gradients_of_one_update(model))
        AcceleratorState._reset_state(reset_partial_state=True)
    plain, half = (
        torch.cat([g.flatten() for name, g in grads.items() if "lora_B" in name])
        for grads in results
    )
    assert F.cosine_similarity(plain, half, dim=0) > 0.98
    assert all(g.abs().sum() > 0 for name, g in results[1].items() if "lora_B" in name)


def fix_noise(model: NAOSDModel) -> None:
    """Noise and timesteps that depend on the picture alone."""
    restore_batch, distill, fake = model._restore, model.score.distill, model.score.fake_loss
    names: list[str] = []

    def by_picture(source: str, function, tensors: tuple, join):
        parts = []
        for index, name in enumerate(names):
            model.random[source].manual_seed(sum(map(ord, name)))
            parts.append(function(*(t[index : index + 1] for t in tensors)))
        return join(parts)

    def restored(batch: SRBatch):
        names[:] = batch.names
        results = by_picture(
            "sampling",
            lambda lr, hr: restore_batch(SRBatch(lr, hr, batch.prompts[:1], ["a"])),
            (batch.lr, batch.hr),
            list,
        )
        return type(results[0])(torch.cat([r.latents for r in results]), batch.prompts)

    def mean_loss(outputs: list) -> LossOutput:
        return LossOutput(torch.stack([output.loss for output in outputs]).mean())

    model._restore = restored
    model.score.distill = lambda z, prompts, rng: by_picture(
        "vsd", lambda one: distill(one, prompts[:1], rng), (z,), mean_loss
    )
    model.score.fake_loss = lambda z, prompts, rng: by_picture(
        "fake",
        lambda one: fake(one, prompts[:1], rng),
        (z,),
        lambda parts: torch.stack(parts).mean(),
    )


# Checkpoints -------------------------------------------------------------------------------------


@pytest.mark.parametrize("generator", ["lora", "full"])
def test_resumed_run_equals_uninterrupted_run(base: Path, tmp_path: Path, generator: str):
    changes = {
        "train__generator": generator,
        "train__ema_decay": 0.5,
        "train__lora__dropout": 0.1,
        "train__losses__vsd__lora__dropout": 0.1,
        "train__scheduler__type": "cosine",
    }
    whole = build(base, tmp_path / "whole", **changes)
    assert whole.fit()
    first = build(base, tmp_path / "parts", **changes)
    batches = first._batches()
    first.validate()
    for _ in range(2):
        first._update(batches)
    first.save_checkpoint()
    torch.rand(7)  # another process would not have this one's random state either
    second = build(base, tmp_path / "parts", **changes)
    assert second.resume() and second.iteration == 2
    assert second.fit()

    expected, found = weights(whole), weights(second)
    assert expected.keys() == found.keys()
    different = [name for name in expected if not torch.equal(expected[name], found[name])]
    assert different == []
    for a, b in zip(
        whole.weight_update.average.average, second.weight_update.average.average, strict=True
    ):
        assert torch.equal(a, b)
    assert whole.last_comparison == second.last_comparison


def test_a_state_without_the_fake_score_is_refused(base: Path, tmp_path: Path):
    build(base, tmp_path, train__losses__vsd="null").save_checkpoint()
    with pytest.raises(CheckpointError, match="other weights"):
        build(base, tmp_path).resume()


# Hand over ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stage-1 run whose adapters show in the output."""
    root = tmp_path_factory.mktemp("stage1")
    model = build(base, root, network_g__t_add=300, network_g__prompt="sharp")
    adapters = [p for name, p in model.trained.items() if ".lora_" in name]
    fill(adapters)
    with torch.no_grad():
        model.adapters.conv_in.weight.mul_(1.1)
    model.save_checkpoint()
    return model.paths.folder


def picture(pipeline: OneStepSRPipeline) -> torch.Tensor:
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    rng = torch.Generator().manual_seed(0)
    return pipeline(image, generator=rng, output_type="pt").images


def test_merged_equals_unmerged(base: Path, run: Path, tmp_path: Path, capsys):
    """LoRA of UNet and VAE, conv_in, timesteps and prompt arrive in the merged model."""
    plain, tuned = (OneStepSRPipeline.from_pretrained(base) for _ in range(2))
    tuned.load_lora_weights(run)
    assert (picture(tuned) - picture(plain)).abs().max() > 1e-2
    folder = tmp_path / "merged"
    assert merge.main(["--base", str(base), "--lora", str(run), "-o", str(folder)]) == 0
    assert str(folder) in capsys.readouterr().out
    merged = OneStepSRPipeline.from_pretrained(folder)
    torch.testing.assert_close(picture(merged), picture(tuned), atol=1e-5, rtol=0)
    assert list(merged.unet.state_dict()) == list(plain.unet.state_dict())
    assert list(merged.vae.state_dict()) == list(plain.vae.state_dict())
    assert merged.scheduler.config.t_add == 300 and merged.config.prompt == "sharp"
    with pytest.raises(CheckpointError, match="exists"):
        merge.main(["--base", str(base), "--lora", str(run), "-o", str(folder)])


def test_stage_2_starts_from_the_merged_model(base: Path, run: Path, tmp_path: Path):
    """And its own LoRA merges onto that, to a model with the same output."""
    folder = tmp_path / "merged"
    merge.main(["--base", str(base), "--lora", str(run), "-o", str(folder)])
    forced = [
        f"network_g:base={folder}",
        f"path:experiments_root={tmp_path}",
        "datasets:train:gt_size=64",
        "datasets:val:gt_size=64",
        "datasets:val:max_images=1",
        "val:metrics={}",
    ]
    options = load_options(ROOT / "options" / "gdpo_sr.yml", forced)
    paths = ExperimentPaths(options.path.experiments_root, options.name)
    model = GDPOModel(options, paths, Accelerator())
    assert model.generator.scheduler.config.t_add == 300
    fill(lora_parameters(model.generator.unet, "default"))
    model.save_model("lora_latest")

    tuned = OneStepSRPipeline.from_pretrained(folder)
    tuned.load_lora_weights(paths.folder)
    arguments = ["--base", str(folder), "--lora", str(paths.folder), "-o", str(tmp_path / "two")]
    assert merge.main(arguments) == 0
    both = OneStepSRPipeline.from_pretrained(tmp_path / "two")
    torch.testing.assert_close(picture(both), picture(tuned), atol=1e-5, rtol=0)


def test_stage_2_refuses_an_unmerged_lora_of_stage_1(base: Path, run: Path):
    generator = build_generator(load_components(base))
    with pytest.raises(CheckpointError, match="gdpo-sr merge"):
        load_lora(generator.unet, run)


def test_stage_1_goes_on_from_saved_adapters(base: Path, run: Path, tmp_path: Path):
    settings = {"network_g__t_add": 300, "network_g__prompt": "sharp"}
    model = build(base, tmp_path, path__pretrain_lora=run, **settings)
    tuned = OneStepSRPipeline.from_pretrained(base)
    tuned.load_lora_weights(run)
    assert torch.equal(restore(model.generator), restore(tuned.generator))
    assert all(p.requires_grad for p in model.trained.values())


def test_incomplete_adapters(base: Path, run: Path, tmp_path: Path):
    generator = build_generator(load_components(base))
    add_lora(generator.unet)
    plain = save_lora(generator.unet, tmp_path / "plain")
    with pytest.raises(CheckpointError, match="no complete LoRA of stage 1"):
        build(base, tmp_path, path__pretrain_lora=plain)


def test_a_run_of_the_whole_unet_needs_no_merge(base: Path, tmp_path: Path):
    model = build(base, tmp_path, **FULL)
    model.save_checkpoint()
    with pytest.raises(CheckpointError, match="complete model already"):
        merge.main(["--base", str(base), "--lora", str(model.paths.folder)])


# Commands ----------------------------------------------------------------------------------------


def test_main_writes_what_it_promises(base: Path, tmp_path: Path, capsys):
    arguments = ["-opt", str(OPTIONS_FILE), "--force_yml"]
    assert main([*arguments, *overrides(base, tmp_path, train__total_iter=1)]) == 0
    printed = capsys.readouterr().out
    run = tmp_path / "run"
    assert str(run / "visualization" / "side_by_side_0000001.png") in printed
    assert "NAOSD" in printed and "trained" in printed and "held out" in printed
    settings = json.loads((run / "models" / "lora_latest" / "gdpo_sr.json").read_text())
    assert (settings["t_add"], settings["t_diff"], settings["prompt"]) == (250, 100, "a photo")
    assert settings["base"] == str(base) and settings["changes"] == ["unet", "vae", "conv_in"]
    figures = json.loads((run / "validation_0000001.json").read_text())
    assert [row["name"] for row in figures["metrics"]] == ["psnr_y", "nlpd", "gmsd"]


def test_control_belongs_to_stage_2(base: Path, tmp_path: Path):
    arguments = ["-opt", str(OPTIONS_FILE), "--control", "--force_yml"]
    with pytest.raises(OptionError, match="--control"):
        main([*arguments, *overrides(base, tmp_path)])
