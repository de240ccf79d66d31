"""Captions: files beside pictures, taggers built from configs, their cache, and the way to the
UNet.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import (
    BertConfig,
    BertLMHeadModel,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPTokenizer,
    VisionEncoderDecoderModel,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
)

from gdpo_sr import inference
from gdpo_sr.config.network_options import PromptOptions
from gdpo_sr.data.captions import FILE, CaptionCache, cache_folder, file_captions
from gdpo_sr.data.loader import make_loader
from gdpo_sr.data.online_dataset import OnlineDataset
from gdpo_sr.data.paired_dataset import PairedDataset
from gdpo_sr.data.validation import make_validation_set
from gdpo_sr.generators.base_folder import EMBEDDED
from gdpo_sr.generators.prompts import PromptEncoder, prompts_behind
from gdpo_sr.generators.tagger import load_tagger
from gdpo_sr.trainer.build_data import build_captions, tagger_cache
from gdpo_sr.types import CheckpointError, DatasetError
from gdpo_sr.utils.image_io import write_image
from scripts import cache_prompts
from tests.tiny_base import PROMPT

LABELS = ["cat", "stone", "water"]
SIDE = 32


def picture(seed: int, side: int = 64) -> torch.Tensor:
    return torch.rand(3, side, side, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """Three photos, the last in a sub-folder."""
    paths = [tmp_path / "photos" / name for name in ("a.png", "b.png", "inner/c.png")]
    for seed, path in enumerate(paths):
        write_image(path, picture(seed))
    return paths


@pytest.fixture
def captioned(photos: list[Path]) -> list[Path]:
    for path in photos:
        path.with_suffix(".txt").write_text(f"picture\n of {path.stem}\n", encoding="utf-8")
    return photos


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(EMBEDDED["mini"] / "tokenizer")


@pytest.fixture(scope="module")
def labeller(tmp_path_factory, tokenizer: CLIPTokenizer) -> str:
    """A CLIP of random weights."""
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    text = {**small, "num_attention_heads": 2, "vocab_size": len(tokenizer)}
    text |= {"max_position_embeddings": 32, "bos_token_id": tokenizer.bos_token_id}
    text |= {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    vision = {**small, "num_attention_heads": 2, "image_size": SIDE, "patch_size": 16}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    sizes = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
    folder = tmp_path_factory.mktemp("clip")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        CLIPModel(config).save_pretrained(folder)
    CLIPProcessor(CLIPImageProcessor(**sizes), tokenizer).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def captioner(tmp_path_factory, tokenizer: CLIPTokenizer) -> str:
    """A ViT and a BERT of random weights that write captions."""
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    vit = ViTConfig(**small, num_attention_heads=2, image_size=SIDE, patch_size=16)
    bert = BertConfig(**small, num_attention_heads=2, vocab_size=len(tokenizer))
    bert.is_decoder = bert.add_cross_attention = True
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = VisionEncoderDecoderModel(encoder=ViTModel(vit), decoder=BertLMHeadModel(bert))
    for config in (model.config, model.generation_config):
        config.decoder_start_token_id = tokenizer.bos_token_id
        config.eos_token_id, config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    folder = tmp_path_factory.mktemp("captioner")
    model.save_pretrained(folder)
    ViTImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


# Files ----------------------------------------------------------------------------------------


def test_captions_from_files(captioned: list[Path]):
    captioned[1].with_suffix(".txt").write_text("")
    assert file_captions(captioned) == ["picture of a", "", "picture of c"]


def test_a_missing_file_is_named(captioned: list[Path]):
    captioned[1].with_suffix(".txt").unlink()
    with pytest.raises(DatasetError, match=r"b.txt is missing \(1 of 3 such\): write the caption"):
        file_captions(captioned)


def test_a_file_that_is_no_text(captioned: list[Path]):
    captioned[0].with_suffix(".txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DatasetError, match="a.txt: not UTF-8 text"):
        file_captions(captioned)


def test_words_behind_captions():
    assert prompts_behind(["a cat", ""], "8k") == ["a cat, 8k", "8k"]
    assert prompts_behind(["a cat", ""], "") == ["a cat", ""]


# Data sets ------------------------------------------------------------------------------------


def test_captions_stay_with_their_photos(captioned: list[Path]):
    """A batch's captions and names belong together, from workers and in any order."""
    dataset = OnlineDataset(captioned[0].parent, 64, seed=0, captions=file_captions)
    batch = next(iter(make_loader(dataset, batch_size=3)))
    assert sorted(batch["name"]) == ["a", "b", "c"]
    assert batch["caption"] == [f"picture of {name}" for name in batch["name"]]


