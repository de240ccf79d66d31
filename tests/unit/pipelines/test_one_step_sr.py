"""OneStepSRPipeline: diffusers' conventions, sizes, randomness, precision, LoRA."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gdpo_sr import OneStepSRPipeline
from gdpo_sr.checkpoints.lora import add_lora, lora_parameters, merge_lora, save_lora
from gdpo_sr.generators.load_part import load_text_encoder
from gdpo_sr.generators.one_step import OneStepScheduler
from gdpo_sr.pipelines.noise_field import NoiseField, draw_seed
from gdpo_sr.types import CheckpointError, ImageError, OptionError
from tests.tiny_base import PROMPT, tiny_base


@pytest.fixture
def pipe(base: Path) -> OneStepSRPipeline:
    return OneStepSRPipeline.from_pretrained(base)


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    """A saved LoRA with dropout that changes the output."""
    unet = OneStepSRPipeline.from_pretrained(base).unet
    rng = torch.Generator().manual_seed(5)
    for parameter in add_lora(unet, rank=2, dropout=0.5):
        with torch.no_grad():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=rng))
    return save_lora(unet, tmp_path / "lora")


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def picture(height: int = 12, width: int = 16, seed: int = 1) -> torch.Tensor:
    return torch.rand(3, height, width, generator=rng(seed))


def restore(pipe: OneStepSRPipeline, seed: int = 0, **options) -> torch.Tensor:
    options.setdefault("image", picture())
    return pipe(generator=rng(seed), output_type="pt", **options).images


def test_round_trip_is_exact(base: Path, tmp_path: Path):
    pipe = OneStepSRPipeline.from_pretrained(base, t_add=400, t_diff=50)
    pipe.register_to_config(prompt="a sharp photo")
    pipe.save_pretrained(tmp_path / "copy")
    copy = OneStepSRPipeline.from_pretrained(tmp_path / "copy")
    assert copy.config.prompt == "a sharp photo"
    assert (copy.scheduler.config.t_add, copy.scheduler.config.t_diff) == (400, 50)
    assert torch.equal(restore(copy), restore(pipe))


def test_timesteps_and_prompt_matter(base: Path, pipe: OneStepSRPipeline):
    usual = restore(pipe)
    assert pipe.config.prompt == PROMPT and torch.equal(restore(pipe, prompt=PROMPT), usual)
    assert torch.equal(restore(pipe, t_add=250), usual)
    other = OneStepSRPipeline.from_pretrained(base, t_add=600)
    assert torch.equal(restore(other), restore(pipe, t_add=600))
    for changed in (restore(pipe, t_add=600), restore(pipe, prompt="zebra")):
        assert not torch.equal(changed, usual)


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (5, 9), (17, 31)])
@pytest.mark.parametrize("scale", [4, 1, 2.5, 0.3])
def test_exact_output_size(pipe: OneStepSRPipeline, size: tuple[int, int], scale: float):
    expected = tuple(max(1, round(side * scale)) for side in size)
    assert restore(pipe, image=picture(*size), scale=scale).shape == (1, 3, *expected)


def test_output_types_agree(pipe: OneStepSRPipeline):
    tensor = restore(pipe)
    array = pipe(picture(), generator=rng(), output_type="np").images
    image = pipe(picture(), generator=rng()).images[0]
    assert tensor.shape == (1, 3, 48, 64) and tensor.dtype == torch.float32
    assert np.array_equal(array[0], tensor[0].permute(1, 2, 0).numpy())
    assert image.size == (64, 48)
    assert np.array_equal(np.asarray(image), (array[0] * 255).round().astype(np.uint8))


def test_input_types_agree(pipe: OneStepSRPipeline):
    pixels = (picture() * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    array = pixels.astype(np.float32) / 255
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    usual = restore(pipe, image=Image.fromarray(pixels))
    whole = torch.from_numpy(pixels).permute(2, 0, 1)
    same = (array, array[None], tensor, tensor[None], [tensor], [array[None]], pixels, whole)
    for image in same:
        assert torch.equal(restore(pipe, image=image), usual)


def test_path_is_read_upright(pipe: OneStepSRPipeline, tmp_path: Path):
    """PIL's own opening ignores the orientation, which the command applies."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (9, 7)).save(tmp_path / "a.png", exif=exif)
    for path in (tmp_path / "a.png", str(tmp_path / "a.png"), [tmp_path / "a.png"]):
        assert pipe(path).images[0].size == (28, 36)


