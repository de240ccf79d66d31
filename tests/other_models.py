"""OSEDiff, HYPIR and PiSA-SR on a tiny base: checkpoints in their exact layouts, written by PEFT as
their code does, and restatements of their forward passes. Nothing of ours is used but the base.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from peft import LoraConfig
from torch import nn

from gdpo_sr.generators.load import load_components
from gdpo_sr.pipelines.one_step_sr import OneStepSRPipeline

Predict = Callable[..., torch.Tensor]
LINEAR = "to_k to_q to_v to_out.0".split()
CONVOLUTIONS = "conv conv1 conv2 conv_in conv_shortcut conv_out".split()
UNET = [*LINEAR, *CONVOLUTIONS, "proj_out", "proj_in", "ff.net.2", "ff.net.0.proj"]
RANK = 2


def sd_shaped_base(folder: Path, tiny: Path) -> Path:
    """The tiny base with an AutoencoderKL."""
    pipe = OneStepSRPipeline.from_pretrained(tiny)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipe.vae = AutoencoderKL(
            block_out_channels=(8, 8, 8),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            latent_channels=12,
            norm_num_groups=4,
            scaling_factor=0.18215,
        ).requires_grad_(False)
    pipe.save_pretrained(folder)
    return folder


class Restated:
    """UNet, VAE and text of a base, for one of the three models."""

    def __init__(self, base: Path) -> None:
        parts = load_components(base)
        self.unet: UNet2DConditionModel = parts["unet"].requires_grad_(False)
        self.vae: AutoencoderKL = parts["vae"].requires_grad_(False)
        self.encoder, self.tokenizer = parts["text_encoder"], parts["tokenizer"]
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
        self.alphas = torch.cumprod(1 - betas, 0)

    def text(self, prompt: str) -> torch.Tensor:
        ids = self.tokenizer(
            [prompt],
            max_length=self.tokenizer.model_max_length,
            padding="max_length",
            truncation=True,
            return_tensors="pt",
        ).input_ids
        return self.encoder(ids)[0]

    def encode(self, images: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """A draw of the posterior; `noise` 0 is its mean."""
        posterior = self.vae.encode(images).latent_dist
        return (posterior.mean + posterior.std * noise) * self.vae.config.scaling_factor

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return self.vae.decode(latents / self.vae.config.scaling_factor).sample.clamp(-1, 1)

    def x0(self, noisy: torch.Tensor, epsilon: torch.Tensor, t: int) -> torch.Tensor:
        alpha = self.alphas[t]
        return (noisy - (1 - alpha) ** 0.5 * epsilon) / alpha**0.5

    def answer(self, latents: torch.Tensor, t: int, prompt: str) -> torch.Tensor:
        embeds = self.text(prompt).expand(len(latents), -1, -1)
        return self.unet(latents, torch.tensor([t]), encoder_hidden_states=embeds).sample


@torch.no_grad()
def fill(network: nn.Module, seed: int, size: float = 0.05) -> None:
    """Give adapters (and the trained input convolution) weights that show."""
    rng = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        if "lora" in name:
            parameter.copy_(size * torch.randn(parameter.shape, generator=rng))


def part_of(module: str) -> str:
    if "down_blocks" in module or "conv_in" in module:
        return "encoder"
    return "decoder" if "up_blocks" in module or "conv_out" in module else "others"


def unet_modules(unet: nn.Module) -> dict[str, list[str]]:
    """What OSEDiff and PiSA-SR adapt, by part of the UNet."""
    found: dict[str, list[str]] = {"encoder": [], "decoder": [], "others": []}
    for name, _ in unet.named_parameters():
        if "bias" not in name and "norm" not in name and any(p in name for p in UNET):
            module = name.removesuffix(".weight")
            found[part_of(module)].append(module)
    return found


def add(network: nn.Module, modules: list[str], name: str, rank: int = RANK) -> None:
    config = LoraConfig(r=rank, init_lora_weights="gaussian", target_modules=modules)
    network.add_adapter(config, adapter_name=name)


class OSEDiff(Restated):
    """LoRA on UNet and VAE encoder, `conv_in` in full; t = 999, no noise."""

    def __init__(self, base: Path) -> None:
        super().__init__(base)
        self.lists = unet_modules(self.unet)
        for part, modules in self.lists.items():
            add(self.unet, modules, f"default_{part}")
        self.unet.set_adapter([f"default_{part}" for part in self.lists])
        self.vae_list = [
            name.removesuffix(".weight")
            for name, _ in self.vae.named_parameters()
            if "bias" not in name and "norm" not in name
            if ("encoder" in name and any(p in name for p in (*LINEAR, *CONVOLUTIONS)))
            or ("quant_conv" in name and "post_quant_conv" not in name)
        ]
        self.vae_list += self.vae_list[-1:]  # theirs lists some twice
        add(self.vae, self.vae_list, "default_encoder")
        fill(self.unet, 1)
        fill(self.vae, 2)
        with torch.no_grad():
            self.unet.conv_in.base_layer.weight.mul_(1.1)

    def save(self, file: Path) -> Path:
        state = {f"unet_lora_{part}_modules": names for part, names in self.lists.items()}
        kept = {k: v for k, v in self.unet.state_dict().items() if "lora" in k or "conv_in" in k}
        vae = {k: v for k, v in self.vae.state_dict().items() if "lora" in k}
        state |= {"vae_lora_encoder_modules": self.vae_list, "rank_unet": RANK, "rank_vae": RANK}
        torch.save({**state, "state_dict_unet": kept, "state_dict_vae": vae}, file)
        return file

    @torch.no_grad()
    def __call__(self, images: torch.Tensor, noise: torch.Tensor, prompt: str = "") -> torch.Tensor:
        latents = self.encode(images, noise)
        return self.decode(self.x0(latents, self.answer(latents, 999, prompt), 999))


class HYPIR(Restated):
    """LoRA on the UNet, alpha = rank; t = 200, no noise."""

    def __init__(self, base: Path, rank: int = 256) -> None:
        super().__init__(base)
        names = [name for name in UNET if name != "conv_in"]
        config = LoraConfig(
            r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=names
        )
        self.unet.add_adapter(config)
        fill(self.unet, 3, 0.02)

    def save(self, file: Path) -> Path:
        torch.save({n: p.detach() for n, p in self.unet.named_parameters() if "lora" in n}, file)
        return file

    @torch.no_grad()
    def __call__(self, images: torch.Tensor, noise: torch.Tensor, prompt: str = "") -> torch.Tensor:
        latents = self.encode(images, noise)
        return self.decode(self.x0(latents, self.answer(latents, 200, prompt), 200))


class PiSASR(Restated):
    """A pixel and a semantic LoRA on the UNet; t = 1, its answer is what is taken away."""

    def __init__(self, base: Path) -> None:
        super().__init__(base)
        self.lists = unet_modules(self.unet)
        for kind, rank in (("pix", RANK), ("sem", RANK + 1)):
            for part, modules in self.lists.items():
                add(self.unet, modules, f"default_{part}_{kind}", rank)
        fill(self.unet, 4)

    def save(self, file: Path) -> Path:
        state = {
            f"unet_lora_{part}_modules_{kind}": names
            for kind in ("pix", "sem")
            for part, names in self.lists.items()
        }
        state |= {"lora_rank_unet_pix": RANK, "lora_rank_unet_sem": RANK + 1}
        kept = {k: v for k, v in self.unet.state_dict().items() if "lora" in k}
        torch.save({**state, "state_dict_unet": kept}, file)
        return file

    def _use(self, *kinds: str) -> None:
        self.unet.set_adapter([f"default_{part}_{kind}" for kind in kinds for part in self.lists])

    @torch.no_grad()
    def __call__(
        self,
        images: torch.Tensor,
        noise: torch.Tensor,
        prompt: str = "",
        pixel: float = 1.0,
        semantic: float = 1.0,
    ) -> torch.Tensor:
        latents = self.encode(images, noise)
        self._use("pix")
        of_pixel = self.answer(latents, 1, prompt)
        self._use("pix", "sem")
        both = self.answer(latents, 1, prompt)
        return self.decode(latents - (pixel * of_pixel + semantic * (both - of_pixel)))
