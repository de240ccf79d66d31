"""Words for pictures from a transformers model: captions, or the likeliest of given labels."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from PIL import Image

from gdpo_sr.generators.load_part import no_progress_bar
from gdpo_sr.types import CheckpointError

Tagger = Callable[[torch.Tensor], str]
"""Words for a picture (3, H, W) in [0, 1]."""


def load_tagger(
    model: str,
    revision: str | None = None,
    labels: Sequence[str] = (),
    num_labels: int = 5,
    max_tokens: int = 30,
    device: str = "cpu",
) -> Tagger:
    """A tagger from a folder, or from a hub id, which alone may use the network.

    Args:
        model: without `labels` an image-to-text model that needs no question (BLIP, GIT, an
            encoder-decoder); with them a zero-shot image classification model (CLIP, SigLIP).
        revision: commit or tag of a hub id.
        labels: words to choose from.
        num_labels: how many are kept, the likeliest first.
        max_tokens: longest caption.
        device: where it computes.

    Raises:
        CheckpointError: the model is missing, cannot be reached, or is of another kind.
    """
    is_folder = os.path.isdir(model)
    if not is_folder and (model.count("/") != 1 or model.startswith((".", "/", "~"))):
        raise CheckpointError(
            f"tagger '{model}' is no folder and no hub id: use an existing folder or 'owner/name'"
        )
    source = {"revision": revision, "local_files_only": is_folder}
    with _told_as_checkpoint_error(model, bool(labels)), no_progress_bar():
        if labels:
            return _label_tagger(model, source, list(labels), num_labels, device)
        return _caption_tagger(model, source, max_tokens, device)


@contextmanager
def _told_as_checkpoint_error(model: str, with_labels: bool) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        kind = "a zero-shot image classification" if with_labels else "an image-to-text"
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"tagger '{model}' cannot be loaded as {kind} model ({reason}): give a complete "
            "folder or a hub id that can be reached; labels are for zero-shot models alone"
        ) from error


def _label_tagger(
    model: str, source: dict[str, Any], labels: list[str], count: int, device: str
) -> Tagger:
    from transformers import AutoModelForZeroShotImageClassification, AutoProcessor, pipeline

    network = AutoModelForZeroShotImageClassification.from_pretrained(
        model, use_safetensors=True, **source
    )
    processor = AutoProcessor.from_pretrained(model, **source)
    classify = pipeline(
        "zero-shot-image-classification",
        model=network,
        tokenizer=processor.tokenizer,
        image_processor=processor.image_processor,
        device=device,
    )

    def tag(image: torch.Tensor) -> str:
        found = classify(_picture(image), candidate_labels=labels)
        return ", ".join(item["label"] for item in found[:count])

    return tag


def _caption_tagger(model: str, source: dict[str, Any], max_tokens: int, device: str) -> Tagger:
    from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

    network = AutoModelForImageTextToText.from_pretrained(model, use_safetensors=True, **source)
    network = network.to(device).eval()
    processor = AutoImageProcessor.from_pretrained(model, **source)
    tokenizer = AutoTokenizer.from_pretrained(model, **source)

    @torch.no_grad()
    def tag(image: torch.Tensor) -> str:
        pixels = processor(_picture(image), return_tensors="pt").pixel_values.to(device)
        tokens = network.generate(pixel_values=pixels, max_new_tokens=max_tokens, do_sample=False)
        return " ".join(tokenizer.decode(tokens[0], skip_special_tokens=True).split())

    return tag


def _picture(image: torch.Tensor) -> Image.Image:
    return Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy())
