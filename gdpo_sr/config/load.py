"""From an options file and `--force_yml` to checked options, and back to YAML."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gdpo_sr.config.problems import describe_problems
from gdpo_sr.config.schema import STAGES, Options
from gdpo_sr.config.yaml_file import dump_yaml, parse_yaml, read_yaml
from gdpo_sr.types import OptionError

REPOSITORY = Path(__file__).resolve().parents[2]


def load_options(path: str | Path, overrides: Sequence[str] = ()) -> Options:
    """Checked options of a run.

    Args:
        path: options file in YAML.
        overrides: `section:key=value` items of `--force_yml`, dots will do; the value is YAML.

    Raises:
        OptionError: one line per problem: source, dotted key, value, what is allowed.
    """
    values = read_yaml(path)
    forced = [_apply_override(values, item) for item in overrides]
    _resolve_data_folders(values, Path(path))
    _resolve_user_modules(values, Path(path))

    def source(location: tuple) -> str:
        return "--force_yml" if any(location[: len(key)] == key for key in forced) else str(path)

    stage = _stage(values, source(("model_type",)))
    try:
        return stage.model_validate(values)
    except ValidationError as error:
        raise OptionError("\n".join(describe_problems(error, stage, source))) from error


def _stage(values: dict[Any, Any], source: str) -> type[Options]:
    """Options of the stage that `model_type` names; stage 2 where it is missing."""
    name = values.get("model_type", "GDPOModel")
    if not isinstance(name, str) or name not in STAGES:
        known = " or ".join(map(repr, STAGES))
        raise OptionError(f"{source}: model_type = {name!r}: must be {known}")
    return STAGES[name]


def dump_options(options: Options) -> str:
    """Resolved options as YAML; `load_options` reads equal options back."""
    return dump_yaml(options.model_dump(mode="json"))


def resolve_folder(folder: str | Path, options_file: str | Path | None = None) -> Path:
    """Existing folder that a relative path means.

    Tried in this order: the working directory, the folder above the options file's folder (the
    repository of `options/x.yml`), the repository of this package.

    Returns:
        The absolute folder, or `folder` as written if there is none: whoever reads it reports that.
    """
    roots = [Path.cwd(), REPOSITORY]
    if options_file is not None:
        roots.insert(1, Path(options_file).resolve().parent.parent)
    for root in roots:
        candidate = root / Path(folder).expanduser()
        if os.path.isdir(candidate):  # False for a name that is too long
            return candidate.resolve()
    return Path(folder)


def _resolve_data_folders(values: dict[Any, Any], options_file: Path) -> None:
    datasets = values.get("datasets")
    for section in datasets.values() if isinstance(datasets, dict) else ():
        for key in ("dataroot_gt", "dataroot_lq"):
            found = section.get(key) if isinstance(section, dict) else None
            if isinstance(found, list):
                section[key] = [_resolved(name, options_file) for name in found]
            elif found is not None:
                section[key] = _resolved(found, options_file)


def _resolved(name: Any, options_file: Path) -> Any:
    return str(resolve_folder(name, options_file)) if isinstance(name, str) and name else name


def _resolve_user_modules(values: dict[Any, Any], options_file: Path) -> None:
    """Rewards' files as absolute paths: from the working directory, or beside the options file."""
    section: Any = values
    for key in ("train", "reward"):
        section = section.get(key) if isinstance(section, dict) else None
    modules = section.get("user_modules") if isinstance(section, dict) else None
    for index, name in enumerate(modules if isinstance(modules, list) else []):
        for root in (Path.cwd(), options_file.resolve().parent):
            if isinstance(name, str) and name.endswith(".py") and os.path.isfile(root / name):
                modules[index] = str((root / name).resolve())
                break


def _apply_override(values: dict[Any, Any], item: str) -> tuple[str, ...]:
    """Write one `section:key=value` into `values`; returns the key as a location."""
    name, equals, text = item.partition("=")
    shown = f"{item!r:.80}"
    keys = tuple(name.split(":" if ":" in name else "."))  # our messages have dots
    if not equals or not all(keys):
        raise OptionError(f"--force_yml {shown}: write section:key=value, as train:total_iter=20")
    for key in keys[:-1]:
        if values.get(key) is None:
            values[key] = {}
        values = values[key]
        if not isinstance(values, dict):
            raise OptionError(f"--force_yml {shown}: {key!r} is a value, not a section")
    values[keys[-1]] = parse_yaml(text, f"--force_yml {name}")
    return keys
