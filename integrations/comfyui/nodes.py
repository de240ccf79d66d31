"""The two nodes, thin over `gdpo_sr.OneStepSRPipeline`."""

from __future__ import annotations

from typing import Any

import torch

from gdpo_sr import OneStepSRPipeline

MODEL = "GDPO_SR_MODEL"
COLOR_FIXES = ("wavelet", "adain", "none")


def _device() -> torch.device:
    """ComfyUI's, or outside of it the best that there is."""
    try:
        from comfy.model_management import get_torch_device
    except ImportError:
        from gdpo_sr.utils.devices import best_device

        return best_device()
    return get_torch_device()


class LoadModel:
    """A base, with a LoRA or without."""

    RETURN_TYPES = (MODEL,)
    RETURN_NAMES = ("model",)
    FUNCTION = "load"
    CATEGORY = "image/upscaling"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        """What the node is given."""
        folder = "experiments/NAME or a folder of a LoRA; empty: none"
        return {
            "required": {
                "base": ("STRING", {"default": "mini", "tooltip": "mini, a folder or a hub id"}),
                "lora": ("STRING", {"default": "", "tooltip": folder}),
                "lora_scale": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.05}),
            }
        }

    def load(self, base: str, lora: str, lora_scale: float) -> tuple[OneStepSRPipeline]:
        """The pipeline on ComfyUI's device."""
        pipe = OneStepSRPipeline.from_pretrained(base)
        if lora.strip():
            pipe.load_lora_weights(lora.strip(), scale=lora_scale)
            pipe.merge_lora_weights()
        return (pipe.to(_device()),)


class Restore:
    """Enlarge and restore a batch of pictures."""

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "restore"
    CATEGORY = "image/upscaling"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        """What the node is given."""
        noise = "0 to 999, larger is more realistic, smaller more faithful; -1: the model's own"
        return {
            "required": {
                "model": (MODEL,),
                "image": ("IMAGE",),
                "scale": ("FLOAT", {"default": 4.0, "min": 1.0, "max": 16.0, "step": 0.25}),
                "seed": ("INT", {"default": 0, "min": 0, "max": 2**64 - 1}),
                "t_add": ("INT", {"default": -1, "min": -1, "max": 999, "tooltip": noise}),
                "color_fix": (COLOR_FIXES, {"default": "wavelet"}),
            }
        }

    def restore(
        self,
        model: OneStepSRPipeline,
        image: torch.Tensor,
        scale: float,
        seed: int,
        t_add: int,
        color_fix: str,
    ) -> tuple[torch.Tensor]:
        """Pictures (B, H, W, 3) in [0, 1] of pictures (B, h, w, C), of which an alpha is left."""
        pictures = image[..., :3].movedim(-1, 1).clamp(0, 1)
        restored = model(
            pictures,
            scale=scale,
            generator=torch.Generator().manual_seed(seed),
            t_add=None if t_add < 0 else t_add,
            color_fix=color_fix,
            output_type="pt",
        ).images
        return (restored.movedim(1, -1).clamp(0, 1).float().cpu().contiguous(),)


NODE_CLASS_MAPPINGS = {"GDPOSRLoadModel": LoadModel, "GDPOSRRestore": Restore}
NODE_DISPLAY_NAME_MAPPINGS = {
    "GDPOSRLoadModel": "Load GDPO-SR model",
    "GDPOSRRestore": "Restore (GDPO-SR)",
}
