"""What our own networks and schedules have in common: they are saved in diffusers' layout and take
adapters as diffusers' networks do, without diffusers, whose import takes longer than a picture.
"""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file, save
from torch import nn

from gdpo_sr.writer import write_file

_WEIGHTS = "diffusion_pytorch_model"
Method = TypeVar("Method", bound=Callable[..., Any])
Own = TypeVar("Own", bound="Saved")


class Config(dict[str, Any]):
    """Arguments of a constructor, by key and as attributes."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"no setting {name!r} among {', '.join(self)}") from None


def keeps_config(init: Method) -> Method:
    """Decorator of a constructor: its arguments become `config` of the object."""
    signature = inspect.signature(init)

    @functools.wraps(init)
    def wrapped(self: Saved, *args: Any, **kwargs: Any) -> None:
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        self.__dict__["config"] = Config(list(bound.arguments.items())[1:])
        init(self, *args, **kwargs)

    return wrapped  # type: ignore[return-value]


class Saved:
    """Something that its config makes; `__init__` is decorated by `keeps_config`."""

    config_name = "config.json"
    config: Config

    def register_to_config(self, **changes: Any) -> None:
        """Replace settings; they are saved from then on."""
        self.config = Config(self.config | changes)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the config."""
        values = {"_class_name": type(self).__name__, **dict(sorted(self.config.items()))}
        write_file(Path(folder) / self.config_name, json.dumps(values, indent=2) + "\n")

    @classmethod
    def from_pretrained(cls: type[Own], folder: str | Path) -> Own:
        """The object whose config, or that of a like class, lies in `folder`."""
        return cls.from_config(json.loads((Path(folder) / cls.config_name).read_bytes()))

    @classmethod
    def from_config(cls: type[Own], values: Mapping[str, Any]) -> Own:
        """The object of these settings; what its class does not know is left out."""
        known = inspect.signature(cls.__init__).parameters
        return cls(**{key: value for key, value in values.items() if key in known})


class SavedNetwork(Saved, nn.Module):
    """A network with its weights beside its config."""

    _supports_gradient_checkpointing = False
    _hf_peft_config_loaded = False

    @property
    def dtype(self) -> torch.dtype:
        """Of its first parameter."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Of its first parameter."""
        return next(self.parameters()).device

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config and weights."""
        super().save_pretrained(folder)
        tensors = {key: value.detach().contiguous() for key, value in self.state_dict().items()}
        data = save(tensors, metadata={"format": "pt"})
        write_file(Path(folder) / f"{_WEIGHTS}.safetensors", data)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        torch_dtype: torch.dtype = torch.float32,
        use_safetensors: bool = True,
        variant: str | None = None,
        output_loading_info: bool = False,
    ) -> Any:
        """The network in `folder`, in evaluation mode; arguments and results as in diffusers.

        With `output_loading_info` also what is missing; such a weight is left without values.

        Raises:
            OSError: a file cannot be read.
            RuntimeError: a weight has another shape.
        """
        with torch.device("meta"):
            network = super().from_pretrained(folder)
        tensors = _read_weights(Path(folder), use_safetensors, variant)
        missing, unexpected = network.load_state_dict(tensors, strict=False, assign=True)
        if missing and not output_loading_info:
            raise RuntimeError(f"'{folder}' lacks weights, such as '{missing[0]}'")
        network = network.to(torch_dtype).eval()
        report = {"missing_keys": missing, "unexpected_keys": unexpected}
        return (network, report) if output_loading_info else network


def _read_weights(folder: Path, safe: bool, variant: str | None) -> dict[str, torch.Tensor]:
    stem = f"{_WEIGHTS}.{variant}" if variant else _WEIGHTS
    if safe:
        return load_file(folder / f"{stem}.safetensors")
    return torch.load(folder / f"{stem}.bin", map_location="cpu", weights_only=True)


def _of_diffusers(name: str) -> Callable[..., Any]:
    def method(self: SavedNetwork, *args: Any, **kwargs: Any) -> Any:
        from diffusers.loaders import PeftAdapterMixin

        return getattr(PeftAdapterMixin, name)(self, *args, **kwargs)

    method.__name__, method.__doc__ = name, f"`{name}` of diffusers' PeftAdapterMixin."
    return method


for _name in (
    "add_adapter",
    "set_adapter",
    "active_adapters",
    "enable_adapters",
    "disable_adapters",
    "delete_adapters",
    "fuse_lora",
    "_fuse_lora_apply",
    "unfuse_lora",
    "_unfuse_lora_apply",
    "unload_lora",
):
    setattr(SavedNetwork, _name, _of_diffusers(_name))


def follows_offloading(method: Method) -> Method:
    """Decorator of a method that is called in place of `forward`: where accelerate keeps the
    network off the device, it is moved there first.
    """

    @functools.wraps(method)
    def wrapped(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        hook = getattr(self, "_hf_hook", None)
        if hook is not None:
            hook.pre_forward(self)
        return method(self, *args, **kwargs)

    return wrapped  # type: ignore[return-value]
