"""Layout of the checkpoints that the released code (Joyies/GDPO) writes: a dict of tensors, module
lists and ranks. OSEDiff, from which that code descends, writes the same without an adapter on the
VAE's decoder. Files of HYPIR and PiSA-SR are known by their keys; see `origins`.

A UNet has three LoRA adapters that share no module. A VAE, in stage 1 only, has one on its encoder;
those on its decoder are stored too, but never switched on. Alpha is not stored: it is PEFT's
default 8. `conv_in.base_layer` is the UNet's own input convolution, which stage 1 trains in full.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from gdpo_sr.checkpoints.origins import (
    HYPIR,
    OSEDIFF,
    PARTS,
    PISA_SR,
    STAGE1,
    STAGE2,
    Origin,
    PlainLora,
    Tensors,
    added,
    is_hypir,
    is_pisa_sr,
    read_hypir,
    read_pisa_sr,
)
from gdpo_sr.types import CheckpointError

ACTIVE = {"unet": PARTS, "vae": ("encoder",)}
"""Adapters that are switched on."""
REMEDY = "give what the code of GDPO-SR (stage 1 or 2), OSEDiff, HYPIR or PiSA-SR saved"
_DAMAGED = "the file is damaged or changed, copy it again"
_BASE_LAYER = "conv_in.base_layer."


@dataclass(frozen=True)
class ReleasedCheckpoint:
    """Contents of a checkpoint, checked, with the inactive adapters left out.

    Attributes:
        unet: `<module>.lora_{A,B}.weight`, the three adapters in one.
        rank_unet: r of `unet`.
        conv_in: weight and bias of the UNet's input convolution; empty where they are not stored.
        vae: as `unet`, of the VAE's encoder; empty for stage 2.
        rank_vae: r of `vae`; 0 for stage 2.
        origin: whose it is.
        alpha_unet: of `unet`; None: PEFT's default.
        parts: the LoRAs that `unet` is the sum of, by name, where they are more than one.
    """

    unet: Tensors
    rank_unet: int
    conv_in: Tensors
    vae: Tensors
    rank_vae: int
    origin: Origin
    alpha_unet: int | None = None
    parts: dict[str, PlainLora] = field(default_factory=dict)

    @property
    def stage(self) -> int:
        """1 if the VAE was trained too, else 2."""
        return 1 if self.vae else 2


def _of_unet(
    lora: PlainLora, origin: Origin, parts: dict[str, PlainLora] | None = None
) -> ReleasedCheckpoint:
    """A checkpoint of a LoRA of the UNet alone."""
    return ReleasedCheckpoint(lora.tensors, lora.rank, {}, {}, 0, origin, lora.alpha, parts or {})


def read_layout(state: object, source: str) -> ReleasedCheckpoint:
    """Take a loaded checkpoint apart.

    Args:
        state: what `torch.load` gave.
        source: name of its file, for messages.

    Raises:
        CheckpointError: it is none, or a key, rank, adapter or shape is not as it must be.
    """
    if not isinstance(state, Mapping):
        raise CheckpointError(f"'{source}' holds a {type(state).__name__}, not a dict: {REMEDY}")
    if is_hypir(state):
        return _of_unet(read_hypir(state, source), HYPIR)
    if is_pisa_sr(state):
        parts = read_pisa_sr(state, source)
        return _of_unet(added(parts["pixel"], parts["semantic"]), PISA_SR, parts)
    _check_names(state, source)
    unet, rank_unet = _network(state, "unet", source)
    has_vae = "state_dict_vae" in state
    vae, rank_vae = _network(state, "vae", source) if has_vae else ({}, 0)
    conv_in = {
        key.removeprefix(_BASE_LAYER): value
        for key, value in state["state_dict_unet"].items()
        if key.startswith(_BASE_LAYER)
    }
    if has_vae or conv_in:
        _check_conv_in(conv_in, unet, source)
    return ReleasedCheckpoint(unet, rank_unet, conv_in, vae, rank_vae, _origin(state))


def _origin(state: Mapping) -> Origin:
    if "state_dict_vae" not in state:
        return STAGE2
    return STAGE1 if "vae_lora_decoder_modules" in state else OSEDIFF


def own_name(key: str) -> str:
    """`conv_in.lora_A.default_encoder.weight` -> `conv_in.lora_A.weight`."""
    for part in PARTS:
        key = key.replace(f".default_{part}.", ".")
    return key


def _check_names(state: Mapping, source: str) -> None:
    """No key that belongs to another project's checkpoints: its part would be lost."""
    known = {
        f"{name}_{network}" for name in ("rank", "state_dict") for network in ("unet", "vae")
    } | {f"{network}_lora_{part}_modules" for network in ("unet", "vae") for part in PARTS}
    strange = sorted(str(key) for key in state if key not in known)
    if strange:
        raise CheckpointError(
            f"'{source}' holds '{strange[0]}', which no known checkpoint has: {REMEDY}"
        )


