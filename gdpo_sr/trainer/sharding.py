"""FSDP for a LoRA: the frozen weights are spread over processes, what is trained stays whole."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from accelerate.utils import is_torch_version
from torch import nn

from gdpo_sr.types import OptionError

NEEDED = "2.7"
"""Version of torch whose `fully_shard` leaves parameters alone that it is told to ignore."""


def spreads_weights(accelerator: Accelerator) -> bool:
    """Whether the accelerate configuration asks for FSDP.

    Then a forward pass of the UNet is a matter of all processes at once. The plugin tells: what
    accelerate gives as the type of distribution changes once an optimizer is prepared.
    """
    return getattr(accelerator.state, "fsdp_plugin", None) is not None


def check_spread(accelerator: Accelerator, channels_last: bool, compiled: bool) -> None:
    """Raise OptionError for options that weights in pieces do not allow, and for an older torch.

    With `cpu_ram_efficient_loading` transformers leaves weights of all processes but one empty.
    """
    if is_torch_version("<", NEEDED):
        raise OptionError(
            f"FSDP here needs torch {NEEDED} or newer, this is {torch.__version__}: update torch, "
            "or take options/accelerate/ddp.yaml"
        )
    efficient = accelerator.state.fsdp_plugin.cpu_ram_efficient_loading
    options = {"train.channels_last": channels_last, "train.compile": compiled}
    for name, used in {**options, "fsdp_cpu_ram_efficient_loading": efficient}.items():
        if used:
            raise OptionError(
                f"{name}: true cannot be used with FSDP here: set it to false, or take "
                "options/accelerate/ddp.yaml"
            )


def shard_frozen(unet: nn.Module, accelerator: Accelerator) -> None:
    """Keep 1 / W of the UNet's frozen weights in each of W processes (torch's FSDP2, in place).

    A block's weights are gathered where it is used. Adapters are small and left alone, so that
    optimizer, checkpoints and the switching of adapters need not know.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    adapters = {p for name, p in unet.named_parameters() if ".lora_" in name}
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    for block in [*unet.down_blocks, unet.mid_block, *unet.up_blocks]:
        fully_shard(block, mesh=mesh, ignored_params=adapters)
    fully_shard(unet, mesh=mesh, ignored_params=adapters)


def check_plain_processes(accelerator: Accelerator, stage: str) -> None:
    """Raise OptionError where accelerate would spread parameters in a way that `stage` does not
    know.
    """
    kind = "FSDP" if spreads_weights(accelerator) else accelerator.distributed_type.value
    if kind in ("FSDP", "DEEPSPEED", "MEGATRON_LM"):
        raise OptionError(
            f"{stage} cannot use {kind}: take options/accelerate/ddp.yaml; what it trains is "
            "small, so there is little to spread (docs/processes.md)"
        )
