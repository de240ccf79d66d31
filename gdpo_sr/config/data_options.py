"""The section `datasets`: folders of photos and how a training pair is made from them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from gdpo_sr.config.degradation import DegradationOptions
from gdpo_sr.option_group import OptionGroup, raise_problems


def _folders(value: Any) -> Any:
    several = value if isinstance(value, (list, tuple)) else [value]
    if not several or not all(isinstance(name, str) and name for name in several):
        raise ValueError("must be a folder or a list of folders")
    return value


Folders = Annotated[str | list[str], BeforeValidator(_folders)]
"""One folder, or several whose photos are put together."""


class _FolderOptions(OptionGroup):
    """What the training and the validation folder share."""

    type: Literal["OnlineDataset", "PairedDataset"] = Field(
        "OnlineDataset",
        description="OnlineDataset degrades HR photos on the fly; PairedDataset reads LR files.",
    )
    dataroot_gt: Folders = Field(
        description="Folder of HR photos, or a list of several, searched recursively."
    )
    dataroot_lq: Folders | None = Field(
        None,
        description="Folder of LR photos of the same names, for PairedDataset; as many as there "
        "are of HR photos, in their order.",
    )
    degradation: DegradationOptions = Field(
        default_factory=DegradationOptions,
        description="Second-order Real-ESRGAN degradation of OnlineDataset; default: as released.",
    )

    @model_validator(mode="after")
    def _lq_folder_iff_paired(self) -> _FolderOptions:
        raise_problems(self._folder_problems())
        return self

    def _folder_problems(self) -> Iterator[str]:
        if self.type == "PairedDataset" and self.dataroot_lq is None:
            yield "dataroot_lq is missing: type PairedDataset needs the folder of LR photos"
        if self.type == "OnlineDataset" and self.dataroot_lq is not None:
            yield (
                f"dataroot_lq = {self.dataroot_lq!r}: type OnlineDataset makes its own LR photos; "
                "remove dataroot_lq or set type: PairedDataset"
            )
        counts = [
            1 if isinstance(f, str) else len(f)
            for f in (self.dataroot_gt, self.dataroot_lq)
            if f is not None
        ]
        if len(set(counts)) > 1:
            yield (
                f"dataroot_gt names {counts[0]} folders, dataroot_lq {counts[1]}: give a folder of "
                "LR photos for each of HR photos, in the same order"
            )


class TrainDataOptions(_FolderOptions):
    """Training photos: crop, flip, degrade."""

    gt_size: int = Field(
        256, ge=64, le=4096, description="Side of the HR crop in pixels, a multiple of scale."
    )
    use_hflip: bool = Field(True, description="Mirror a crop left to right with probability 0.5.")
    use_rot: bool = Field(False, description="Turn a crop by 90 degrees with probability 0.5.")
    batch_size: int = Field(
        1, ge=1, le=1024, description="LR images per step and process, B; the paper: 1 on 8 GPUs."
    )
    num_workers: int = Field(
        1, ge=0, le=128, description="Processes that read photos; 0 reads in the training process."
    )


class ValDataOptions(_FolderOptions):
    """Validation photos: the same pictures, degradation and noise at every validation."""

    gt_size: int | None = Field(
        None,
        ge=64,
        le=8192,
        description="Side of the central HR crop in pixels, a multiple of scale; null: all of it.",
    )
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of the degradation of OnlineDataset.")
    max_images: int | None = Field(
        None, ge=1, description="Use the first so many photos by name; null: all."
    )


class DatasetOptions(OptionGroup):
    """The two folders of a run."""

    train: TrainDataOptions = Field(description="Photos that the LoRA is trained on.")
    val: ValDataOptions = Field(description="Photos that policy and base are compared on.")
