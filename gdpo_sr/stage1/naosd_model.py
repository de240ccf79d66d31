"""NAOSDModel: stage 1, the noise-aware one-step generator trained with reconstruction, perceptual
and distillation losses (GDPO-SR section 3.1).
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import nn

from gdpo_sr.checkpoints.generator_adapters import GeneratorAdapters
from gdpo_sr.checkpoints.lora import adapters_disabled
from gdpo_sr.checkpoints.meaning import (
    Meaning,
    apply_meaning,
    given_in,
    read_meaning,
    resume_meaning,
)
from gdpo_sr.checkpoints.model_folder import components_of, save_model_folder
from gdpo_sr.config.run_options import MetricOptions
from gdpo_sr.config.stage1_options import VSDOptions
from gdpo_sr.group.sample import draw_noise, enlarge_lr, repeat_prompts
from gdpo_sr.losses.energy_score import energy_score_loss
from gdpo_sr.losses.perceptual import PerceptualLoss
from gdpo_sr.losses.reconstruction import reconstruction_loss
from gdpo_sr.stage1.build_score import build_score_networks, score_texts
from gdpo_sr.stage1.score_networks import ScoreNetworks
from gdpo_sr.trainer.base_model import BaseModel
from gdpo_sr.trainer.build_data import (
    build_base_generator,
    build_metrics,
    build_validation_pairs,
    cast_frozen,
    set_up_networks,
    set_up_recorder,
)
from gdpo_sr.trainer.optimization import NetworkUpdate
from gdpo_sr.trainer.processes import check_plain_processes
from gdpo_sr.trainer.validation import PairedValidation
from gdpo_sr.types import LossOutput, SRBatch

LATEST_MODEL = "latest"
"""Name, under `models/`, of the model that a run with `train.generator: full` writes."""


class Restored(NamedTuple):
    """Restorations of a batch, N per picture and picture by picture, with graphs."""

    latents: torch.Tensor
    prompts: list[str]


class NAOSDModel(BaseModel):
    """Trains the generator on degraded photos, with VSD against the score of a diffusion model.

    Gradients of the generator and of the fake score are averaged over processes explicitly, not by
    wrapping a module: both may be adapters of one UNet, which is called several times per step with
    different adapters, and a wrapper for distributed training expects one pass that uses them all.
    """

    random_names = ("degradation", "sampling", "vsd", "fake")
    result_name = "NAOSD"

    def build(self) -> dict[str, nn.Parameter]:
        """Generator, losses, score networks and validation."""
        o = self.options
        check_plain_processes(self.accelerator, "stage 1")
        texts = score_texts(o.network_score) if self._vsd_options() is not None else []
        self.generator = build_base_generator(o.network_g, texts).to(self.accelerator.device)
        trained = self._build_trained()
        self.perceptual = self._build_perceptual()
        self.score = self._build_score()
        self._set_up_networks()
        self.validation = self._build_validation()
        return trained

    def _build_trained(self) -> dict[str, nn.Parameter]:
        """Adapters, or the whole UNet. `adapters` is None in the second case."""
        o, unet = self.options, self.generator.unet
        self.adapters: GeneratorAdapters | None = None
        if o.train.generator == "full":
            self.latest = LATEST_MODEL
            unet.requires_grad_(True)
            return {f"unet.{name}": p for name, p in unet.named_parameters()}
        self.adapters = GeneratorAdapters(unet, self.generator.vae)
        if o.path.pretrain_lora is not None:
            adapter = self.adapters.load(o.path.pretrain_lora, trainable=True)
            apply_meaning(self.generator, read_meaning(adapter), given_in(o.network_g))
        else:
            self.adapters.add(o.train.lora.rank, o.train.lora.alpha, o.train.lora.dropout)
        self.meaning = Meaning.of(self.generator, o.network_g)
        return self.adapters.parameters()

    def _build_perceptual(self) -> dict[str, PerceptualLoss]:
        o, device = self.options, str(self.accelerator.device)
        return {
            name: PerceptualLoss(p.metric, o.datasets.train.gt_size, device, p.options)
            for name, p in o.train.losses.perceptual.items()
            if p.weight > 0
        }

    def _build_score(self) -> ScoreNetworks | None:
        o, vsd = self.options, self._vsd_options()
        if vsd is None:
            return None
        device = self.accelerator.device
        score = build_score_networks(o, vsd, self.generator, self.adapters, device)
        parameters = score.add_fake_lora(vsd.lora.rank, vsd.lora.alpha, vsd.lora.dropout)
        self.beside["fake"] = NetworkUpdate(parameters, vsd.optim, o.train, self.accelerator)
        return score

    def _vsd_options(self) -> VSDOptions | None:
        vsd = self.options.train.losses.vsd
        return vsd if vsd is not None and vsd.weight > 0 else None

    def _set_up_networks(self) -> None:
        networks = [self.generator.unet, self.generator.vae]
        if self.score is not None and self.score.unet is not self.generator.unet:
            networks.append(self.score.unet)
        set_up_networks(networks, self.options.train)
        set_up_recorder(self.generator, self.options.train)
        if self.adapters is not None:  # else the whole model is saved, in float32
            cast_frozen(networks, self.accelerator.mixed_precision)

    def _build_validation(self) -> PairedValidation:
        o, device = self.options, str(self.accelerator.device)
        fitted = {"psnr_y": MetricOptions(metric="psnr_y"), **o.train.losses.perceptual}
        return PairedValidation(
            self.generator,
            build_validation_pairs(o),
            build_metrics({**fitted, **o.val.metrics}, device),
            set(fitted),
            o.val.noise_seed,
            o.val.num_noises,
            o.val.color_fix,
            nullcontext if self.adapters is None else self.adapters.disabled,
        )

    # One step ------------------------------------------------------------------------------------

    def compute_loss(self, item: SRBatch) -> LossOutput:
        """Sum of the weighted losses of the restorations of a batch (ALGORITHM: section 2)."""
        with self.timer("generator"):
            restored = self._restore(item)
        parts: dict[str, tuple[float, LossOutput]] = {}
        with self.timer("losses"):
            parts.update(self._picture_losses(item, restored))
        with self.timer("vsd"):
            parts.update(self._distillation(restored))
        self._restored = Restored(restored.latents.detach(), restored.prompts)
        loss = torch.stack([weight * part.loss for weight, part in parts.values()]).sum()
        logs = {f"loss_{name}": part.loss.detach() for name, (_, part) in parts.items()}
        for name, (_, part) in parts.items():
            logs.update({f"{name}_{key}": value for key, value in part.logs.items()})
        return LossOutput(loss, logs)

    def _restore(self, batch: SRBatch) -> Restored:
        """Draws the encoder's posterior, then the noises, both from "sampling"."""
        n, rng = self.options.train.noises_per_image, self.random["sampling"]
        b, *shape = self.generator.latent_shape(batch.hr)
        posterior = draw_noise((b, *shape), rng, batch.hr.device)
        noise = draw_noise((b * n, *shape), rng, batch.hr.device)
        return self.restore_for_noise(batch, posterior, noise)

    def restore_for_noise(
        self, batch: SRBatch, posterior: torch.Tensor, noise: torch.Tensor
    ) -> Restored:
        """Restorations from given noise: `posterior` (B, c, h, w), `noise` (B * N, c, h, w)."""
        n = len(noise) // len(batch.hr)
        prompts = repeat_prompts(batch.prompts, n)
        encoded = self.generator.encode(enlarge_lr(batch.lr, batch.hr), posterior)
        embeds = self.generator.prompt_encoder(prompts)
        latents = self.generator.restore_latents(encoded.repeat_interleave(n, 0), noise, embeds)
        return Restored(latents, prompts)

    def _picture_losses(
        self, batch: SRBatch, restored: Restored
    ) -> dict[str, tuple[float, LossOutput]]:
        """Weight and value of every loss that looks at pictures; one decoding serves all."""
        o = self.options.train.losses
        energy = o.energy if o.energy is not None and o.energy.weight > 0 else None
        if not (o.reconstruction.weight > 0 or self.perceptual or energy):
            return {}
        raw = self.generator.decode_unclamped(restored.latents).float()
        hr = batch.hr.repeat_interleave(len(raw) // len(batch.hr), 0) * 2 - 1
        images = raw.clamp(-1, 1)
        parts = {}
        if o.reconstruction.weight > 0:
            output = reconstruction_loss(images, hr, o.reconstruction.type)
            parts["reconstruction"] = (o.reconstruction.weight, output)
        for name, loss in self.perceptual.items():
            output = loss(images / 2 + 0.5, hr / 2 + 0.5)
            parts[name] = (o.perceptual[name].weight, output)
        if energy is not None:
            parts["energy"] = (energy.weight, self._energy(batch, raw, restored, energy.beta))
        return parts

    def _energy(
        self, batch: SRBatch, raw: torch.Tensor, restored: Restored, beta: float
    ) -> LossOutput:
        """Energy score of the two restorations of each picture."""
        hr = batch.hr * 2 - 1
        with torch.no_grad(), adapters_disabled(self.generator.vae):
            hr_latents = self.generator.encode(hr).float()
        with torch.autocast(raw.device.type, enabled=False):
            images = raw.unflatten(0, (-1, 2)).unbind(1)
            latents = restored.latents.float().unflatten(0, (-1, 2)).unbind(1)
            return energy_score_loss(images, hr, latents, hr_latents, beta)

    def _distillation(self, restored: Restored) -> dict[str, tuple[float, LossOutput]]:
        if self.score is None:
            return {}
        output = self.score.distill(restored.latents, restored.prompts, self.random["vsd"])
        return {"vsd": (self._vsd_options().weight, output)}

    # The fake score ------------------------------------------------------------------------------

    def train_beside(self, count: int) -> dict[str, torch.Tensor]:
        """Fit the fake score to the latents of the last batch."""
        if self.score is None:
            return {}
        with self.timer("fake"), self.score.fake():
            with self.accelerator.autocast():
                loss = self.score.fake_loss(*self._restored, self.random["fake"])
            self.beside["fake"].backward(loss / count)
        return {"loss_fake": loss.detach()}

    def progress(self, logs: dict[str, float]) -> dict[str, float]:
        """The losses that make up the loss, and the fake score's."""
        return {name[5:]: value for name, value in logs.items() if name.startswith("loss_")}

    # What is kept --------------------------------------------------------------------------------

    def extra_state(self) -> dict[str, Any]:
        """Timesteps and prompt, which may be those of the adapters that the run started from."""
        return {} if self.adapters is None else {"meaning": self.meaning.settings()}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what `extra_state` returned."""
        if self.adapters is not None:
            self.meaning = resume_meaning(self.generator, self.meaning, state.get("meaning"))

    def _load_state(self, state: dict[str, Any], source: str) -> None:
        """Trained weights replace the base's here, so the base is measured first."""
        if self.adapters is None and self.accelerator.is_main_process:
            self.validation.remember_base()
        super()._load_state(state, source)

    def model_bytes(self) -> int:
        """With `train.generator: full` the whole model's."""
        if self.adapters is not None:
            return super().model_bytes()
        return sum(4 * p.numel() for p in self.generator.parameters())

    def save_model(self, name: str) -> None:
        """Adapters, or the whole model in diffusers layout, as `models/<name>`."""
        folder = self.paths.models / name
        if self.adapters is not None:
            self.adapters.save(folder, self.meaning)
        else:
            save_model_folder(components_of(self.generator), folder)