def test_batch_equals_single_pictures(pipe: OneStepSRPipeline):
    """One source of noise is drawn from picture by picture."""
    batch = torch.stack([picture(seed=1), picture(seed=2)])
    shared = rng()
    single = [pipe(image, generator=shared, output_type="pt").images for image in batch]
    assert torch.equal(restore(pipe, image=batch), torch.cat(single))


def test_different_sizes(pipe: OneStepSRPipeline):
    images = [picture(8, 8), picture(9, 12)]
    assert [p.size for p in pipe(images, generator=rng()).images] == [(32, 32), (48, 36)]
    for kind in ("np", "pt"):
        with pytest.raises(OptionError, match=f"'{kind}'.*32x32, 48x36: use 'pil'"):
            pipe(images, output_type=kind)


def test_candidates_differ_and_seeds_repeat(pipe: OneStepSRPipeline):
    images = torch.stack([picture(seed=1), picture(seed=2)])
    group = restore(pipe, image=images, num_candidates=3)
    assert group.shape == (6, 3, 48, 64)
    assert torch.equal(restore(pipe, image=images, num_candidates=3), group)
    assert not torch.equal(restore(pipe, seed=1, image=images, num_candidates=3), group)
    gaps = torch.cdist(group.flatten(1), group.flatten(1)) + torch.eye(6)
    assert gaps.min() > 1e-3
    # image-major: the first three belong to the first picture
    assert torch.equal(restore(pipe, image=images[0], num_candidates=3), group[:3])


def test_no_generator_is_random_and_leaves_the_global_state(pipe: OneStepSRPipeline):
    before = torch.get_rng_state()
    first, second = (pipe(picture(), output_type="pt").images for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"t_add": 1000}, "t_add = 1000: choose an integer in 0 .. 999"),
        ({"t_add": -2}, "t_add = -2"),
        ({"t_add": 2.5}, "t_add = 2.5"),
        ({"color_fix": "wavlet"}, "color_fix = 'wavlet': use one of wavelet, adain, none"),
        ({"output_type": "jpg"}, "output_type = 'jpg': use one of pil, np, pt"),
        ({"scale": 0}, "scale = 0"),
        ({"scale": float("nan")}, "scale = nan"),
        ({"scale": 65}, "scale = 65: .* at most 64"),
        ({"num_candidates": 0}, "num_candidates = 0: use 1 or more"),
        ({"tile": 32}, "tile = 32, tile_overlap = 16"),
        ({"tile": 8, "tile_overlap": -1}, "tile_overlap = -1"),
        ({"generator": [torch.Generator()]}, "generator = a list: give one torch.Generator"),
        ({"prompt": ["a", "b"]}, "prompt = a list: give one text for all pictures"),
        ({"scale": "4"}, "scale = '4': use a number above 0"),
        ({"scale": None}, "scale = None: use a number"),
        ({"scale": True}, "scale = True: use a number"),
        ({"num_candidates": 1.5}, "num_candidates = 1.5: use 1 or more, a whole number"),
        ({"tile": "64"}, "tile = '64': use 0 or more, a whole number"),
        ({"tile_overlap": None}, "tile_overlap = None: use 0 or more"),
        ({"batch_size": 0}, "batch_size = 0: use 1 or more"),
        ({"batch_size": -1}, "batch_size = -1: use 1 or more"),
        ({"size": 64}, "size = 64: give .height, width. in pixels"),
        ({"size": (1, 2, 3)}, "size = .1, 2, 3.: give .height, width. in pixels"),
        ({"size": (30.5, 20)}, r"size.0. = 30.5: use 1 or more, a whole number"),
    ],
)
def test_bad_arguments_are_found_before_the_work(
    pipe: OneStepSRPipeline, monkeypatch: pytest.MonkeyPatch, options: dict, words: str
):
    monkeypatch.setattr(pipe.generator, "encode", None)
    with pytest.raises(OptionError, match=words):
        pipe(picture(), **options)


