"""Commands answer --help without torch, and offer what the slow modules have."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from gdpo_sr import evaluate, inference
from gdpo_sr.metrics import PROTOCOLS
from gdpo_sr.restore import command
from gdpo_sr.utils.color_fix import COLOR_FIXES
from gdpo_sr.utils.lean_imports import without

HEAVY = {"diffusers", "transformers", "peft", "accelerate", "torch._dynamo", "pydantic"}
HEAVY |= {"bitsandbytes", "scipy", "torchvision", "pyiqa", "basicsr", "tensorboard", "wandb", "cv2"}
HEAVY |= {"tifffile", "sklearn", "pandas", "matplotlib", "gradio"}
"""What restoring on the embedded base has no use for: together more CPU time than all else."""

SCRIPT = """
import sys
from gdpo_sr.cli import run_main
from gdpo_sr.{name} import main
try:
    run_main(main, {arguments})
except SystemExit:
    pass
slow = sorted({{"torch", "diffusers", "transformers", "peft", "cv2", "pyiqa"}} & set(sys.modules))
assert not slow, slow
"""


@pytest.mark.parametrize(
    "name, arguments",
    [
        ("train", ["--help"]),
        ("inference", ["--help"]),
        ("evaluate", ["--help"]),
    ],
)
def test_quick_answers_import_nothing_slow(name: str, arguments: list[str], pytestconfig):
    script = SCRIPT.format(name=name, arguments=arguments)
    subprocess.run([sys.executable, "-c", script], check=True, cwd=pytestconfig.rootpath)


def test_a_dry_run_imports_no_networks(pytestconfig):
    """Options are checked with the losses, which need torch and nothing else."""
    arguments = ["-opt", "options/gdpo_sr.yml", "--dry_run"]
    script = SCRIPT.format(name="train", arguments=arguments).replace('"torch", ', "")
    subprocess.run([sys.executable, "-c", script], check=True, cwd=pytestconfig.rootpath)


def test_the_package_itself_imports_nothing_slow(pytestconfig):
    slow = {*HEAVY, "torch", "numpy", "PIL"}
    script = f"import sys, gdpo_sr; slow = {slow} & set(sys.modules); assert not slow, slow"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=pytestconfig.rootpath)


def test_choices_are_those_of_the_modules():
    assert inference.COLOR_FIXES == tuple(COLOR_FIXES)
    assert inference.PRECISIONS == tuple(command.PRECISIONS)
    assert evaluate.PROTOCOLS == tuple(PROTOCOLS)


def test_restoring_imports_nothing_that_it_does_not_use(tmp_path: Path, pytestconfig):
    """bitsandbytes alone took a second and a half, and wrote about its kernels."""
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    script = (
        "import sys; from gdpo_sr.inference import main\n"
        f"status = main(['-i', {str(tmp_path / 'a.png')!r}, '-o', {str(tmp_path / 'out')!r}])\n"
        f"heavy = {HEAVY} & set(sys.modules)\n"
        "assert status == 0 and not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=pytestconfig.rootpath, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "kernels" not in done.stderr


def test_enlarging_imports_no_model(pytestconfig):
    """`scripts/bicubic.py` took as long to start as a restoration."""
    slow = HEAVY - {"cv2"}
    script = f"import sys, bicubic; slow = {slow} & set(sys.modules); assert not slow, slow"
    subprocess.run(
        [sys.executable, "-c", script],
        check=True,
        cwd=pytestconfig.rootpath / "scripts",
        env={**os.environ, "PYTHONPATH": str(pytestconfig.rootpath)},
    )


def test_hidden_packages_are_found_again():
    with without("tabnanny", "json"):
        import json  # noqa: F401 - it was imported before, and stays

        with pytest.raises(ImportError):
            import tabnanny
    import tabnanny

    assert tabnanny.verbose == 0


def test_no_other_package_speaks_at_the_start(pytestconfig):
    """bitsandbytes warns of a kernel that it cannot load, once peft imports it."""
    script = "import gdpo_sr, logging; from gdpo_sr.restore import command"
    noisy = 'logging.getLogger("bitsandbytes.backends.cpu.ops").warning("Failed: %s", "others")'
    kernel = noisy.replace("Failed", "Failed to load CPU gemm_4bit_forward from kernels-community")
    command_line = [sys.executable, "-c", f"{script}; {kernel}; {noisy}"]
    done = subprocess.run(command_line, capture_output=True, text=True, cwd=pytestconfig.rootpath)
    assert done.returncode == 0 and "gemm_4bit" not in done.stderr
    assert "Failed: others" in done.stderr
