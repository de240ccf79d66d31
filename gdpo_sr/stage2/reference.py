"""The frozen policy of stage 2, with one UNet in memory: the base, or a second, frozen adapter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager

import torch
from torch import nn

from gdpo_sr.checkpoints.lora import adapter_active, adapters_disabled, add_lora, lora_parameters

POLICY, REFERENCE = "default", "reference"
"""Names of the two adapters."""


class Reference:
    """What the policy is compared with.

    It starts as the base. If it may be refreshed, it has an adapter of the policy's shape, whose
    second factor is zero at first, so that it computes what the base does.

    Args:
        unet: carries the policy's adapter.
        refreshed: whether `refresh` will be called.
    """

    def __init__(self, unet: nn.Module, refreshed: bool) -> None:
        self.unet = unet
        self.refreshed = refreshed
        if refreshed:
            self._add_adapter()

    def _add_adapter(self) -> None:
        config = self.unet.peft_config[POLICY]
        trainable = [p.requires_grad for p in lora_parameters(self.unet, POLICY)]
        add_lora(self.unet, config.r, config.lora_alpha, 0.0, REFERENCE)
        self.unet.set_adapter(POLICY)
        for parameter, flag in zip(lora_parameters(self.unet, POLICY), trainable, strict=True):
            parameter.requires_grad_(flag)
        with torch.no_grad():
            for (name, own), policy in self._pairs():
                own.requires_grad_(False)
                own.copy_(policy if ".lora_A." in name else torch.zeros_like(policy))

    def _pairs(self) -> Iterator[tuple[tuple[str, nn.Parameter], nn.Parameter]]:
        """Reference parameters by name, each with the policy's."""
        parameters = dict(self.unet.named_parameters())
        for name, own in parameters.items():
            if ".lora_" in name and f".{REFERENCE}." in name:
                yield (name, own), parameters[name.replace(f".{REFERENCE}.", f".{POLICY}.")]

    def active(self, unet: nn.Module) -> AbstractContextManager[None]:
        """Context in which `unet` is the reference."""
        return adapter_active(unet, REFERENCE) if self.refreshed else adapters_disabled(unet)

    @torch.no_grad()
    def refresh(self, mix: float) -> None:
        """reference <- (1 - mix) reference + mix policy, factor by factor; mix 1 copies exactly."""
        for (_, own), policy in self._pairs():
            own.copy_(policy if mix == 1 else torch.lerp(own, policy, mix))

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The reference's adapter, empty if it is the base."""
        return {name: own.detach().cpu() for (name, own), _ in self._pairs()}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Restore what `state_dict` returned."""
        for (name, own), _ in self._pairs():
            own.copy_(state[name])
