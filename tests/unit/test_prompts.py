"""PromptEncoder: one call of the text encoder per distinct prompt, embeddings in order."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from gdpo_sr.generators.prompts import PromptEncoder


class LetterTokenizer:
    """Code points of the first four letters, padded with blanks."""

    model_max_length = 4

    def __call__(self, prompts: list[str], max_length: int, **_) -> SimpleNamespace:
        rows = [[ord(letter) for letter in p.ljust(max_length)[:max_length]] for p in prompts]
        return SimpleNamespace(input_ids=torch.tensor(rows))


class CountingTextEncoder(nn.Module):
    """An embedding table that notes how many prompts it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(128, 3)
        self.encoded: list[int] = []

    def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor]:
        self.encoded.append(len(ids))
        return (self.table(ids),)


@pytest.fixture
def encoder() -> PromptEncoder:
    return PromptEncoder(CountingTextEncoder(), LetterTokenizer())


def test_each_distinct_prompt_is_encoded_once(encoder: PromptEncoder):
    encoder(["a", "b", "a", "a"])
    encoder(["b", "a"])
    encoder(["c", "b"])
    assert encoder.text_encoder.encoded == [2, 1]


def test_embeddings_come_in_the_order_of_the_prompts(encoder: PromptEncoder):
    embeds = encoder(["b", "a", "b"])
    assert embeds.shape == (3, 4, 3)
    assert torch.equal(embeds[0], embeds[2]) and not torch.equal(embeds[0], embeds[1])
    assert torch.equal(encoder(["a", "b"]), embeds[[1, 0]])
    table = encoder.text_encoder.table
    assert torch.equal(embeds[1], table(torch.tensor([ord("a"), 32, 32, 32])))


def test_nothing_is_trained(encoder: PromptEncoder):
    assert not encoder(["a"]).requires_grad
    assert not any(p.requires_grad for p in encoder.parameters())


def test_kept_embeddings_move_with_the_module(encoder: PromptEncoder):
    before = encoder(["a"])
    after = encoder.double()(["a"])
    assert after.dtype == torch.float64 and encoder.text_encoder.encoded == [1]
    assert torch.equal(after, before.double())


def test_clear(encoder: PromptEncoder):
    encoder(["a"])
    encoder.clear()
    encoder(["a"])
    assert encoder.text_encoder.encoded == [1, 1]


def test_the_cache_is_not_saved(encoder: PromptEncoder):
    encoder(["a"])
    assert list(encoder.state_dict()) == ["text_encoder.table.weight"]