@pytest.mark.parametrize(
    "image, words",
    [
        ([], "no picture was given"),
        (torch.rand(0, 3, 8, 8), "no picture was given"),
        (torch.rand(1, 8, 8), r"shape \(1, 8, 8\)"),
        (torch.rand(2, 4, 8, 8), r"shape \(4, 8, 8\)"),
        (torch.rand(3, 0, 8), r"shape \(3, 0, 8\)"),
        (np.random.default_rng(0).random((8, 8)), r"shape \(8, 8\)"),
        (np.zeros((8, 8, 3), np.int16), "type torch.int16"),
        (None, "a picture cannot be a NoneType: give a path"),
        ([3.5], "a picture cannot be a float"),
        ("nowhere.png", "nowhere.png: no such file"),
        (torch.rand(3, 8, 8) * 255, "values from .*: scale it"),
        (torch.full((3, 8, 8), torch.nan), "values from nan"),
        (Image.new("I;16", (8, 8)), "mode I;16"),
        (np.array(["a.png"]), "type <U5 has no numbers"),
        (np.array([None]), "type object has no numbers"),
        (torch.rand(3, 8, 8, device="meta"), "has no numbers"),
    ],
)
def test_bad_pictures(pipe: OneStepSRPipeline, image, words: str):
    with pytest.raises(ImageError, match=words):
        pipe(image)


def test_a_result_that_no_memory_holds(pipe: OneStepSRPipeline):
    """It ended in a message of the allocator."""
    with pytest.raises(ImageError, match="no memory for a result of 100000000x99999999"):
        pipe(picture(), size=(99_999_999, 100_000_000))


@pytest.mark.parametrize("base", [None, 3, b"mini", "", [""]])
def test_bad_bases(base):
    with pytest.raises(CheckpointError, match="base (= |is an empty name).*name 'mini'"):
        OneStepSRPipeline.from_pretrained(base)


@pytest.mark.parametrize("lora", [None, 3, [], ""])
def test_bad_loras(pipe: OneStepSRPipeline, lora):
    with pytest.raises(CheckpointError, match="lora = .*: name a run folder or an adapter folder"):
        pipe.load_lora_weights(lora)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1"])
def test_pil_modes(pipe: OneStepSRPipeline, mode: str):
    assert pipe(Image.new(mode, (9, 7))).images[0].size == (36, 28)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(base: Path, pipe: OneStepSRPipeline, adapter: Path, dtype: torch.dtype):
    """Loaded or cast, with a LoRA: close to float32 (1e-2 on average), output float32."""
    usual = restore(pipe)
    half = OneStepSRPipeline.from_pretrained(base, torch_dtype=dtype)
    result = restore(half)
    assert half.unet.dtype == dtype and result.dtype == torch.float32
    assert (result - usual).abs().mean() < 1e-2
    assert torch.equal(restore(pipe.to(dtype)), result)  # no embedding of the old type is left
    half.load_lora_weights(adapter)
    assert restore(half).isfinite().all()


def test_an_exchanged_part_is_used(pipe: OneStepSRPipeline):
    usual = restore(pipe)
    pipe.scheduler = OneStepScheduler(t_add=250, t_diff=300)
    changed = restore(pipe)
    pipe.scheduler = OneStepScheduler(t_add=250, t_diff=100)
    assert not torch.equal(changed, usual) and torch.equal(restore(pipe), usual)


def test_lora(base: Path, pipe: OneStepSRPipeline, adapter: Path, tmp_path: Path):
    """It changes the output, without its dropout; merged, the model can be saved."""
    usual = restore(pipe)
    pipe.load_lora_weights(adapter)
    tuned = restore(pipe)
    assert torch.equal(restore(pipe), tuned)
    assert (tuned - usual).abs().max() > 1e-2
    with pytest.raises(OptionError, match="'default': a LoRA of this name is loaded"):
        pipe.load_lora_weights(adapter)
    with pytest.raises(CheckpointError, match="merge_lora_weights"):
        pipe.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()
    merge_lora(pipe.unet)
    assert not lora_parameters(pipe.unet)
    pipe.save_pretrained(tmp_path / "model")
    merged = OneStepSRPipeline.from_pretrained(tmp_path / "model")
    torch.testing.assert_close(restore(merged), tuned, atol=1e-4, rtol=0)


