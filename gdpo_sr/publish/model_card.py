"""A model card (README.md of a hub repository) written from the files of a training run."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gdpo_sr.checkpoints.meaning import Meaning
from gdpo_sr.config.yaml_file import dump_yaml, read_yaml
from gdpo_sr.generators.base_folder import EMBEDDED, mirrors
from gdpo_sr.trainer.report import Comparison, MetricComparison, mean
from gdpo_sr.types import CheckpointError
from gdpo_sr.utils.text import as_code, in_markdown

METHODS = {
    "GDPOModel": "GDPO-SR stage 2 (Group Direct Preference Optimization, arXiv 2603.16769)",
    "NAOSDModel": "GDPO-SR stage 1 (noise-aware one-step generator, arXiv 2603.16769)",
}
_NO_LICENCE = "Not stated by who made this model; ask before using it."


@dataclass(frozen=True)
class RunFacts:
    """What a run's folder says of it.

    Attributes:
        options: as resolved at its start; empty where the run is unknown.
        updates: done when the newest state was saved.
        comparison: the last validation; None before the first one.
        alarm: whether that validation raised an alarm of reward hacking.
    """

    options: dict[str, Any] = field(default_factory=dict)
    updates: int | None = None
    comparison: Comparison | None = None
    alarm: bool = False


def read_run(folder: Path) -> RunFacts:
    """Facts of the run in `folder` (`experiments/NAME`).

    Raises:
        CheckpointError: the figures of its last validation cannot be read.
        OptionError: its options cannot.
    """
    states = [int(f.name) for f in (folder / "training_states").glob("*") if f.name.isdecimal()]
    options = read_yaml(folder / "options.yml")
    files = sorted(folder.glob("validation_*.json"))
    updates = max(states) if states else None
    if not files:
        return RunFacts(options, updates)
    try:
        values = json.loads(files[-1].read_text(encoding="utf-8"))
        comparison = Comparison.from_json(values)
        alarm = bool(values.get("alarm", {}).get("raised"))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"'{files[-1]}' holds no figures of a validation: remove it, or validate again"
        ) from error
    return RunFacts(options, updates, comparison, alarm)


def model_card(
    run: RunFacts, title: str, merged: bool, meaning: Meaning, licence: str | None
) -> str:
    """The text of README.md: front matter, how to load, what was done, what was measured.

    Args:
        title: name of the model.
        merged: whether it is a complete model or a LoRA.
        meaning: of the model; its base is None where it is unknown.
        licence: identifier of the hub such as apache-2.0; None leaves it open.
    """
    parts = [
        _front_matter(merged, meaning, licence),
        f"# {in_markdown(title)}",
        _summary(run, merged),
        "## How to load\n\n" + (_load_merged() if merged else _load_lora(meaning)),
        "## Training\n\n" + _facts(run, meaning),
        "## Figures\n\n" + _figures(run),
        "## Licence\n\n" + in_markdown(licence or _NO_LICENCE),
    ]
    if run.options:
        options = dump_yaml(without_folders(run.options))
        fence = "`" * max(3, 1 + max(map(len, re.findall("`+", options)), default=0))
        parts.append(f"## Options\n\n{fence}yaml\n{options}{fence}")
    return "\n\n".join(parts) + "\n"


def _front_matter(merged: bool, meaning: Meaning, licence: str | None) -> str:
    values: dict[str, Any] = {} if licence is None else {"license": licence}
    values |= {"library_name": "diffusers", "pipeline_tag": "image-to-image"}
    values["tags"] = ["super-resolution", "one-step-diffusion", "gdpo"]
    base = None if meaning.base is None else mirrors(meaning.base)[0]
    if base is not None and is_hub_id(base):
        values["base_model"] = base
        values["base_model_relation"] = "finetune" if merged else "adapter"
    return f"---\n{dump_yaml(values)}---"


def is_hub_id(base: str) -> bool:
    """Whether `base` is OWNER/NAME and no folder here."""
    return re.fullmatch(r"\w[\w.-]*/[\w.-]+", base) is not None and not Path(base).exists()


def base_text(base: str) -> str:
    """A base as readers elsewhere understand it: no folder of this machine."""
    if base in EMBEDDED:
        return f"`{base}`, embedded in gdpo_sr"
    folder = f"{as_code(Path(base).name)}, a folder of the author"
    return f"`{base}`" if is_hub_id(base) else folder


def _summary(run: RunFacts, merged: bool) -> str:
    kind = "A complete model" if merged else "A LoRA of the UNet"
    method = METHODS.get(str(run.options.get("model_type")), "gdpo_sr")
    scale = f", x{in_markdown(str(run.options['scale']))}" if "scale" in run.options else ""
    return f"{kind} for one-step image super-resolution{scale}, made with {method}."


def _load_merged() -> str:
    return (
        "```python\n"
        "from gdpo_sr import OneStepSRPipeline\n\n"
        'pipe = OneStepSRPipeline.from_pretrained("THIS FOLDER OR HUB ID")\n'
        "image = pipe(low_resolution_image, scale=4).images[0]\n"
        "```\n\n"
        "`unet/`, `vae/`, `text_encoder/` and `tokenizer/` are in the layout of diffusers and "
        "transformers."
    )


def _load_lora(meaning: Meaning) -> str:
    base = "BASE" if meaning.base is None else mirrors(meaning.base)[0]
    base = base if base in EMBEDDED or is_hub_id(base) else "BASE"
    return (
        "```python\n"
        "from gdpo_sr import OneStepSRPipeline\n\n"
        f'pipe = OneStepSRPipeline.from_pretrained("{base}")\n'
        'pipe.load_lora_weights("FOLDER")  # this repository, downloaded\n'
        "image = pipe(low_resolution_image, scale=4).images[0]\n"
        "```\n\n"
        "Plain diffusers: `pipeline.load_lora_weights(FOLDER)` of a Stable Diffusion pipeline, or\n"
        '`unet.load_lora_adapter(FOLDER, prefix="unet", '
        'weight_name="pytorch_lora_weights.safetensors")`.\n'
        "Plain PEFT: `PeftModel.from_pretrained(unet, FOLDER)`."
    )


def _facts(run: RunFacts, meaning: Meaning) -> str:
    """A list of what was done; unknown things are left out."""
    train, data = (run.options.get(key, {}) for key in ("train", "datasets"))
    facts = {
        "base": "not recorded"
        if meaning.base is None
        else base_text(mirrors(meaning.base)[0]) + _own_parts(meaning),
        "updates": _updates(run.updates, train.get("total_iter")),
        "LoRA rank": train.get("lora", {}).get("rank"),
        "group size": train.get("group_size"),
        "rewards": ", ".join(map(in_markdown, _rewards(train))) or None,
        "losses": ", ".join(map(in_markdown, _losses(train))) or None,
        "learning rate": train.get("optim_g", {}).get("lr"),
        "training photos": _data_folder(data.get("train")),
        "validation photos": _data_folder(data.get("val")),
    }
    return "\n".join(f"- {name}: {value}" for name, value in facts.items() if value is not None)


def _own_parts(meaning: Meaning) -> str:
    own = [part for part in ("unet", "vae") if getattr(meaning, part) is not None]
    return f" (with another {' and '.join(own)})" if own else ""


def _updates(done: int | None, planned: int | None) -> str | None:
    if done is None:
        return None
    return f"{done}" if planned is None or planned == done else f"{done} of {planned} planned"


def _rewards(train: dict[str, Any]) -> list[str]:
    reward = train.get("reward", {})
    return [
        f"{name} ({kind})" for kind in ("fidelity", "perception") for name in reward.get(kind, {})
    ]


def _losses(train: dict[str, Any]) -> list[str]:
    """Stage 1 has several; stage 2 one, by its type."""
    if "loss" in train:
        return [train["loss"]["type"]]
    losses = dict(train.get("losses", {}))
    losses |= losses.pop("perceptual", None) or {}
    return [name for name, loss in losses.items() if loss and loss.get("weight", 0) > 0]


def _data_folder(section: dict[str, Any] | None) -> str | None:
    """Names of the folders alone: their paths are nobody else's business."""
    if not section:
        return None
    found = section["dataroot_gt"]
    folders = [found] if isinstance(found, str) else found
    return ", ".join(as_code(Path(folder).name) for folder in folders)


