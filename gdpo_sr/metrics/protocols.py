"""Published settings by name: which metrics, on which colours, with which crop."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from gdpo_sr.metrics.feature_maps import FEATURE_METRICS
from gdpo_sr.metrics.registry import OF_SETS, resolve
from gdpo_sr.types import OptionError

_PACKAGES = ("gdpo-sr", "pyiqa", "torch", "torchvision", "numpy", "scipy", "pillow", "basicsr")
_OSEDIFF = (
    "psnr_y", "ssim_y", "lpips", "dists", "niqe", "musiq", "maniqa-pipal", "clipiqa", "fid",
)  # fmt: skip


@dataclass(frozen=True)
class Protocol:
    """What is measured, and how; two runs may be compared only if theirs are equal.

    Attributes:
        name: `osediff`, `gdpo`, `offline`, or `custom`.
        metrics: names, in the order of the table.
        crop_border: pixels cut off at each side before anything is measured.
        with_reference: whether there is a ground truth.
        colours: what the metrics are given.
    """

    name: str
    metrics: tuple[str, ...]
    crop_border: int = 0
    with_reference: bool = True
    colours: str = "8-bit RGB; PSNR and SSIM on Y of YCbCr (BT.601) where the name ends in _y"

    def describe(self) -> str:
        """One line for the head of a table."""
        crop = f"crop {self.crop_border} px" if self.crop_border else "no crop"
        reference = "against the ground truth" if self.with_reference else "no ground truth"
        return f"protocol {self.name}: {self.colours}, {crop}, {reference}"

    def record(self) -> dict[str, Any]:
        """Everything that the numbers depend on and that the user chose, for the JSON file."""
        options = {}
        for name in self.metrics:
            options[name] = _record_of(name)
        if "niqe" in options:
            options["niqe"]["pristine_model"] = "niqe_pris_params.npz of basicsr"
        return {**asdict(self), "metrics": list(self.metrics), "options": options}


def _record_of(name: str) -> dict[str, Any]:
    """Where a metric is from, and its options."""
    if name in FEATURE_METRICS:
        return {"features": "EfficientNet-lite0, strides 2, 2, 4, 8"}
    theirs, preset = resolve(name)
    return {"pyiqa": theirs, **preset}


PROTOCOLS: dict[str, tuple[str, ...]] = {
    # test_metrics.py of the OSEDiff code, whose published logs it reproduces
    "osediff": _OSEDIFF,
    # the GDPO-SR paper's set: OSEDiff's and two more
    "gdpo": (*_OSEDIFF[:-1], "maniqa", "afine", "fid"),
    # what needs no download
    "offline": ("psnr_y", "ssim_y", "niqe", "piqe"),
}


def make_protocol(
    name: str | None, metrics: list[str] | None, crop_border: int, with_reference: bool
) -> Protocol:
    """The protocol that the options of the command ask for.

    Without a ground truth a named protocol keeps its no-reference metrics alone.

    Raises:
        OptionError: both a name and metrics, an unknown name, a negative crop, or metrics that need
            a ground truth where there is none.
    """
    if crop_border < 0:
        raise OptionError(f"--crop_border {crop_border} is negative; give 0 or more")
    if name and metrics:
        raise OptionError(f"--protocol {name} and --metrics contradict each other; give one")
    if name and name not in PROTOCOLS:
        raise OptionError(f"--protocol {name} is unknown; choose one of {', '.join(PROTOCOLS)}")
    chosen = tuple(dict.fromkeys(metrics or PROTOCOLS[name or "offline"]))
    blind = [] if with_reference else [metric for metric in chosen if needs_reference(metric)]
    if metrics and blind:
        raise OptionError(
            f"--metrics {' '.join(blind)}: needs a reference; give the ground truth with -g"
        )
    kept = tuple(metric for metric in chosen if metric not in blind)
    title = "custom" if metrics else name or "offline"
    return Protocol(title, kept, crop_border, with_reference)


def needs_reference(name: str) -> bool:
    """Whether a metric compares with a ground truth; nothing is built."""
    return metric_facts(name)[1]


def metric_facts(name: str) -> tuple[bool, bool]:
    """(lower is better, needs a reference) of a metric.

    Raises:
        MetricError: unknown name.
    """
    if name in FEATURE_METRICS:
        return True, True
    theirs, _ = resolve(name)
    from pyiqa.default_model_configs import DEFAULT_CONFIGS

    facts = DEFAULT_CONFIGS[theirs]
    paired = facts.get("metric_mode") == "FR" or theirs in OF_SETS
    return bool(facts.get("lower_better", False)), paired


def package_versions() -> dict[str, str]:
    """Versions of the packages that compute the numbers."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
