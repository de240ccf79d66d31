"""From an options file and `--force_yml` to checked options, and back to YAML."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gdpo_sr.config.problems import describe_problems
from gdpo_sr.config.schema import Options
from gdpo_sr.config.yaml_file import dump_yaml, parse_yaml, read_yaml
from gdpo_sr.types import OptionError

REPOSITORY = Path(__file__).resolve().parents[2]


def load_options(path: str | Path, overrides: Sequence[str] = ()) -> Options:
    """Checked options of a run.

    Args:
        path: options file in YAML.
        overrides: `section:key=value` items of `--force_yml`; the value is YAML.

    Raises:
        OptionError: one line per problem: source, dotted key, value, what is allowed.
    """
    values = read_yaml(path)
    forced = [_apply_override(values, item) for item in overrides]
    _resolve_data_folders(values, Path(path))

    def source(location: tuple) -> str:
        return "--force_yml" if any(location[: len(key)] == key for key in forced) else str(path)

    try:
        return Options.model_validate(values)
    except ValidationError as error:
        raise OptionError("\n".join(describe_problems(error, Options, source))) from error


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
        if candidate.is_dir():
            return candidate.resolve()
    return Path(folder)


def _resolve_data_folders(values: dict[Any, Any], options_file: Path) -> None:
    datasets = values.get("datasets")
    for section in datasets.values() if isinstance(datasets, dict) else ():
        for key in ("dataroot_gt", "dataroot_lq"):
            if isinstance(section, dict) and isinstance(section.get(key), str) and section[key]:
                section[key] = str(resolve_folder(section[key], options_file))


def _apply_override(values: dict[Any, Any], item: str) -> tuple[str, ...]:
    """Write one `section:key=value` into `values`; returns the key as a location."""
    name, equals, text = item.partition("=")
    keys = tuple(name.split(":"))
    if not equals or not all(keys):
        raise OptionError(f"--force_yml {item!r}: write section:key=value, as train:total_iter=20")
    for key in keys[:-1]:
        if values.get(key) is None:
            values[key] = {}
        values = values[key]
        if not isinstance(values, dict):
            raise OptionError(f"--force_yml {item!r}: {key!r} is a value, not a section")
    values[keys[-1]] = parse_yaml(text, f"--force_yml {name}")
    return keys
