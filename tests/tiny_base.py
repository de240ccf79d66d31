"""A base model of a quarter of a million random weights, for tests that need no quality."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from gdpo_sr.generators.lapped_autoencoder import LappedAutoencoder
from gdpo_sr.generators.lapped_transform import lapped_kernels
from gdpo_sr.generators.one_step import OneStepScheduler
from gdpo_sr.pipelines.one_step_sr import OneStepSRPipeline

PROMPT = "a photo"
_TOKENS = 8
_WIDTH = 16


def tiny_base(
    folder: Path, channels: tuple[int, ...] = (16, 32), seed: int = 0, **unet: Any
) -> Path:
    """Save a base in diffusers layout, the same for the same seed; returns `folder`.

    `unet` are other values of its UNet's config. Its latents hold 12 lapped coefficients at a hop
    of 4 pixels, as those of `mini` do.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = _tokenizer(folder / "tokenizer")
        pipeline = OneStepSRPipeline(
            unet=_unet(channels, **unet),
            vae=_autoencoder(),
            text_encoder=_text_encoder(tokenizer),
            tokenizer=tokenizer,
            scheduler=OneStepScheduler(),
            prompt=PROMPT,
        )
    pipeline.save_pretrained(folder)
    return folder


def _tokenizer(folder: Path) -> CLIPTokenizer:
    """CLIP's tokenizer over single letters, without merges."""
    folder.mkdir(parents=True)
    letters = [*string.ascii_lowercase, ",", "."]
    tokens = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    return CLIPTokenizer(
        str(folder / "vocab.json"),
        str(folder / "merges.txt"),
        pad_token="<|endoftext|>",
        model_max_length=_TOKENS,
    )


def _text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=_WIDTH,
        intermediate_size=_WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def _autoencoder() -> LappedAutoencoder:
    """Twelve of the 48 coefficients of a block."""
    vae = LappedAutoencoder(patch_size=4, latent_channels=12)
    vae.set_kernels(torch.zeros(3), lapped_kernels(torch.eye(3))[:12], torch.ones(12))
    return vae


def _unet(channels: tuple[int, ...], **values: Any) -> UNet2DConditionModel:
    config = {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    }
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=12,
        out_channels=12,
        block_out_channels=channels,
        layers_per_block=1,
        cross_attention_dim=_WIDTH,
        attention_head_dim=4,
        norm_num_groups=8,
        **{**config, **values},
    )
