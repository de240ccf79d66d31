"""What an adapter means: the base that it was trained on, timesteps, prompt, and what it changes.

It lies beside the weights in `gdpo_sr.json`; whoever loads the adapter reads and applies it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from gdpo_sr.config.yaml_file import read_yaml
from gdpo_sr.generators.families import network_family
from gdpo_sr.generators.noise_aware_generator import NoiseAwareGenerator
from gdpo_sr.generators.one_step import PREDICTION_TYPES
from gdpo_sr.types import CheckpointError, OptionError
from gdpo_sr.utils.json_file import read_object
from gdpo_sr.writer import write_file

if TYPE_CHECKING:
    from gdpo_sr.config.network_options import NetworkOptions

MEANING_FILE = "gdpo_sr.json"
STAGE1_FILE = "stage1.json"
"""What version 0.1 wrote beside an adapter of stage 1: timesteps and prompt."""
SAME_BASE = 5e-3
"""Relative L2 distance of sampled weights within which two bases are the same; rounding to bfloat16
is 2e-3."""
_TENSORS, _VALUES = 16, 8  # of the sample: tensors, and values of each

_AGAIN = "copy the LoRA again"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Meaning:
    """What `gdpo_sr.json` holds; None where it is not known.

    Attributes:
        base, revision: as in `NetworkOptions`.
        unet, vae: folders of parts that replaced the base's.
        t_add, t_diff, prompt: with which it was trained.
        prediction_type: what the network says with it, where that is not as with its base.
        project: whose adapter it is that makes a one-step model out of a plain base (HYPIR,
            PiSA-SR); None: it goes on from a one-step model.
        changes: parts that the adapter changes: unet, vae, and conv_in where that is replaced.
        weights: some values of the base's network by name, to know it again.
    """

    base: str | list[str] | None = None
    revision: str | None = None
    unet: str | None = None
    vae: str | None = None
    t_add: int | None = None
    t_diff: int | None = None
    prompt: str | None = None
    prediction_type: str | None = None
    project: str | None = None
    changes: tuple[str, ...] = ("unet",)
    weights: dict[str, list[float]] = field(default_factory=dict)

    @classmethod
    def of(cls, network: NoiseAwareGenerator, base: NetworkOptions) -> Meaning:
        """Meaning of what is about to be trained on `network`, which was loaded from `base`."""
        t = network.scheduler.config
        return cls(
            base=base.base,
            revision=base.revision,
            unet=base.unet,
            vae=base.vae,
            t_add=t.t_add,
            t_diff=t.t_diff,
            prompt=network.prompt,
            weights=sample_weights(network.unet),
        )

    def write(self, folder: Path) -> None:
        """Write `gdpo_sr.json` in an adapter's folder."""
        text = json.dumps(asdict(self), indent=1, ensure_ascii=False)
        write_file(folder / MEANING_FILE, text + "\n")

    def settings(self) -> dict[str, Any]:
        """Timesteps and prompt."""
        return {"t_add": self.t_add, "t_diff": self.t_diff, "prompt": self.prompt}

    def without_folders(self) -> Meaning:
        """For others, who have none of this machine's folders."""
        name = self.base if isinstance(self.base, str) and not Path(self.base).exists() else None
        return replace(self, base=name, unet=None, vae=None)


_KINDS: dict[str, tuple[type, ...]] = {
    "base": (str, list),
    "t_add": (int,),
    "t_diff": (int,),
    "changes": (list,),
    "weights": (dict,),
}


def read_meaning(adapter: Path) -> Meaning:
    """Meaning of an adapter, which lies beside its weights; of version 0.1 what `stage1.json` or
    its run's options say.

    Raises:
        CheckpointError: a file is damaged, or holds a value of another kind.
    """
    adapter = adapter.parent if adapter.is_file() else adapter
    for name in (MEANING_FILE, STAGE1_FILE):
        if (adapter / name).is_file():
            changes = {} if name == MEANING_FILE else {"changes": ["unet", "vae", "conv_in"]}
            return _checked(adapter / name, {**read_object(adapter / name, _AGAIN), **changes})
    options = adapter.resolve().parent.parent / "options.yml"
    return run_meaning(options) if options.is_file() else Meaning()


def run_meaning(options: Path) -> Meaning:
    """What the resolved options of a run say of its network.

    Raises:
        CheckpointError: they cannot be read.
    """
    try:
        network = read_yaml(options).get("network_g")
    except OptionError as error:
        raise CheckpointError(f"{error}; it says what the LoRA of its run means") from error
    return _checked(options, dict(network) if isinstance(network, dict) else {})


