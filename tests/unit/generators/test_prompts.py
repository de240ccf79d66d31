"""PromptEncoder: one call of the text encoder per distinct prompt, embeddings in order."""

from __future__ import annotations

import copy
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

    config = SimpleNamespace(max_position_embeddings=4)

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


class FreshEncoder:
    """Gives copies of one text encoder, and counts them."""

    def __init__(self, text_encoder: nn.Module) -> None:
        self.text_encoder, self.count = copy.deepcopy(text_encoder), 0

    def __call__(self) -> nn.Module:
        self.count += 1
        return copy.deepcopy(self.text_encoder)


def test_released_embeddings_need_no_text_encoder(encoder: PromptEncoder):
    before, fresh = encoder(["a", "b"]), FreshEncoder(encoder.text_encoder)
    encoder.release(["a", "b"], fresh)
    assert encoder.text_encoder is None and not list(encoder.parameters())
    assert torch.equal(encoder(["b", "a"]), before[[1, 0]]) and fresh.count == 0


def test_another_prompt_loads_the_text_encoder_for_a_moment(encoder: PromptEncoder):
    expected, fresh = encoder(["c", "a"]).double(), FreshEncoder(encoder.text_encoder)
    encoder.clear()
    encoder.release(["a"], fresh)
    encoder.double()
    assert torch.equal(encoder(["c", "a"]), expected)
    encoder(["c"])
    assert fresh.count == 1 and encoder.text_encoder is None


def test_who_saves_gets_a_text_encoder(encoder: PromptEncoder):
    own = encoder.text_encoder
    assert encoder.whole_text_encoder() is own
    encoder.release(["a"], FreshEncoder(own))
    again = encoder.whole_text_encoder()
    assert torch.equal(again.table.weight, own.table.weight)
    assert not again.table.weight.requires_grad and encoder.text_encoder is None


def test_released_embeddings_are_not_cleared(encoder: PromptEncoder):
    fresh = FreshEncoder(encoder.text_encoder)
    encoder.release(["a"], fresh)
    encoder.clear()
    assert encoder(["a"]).shape == (1, 4, 3) and fresh.count == 0


def test_the_memory_of_captions_is_bounded(encoder: PromptEncoder, monkeypatch):
    """The oldest go first, and those of one call come back whatever their number."""
    monkeypatch.setattr("gdpo_sr.generators.prompts._KEPT", 2)
    encoder(["a", "b"])
    encoder(["a"])
    assert encoder(["c"]).shape == (1, 4, 3)
    encoder(["a", "c"])
    assert encoder.text_encoder.encoded == [2, 1]
    encoder(["b"])
    assert encoder.text_encoder.encoded == [2, 1, 1]
    assert encoder(["d", "e", "f"]).shape == (3, 4, 3)


class HalfTextEncoder(nn.Module):
    """A matrix product, which autocast would compute in half precision."""

    config = SimpleNamespace(max_position_embeddings=4)

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Linear(4, 3)

    def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor]:
        return (self.table(ids.float())[:, None],)


def test_autocast_changes_nothing():
    encoder = PromptEncoder(HalfTextEncoder(), LetterTokenizer())
    expected = encoder(["a"])
    encoder.clear()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(encoder(["a"]), expected)


def test_no_more_tokens_than_the_text_encoder_has_places():
    """A tokenizer that was saved without its limit says 10^30."""
    tokenizer = LetterTokenizer()
    tokenizer.model_max_length = 10**30
    assert PromptEncoder(CountingTextEncoder(), tokenizer)(["a"]).shape == (1, 4, 3)


def test_half_a_character_is_a_question_mark(encoder: PromptEncoder):
    """Found: tokenizers take no unpaired surrogate, which JSON, YAML and file names may hold."""
    assert torch.equal(encoder(["a\ud800"]), encoder(["a?"]))
