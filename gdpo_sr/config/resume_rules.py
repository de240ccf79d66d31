"""What may change when a run goes on: a table of options, each free, told or refused."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from numbers import Real
from pathlib import Path
from typing import Any, Literal, NamedTuple

from gdpo_sr.config.yaml_file import parse_yaml, read_yaml
from gdpo_sr.types import OptionError


class Rule(NamedTuple):
    """What a change of an option means.

    Attributes:
        pattern: dotted keys, with * for the rest.
        verdict: free: takes effect without a word; told: takes effect and is named; refused; idle:
            has no effect any more and is named.
        reason: why, for those that are refused.
    """

    pattern: str
    verdict: Literal["free", "told", "refused", "idle"]
    reason: str = ""


MEANING = "the trained weights have their meaning with the old value only"
RULES = (
    Rule("name", "free"),
    Rule("num_threads", "free"),
    Rule("model_type", "refused", MEANING),
    Rule("scale", "refused", MEANING),
    Rule("manual_seed", "refused", "the pictures drawn so far follow from it"),
    Rule("datasets.train.num_workers", "free"),
    Rule("datasets.train.batch_size", "free"),  # the state refuses another number of pictures
    Rule("train.accumulation", "free"),  # per update
    Rule("datasets.*", "told"),
    Rule("network_g.prompts.cache", "free"),
    Rule("network_g.base", "told"),  # a folder may have moved
    Rule("network_g.unet", "told"),
    Rule("network_g.vae", "told"),
    Rule("network_g.*", "refused", MEANING),
    Rule("network_score.base", "told"),
    Rule("network_score.*", "refused", "the fake score was trained with it"),
    Rule("path.pretrain_lora", "idle"),
    Rule("path.*", "free"),
    Rule("val.*", "free"),
    Rule("logger.*", "free"),
    Rule("train.total_iter", "free"),
    Rule("train.generator", "refused", MEANING),
    Rule("train.lora.dropout", "told"),
    Rule("train.lora.*", "refused", MEANING),
    Rule("train.losses.vsd", "refused", "with it a fake score is trained, without it none"),
    Rule("train.losses.vsd.lora.dropout", "told"),
    Rule("train.losses.vsd.lora.*", "refused", "the fake score was trained with it"),
    Rule("train.loss.type", "refused", "it is another loss"),
    Rule("train.loss.omega", "refused", "between a number and auto"),
    Rule("train.control", "refused", "it is another experiment"),
    Rule("train.gradient_checkpointing", "free"),
    Rule("train.channels_last", "free"),
    Rule("train.vae_slicing", "free"),
    Rule("train.compile", "free"),
    Rule("train.cuda_graphs", "free"),
    Rule("train.*_chunk", "free"),
    Rule("train.alarms.*", "free"),
    Rule("train.divergence.*", "free"),
    Rule("train.optim_g.*", "told"),
    Rule("train.scheduler.*", "told"),
    Rule("train.grad_clip", "told"),
    Rule("train.mixed_precision", "told"),
    Rule("train.ema_decay", "told"),
    Rule("train.noises_per_image", "told"),
    Rule("train.losses.*", "told"),
    Rule("train.group_size", "told"),
    Rule("train.reuse_latents", "told"),
    Rule("train.update_input", "told"),
    Rule("train.target", "told"),
    Rule("train.sampler", "told"),
    Rule("train.diversity.*", "told"),
    Rule("train.cell_size", "told"),
    Rule("train.loss.*", "told"),
    Rule("train.reward.*", "told"),
    Rule("train.advantage.*", "told"),
)
"""The first rule that fits an option holds. Every option of the schema has one (a test looks)."""
NAMED = ("train.reward.fidelity", "train.reward.perception", "train.losses.perceptual")
"""Sections whose keys are names of the user's choice."""


class Change(NamedTuple):
    """An option that a resumed run has otherwise; None where a file does not have it."""

    key: str
    old: Any
    new: Any
    rule: Rule

    @property
    def refused(self) -> bool:
        """Both values are known, and the rule forbids to go from one to the other."""
        if self.rule.verdict != "refused" or self.old is self.new is None:
            return False
        return not (self.key.endswith(".omega") and _number(self.old) and _number(self.new))


def rule_of(key: str) -> Rule | None:
    """The rule of an option by dotted key."""
    return next((rule for rule in RULES if fnmatchcase(key, rule.pattern)), None)


def changes_of(old: dict[str, Any], new: dict[str, Any]) -> list[Change]:
    """Options that differ and are not free, in alphabetical order.

    An option that one of the files does not know, of another version, is no change.
    """
    found = []
    for key, before, after in sorted(_differences(old, new), key=lambda change: change[0]):
        rule = rule_of(key)
        if rule is not None and rule.verdict != "free":
            found.append(Change(key, before, after, rule))
    return found


def _differences(
    old: dict[str, Any], new: dict[str, Any], place: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Dotted keys with both values; of a section that only one has, the section's."""
    both = old.keys() & new.keys()
    for key in old.keys() | new.keys() if place in NAMED else both:
        before, after = old.get(key), new.get(key)
        name = f"{place}.{key}" if place else key
        if isinstance(before, dict) and isinstance(after, dict):
            yield from _differences(before, after, name)
        elif before != after:
            yield name, before, after


def check_resumed(file: Path, text: str) -> list[str]:
    """Compare the options that a run was started with, its `options.yml`, with those it goes on
    with. Returns sentences for the log.

    Raises:
        OptionError: a change is refused, or the file cannot be read.
    """
    if not file.exists():
        return []
    changes = changes_of(read_yaml(file), parse_yaml(text, "options"))
    if refused := [change for change in changes if change.refused]:
        raise OptionError("\n".join(_refusal(file, change) for change in refused))
    told = [c for c in changes if c.rule.verdict != "idle"]
    sentences = [f"{c.key} has no effect: the run goes on" for c in changes if c not in told]
    if told:
        values = ", ".join(f"{c.key} {c.old} -> {c.new}" for c in told)
        sentences.append(f"the run goes on with other options, from here on: {values}")
    return sentences


def _refusal(file: Path, change: Change) -> str:
    return (
        f"{change.key} = {change.new}: this run was started with {change.old} and cannot change it "
        f"({change.rule.reason}): set it back, see {file}, or give another name to start afresh"
    )


def _number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