def test_pairs_take_the_caption_of_the_lr_picture(captioned: list[Path], tmp_path: Path):
    for path in captioned:
        relative = path.relative_to(captioned[0].parent)
        write_image(tmp_path / "lr" / relative, picture(9, 16))
        file = (tmp_path / "lr" / relative).with_suffix(".txt")
        file.write_text(f"LR of {path.stem}")
    folders = (captioned[0].parent, tmp_path / "lr")
    crops = PairedDataset(*folders, 4, gt_size=32, captions=file_captions)
    assert crops[0]["caption"] == f"LR of {crops[0]['name']}"
    assert PairedDataset(*folders, 4, captions=file_captions)[2]["caption"] == "LR of c"
    pairs = make_validation_set(*folders, 4, 32, captions=file_captions)
    assert [pair["caption"] for pair in pairs] == ["LR of a", "LR of b", "LR of c"]
    pairs = make_validation_set(folders[0], None, 4, 64, captions=file_captions)
    assert [pair["caption"] for pair in pairs] == [f"picture of {name}" for name in "abc"]


def test_without_captions_items_have_none(photos: list[Path]):
    assert "caption" not in OnlineDataset(photos[0].parent, 64, seed=0)[0]
    assert "caption" not in make_validation_set(photos[0].parent, None, 4, 64)[0]


# Taggers --------------------------------------------------------------------------------------


def test_labels(labeller: str):
    tag = load_tagger(labeller, labels=LABELS, num_labels=2)
    words = [tag(picture(seed)) for seed in range(3)]
    assert words == [tag(picture(seed)) for seed in range(3)]
    for text in words:
        assert len(set(text.split(", "))) == 2 and set(text.split(", ")) <= set(LABELS)


def test_written_captions(captioner: str):
    tag = load_tagger(captioner, max_tokens=4)
    assert isinstance(tag(picture(0)), str) and tag(picture(0)) == tag(picture(0))


@pytest.mark.parametrize("model", ["/no/such/folder", "blip"])
def test_a_tagger_that_is_nowhere(model: str):
    with pytest.raises(CheckpointError, match="no folder and no hub id"):
        load_tagger(model)


def test_a_hub_id_offline(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="'nobody/tagger' cannot be loaded") as caught:
        load_tagger("nobody/tagger")
    assert "\n" not in str(caught.value)


def test_a_tagger_of_another_kind(captioner: str, labeller: str):
    with pytest.raises(CheckpointError, match="as a zero-shot image classification model"):
        load_tagger(captioner, labels=LABELS)
    with pytest.raises(CheckpointError, match="as an image-to-text model"):
        load_tagger(labeller)


# The cache ------------------------------------------------------------------------------------


def test_a_picture_is_found_by_its_bytes(photos: list[Path], tmp_path: Path):
    cache = CaptionCache(tmp_path / "cache")
    assert cache.find(photos[0]) is None
    cache.add(photos[0], "stone, ü")
    copy = tmp_path / "copy.png"
    copy.write_bytes(photos[0].read_bytes())
    again = CaptionCache(tmp_path / "cache")
    assert again.find(copy) == again.find(photos[0]) == "stone, ü"
    assert again.knows(photos[0]) and not again.knows(copy)
    write_image(photos[0], picture(5))
    assert again.find(photos[0]) is None


@pytest.mark.parametrize("line", ["3", "[1]", '{"sha256": 1}', "[" * 10**5, '{"file": "a"}'])
def test_a_line_of_another_kind_is_left_out(line: str, photos: list[Path], tmp_path: Path):
    cache = CaptionCache(tmp_path)
    cache.add(photos[0], "a")
    cache.file.write_text(cache.file.read_text() + line + "\n")
    assert CaptionCache(tmp_path).find(photos[0]) == "a"


