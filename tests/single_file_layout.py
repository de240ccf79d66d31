"""Tensors of a tiny model in the naming of Stable Diffusion 2's one-file releases (ldm and
OpenCLIP): the reverse of what diffusers' single-file loaders do.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

Tensors = dict[str, torch.Tensor]

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
_VAE_ENDS = {
    "conv_norm_out": "norm_out",
    "mid_block.resnets.0": "mid.block_1",
    "mid_block.resnets.1": "mid.block_2",
    "mid_block.attentions.0": "mid.attn_1",
    "conv_shortcut": "nin_shortcut",
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
    ".downsamplers.0.": ".downsample.",
    ".upsamplers.0.": ".upsample.",
}
_TEXT = {
    "embeddings.token_embedding": "token_embedding",
    "embeddings.position_embedding.weight": "positional_embedding",
    "encoder.layers": "transformer.resblocks",
    "final_layer_norm": "ln_final",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn": "attn",
}


def write_single_file(folder: Path, file: Path) -> Path:
    """One file out of a model in diffusers' layout; returns `file`."""
    unet = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    vae = load_file(folder / "vae" / "diffusion_pytorch_model.safetensors")
    text = load_file(folder / "text_encoder" / "model.safetensors")
    tensors = {f"model.diffusion_model.{k}": v for k, v in _unet(unet).items()}
    tensors |= {f"first_stage_model.{k}": v for k, v in _vae(vae).items()}
    tensors |= {f"cond_stage_model.model.{k}": v for k, v in _text(text).items()}
    save_file({k: v.contiguous() for k, v in tensors.items()}, file)
    return file


def _replaced(name: str, parts: dict[str, str]) -> str:
    for old, new in parts.items():
        name = name.replace(old, new)
    return name


def _unet(tensors: Tensors) -> Tensors:
    return {_unet_name(name, tensors): value for name, value in tensors.items()}


def _unet_name(name: str, all_names: Tensors) -> str:
    """Of a UNet with two ResNet blocks a level, three on the way up."""
    for old, new in _UNET_ENDS.items():
        if name.startswith(f"{old}."):
            name = new + name.removeprefix(old)
            return _replaced(name, _RESNET) if "resnets" in old else name
    match = re.fullmatch(r"(down|up)_blocks\.(\d)\.(\w+)\.(\d)\.(.*)", name)
    side, level, kind, index, rest = match.groups()
    first, prefix = (1, "input_blocks") if side == "down" else (0, "output_blocks")
    place = first + 3 * int(level) + (2 if kind.endswith("samplers") else int(index))
    if kind == "downsamplers":
        return f"{prefix}.{place}.0.{rest.replace('conv', 'op')}"
    if kind == "upsamplers":
        attends = any(n.startswith(f"up_blocks.{level}.attentions") for n in all_names)
        return f"{prefix}.{place}.{2 if attends else 1}.{rest}"
    rest = _replaced(rest, _RESNET) if kind == "resnets" else rest
    return f"{prefix}.{place}.{0 if kind == 'resnets' else 1}.{rest}"


def _vae(tensors: Tensors) -> Tensors:
    found = {}
    for name, value in tensors.items():
        new = _replaced(name, _VAE_ENDS)
        new = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", new)
        new = re.sub(r"down_blocks\.(\d)\.downsample", r"down.\1.downsample", new)
        new = re.sub(
            r"up_blocks\.(\d)\.(resnets|upsample)",
            lambda m: f"up.{3 - int(m[1])}.{'block' if m[2] == 'resnets' else 'upsample'}",
            new,
        )
        is_projection = re.search(r"attn_1\.(q|k|v|proj_out)\.weight", new)
        found[new] = value[:, :, None, None] if is_projection else value
    return found


def _text(tensors: Tensors) -> Tensors:
    """With the 24th layer and the projection, which Stable Diffusion 2 leaves out."""
    plain = {name.removeprefix("text_model."): value for name, value in tensors.items()}
    found = {_replaced(name, _TEXT): v for name, v in plain.items() if "position_ids" not in name}
    for layer in range(23):
        stem = f"transformer.resblocks.{layer}.attn"
        for kind in ("weight", "bias"):
            parts = [found.pop(f"{stem}.{p}_proj.{kind}") for p in "qkv"]
            found[f"{stem}.in_proj_{kind}"] = torch.cat(parts)
    last = {k: v for k, v in found.items() if ".resblocks.22." in k}
    found |= {k.replace(".22.", ".23."): v.clone() for k, v in last.items()}
    width = len(found["ln_final.weight"])
    return {**found, "text_projection": torch.eye(width), "logit_scale": torch.tensor(1.0)}
