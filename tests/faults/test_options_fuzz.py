"""Options files gone wrong: the same meaning, or errors that name the file; never a traceback.

The long form: python -m pytest tests/faults/test_options_fuzz.py -m slow
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from gdpo_sr.checkpoints.lora import find_adapter
from gdpo_sr.config.load import load_options
from gdpo_sr.config.yaml_file import parse_yaml
from gdpo_sr.data.folder import list_photos
from gdpo_sr.generators.single_file import is_single_file
from gdpo_sr.types import GDPOSRError, OptionError
from gdpo_sr.utils.image_io import list_images
from tests.faults.yaml_mutations import FILES, LAUGHS, VALUES, read_or_refused, spoil_options

TYPES = {"0x1F": 31, "0o17": 15, "017": 17, "1:30": "1:30", "1_000": "1_000", "5e-5": 5e-5}


def test_mutated_options(tmp_path: Path):
    found = spoil_options(tmp_path, range(100))
    assert not found.wrong and 10 < found.refused < 90


@pytest.mark.slow
def test_three_thousand_mutated_options(tmp_path: Path):
    assert not spoil_options(tmp_path, range(1000, 4000)).wrong


@pytest.mark.parametrize("value", VALUES, ids=lambda value: ascii(value)[:30])
def test_a_value_in_its_place(value: str, tmp_path: Path):
    """As the number of updates, as an option of a metric, and by --force_yml with dots."""
    text = FILES[0].read_text()
    file = tmp_path / "options.yml"
    for key in ("train.total_iter", "val.metrics.x"):
        file.write_text(text)
        forced = (
            value if key == "train.total_iter" else f"{{metric: niqe, options: {{a: {value}}}}}"
        )
        with suppress(OptionError):
            read_or_refused(file, [f"{key}={forced}"])


@pytest.mark.parametrize(("text", "value"), TYPES.items())
def test_numbers_are_those_of_yaml_1_2(text: str, value: object):
    assert parse_yaml(text, "x") == value


@pytest.mark.parametrize("key", ["train.total_iter", "train.optim_g.lr", "train.optim_g.betas"])
def test_true_is_no_number(key: str):
    value = "[true, true]" if key.endswith("betas") else "true"
    with pytest.raises(OptionError, match=rf"{key} = .*must be a number, not 'true'"):
        load_options(FILES[0], [f"{key}={value}"])
    assert load_options(FILES[0], ["train.total_iter=5"]).train.total_iter == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &a [*a]", "stands inside"),
        (LAUGHS, "more than 20000 values"),
        ("a: !!binary =", "tag !!binary"),
        ("a: !!int ''", "'' is no int"),
        ("a: " + "9" * 5000, "5000 digits"),
        ("a: {<<: 5}", "keys of a section"),
        ("[" * 60 + "]" * 60, "40 levels"),
        ("a" * 2**20 + "b", "more than the 1048576 characters"),
    ],
)
def test_tricks_are_named(text: str, message: str):
    with pytest.raises(OptionError, match=message):
        parse_yaml(text, "file.yml")


@pytest.mark.parametrize("key", ["datasets.val.dataroot_lq", "train.reward.user_modules"])
def test_a_name_that_is_too_long_for_any_file_system(key: str):
    """Found by seed 3057: OSError."""
    name = "a" * 300 + ".py"
    value = f"[{name}]" if key.endswith("modules") else name
    with suppress(OptionError):
        load_options(FILES[0], [f"{key}={value}"])


@pytest.mark.parametrize(
    "read",
    [find_adapter, list_photos, list_images, is_single_file],
    ids=lambda read: read.__name__,
)
def test_readers_of_a_name_that_is_too_long(read: Callable[[str], object]):
    with suppress(GDPOSRError):
        assert read("a" * 300) is False


def test_marks_that_nobody_sees_are_shown():
    """Found by seed 2043: U+FEFF in front of a key."""
    with pytest.raises(OptionError, match=r"\\ufefflr = 1: unknown key; did you mean"):
        load_options(FILES[0], ["train.optim_g.\ufefflr=1"])


@pytest.mark.parametrize(
    "name", ["..", "a/b", "a\\nb", "a\\x1b[31mb", "a\\u202eb", " a", "a" * 101]
)
def test_names_of_runs_that_are_no_names_of_folders(name: str):
    with pytest.raises(OptionError, match="name = "):
        load_options(FILES[0], [f'name="{name}"'])


def test_a_file_without_end():
    with pytest.raises(OptionError, match="/dev/zero"):
        load_options("/dev/zero")