def test_a_line_that_was_cut_off_costs_that_line_only(photos: list[Path], tmp_path: Path):
    cache = CaptionCache(tmp_path)
    for path in photos[:2]:
        cache.add(path, path.stem)
    text = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(text[:-20])
    cut = CaptionCache(tmp_path)
    assert (cut.find(photos[0]), cut.find(photos[1])) == ("a", None)
    cut.add(photos[2], "c")
    assert CaptionCache(tmp_path).captions([photos[2], photos[0]]) == ["c", "a"]


def test_what_the_cache_lacks_is_named(photos: list[Path], tmp_path: Path):
    cache = CaptionCache(tmp_path / "cache")
    cache.add(photos[0], "a")
    words = r"b.png has no caption in .*\(2 of 3 such\): run python scripts/cache_prompts.py"
    with pytest.raises(DatasetError, match=words):
        cache.captions(photos)


def test_every_setting_has_a_cache_of_its_own():
    folders = {cache_folder("c", "a/b", {"labels": labels}) for labels in ([], ["x"], ["y"])}
    assert len(folders) == 3 and all(folder.name.startswith("a_b-") for folder in folders)


# The script -----------------------------------------------------------------------------------


@pytest.fixture
def run(photos: list[Path], tmp_path: Path, labeller: str):
    """Arguments of the script, and the options of prompts that it fills the cache of."""
    prompts = {
        "source": "tagger",
        "tagger": {"model": labeller, "labels": LABELS, "num_labels": 1},
        "cache": str(tmp_path / "cache"),
    }
    folder = photos[0].parent
    file = Path(__file__).parents[3] / "options" / "gdpo_sr.yml"
    force = [f"network_g:prompts={json.dumps(prompts)}", f"datasets:train:dataroot_gt={folder}"]
    force.append(f"datasets:val:dataroot_gt={folder}")
    return ["-opt", str(file), "--force_yml", *force], PromptOptions.model_validate(prompts)


def test_the_script_fills_what_training_reads(run, photos: list[Path], monkeypatch, capsys):
    arguments, prompts = run
    assert cache_prompts.main(arguments) == 0
    assert "3 of 3 pictures" in capsys.readouterr().out
    words = build_captions(prompts)(photos)
    assert set(words) <= set(LABELS)
    monkeypatch.setattr(cache_prompts, "load_tagger", None)  # a second run needs none
    assert cache_prompts.main([*arguments, "--write", "-i", str(photos[0].parent)]) == 0
    assert file_captions(photos) == words


def test_two_pictures_of_one_text_file(run, photos: list[Path]):
    """Both captions would lie in a.txt; nothing is written."""
    write_image(photos[0].with_suffix(".jpg"), picture(7))
    arguments, _ = run
    with pytest.raises(DatasetError, match="a.jpg and .*a.png would share .*a.txt; rename one"):
        cache_prompts.main([*arguments, "--write"])
    assert not photos[0].with_suffix(".txt").exists()


def test_the_script_goes_on_past_bad_pictures(run, photos: list[Path], capsys):
    arguments, prompts = run
    photos[0].write_bytes(photos[0].read_bytes()[:200])
    assert cache_prompts.main(arguments) == 1
    printed = capsys.readouterr()
    assert "2 of 3 pictures" in printed.out and "error: " in printed.err
    assert "a.png" in printed.err and "b.png" not in printed.err
    cache = tagger_cache(prompts)
    assert [cache.find(path) is None for path in photos] == [True, False, False]


# Inference ------------------------------------------------------------------------------------


def test_inference_reads_captions(captioned: list[Path], base: Path, tmp_path: Path, monkeypatch):
    """Each picture gets its own prompt, with the base's behind it, in batches as well."""
    seen: list[str] = []
    original = PromptEncoder.forward

    def note(self, prompts: list[str]) -> torch.Tensor:
        seen.extend(prompts)
        return original(self, prompts)

    monkeypatch.setattr(PromptEncoder, "forward", note)
    arguments = ["-i", str(captioned[0].parent), "-o", str(tmp_path / "out"), "--captions"]
    arguments += ["--base", str(base), "--scale", "1", "--batch", "2", "-r"]
    assert inference.main(arguments) == 0
    seen = [text for text in seen if text != PROMPT]  # what loading tries out
    assert sorted(set(seen)) == [f"picture of {name}, a photo" for name in "abc"]
    captioned[0].with_suffix(".txt").unlink()
    with pytest.raises(DatasetError, match="a.txt is missing"):
        inference.main([*arguments, "--overwrite"])
