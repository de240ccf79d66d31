"""JSON of bases and adapters gone wrong: they load and restore, or one line says what is wrong."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import torch

from gdpo_sr.checkpoints.generator_adapters import GeneratorAdapters
from gdpo_sr.checkpoints.lora import add_lora, save_lora
from gdpo_sr.checkpoints.meaning import Meaning
from gdpo_sr.pipelines.one_step_sr import OneStepSRPipeline
from tests.faults.tally import Tally

VALUES: list[Any] = [
    *(None, True, False, -1, 0, 1, 7, 1.5, -1e308, 1e400, float("nan"), 99999, 10**9, 10**30),
    *("", "x", "a" * 9000, "\x00\x1b[31m", "\ud800", "../../..", "/dev/zero", "os.system"),
    *("http://example.com/x", "torch.nn:Module", "(a*)*b", "(", "float16", "silu"),
    *([], {}, [[]], [1, "x"], [None] * 30, {"a": {"b": 1}}, [1, 2], ["x"], {"": None}),
]
KEYS = [
    *("auto_map", "_attn_implementation", "attn_implementation", "quantization_config", "dtype"),
    *("torch_dtype", "_class_name", "architectures", "model_type", "use_dora", "bias", "r"),
    *("base_model_name_or_path", "trained_betas", "id2label", "added_tokens_decoder", "x"),
    *("rank_pattern", "alpha_pattern", "modules_to_save", "_name_or_path", "weights"),
]
TEXTS = [
    *("", "\x00", "{", "null", "3", '"x"', "[]", "{}", "9" * 5000, "\ufeff{}"),
    *("[" * 100_000, '{"a": ' * 2000, "\ufffd\u2028"),
]


def paths_of(value: Any, path: tuple = ()) -> list[tuple]:
    """Of everything inside a JSON value."""
    parts: Any = enumerate(value) if isinstance(value, list) else ()
    parts = value.items() if isinstance(value, dict) else parts
    return [p for key, part in parts for p in [(*path, key), *paths_of(part, (*path, key))]]


def mutated(text: str, draw: random.Random) -> str:
    """A JSON text with one thing wrong."""
    kind = draw.randrange(10)
    at = draw.randrange(len(text))
    if kind == 0:
        return draw.choice([*TEXTS, text[:at], text[:at] + chr(draw.randrange(256)) + text[at:]])
    value = json.loads(text)
    paths = paths_of(value)
    if kind == 1 or not paths:
        return json.dumps({**value, draw.choice(KEYS): draw.choice(VALUES)})
    *parents, last = draw.choice(paths)
    holder = value
    for key in parents:
        holder = holder[key]
    if kind == 2:
        del holder[last]
    else:
        holder[last] = draw.choice(VALUES)
    return json.dumps(value)


def restore(base: Path, adapter: Path | None = None) -> None:
    """What a user does with them."""
    pipe = OneStepSRPipeline.from_pretrained(base)
    if adapter is not None:
        pipe.load_lora_weights(adapter)
    image = torch.full((1, 3, 8, 8), 0.5)
    pipe(image, scale=4, output_type="pt", color_fix="none")


def spoil(folder: Path, place: Path, draw: random.Random) -> str:
    """Copy a folder to `place` with one of its files mutated. Returns what it says there now."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(folder, place)
    file = draw.choice(sorted(f for f in place.rglob("*") if f.suffix in (".json", ".txt")))
    text = file.read_text(encoding="utf-8")
    new = mutated(text, draw) if file.suffix == ".json" else draw.choice(TEXTS)
    file.write_text(new, encoding="utf-8", errors="surrogatepass")
    part = next((i for i, (a, b) in enumerate(zip(text, new, strict=False)) if a != b), 0)
    return f"{file.relative_to(place)}: {new[max(part - 30, 0) : part + 40]!a}"


def spoil_bases(base: Path, place: Path, seeds: range) -> Tally:
    """Bases with a file mutated, loaded and used."""
    tally = Tally("JSON of bases mutated")
    for seed in seeds:
        what = spoil(base, place, random.Random(seed))
        with tally.case(f"seed {seed}, {what}"):
            restore(place)
    return tally


def write_adapters(base: Path, folder: Path) -> list[Path]:
    """One of each stage."""
    first = OneStepSRPipeline.from_pretrained(base)
    adapters = GeneratorAdapters(first.unet, first.vae)
    adapters.add(2)
    meaning = Meaning(base=str(base), t_add=200, t_diff=100, prompt="clear", weights={})
    second = OneStepSRPipeline.from_pretrained(base).unet
    add_lora(second)
    return [
        adapters.save(folder / "stage1", meaning),
        save_lora(second, folder / "stage2", meaning),
    ]


def spoil_adapters(base: Path, adapters: list[Path], place: Path, seeds: range) -> Tally:
    """Adapters with a file mutated, loaded and used."""
    tally = Tally("JSON of adapters mutated")
    for seed in seeds:
        draw = random.Random(seed)
        what = spoil(draw.choice(adapters), place, draw)
        with tally.case(f"seed {seed}, {what}"):
            restore(base, place)
    return tally
