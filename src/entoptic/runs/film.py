"""How a picture came about, as a film: an animated GIF or PNG beside it."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from entoptic.errors import UserError, nearest

KINDS = {"gif": ".gif", "apng": ".apng"}
"""Kinds of films and the endings of their files. An animated PNG keeps every colour, a GIF has 256 in a frame."""
FRAMES = 24
"""Frames of an ascent."""
_SHOWN, _LAST = 120, 1500  # milliseconds for which a frame and the last one are shown


def check_kind(kind: str) -> None:
    """Checks that there is such a kind of film; "" is none.

    Raises:
        UserError: there is not.
    """
    if kind and kind not in KINDS:
        raise UserError(f'no film "{kind}"; there are {", ".join(KINDS)}{nearest(kind, list(KINDS))}')


def encoded(frames: Sequence[np.ndarray], kind: str) -> bytes:
    """Returns the file of a film, which is shown again and again.

    Args:
        frames: H×W×3 uint8 each, in order.
        kind: one of `KINDS`.
    """
    images = [Image.fromarray(frame) for frame in frames]
    buffer = io.BytesIO()
    images[0].save(
        buffer, "GIF" if kind == "gif" else "PNG", save_all=True, append_images=images[1:], loop=0,
        duration=[_SHOWN] * (len(images) - 1) + [_LAST],
    )  # fmt: skip
    return buffer.getvalue()
