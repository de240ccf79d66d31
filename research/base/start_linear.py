"""Start the UNet as the best linear prediction, so that training has only the rest to learn.

The mean components of the latents are many times larger than everything else, and the wanted
prediction contains a multiple of them, since t_add != t_diff. A freshly drawn UNet needs thousands
of updates to pass them through its group norms exactly. Here that path is set analytically:
`conv_in` copies the scaled latent, the last skip connection brings it to the last norm as pairs
(x, -x), constant channels fix that norm's scale, and since silu(x) - silu(-x) = x, `conv_out` reads
it unchanged.
"""

from __future__ import annotations

import torch
from diffusers import UNet2DConditionModel

CONSTANT = 16.0
"""Value of the constant channels: much larger than the unit-variance copies, so that it alone sets
the norm's scale.
"""


@torch.no_grad()
def start_linear(unet: UNet2DConditionModel, noisy: torch.Tensor, wanted: torch.Tensor) -> None:
    """Make `unet(noisy)` the multiple of each channel of `noisy` that is nearest to `wanted`.

    Args:
        unet: freshly drawn, with two latents per group of its last norm.
        noisy: latents as the UNet will get them, (N, c, h, w).
        wanted: what it should predict for them, same shape.
    """
    power = noisy.square().mean(dim=(0, 2, 3))
    factors = (noisy * wanted).mean(dim=(0, 2, 3)) / power
    scale = power.sqrt()
    _copy_latents(unet.conv_in, noisy, scale)
    _bring_to_output(unet, len(scale))
    _read_output(unet, factors * scale)


def _copy_latents(conv: torch.nn.Conv2d, noisy: torch.Tensor, scale: torch.Tensor) -> None:
    """Leading outputs copy the latents at unit variance; the others see local differences at unit
    variance.
    """
    count = len(scale)
    local = noisy[..., 1:, 1:] - noisy[..., :-1, :-1]
    differences = local.square().mean(dim=(0, 2, 3)).sqrt()
    kernels = torch.randn_like(conv.weight)
    kernels = (kernels - kernels.mean(dim=(2, 3), keepdim=True)) / differences[:, None, None]
    conv.weight.copy_(kernels / (9 * count) ** 0.5)
    conv.weight[:count] = 0
    conv.bias.zero_()
    for k in range(count):
        conv.weight[k, k, 1, 1] = 1 / scale[k]


def _bring_to_output(unet: UNet2DConditionModel, count: int) -> None:
    """The last resnet's shortcut writes (x_a, -x_a, x_b, -x_b, +C, -C) into each group of six
    channels.
    """
    resnet = unet.up_blocks[-1].resnets[-1]
    shortcut, width = resnet.conv_shortcut, unet.conv_in.out_channels
    for k in range(count):
        for offset, sign in ((0, 1.0), (1, -1.0)):
            row = pair_row(k) + offset
            shortcut.weight[row] = 0
            shortcut.weight[row, width + k] = sign
            shortcut.bias[row] = 0
            resnet.conv2.weight[row] = 0
            resnet.conv2.bias[row] = 0
    for group in range(count // 2):
        shortcut.bias[6 * group + 4] = CONSTANT
        shortcut.bias[6 * group + 5] = -CONSTANT


def pair_row(k: int) -> int:
    """Channel of +x_k; -x_k is the next."""
    return 6 * (k // 2) + 2 * (k % 2)


def _read_output(unet: UNet2DConditionModel, factors: torch.Tensor) -> None:
    """Undo the last norm's scale and read factor * x from each pair; the free channels start nearly
    silent.
    """
    norm, conv = unet.conv_norm_out, unet.conv_out
    spread = ((CONSTANT**2 + 2) / 3) ** 0.5
    conv.weight.mul_(0.1)
    conv.bias.zero_()
    for k, factor in enumerate(factors):
        row = pair_row(k)
        norm.weight[row : row + 2] = spread
        conv.weight[:, row : row + 2] = 0
        conv.weight[k, row, 1, 1] = factor
        conv.weight[k, row + 1, 1, 1] = -factor
    for group in range(len(factors) // 2):
        conv.weight[:, 6 * group + 4 : 6 * group + 6] = 0
