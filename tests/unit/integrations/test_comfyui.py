"""The nodes keep ComfyUI's contract, without ComfyUI."""

from __future__ import annotations

import importlib.util
import inspect
import sys
import types
from pathlib import Path

import pytest
import torch

from gdpo_sr import OneStepSRPipeline
from gdpo_sr.utils.color_fix import COLOR_FIXES

FOLDER = Path(__file__).resolve().parents[3] / "integrations" / "comfyui"
KINDS = {"STRING", "FLOAT", "INT", "IMAGE", "GDPO_SR_MODEL"}


@pytest.fixture(scope="module")
def package():
    """Loaded by its path under a name of ComfyUI's choice, as ComfyUI does."""
    name = "custom_nodes_gdpo_sr"
    spec = importlib.util.spec_from_file_location(
        name, FOLDER / "__init__.py", submodule_search_locations=[str(FOLDER)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    yield module
    for loaded in [key for key in sys.modules if key.startswith(name)]:
        del sys.modules[loaded]


def test_every_node_keeps_the_contract(package):
    assert package.NODE_CLASS_MAPPINGS.keys() == package.NODE_DISPLAY_NAME_MAPPINGS.keys()
    for node in package.NODE_CLASS_MAPPINGS.values():
        inputs = node.INPUT_TYPES()
        assert set(inputs) <= {"required", "optional", "hidden"}
        names = [name for section in inputs.values() for name in section]
        function = getattr(node(), node.FUNCTION)
        assert list(inspect.signature(function).parameters) == names
        assert isinstance(node.RETURN_TYPES, tuple) and set(node.RETURN_TYPES) <= KINDS
        assert isinstance(node.CATEGORY, str)
        for kind, *options in inputs["required"].values():
            assert kind in KINDS or isinstance(kind, (list, tuple))
            _check_default(kind, options[0] if options else {})


def _check_default(kind: object, options: dict) -> None:
    if "default" not in options:
        return
    default = options["default"]
    if isinstance(kind, (list, tuple)):
        assert default in kind
    elif kind in ("INT", "FLOAT"):
        assert options["min"] <= default <= options["max"]
        assert isinstance(default, int if kind == "INT" else float)


def test_colour_fixes_are_the_pipeline_s(package):
    choices = package.NODE_CLASS_MAPPINGS["GDPOSRRestore"].INPUT_TYPES()["required"]["color_fix"]
    assert set(choices[0]) == set(COLOR_FIXES)


def test_what_the_loader_gives_restores_as_the_pipeline_does(package, base: Path):
    load, restore = (package.NODE_CLASS_MAPPINGS[f"GDPOSR{n}"]() for n in ("LoadModel", "Restore"))
    (model,) = load.load(str(base), "  ", 1.0)
    images = torch.rand(2, 9, 13, 4, generator=torch.Generator().manual_seed(0))
    (out,) = restore.restore(model, images, 2.0, 2**64 - 1, -1, "wavelet")
    assert out.shape == (2, 18, 26, 3) and out.dtype == torch.float32 and out.is_contiguous()
    assert 0 <= out.min() and out.max() <= 1
    rng = torch.Generator().manual_seed(2**64 - 1)
    pipe = OneStepSRPipeline.from_pretrained(base)
    wanted = pipe(images[..., :3].movedim(-1, 1), 2, rng, output_type="pt").images
    assert torch.equal(out, wanted.movedim(1, -1).clamp(0, 1))
    (other,) = restore.restore(model, images, 2.0, 1, 300, "none")
    assert not torch.equal(out, other)


def test_comfyui_s_device_is_used(package, monkeypatch):
    comfy = types.ModuleType("comfy")
    management = types.ModuleType("comfy.model_management")
    management.get_torch_device = lambda: torch.device("meta")
    monkeypatch.setitem(sys.modules, "comfy", comfy)
    monkeypatch.setitem(sys.modules, "comfy.model_management", management)
    nodes = sys.modules["custom_nodes_gdpo_sr.nodes"]
    assert nodes._device() == torch.device("meta")


def test_a_lora_is_merged_into_the_loaded_model(package, base: Path, tmp_path: Path):
    from gdpo_sr.checkpoints.lora import add_lora, save_lora

    pipe = OneStepSRPipeline.from_pretrained(base)
    for parameter in add_lora(pipe.unet, rank=2):
        torch.nn.init.constant_(parameter, 0.1)
    save_lora(pipe.unet, tmp_path / "lora")
    load = package.NODE_CLASS_MAPPINGS["GDPOSRLoadModel"]().load
    (plain,), (tuned,) = load(str(base), "", 1.0), load(str(base), str(tmp_path / "lora"), 1.0)
    key = "conv_in.weight"
    assert not hasattr(tuned.unet, "peft_config")
    assert not torch.equal(tuned.unet.state_dict()[key], plain.unet.state_dict()[key])