def test_lora_of_another_architecture(pipe: OneStepSRPipeline, tmp_path: Path):
    other = OneStepSRPipeline.from_pretrained(tiny_base(tmp_path / "wide", channels=(24, 32)))
    add_lora(other.unet)
    save_lora(other.unet, tmp_path / "lora")
    with pytest.raises(CheckpointError, match="use the base that it was trained on"):
        pipe.load_lora_weights(tmp_path / "lora")
    assert not lora_parameters(pipe.unet)


def test_tile_that_covers_everything_is_no_tile(pipe: OneStepSRPipeline):
    assert torch.equal(restore(pipe, tile=48), restore(pipe))


def test_size(pipe: OneStepSRPipeline):
    """(H, W) exactly; the middle of the picture, enlarged until it covers the size."""
    image = picture(12, 16)
    assert restore(pipe, image=image, size=(30, 64)).shape == (1, 3, 30, 64)
    whole = restore(pipe, image=image, color_fix="none", t_add=0)
    assert torch.equal(restore(pipe, image=image, size=(48, 64), color_fix="none", t_add=0), whole)


def test_candidates_are_encoded_once(pipe: OneStepSRPipeline, monkeypatch: pytest.MonkeyPatch):
    calls = []
    encode = pipe.vae.encode
    monkeypatch.setattr(pipe.vae, "encode", lambda x: calls.append(1) or encode(x))
    restore(pipe, num_candidates=4)
    assert len(calls) == 1


def test_result_is_the_generator_s(pipe: OneStepSRPipeline):
    """Without a colour fix: bicubic, [0, 1] -> [-1, 1], generator with drawn noise, and back."""
    image = picture(16, 16)[None]
    enlarged = torch.nn.functional.interpolate(image, scale_factor=4, mode="bicubic").clamp(0, 1)
    noise = NoiseField(draw_seed(rng()), 12).window(0, 16, 0, 16)[None]
    expected = pipe.generator(enlarged * 2 - 1, noise) / 2 + 0.5
    actual = restore(pipe, image=image, color_fix="none")
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


def test_without_text_encoder_results_stay_and_other_prompts_still_work(base, tmp_path):
    whole, freed = (OneStepSRPipeline.from_pretrained(base) for _ in range(2))
    freed.release_text_encoder(["a"], lambda: load_text_encoder(base))
    assert freed.text_encoder is None and freed.generator.prompt_encoder.text_encoder is None
    image = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0))
    for prompt in ("a", "b"):
        results = [
            pipe(
                image,
                generator=torch.Generator().manual_seed(1),
                prompt=prompt,
                output_type="pt",
            ).images
            for pipe in (whole, freed)
        ]
        assert torch.equal(*results)
    freed.save_pretrained(tmp_path / "saved")
    saved = OneStepSRPipeline.from_pretrained(tmp_path / "saved")
    for name, value in whole.text_encoder.state_dict().items():
        assert torch.equal(saved.text_encoder.state_dict()[name], value)


def test_an_exchanged_part_after_the_release(base):
    pipe, other = (OneStepSRPipeline.from_pretrained(base) for _ in range(2))
    pipe.release_text_encoder([""], lambda: load_text_encoder(base))
    pipe.unet = other.unet
    assert pipe.generator.unet is other.unet
    assert pipe.generator.prompt_encoder(["c"]).shape[0] == 1


def test_compile_compiles_the_three_networks(base):
    """In place, so that LoRA and `save_pretrained` see the same modules; nothing runs yet."""
    pipe = OneStepSRPipeline.from_pretrained(base)
    networks = pipe.unet, pipe.vae.encoder, pipe.vae.decoder
    pipe.compile()
    assert networks == (pipe.unet, pipe.vae.encoder, pipe.vae.decoder)
    assert all(network._compiled_call_impl is not None for network in networks)
