"""Package metadata. pip reads this file in isolation, so it must not import torch or gdpo_sr."""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent

# Lower bounds are the oldest interfaces that the code is written for; there are no upper ones and
# no wheel is pinned, so that pip can take the torch build that fits the machine.
INSTALL = [
    "torch>=2.4",
    "torchvision>=0.19",
    "diffusers>=0.35",
    "accelerate>=1.0",
    "peft>=0.17",
    "transformers>=4.48",
    "pyiqa>=0.1.13",
    "basicsr>=1.4.2",
    "opencv-python>=4.8",
    "numpy>=1.26",
    "pillow>=10.0",
    "tifffile>=2023.2.28",
    "pydantic>=2.6",
    "pyyaml>=6.0",
    "safetensors>=0.4.3",
    "scipy>=1.11",
    "tqdm>=4.65",
    "tensorboard>=2.14",
]

DEEPSPEED = ["deepspeed>=0.19.8"]  # options/accelerate/deepspeed_zero2.yaml alone asks for it
DOCUMENTS = ["mkdocs-material>=9.6", "mkdocstrings[python]>=0.29", "latex2mathml>=3.77"]
DEMO = ["gradio>=6.0"]  # gdpo-sr demo
WANDB = ["wandb>=0.18"]  # logger.use_wandb
DEVELOPMENT = ["pytest>=8.0", "ruff>=0.11", "pyright[nodejs]>=1.1.390", "pre-commit>=3.5"]


def read_version() -> str:
    """The string assigned to `__version__` in gdpo_sr/version.py."""
    text = (ROOT / "gdpo_sr" / "version.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([^"]+)"$', text, flags=re.MULTILINE)
    if found is None:
        raise RuntimeError("gdpo_sr/version.py must hold one line '__version__ = \"X.Y.Z\"'")
    return found.group(1)


def read_long_description() -> str:
    """README.md as the text of the package's page; empty while there is none."""
    readme = ROOT / "README.md"
    return readme.read_text(encoding="utf-8") if readme.is_file() else ""


setup(
    name="gdpo-sr",
    version=read_version(),
    description="One-step diffusion super-resolution tuned by Group Direct Preference Optimization",
    long_description=read_long_description(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10,<3.13",  # basicsr does not build on 3.13
    packages=find_packages(include=["gdpo_sr", "gdpo_sr.*"]),
    package_data={"gdpo_sr": ["py.typed", "assets/**/*", "evaluation/page/*"]},
    install_requires=INSTALL,
    extras_require={
        "dev": DEVELOPMENT + DOCUMENTS,
        "docs": DOCUMENTS,
        "deepspeed": DEEPSPEED,
        "demo": DEMO,
        "wandb": WANDB,
    },
    entry_points={"console_scripts": ["gdpo-sr=gdpo_sr.cli:main"]},
)