def _checked(file: Path, values: dict[str, Any]) -> Meaning:
    """Known keys of the right kind; others are left out."""
    known = {f.name: values[f.name] for f in fields(Meaning) if values.get(f.name) is not None}
    for name, value in known.items():
        kinds = _KINDS.get(name, (str,))
        if not isinstance(value, kinds) or isinstance(value, bool):
            expected = " or a ".join(kind.__name__ for kind in kinds)
            raise CheckpointError(
                f"'{file}': {name} is a {type(value).__name__}, expected a {expected}: "
                "copy the LoRA again"
            )
    weights = known.get("weights", {})
    if not all(_are_numbers(values) for values in weights.values()):
        raise CheckpointError(f"'{file}': weights must be lists of numbers: copy the LoRA again")
    kind = known.get("prediction_type")
    if kind not in (None, *PREDICTION_TYPES):
        names = ", ".join(PREDICTION_TYPES)
        raise CheckpointError(
            f"'{file}': prediction_type = {kind!r}, expected one of {names}: copy the LoRA again"
        )
    changes = tuple(map(str, known.get("changes", ("unet",))))
    return Meaning(**{**known, "changes": changes})


def _are_numbers(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(v, (int, float)) for v in values)


def apply_meaning(
    network: NoiseAwareGenerator, meaning: Meaning, given: Mapping[str, Any] | None = None
) -> None:
    """Set timesteps and prompt to those of the training, but for what the user gave.

    Args:
        given: values by the names t_add, t_diff and prompt; None: not given. One that differs from
            the training's is told by a warning.
    """
    trained = meaning.settings()
    for name, value in (given or {}).items():
        tell_override(name, value, trained[name])
        if value is not None:
            trained[name] = None
    network.scheduler.set_timesteps_pair(trained["t_add"], trained["t_diff"])
    if meaning.prediction_type is not None:
        network.scheduler.register_to_config(prediction_type=meaning.prediction_type)
    if trained["prompt"] is not None:
        network.prompt = trained["prompt"]


def resume_meaning(
    network: NoiseAwareGenerator, meaning: Meaning, saved: Mapping[str, Any] | None
) -> Meaning:
    """Of a run that goes on: timesteps and prompt as its state holds them; None: of version 0.1.

    Raises:
        CheckpointError: the prompt is no text.
    """
    meaning = replace(meaning, **(saved or {}))
    if not isinstance(meaning.prompt, str | None):
        raise CheckpointError(f"prompt {meaning.prompt!r:.60} of the state is no text")
    apply_meaning(network, meaning)
    return meaning


def given_in(options: NetworkOptions) -> dict[str, Any]:
    """Timesteps and prompt that an options file sets, for `apply_meaning`."""
    return {"t_add": options.t_add, "t_diff": options.t_diff, "prompt": options.prompt}


def base_of(meaning: Meaning, place: Mapping[str, Any]) -> dict[str, Any]:
    """base, revision, unet and vae as given in `place`, or without a base there those of the
    training; mini where it is not known.
    """
    given = {name: place.get(name) for name in ("base", "revision", "unet", "vae")}
    if given["base"] is not None:
        return given
    trained = {name: getattr(meaning, name) for name in given}
    trained["base"] = trained["base"] or "mini"
    return {name: given[name] or trained[name] for name in given}


def tell_override(name: str, value: Any, trained: Any) -> None:
    """Warn if what the user gave replaces another value that the adapter was trained with."""
    if None not in (value, trained) and value != trained:
        _log.warning("%s = %r, given, replaces %r of the LoRA's training", name, value, trained)


def check_base(network: nn.Module, meaning: Meaning, source: str | Path) -> None:
    """Warn if `network` has other weights than the base of an adapter's training."""
    own = sample_weights(network)
    if not meaning.weights:
        return
    distance = _distance(own, meaning.weights)
    if distance > SAME_BASE:
        _log.warning(
            "LoRA '%s' was trained on another base%s: weights of this one differ by %.3f (relative,"
            " limit %g), so the result is not what was trained; name that base with --base",
            source,
            f" ('{meaning.base}')" if meaning.base is not None else "",
            distance,
            SAME_BASE,
        )


def sample_weights(network: nn.Module) -> dict[str, list[float]]:
    """Some values of some matrices of a network without its adapters; none of what stage 1 trains
    in full.
    """
    skipped = f"{network_family(network).input_layer}."
    matrices = {
        name.replace(".base_layer.", "."): value
        for name, value in network.named_parameters()
        if value.ndim > 1 and ".lora_" not in name and not name.startswith(skipped)
    }
    names = sorted(matrices)
    chosen = names[:: max(1, len(names) // _TENSORS)][:_TENSORS]
    return {name: _values(matrices[name]) for name in chosen}


def _values(tensor: torch.Tensor) -> list[float]:
    flat = tensor.detach().flatten()
    picked = flat[:: max(1, len(flat) // _VALUES)][:_VALUES].float().cpu()
    return [float(f"{value:.6g}") for value in picked.tolist()]


def _distance(own: Mapping[str, list[float]], stored: Mapping[str, list[float]]) -> float:
    """Relative L2 distance; infinity if the names or sizes differ."""
    if {k: len(v) for k, v in own.items()} != {k: len(v) for k, v in stored.items()}:
        return float("inf")
    a, b = (torch.tensor([v for name in sorted(d) for v in d[name]]) for d in (own, stored))
    return float((a - b).norm() / b.norm().clamp_min(1e-12))
