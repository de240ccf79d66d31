"""Write a whole model so that its folder appears complete or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gdpo_sr.generators.load import no_progress_bar
from gdpo_sr.pipelines.one_step_sr import OneStepSRPipeline
from gdpo_sr.writer import new_folder


def save_model_folder(components: dict[str, Any], folder: str | Path) -> Path:
    """Save the parts of a pipeline in diffusers layout as `folder`, replacing what is there.

    The parts are frozen by it, as by any pipeline.
    """
    with new_folder(folder) as temporary, no_progress_bar():
        OneStepSRPipeline(**components).save_pretrained(temporary)
    return Path(folder)
