"""LoRAs on a pipeline: load, weigh, fuse, unload, by diffusers' names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from gdpo_sr.checkpoints.generator_adapters import GeneratorAdapters
from gdpo_sr.checkpoints.load_adapter import load_adapter, merge_adapters
from gdpo_sr.checkpoints.lora import lora_parameters, unload_lora, weigh_adapters
from gdpo_sr.checkpoints.pixel_semantic import load_pixel_semantic
from gdpo_sr.generators.noise_aware_generator import NoiseAwareGenerator
from gdpo_sr.types import OptionError


class AdapterMethods:
    """What `OneStepSRPipeline` does with LoRAs.

    Attributes:
        generator: with UNet and VAE, which carry them.
    """

    generator: NoiseAwareGenerator
    register_to_config: Any
    _given: dict[str, int | None]
    _before: dict[str, Any] | None  # timesteps and prompt without a LoRA
    _whole: dict[str, GeneratorAdapters]  # of stage 1, by name

    def load_lora_weights(
        self, folder: str | Path, adapter_name: str = "default", scale: float = 1.0
    ) -> None:
        """Add the LoRA in `folder` and make it the active one, with timesteps and prompt of its
        training. Timesteps that `from_pretrained` was given stay, with a warning.

        Args:
            folder: one with adapter_config.json and adapter_model.safetensors, or a training run; a
                LoRA of stage 1 changes the VAE's encoder too. Or a .safetensors file in diffusers'
                or kohya's keys.
            adapter_name: several can be loaded under several names.
            scale: a dial between the base, 0, and the LoRA as it was trained, 1.

        Raises:
            CheckpointError: no adapter there, or one of another architecture.
            OptionError: an adapter of this name is loaded.
        """
        if adapter_name in self.get_list_adapters():
            raise OptionError(
                f"adapter_name = {adapter_name!r}: a LoRA of this name is loaded; give another name"
            )
        before = self._settings()
        whole = load_adapter(self.generator, folder, adapter_name, self._given, scale)
        self._before = before if self._before is None else self._before
        if whole is not None:
            self._whole[adapter_name] = whole
        self.register_to_config(prompt=self.generator.prompt)

    def load_pixel_semantic(
        self, folder: str | Path, pixel_scale: float = 1.0, semantic_scale: float = 1.0
    ) -> None:
        """Load PiSA-SR's two LoRAs, converted by `gdpo-sr convert`, with its two dials.

        The pixel one is merged into the weights; the semantic one stays a LoRA, named semantic.
        Both scales at 1 are the sum, which `load_lora_weights` loads and which is twice as fast.
        Arguments and errors: `gdpo_sr.checkpoints.pixel_semantic.load_pixel_semantic`.
        """
        before = self._settings()
        load_pixel_semantic(self.generator, folder, pixel_scale, semantic_scale, self._given)
        self._before = before if self._before is None else self._before
        self.register_to_config(prompt=self.generator.prompt)

    def get_list_adapters(self) -> list[str]:
        """Names of the loaded LoRAs."""
        return list(getattr(self.generator.unet, "peft_config", {}))

    def get_active_adapters(self) -> list[str]:
        """Names of the LoRAs that are in use."""
        return self.generator.unet.active_adapters() if self.get_list_adapters() else []

    def set_adapters(
        self,
        adapter_names: str | Sequence[str],
        adapter_weights: float | Sequence[float] | None = None,
    ) -> None:
        """Use these LoRAs and no others, added up.

        Args:
            adapter_names: of loaded ones.
            adapter_weights: of each, or one for all; None: 1, as they were loaded.

        Raises:
            OptionError: an unknown name, or not one weight for each.
        """
        names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        weights = 1.0 if adapter_weights is None else adapter_weights
        weights = [weights] * len(names) if isinstance(weights, (int, float)) else list(weights)
        self._check_names(names)
        if len(weights) != len(names):
            raise OptionError(
                f"adapter_weights has {len(weights)} values for {len(names)} adapters: give one "
                "for each, or a single number"
            )
        chosen = dict(zip(names, weights, strict=True))
        for network in self._adapted():
            weigh_adapters(network, chosen)
        for name, whole in self._whole.items():
            whole.weigh_input(chosen.get(name, 0.0))

    def _check_names(self, names: Sequence[str]) -> None:
        loaded = self.get_list_adapters()
        for name in names:
            if name not in loaded:
                known = ", ".join(loaded) or "none"
                raise OptionError(f"adapter {name!r} is not loaded: choose from {known}")

    def fuse_lora(
        self, adapter_names: Sequence[str] | None = None, lora_scale: float = 1.0
    ) -> None:
        """Add LoRAs to the weights of their layers, which makes them as fast as the base; they stay
        loaded, and `unfuse_lora` takes them out again.

        Args:
            adapter_names: of loaded ones; None: those in use.
            lora_scale: on top of their weights.

        Raises:
            OptionError: an unknown name.
        """
        self._check_names(adapter_names or ())
        for network in self._adapted():
            network.fuse_lora(lora_scale, adapter_names=adapter_names)

    def unfuse_lora(self) -> None:
        """Undo `fuse_lora`, up to rounding."""
        for network in self._adapted():
            network.unfuse_lora()

    def unload_lora_weights(self) -> None:
        """Remove all LoRAs; timesteps and prompt are again those from before the first one. What
        was fused stays in the weights.
        """
        if self._before is None:
            return
        for whole in self._whole.values():
            whole.weigh_input(0.0)
        for network in self._adapted():
            unload_lora(network)
        self.generator.scheduler.register_to_config(**self._before["scheduler"])
        self.generator.prompt = self._before["prompt"]
        self.register_to_config(prompt=self.generator.prompt)
        self._before, self._whole = None, {}
        self.generator.dial = None

    def merge_lora_weights(self) -> None:
        """Merge the LoRAs in use into the weights and forget them all: the same function, and
        faster.
        """
        merge_adapters(self.generator)
        self._before, self._whole = None, {}

    def _adapted(self) -> list[nn.Module]:
        return [n for n in (self.generator.unet, self.generator.vae) if lora_parameters(n)]

    def _settings(self) -> dict[str, Any]:
        config = self.generator.scheduler.config
        kept = {name: config[name] for name in ("t_add", "t_diff", "prediction_type")}
        return {"scheduler": kept, "prompt": self.generator.prompt}
