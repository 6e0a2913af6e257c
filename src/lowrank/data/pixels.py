"""Images of every mode as 8-bit grey or colour: scaled by their range, never cut off."""

from __future__ import annotations

from typing import Any

import numpy as np

from lowrank.errors import LowrankError

BITS_PER_SAMPLE = 258
"""The TIFF tag."""
GREY = ("1", "L", "LA", "La", "I", "F")
BACKGROUND = {"white": 255, "black": 0}


def eight_bit(image: Any, mode: str | None, background: str) -> tuple[Any, bool]:
    """A Pillow image as "L" or "RGB", and whether something of it was transparent.

    `mode` is "L", "RGB" or None: grey stays grey, everything else becomes colour. Deep grey images
    are scaled by what their bits can hold; what is transparent is laid on `background`. Raises
    LowrankError for pixels without a known range: 32-bit integers and floating-point numbers.
    """
    grey = image.mode in GREY or image.mode.startswith("I;16")
    mode = mode or ("L" if grey else "RGB")
    if image.mode.startswith(("I", "F")):
        return _shallow(image).convert(mode), False
    if not image.has_transparency_data:
        return (image if image.mode == mode else image.convert(mode)), False
    image = image.convert("LA" if grey else "RGBA")
    alpha = image.getchannel("A")
    if alpha.getextrema()[0] == 255:
        return image.convert(mode), False
    under = image.convert("L" if grey else "RGB")
    laid = under.copy()
    laid.paste(
        BACKGROUND[background] if grey else (BACKGROUND[background],) * 3, (0, 0, *laid.size)
    )
    laid.paste(under, mask=alpha)
    return laid.convert(mode), True


def _shallow(image: Any) -> Any:
    """A grey image of more than 8 bits as "L"."""
    from PIL import Image

    if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):
        what = "floating-point numbers" if image.mode == "F" else "32-bit integers"
        raise LowrankError(
            f"its pixels are {what}, whose range is not known: save it with 8 or 16 bits"
        )
    # 12-bit TIFF files come as 16 bits whose upper four are empty; PGM files are scaled to 16.
    bits = getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE, (16,))[0]
    pixels = np.asarray(image).astype(np.int64)
    top = 2**bits - 1
    return Image.fromarray(((pixels * 255 + top // 2) // top).astype(np.uint8))
