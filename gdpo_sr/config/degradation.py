"""Options of the second-order Real-ESRGAN degradation; defaults as released with GDPO-SR.

Source: Wang et al., "Real-ESRGAN" (2021), section 3. Field names are BasicSR's, so that its option
files carry over.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from gdpo_sr.option_group import OptionGroup

MAX_KERNEL_SIZE = 21

Probability = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0)]


def _ordered(value: tuple[float, float]) -> tuple[float, float]:
    if value[0] > value[1]:
        raise ValueError(f"range {list(value)} is upside down: write the smaller number first")
    return value


def _around_one(value: tuple[float, float]) -> tuple[float, float]:
    if not value[0] <= 1 <= value[1]:
        raise ValueError(f"resize range {list(value)} must contain 1: up is above, down below")
    return value


def _odd_sizes(value: tuple[int, int]) -> tuple[int, int]:
    if value[0] % 2 == 0 or value[1] % 2 == 0:
        raise ValueError(f"kernel sizes {list(value)} must be odd: take the next odd number")
    return value


def _some_weight(value: tuple[float, float, float]) -> tuple[float, float, float]:
    if sum(value) <= 0:
        raise ValueError(f"weights {list(value)} sum to 0: make one of them positive")
    return value


_Positive = Annotated[float, Field(gt=0)]
_NotNegative = Annotated[float, Field(ge=0)]
_Quality = Annotated[float, Field(ge=1, le=100)]
_Size = Annotated[int, Field(ge=3, le=MAX_KERNEL_SIZE)]
PositiveRange = Annotated[tuple[_Positive, _Positive], AfterValidator(_ordered)]
Range = Annotated[tuple[_NotNegative, _NotNegative], AfterValidator(_ordered)]
QualityRange = Annotated[tuple[_Quality, _Quality], AfterValidator(_ordered)]
ResizeRange = Annotated[tuple[_Positive, _Positive], AfterValidator(_around_one)]
ResizeWeights = Annotated[tuple[Weight, Weight, Weight], AfterValidator(_some_weight)]
SizeRange = Annotated[tuple[_Size, _Size], AfterValidator(_ordered), AfterValidator(_odd_sizes)]


class KernelMix(OptionGroup):
    """Relative frequency of every blur kernel family (normalised to sum 1 when drawn)."""

    iso: Weight = Field(0.45, description="isotropic Gaussian")
    aniso: Weight = Field(0.25, description="rotated anisotropic Gaussian")
    generalized_iso: Weight = Field(0.12, description="isotropic generalised Gaussian (betag)")
    generalized_aniso: Weight = Field(0.03, description="anisotropic generalised Gaussian (betag)")
    plateau_iso: Weight = Field(0.12, description="isotropic plateau (betap)")
    plateau_aniso: Weight = Field(0.03, description="anisotropic plateau (betap)")

    @model_validator(mode="after")
    def _not_all_zero(self) -> KernelMix:
        if sum(self.model_dump().values()) <= 0:
            raise ValueError("kernel_mix is 0 for every kernel: make one of them positive")
        return self


class StageOptions(OptionGroup):
    """One round of blur, resize, noise and JPEG; the defaults are those of the first round."""

    blur_prob: Probability = Field(1.0, description="chance that a batch is blurred at all")
    sinc_prob: Probability = Field(
        0.1, description="chance that a picture's kernel is a sinc filter"
    )
    blur_sigma: PositiveRange = Field((0.2, 3.0), description="blur standard deviation in pixels")
    betag_range: PositiveRange = Field((0.5, 4.0), description="shape of generalised Gaussians")
    betap_range: PositiveRange = Field((1.0, 2.0), description="shape of plateau kernels")
    resize_prob: ResizeWeights = Field((0.2, 0.7, 0.1), description="weights of up, down, keep")
    resize_range: ResizeRange = Field((0.3, 1.5), description="resize factor, below and above 1")
    gaussian_noise_prob: Probability = Field(
        0.5, description="chance of Gaussian, else Poisson noise"
    )
    noise_range: Range = Field((1.0, 15.0), description="Gaussian noise sigma in 8-bit levels")
    poisson_scale_range: Range = Field((0.05, 2.0), description="multiplier of the Poisson noise")
    gray_noise_prob: Probability = Field(0.4, description="chance that a picture's noise is grey")
    jpeg_range: QualityRange = Field((60.0, 95.0), description="JPEG quality")


class SecondStageOptions(StageOptions):
    """The second, milder round: sizes are relative to the LR size."""

    blur_prob: Probability = Field(0.5, description="chance that a batch is blurred a second time")
    blur_sigma: PositiveRange = Field((0.2, 1.5), description="blur standard deviation in pixels")
    resize_prob: ResizeWeights = Field((0.3, 0.4, 0.3), description="weights of up, down, keep")
    resize_range: ResizeRange = Field((0.6, 1.2), description="resize factor, relative to LR size")
    noise_range: Range = Field((1.0, 12.0), description="Gaussian noise sigma in 8-bit levels")
    poisson_scale_range: Range = Field((0.05, 1.0), description="multiplier of the Poisson noise")
    jpeg_range: QualityRange = Field((60.0, 100.0), description="JPEG quality")


def _first() -> Any:
    return StageOptions.model_validate({})


def _second() -> Any:
    return SecondStageOptions.model_validate({})


class DegradationOptions(OptionGroup):
    """How an LR picture is made from an HR picture."""

    light_prob: Probability = Field(
        0.0,
        description="chance that a batch is degraded lightly, as by a camera: blur, little noise, "
        "JPEG of high quality; the fields below do not apply to it",
    )

    first: StageOptions = Field(default_factory=_first, description="first round")
    second: SecondStageOptions = Field(default_factory=_second, description="second round")
    final_sinc_prob: Probability = Field(0.8, description="chance of a last sinc filter")
    kernel_size_range: SizeRange = Field((7, 21), description="smallest and largest kernel size")
    kernel_mix: KernelMix = Field(
        default_factory=lambda: KernelMix.model_validate({}), description="blur kernel families"
    )


def light_degradation() -> DegradationOptions:
    """What `light_prob` applies: one blur of any width, hardly any noise, no intermediate sizes."""
    keep = (0.0, 0.0, 1.0)
    first = StageOptions(
        blur_sigma=(0.3, 2.5),
        resize_prob=keep,
        noise_range=(0.0, 3.0),
        poisson_scale_range=(0.0, 0.3),
        jpeg_range=(85.0, 100.0),
    )
    second = SecondStageOptions(
        blur_prob=0.1,
        resize_prob=keep,
        noise_range=(0.0, 2.0),
        poisson_scale_range=(0.0, 0.15),
        jpeg_range=(80.0, 100.0),
    )
    return DegradationOptions(first=first, second=second, final_sinc_prob=0.2)
