"""The parts of the embedded base before training: UNet, byte-level CLIP tokenizer, one-layer CLIP
text encoder, scheduler.
"""

from __future__ import annotations

import json
from pathlib import Path

from diffusers import UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from gdpo_sr.generators.lapped_autoencoder import LappedAutoencoder

PROMPT = "a sharp, detailed photo"
NEGATIVE_PROMPT = "a blurry, noisy, compressed photo"
LATENT_CHANNELS = 24
"""Coefficients kept of 48: photographs come back at 45 dB and more. With 12 it is 30 to 45 dB, and
up to a sixth of the gradients is lost."""
TEXT_WIDTH = 32
MAX_TOKENS = 32
_MERGES = ["p h", "o t", "ph ot", "phot o</w>", "s h", "a r", "sh ar", "shar p</w>", "d e", "t a"]


def byte_alphabet() -> list[str]:
    """The 256 printable characters that stand for bytes in CLIP's vocabulary."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    codes = printable + [256 + n for n in range(len(others))]
    return [chr(c) for c in codes]


def build_tokenizer(folder: Path) -> CLIPTokenizer:
    """Write and load a CLIP tokenizer whose vocabulary is the bytes and a few merges."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = byte_alphabet()
    tokens = letters + [f"{c}</w>" for c in letters] + ["".join(m.split()) for m in _MERGES]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {token: index for index, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text(
        "#version: 0.2\n" + "\n".join(_MERGES) + "\n", encoding="utf-8"
    )
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": MAX_TOKENS,
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))
    return CLIPTokenizer.from_pretrained(folder)


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """A one-layer CLIP text encoder; it stays at its random weights (the base is trained on one
    prompt).
    """
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=2 * TEXT_WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=MAX_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config).eval()


def build_vae() -> LappedAutoencoder:
    """An autoencoder without a basis; `fit_autoencoder` gives it one."""
    return LappedAutoencoder(patch_size=4, latent_channels=LATENT_CHANNELS)


def build_unet(latent_channels: int = LATENT_CHANNELS) -> UNet2DConditionModel:
    """The UNet of the diffusion model: three levels, attention at the deepest."""
    return UNet2DConditionModel(
        sample_size=64,
        in_channels=latent_channels,
        out_channels=latent_channels,
        block_out_channels=(72, 72, 96),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=latent_channels // 2,  # as `start_linear` wants it
        use_linear_projection=True,
    )
