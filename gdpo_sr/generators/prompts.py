"""Prompt embeddings, computed once per distinct prompt."""

from __future__ import annotations

import torch
from torch import nn


class PromptEncoder(nn.Module):
    """CLIP text encoder and tokenizer behind a cache.

    Args:
        text_encoder: a CLIPTextModel; its parameters are never trained here.
        tokenizer: its CLIP tokenizer.
    """

    def __init__(self, text_encoder: nn.Module, tokenizer: object) -> None:
        super().__init__()
        self.text_encoder = text_encoder.requires_grad_(False)
        self.tokenizer = tokenizer
        self._cache: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def _encode(self, prompts: list[str]) -> torch.Tensor:
        ids = self.tokenizer(
            prompts,
            max_length=self.tokenizer.model_max_length,
            padding="max_length",
            truncation=True,
            return_tensors="pt",
        ).input_ids
        device = next(self.text_encoder.parameters()).device
        return self.text_encoder(ids.to(device))[0]

    def forward(self, prompts: list[str]) -> torch.Tensor:
        """Embeddings (N, tokens, d) in the order of `prompts`; each distinct is encoded once."""
        missing = [p for p in dict.fromkeys(prompts) if p not in self._cache]
        if missing:
            self._cache.update(zip(missing, self._encode(missing), strict=True))
        return torch.stack([self._cache[p] for p in prompts])

    def clear(self) -> None:
        """Forget every embedding (after the text encoder moved or changed)."""
        self._cache.clear()

    def _apply(self, fn, recurse: bool = True):  # noqa: ANN001 - signature of nn.Module
        self._cache = {prompt: fn(embedding) for prompt, embedding in self._cache.items()}
        return super()._apply(fn, recurse)
