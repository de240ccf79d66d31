"""The section `network_g`: a base model, parts that replace its own, timesteps and prompts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from gdpo_sr.option_group import OptionGroup, raise_problems

_EMBEDDED = ("mini", "mini-diffusion")


def _names(value: Any) -> Any:
    several = value if isinstance(value, (list, tuple)) else [value]
    if not several or not all(isinstance(name, str) and name for name in several):
        raise ValueError("must be a name or a list of names")
    return value


BaseName = Annotated[str | list[str], BeforeValidator(_names)]
"""One base, or mirrors of it that are tried in turn."""


class TaggerOptions(OptionGroup):
    """A transformers model that describes pictures."""

    model: str = Field(
        min_length=1,
        description="Folder or hub id of an image-to-text model, or with labels of a zero-shot "
        "image classification model.",
    )
    revision: str | None = Field(None, min_length=1, description="Commit or tag of a hub id.")
    labels: list[str] = Field(
        default_factory=list, description="Words to choose from; empty: the model writes captions."
    )
    num_labels: int = Field(5, ge=1, description="Most likely labels that are kept.")
    max_tokens: int = Field(30, ge=1, le=1000, description="Longest caption, in tokens.")


class PromptOptions(OptionGroup):
    """Where the prompt of a picture comes from."""

    source: Literal["fixed", "file", "tagger"] = Field(
        "fixed",
        description="fixed: network_g.prompt for all; file: photo.txt beside photo.jpg; tagger: a "
        "model's words, from the cache. network_g.prompt is put behind words of file and tagger.",
    )
    tagger: TaggerOptions | None = Field(None, description="The model of source tagger.")
    cache: str = Field(
        "prompt_cache",
        min_length=1,
        description="Folder of the tagger's words, from the working directory; "
        "scripts/cache_prompts.py fills it.",
    )

    @model_validator(mode="after")
    def _source_has_its_model(self) -> PromptOptions:
        if self.source == "tagger" and self.tagger is None:
            raise ValueError("source = 'tagger' needs tagger.model: a folder or a hub id")
        return self


class NetworkOptions(OptionGroup):
    """The one-step generator that is tuned."""

    base: BaseName = Field(
        "mini",
        description="mini (embedded), a diffusers folder, a hub id, or a list of mirrors that are "
        "tried in turn.",
    )
    revision: str | None = Field(None, min_length=1, description="Commit or tag of a hub id.")
    unet: str | None = Field(
        None, min_length=1, description="Folder of a UNet that replaces the base's; null: none."
    )
    vae: str | None = Field(
        None,
        min_length=1,
        description="Folder of an autoencoder that replaces the base's; null: none.",
    )
    t_add: int | None = Field(
        None,
        ge=-1,
        le=999,
        description="Step at which noise is added; the paper: 250; -1: none; null: as saved with "
        "the base.",
    )
    t_diff: int | None = Field(
        None,
        ge=0,
        le=999,
        description="Step that the UNet is told; the paper: 100; null: as saved with the base.",
    )
    prompt: str | None = Field(
        None,
        description="Prompt of every image, or words behind its caption; null: the one saved with "
        "the base.",
    )
    prompts: PromptOptions = Field(
        default_factory=PromptOptions, description="Source of each picture's prompt."
    )

    @model_validator(mode="after")
    def _fields_agree(self) -> NetworkOptions:
        raise_problems(self._problems())
        return self

    def _problems(self) -> Iterator[str]:
        if self.base in _EMBEDDED and self.revision is not None:
            yield f"revision = {self.revision!r}: base {self.base} has none; remove revision"