def _get(state: Mapping, key: str, kind: type, source: str) -> object:
    """`state[key]`, which must be there and of this kind."""
    if key not in state:
        raise CheckpointError(f"'{source}' lacks '{key}' ({kind.__name__}): {REMEDY}")
    value = state[key]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise CheckpointError(
            f"'{source}': '{key}' is a {type(value).__name__}, expected a {kind.__name__}: {REMEDY}"
        )
    return value


def _network(state: Mapping, network: str, source: str) -> tuple[Tensors, int]:
    """Active adapters of one network as one, and their rank."""
    tensors = _get(state, f"state_dict_{network}", dict, source)
    rank = _get(state, f"rank_{network}", int, source)
    for key, tensor in tensors.items():
        _check_tensor(key, tensor, rank, network, source)
    active: Tensors = {}
    for part in ACTIVE[network]:
        modules = _get(state, f"{network}_lora_{part}_modules", list, source)
        active |= _adapter(tensors, modules, part, f"{network}_lora_{part}_modules", source)
    for key, tensor in tensors.items():
        part = key.rpartition(".default_")[2].removesuffix(".weight")
        if part in ACTIVE[network] and active.get(own_name(key)) is not tensor:
            raise CheckpointError(
                f"'{source}': '{key}' is of a module that '{network}_lora_{part}_modules' does not "
                f"name or another adapter has too: {_DAMAGED}"
            )
    return active, rank


def _adapter(
    tensors: Tensors, modules: list[str], part: str, list_name: str, source: str
) -> Tensors:
    """Both tensors of every listed module, by our names."""
    found: Tensors = {}
    for module in modules:
        for kind in "AB":
            key = f"{module}.lora_{kind}.default_{part}.weight"
            if key not in tensors:
                raise CheckpointError(
                    f"'{source}' lacks '{key}', whose module '{list_name}' names: {_DAMAGED}"
                )
            found[own_name(key)] = tensors[key]
    return found


def _check_tensor(key: object, tensor: object, rank: int, network: str, source: str) -> None:
    """A tensor's name is known, and its shape has the stored rank in the right place."""
    if not isinstance(key, str) or not isinstance(tensor, torch.Tensor):
        raise CheckpointError(
            f"'{source}': '{key}' is a {type(tensor).__name__}, expected a tensor: {REMEDY}"
        )
    if network == "unet" and key.startswith(_BASE_LAYER):
        return
    module, _, rest = key.partition(".lora_")
    kind, _, adapter = rest.removesuffix(".weight").partition(".")
    if not module or kind not in ("A", "B") or not key.endswith(".weight"):
        raise CheckpointError(
            f"'{source}': '{key}' is no LoRA tensor (<module>.lora_A.<adapter>.weight): {REMEDY}"
        )
    if adapter not in [f"default_{part}" for part in PARTS]:
        known = ", ".join(f"default_{part}" for part in PARTS)
        raise CheckpointError(
            f"'{source}': '{key}' is of an unknown adapter '{adapter}', expected one of {known}: "
            f"{REMEDY}"
        )
    shape = tuple(tensor.shape)
    expected = (rank, *shape[1:]) if kind == "A" else (*shape[:1], rank, *(1,) * (len(shape) - 2))
    if len(shape) not in (2, 4) or shape != expected:
        raise CheckpointError(
            f"'{source}': '{key}' has shape {shape}, rank_{network} = {rank} expects "
            f"{_expected(kind, rank)}: {_DAMAGED}"
        )


def _expected(kind: str, rank: int) -> str:
    return f"({rank}, in) or ({rank}, in, k, k)" if kind == "A" else f"(out, {rank}[, 1, 1])"


def _check_conv_in(conv_in: Tensors, unet: Tensors, source: str) -> None:
    """Weight (out, in, k, k) and bias (out,) of the size that the adapter on them has."""
    a, b = (unet.get(f"conv_in.lora_{kind}.weight") for kind in "AB")
    for name in ("weight", "bias"):
        if name not in conv_in:
            raise CheckpointError(f"'{source}' lacks '{_BASE_LAYER}{name}': {REMEDY}")
    if a is None or b is None:
        raise CheckpointError(f"'{source}' lacks 'conv_in.lora_A.default_encoder.weight': {REMEDY}")
    for name, expected in {"weight": (len(b), *a.shape[1:]), "bias": (len(b),)}.items():
        if tuple(conv_in[name].shape) != expected:
            raise CheckpointError(
                f"'{source}': '{_BASE_LAYER}{name}' has shape {tuple(conv_in[name].shape)}, its "
                f"adapter expects {expected}: {_DAMAGED}"
            )
