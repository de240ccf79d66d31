"""Kinds of TIFF: which ones Pillow reads rightly, and which ones nobody knows the values of.

Source: TIFF Revision 6.0 (Adobe, 1992).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tifffile import TiffPage

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR = 0, 1, 2, 3, 5, 6
UNSIGNED, SIGNED, FLOAT = 1, 2, 3  # SampleFormat
_NAMES = {3: "palette", 4: "mask", 5: "CMYK", 6: "YCbCr", 8: "CIE L*a*b*", 9: "ICC L*a*b*"}
_ALPHAS = (1, 2)  # ExtraSamples: multiplied in, not multiplied in
_INK_SET, _COEFFICIENTS, _SUBSAMPLING, _REFERENCES = 332, 529, 530, 532  # tags
_PLAIN_YCBCR = {
    _COEFFICIENTS: (0.299, 0.587, 0.114),
    _SUBSAMPLING: (1, 1),
    _REFERENCES: (0, 255, 128, 255, 128, 255),
}


def extra_samples(page: TiffPage) -> list[int]:
    """What the file says of the samples behind the colours; 0 is nothing."""
    return [int(kind) for kind in page.extrasamples]


def pillow_is_right(page: TiffPage) -> bool:
    """Whether Pillow opens the page and gives all bits of the values that it means."""
    bits, kind, samples = page.bitspersample, int(page.photometric), page.samplesperpixel
    if page.sampleformat != UNSIGNED or bits not in (1, 2, 4, 8) or page.imagedepth != 1:
        return False
    if samples == 1:
        return kind in (WHITE_IS_ZERO, BLACK_IS_ZERO, PALETTE)
    if bits != 8:
        return False
    extra = extra_samples(page)
    if int(page.planarconfig) == 2:
        return kind == RGB and (samples == 3 or (samples == 4 and extra in ([], [2])))
    usual = not any(extra[1:])  # Pillow knows alpha as the first one alone
    return {
        BLACK_IS_ZERO: samples == 2 and len(extra) == 1,
        RGB: 3 <= samples <= 6 and usual and (samples < 5 or len(extra) == samples - 3),
        PALETTE: samples == 2 and extra in ([0], [2]),
        CMYK: _is_cmyk(page) and extra in ([], [0], [0, 0]) and samples == 4 + len(extra),
        YCBCR: samples == 3 and _is_plain_ycbcr(page),
    }.get(kind, False)


def check_kind(page: TiffPage) -> None:
    """Raise ValueError for a page that Pillow does not read and whose values have no agreed
    meaning.
    """
    kind, bits, samples = int(page.photometric), page.bitspersample, page.samplesperpixel
    if not isinstance(bits, int) or (bits > 32 and bits != 64):
        raise ValueError(f"a TIFF of samples of {bits} bits is not supported; save 8 or 16 bits")
    if kind not in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB):
        name = _NAMES.get(kind, f"photometric interpretation {kind}")
        raise ValueError(
            f"a TIFF of {name} with {bits} bits{_what_else(page)} is not supported; save it as RGB"
        )
    if page.sampleformat not in (UNSIGNED, FLOAT):
        name = {SIGNED: "signed integers"}.get(page.sampleformat, f"format {page.sampleformat}")
        raise ValueError(f"a TIFF of samples that are {name} is not supported; save 8 or 16 bits")
    if page.sampleformat == FLOAT and bits not in (16, 32, 64):
        raise ValueError(f"a TIFF of {bits}-bit floats is not supported; save 16 or 32 bits")
    if page.imagedepth != 1 or samples < (3 if kind == RGB else 1):
        raise ValueError(f"a TIFF with samples of shape {page.shape} is not a picture")
    if kind != RGB and samples > 2 and not set(extra_samples(page)) & set(_ALPHAS):
        raise ValueError(
            f"a grey TIFF of {samples} samples a pixel does not say what they are; save it as RGB"
        )


def _is_cmyk(page: TiffPage) -> bool:
    """Not other inks."""
    return page.tags.valueof(_INK_SET, 1) == 1


def _is_plain_ycbcr(page: TiffPage) -> bool:
    """Whether nothing else than the usual conversion is needed: libtiff does all for compressed
    files, and Pillow by itself reads the others.
    """
    if page.compression != 1:
        return True
    found = {_SUBSAMPLING: (2, 2), **_tuples(page)}
    return all(
        len(found.get(tag, usual)) == len(usual)
        and all(abs(a - b) < 1e-3 for a, b in zip(found.get(tag, usual), usual, strict=True))
        for tag, usual in _PLAIN_YCBCR.items()
    )


def _tuples(page: TiffPage) -> dict[int, tuple[float, ...]]:
    """Those of the tags of YCbCr that are there; pairs of rationals as numbers."""
    found = {tag: page.tags.valueof(tag) for tag in _PLAIN_YCBCR}
    values = {tag: tuple(value) for tag, value in found.items() if value is not None}
    for tag in values.keys() & {_COEFFICIENTS, _REFERENCES}:
        pairs = values[tag]
        values[tag] = tuple(a / (b or 1) for a, b in zip(pairs[::2], pairs[1::2], strict=False))
    return values


def _what_else(page: TiffPage) -> str:
    """What makes a kind that is known otherwise one that is not."""
    kind = int(page.photometric)
    if kind == CMYK and not _is_cmyk(page):
        return " and other inks"
    if kind == YCBCR and page.compression == 1 and not _is_plain_ycbcr(page):
        return ", uncompressed and subsampled or of other coefficients,"
    return ""
