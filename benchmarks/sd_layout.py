"""A base with the layers of Stable Diffusion 2.1-base at any width and random weights.

python benchmarks/sd_layout.py FOLDER --width 0.125

Time and memory do not depend on the values of weights, so it stands in for the real base wherever
that cannot be had. `width` scales channels and leaves layers, heads and latent size alone: 1 has
the 866 million weights of the real UNet, 1/8 some 14 million. The tokenizer is the embedded base's
with Stable Diffusion's 77 tokens. Source of the shapes: the configs published with
stable-diffusion-2-1-base.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from gdpo_sr.generators.base_folder import EMBEDDED
from gdpo_sr.generators.load_part import no_progress_bar

PROMPT = "clean, high-resolution, 8k"
TOKENS = 77
_VOCABULARY = 49408
_CROSS = "CrossAttnDownBlock2D"
_CROSS_UP = "CrossAttnUpBlock2D"


def build_sd_layout(
    folder: Path,
    width: float = 1.0,
    seed: int = 0,
    device: str = "cpu",
    prediction: str = "epsilon",
) -> Path:
    """Save the base in diffusers layout, the same for the same arguments; returns `folder`.

    Weights are drawn on `device`, which matters at full width only. `prediction` is ``epsilon``,
    as SD 2.1-base has it, or ``v_prediction``.
    """
    folder = Path(folder)
    devices = [torch.device(device)] if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.device(device), no_progress_bar():
        torch.manual_seed(seed)
        UNet2DConditionModel(**unet_config(width)).save_pretrained(folder / "unet")
        AutoencoderKL(**vae_config(width)).save_pretrained(folder / "vae")
        CLIPTextModel(CLIPTextConfig(**text_config(width))).save_pretrained(folder / "text_encoder")
    _embedded_tokenizer().save_pretrained(folder / "tokenizer")
    _save_json(folder / "scheduler" / "scheduler_config.json", scheduler_config(prediction))
    _save_json(folder / "model_index.json", model_index())
    return folder


def unet_config(width: float = 1.0) -> dict[str, Any]:
    """Arguments of UNet2DConditionModel; `attention_head_dim` is the number of heads here."""
    channels = _scaled((320, 640, 1280, 1280), width)
    return {
        "sample_size": 64,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": channels,
        "layers_per_block": 2,
        "down_block_types": (_CROSS, _CROSS, _CROSS, "DownBlock2D"),
        "up_block_types": ("UpBlock2D", _CROSS_UP, _CROSS_UP, _CROSS_UP),
        "cross_attention_dim": _scaled((1024,), width)[0],
        "attention_head_dim": (5, 10, 20, 20),
        "use_linear_projection": True,
        "norm_num_groups": math.gcd(32, *channels),
    }


def vae_config(width: float = 1.0) -> dict[str, Any]:
    """Arguments of AutoencoderKL."""
    channels = _scaled((128, 256, 512, 512), width)
    return {
        "sample_size": 768,
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": 4,
        "block_out_channels": channels,
        "layers_per_block": 2,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "norm_num_groups": math.gcd(32, *channels),
        "scaling_factor": 0.18215,
    }


def text_config(width: float = 1.0) -> dict[str, Any]:
    """Arguments of CLIPTextConfig: the 23 layers that SD 2 keeps of OpenCLIP ViT-H."""
    hidden, intermediate = _scaled((1024, 4096), width)
    return {
        "vocab_size": _VOCABULARY,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": 23,
        "num_attention_heads": 16,
        "max_position_embeddings": TOKENS,
        "hidden_act": "gelu",
        **_special_tokens(),
    }


def scheduler_config(prediction: str = "epsilon") -> dict[str, Any]:
    """The schedule of all Stable Diffusion; timesteps are left to the options."""
    return {
        "_class_name": "PNDMScheduler",
        "num_train_timesteps": 1000,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "prediction_type": prediction,
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
    }


def model_index() -> dict[str, Any]:
    """The table of parts that diffusers' own loader reads."""
    return {
        "_class_name": "StableDiffusionPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "scheduler": ["diffusers", "PNDMScheduler"],
        "feature_extractor": [None, None],
        "safety_checker": [None, None],
        "requires_safety_checker": False,
        "prompt": PROMPT,
    }


def _scaled(channels: tuple[int, ...], width: float) -> tuple[int, ...]:
    scaled = tuple(round(c * width) for c in channels)
    if any(s != c * width for s, c in zip(scaled, channels, strict=True)):
        raise ValueError(f"width {width:g}: use a power of 1/2, so that {channels} stay whole")
    return scaled


def _embedded_tokenizer() -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(EMBEDDED["mini"] / "tokenizer", model_max_length=TOKENS)


def _special_tokens() -> dict[str, int]:
    tokenizer = _embedded_tokenizer()
    names = [f"{name}_token_id" for name in ("bos", "eos", "pad")]
    return {name: getattr(tokenizer, name) for name in names}


def _save_json(path: Path, values: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Write one base."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the base goes")
    parser.add_argument("--width", type=float, default=0.125, help="of the real one's (0.125)")
    parser.add_argument("--seed", type=int, default=0, help="of the random weights (0)")
    parser.add_argument("--device", default="cpu", help="that draws them (cpu)")
    args = parser.parse_args()
    print(build_sd_layout(args.folder, args.width, args.seed, args.device))


if __name__ == "__main__":
    main()