def _figures(run: RunFacts) -> str:
    """Base against result, picture by picture the same noise."""
    comparison = run.comparison
    if comparison is None:
        return "None: no validation of this model is at hand."
    names = ", ".join(map(in_markdown, comparison.pictures))
    lines = [
        f"Measured by gdpo_sr after {comparison.iteration} updates on {len(comparison.pictures)} "
        f"validation photos ({names}); base and result get the same LR photo and noise. +- is the "
        "standard error of the mean change.",
        "",
        "| metric | better | seen in training | base | result | change | +- | better on |",
        "|---|---|---|---|---|---|---|---|",
        *(_row(row) for row in comparison.metrics),
    ]
    if run.alarm:
        lines += ["", "**This validation raised an alarm**: rewards rose while other figures fell."]
    return "\n".join(lines)


def _row(row: MetricComparison) -> str:
    changes = row.changes()
    cells = [
        in_markdown(row.name),
        "lower" if row.lower_better else "higher",
        "yes" if row.rewarded else "no",
        _number(mean(row.base)),
        _number(mean(row.policy)),
        _number(mean(changes), "+"),
        _number(row.standard_error()),
        f"{row.improved()}/{len(changes)}",
    ]
    return f"| {' | '.join(cells)} |"


def _number(value: float, sign: str = "") -> str:
    return format(value, f"{sign}.4f") if math.isfinite(value) else "-"


def without_folders(values: Any) -> Any:
    """Plain values with every absolute path cut to its last part."""
    if isinstance(values, dict):
        return {key: without_folders(value) for key, value in values.items()}
    if isinstance(values, list):
        return [without_folders(value) for value in values]
    if isinstance(values, str) and Path(values).expanduser().is_absolute():
        return Path(values).name
    return values
