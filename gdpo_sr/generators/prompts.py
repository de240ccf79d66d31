"""Prompt embeddings, computed once per distinct prompt; the text encoder may leave the memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

_KEPT = 256
"""Embeddings that are remembered beside a text encoder: 77 MiB of Stable Diffusion's in float32."""


def prompts_behind(captions: Sequence[str], words: str) -> list[str]:
    """Every caption, then `words`; what is empty leaves no comma."""
    return [", ".join(filter(None, (caption, words))) for caption in captions]


class NoPrompts(nn.Module):
    """In place of a `PromptEncoder` for a network that reads no prompts: nothing to load."""

    text_encoder = tokenizer = None

    def forward(self, prompts: list[str]) -> torch.Tensor:
        """Zeros (N, 1, 1)."""
        return torch.zeros(len(prompts), 1, 1)

    def release(self, prompts: Sequence[str], reload: Callable[[], nn.Module]) -> None:
        """Nothing is in memory."""

    def whole_text_encoder(self) -> None:
        """None."""

    def clear(self) -> None:
        """Nothing is remembered."""


class PromptEncoder(nn.Module):
    """CLIP text encoder and tokenizer behind a memory of embeddings.

    Embeddings are computed in the text encoder's own precision, whatever autocast is on.

    Args:
        text_encoder: a CLIPTextModel; its parameters are never trained here.
        tokenizer: its CLIP tokenizer.

    Attributes:
        text_encoder: None after `release`.
    """

    def __init__(self, text_encoder: nn.Module, tokenizer: object) -> None:
        super().__init__()
        self.text_encoder: nn.Module | None = text_encoder.requires_grad_(False)
        self.tokenizer = tokenizer
        self._cache: dict[str, torch.Tensor] = {}
        self._reload: Callable[[], nn.Module] | None = None

    def forward(self, prompts: list[str]) -> torch.Tensor:
        """Embeddings (N, tokens, d) in the order of `prompts`; each distinct is encoded once."""
        self._remember(prompts)
        embeds = torch.stack([self._cache[p] for p in prompts])
        if self.text_encoder is not None:
            self._forget_oldest(prompts)
        return embeds

    def release(self, prompts: Sequence[str], reload: Callable[[], nn.Module]) -> None:
        """Remember the embeddings of `prompts` and drop the text encoder.

        `reload` gives the same text encoder again, on the CPU: for a moment, if another prompt
        comes, and to whoever saves the model.
        """
        self._remember(prompts)
        self.text_encoder, self._reload = None, reload

    def whole_text_encoder(self) -> nn.Module:
        """The text encoder in memory, or after `release` a fresh one that is not kept."""
        if self.text_encoder is None and self._reload is not None:
            return self._reload().requires_grad_(False)
        return self.text_encoder

    def _remember(self, prompts: Sequence[str]) -> None:
        missing = [p for p in dict.fromkeys(prompts) if p not in self._cache]
        if not missing:
            return
        embeds = self._encode(missing)
        if self.text_encoder is None and self._cache:
            embeds = embeds.to(next(iter(self._cache.values())))
        self._cache.update(zip(missing, embeds, strict=True))

    @torch.no_grad()
    def _encode(self, prompts: list[str]) -> torch.Tensor:
        text_encoder = self.whole_text_encoder()
        places = text_encoder.config.max_position_embeddings  # what the tokenizer says may be more
        ids = self.tokenizer(
            [p.encode(errors="replace").decode() for p in prompts],  # half a character is a "?"
            max_length=min(self.tokenizer.model_max_length, places),
            padding="max_length",
            truncation=True,
            return_tensors="pt",
        ).input_ids
        device = next(text_encoder.parameters()).device
        with torch.autocast(device.type, enabled=False):
            return text_encoder(ids.to(device))[0]

    def _forget_oldest(self, used: Sequence[str]) -> None:
        for prompt in dict.fromkeys(used):
            self._cache[prompt] = self._cache.pop(prompt)
        while len(self._cache) > _KEPT:
            del self._cache[next(iter(self._cache))]

    def clear(self) -> None:
        """Forget every embedding (after the text encoder moved or changed).

        Without a text encoder they stay: they move with the module.
        """
        if self.text_encoder is not None:
            self._cache.clear()

    def _apply(self, fn, recurse: bool = True):  # noqa: ANN001 - signature of nn.Module
        self._cache = {prompt: fn(embedding) for prompt, embedding in self._cache.items()}
        return super()._apply(fn, recurse)
