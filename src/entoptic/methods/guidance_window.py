"""The option `window` of methods with guided chains: between which shares of the steps guidance acts.

It is written as two shares, `0.12-0.6`, or names a file of `entoptic commitment`, whose window it then is. A config holds the
shares, so that a key depends on them and not on where a file lies.
"""

from __future__ import annotations

import math

from entoptic.base.files import file_exists
from entoptic.errors import Unreadable, UserError

EXPECTED = "expected two shares of the steps such as 0.12-0.6, or a file that entoptic commitment wrote"


def shares_of(window: str) -> tuple[float, float]:
    """Returns the shares of the steps between which guidance acts; "" is the whole chain.

    Args:
        window: as the option is written, two shares.

    Raises:
        UserError: not two shares with 0 ≤ from < to ≤ 1.
    """
    if not window:
        return 0.0, 1.0
    first, dash, last = window.partition("-")
    try:
        start, end = float(first), float(last)
    except ValueError:
        start = end = math.nan
    if not dash or not 0 <= start < end <= 1:
        raise UserError(f'window "{window[:80]}": {EXPECTED} (0 ≤ from < to ≤ 1)')
    return start, end


def written(window: tuple[float, float]) -> str:
    """Returns two shares as the option is written; "" for the whole chain."""
    return "" if window == (0.0, 1.0) else f"{window[0]:.4g}-{window[1]:.4g}"


def read_window(window: str) -> str:
    """Returns the option with a file replaced by the shares that it holds.

    Args:
        window: two shares, or the name of a file that `entoptic commitment` wrote.

    Raises:
        UserError: neither, or a file that holds no window.
    """
    if not window or not window.endswith(".json"):
        return written(shares_of(window))
    from entoptic.base.files import user_path
    from entoptic.base.records import read_json

    path = user_path(window)
    if not file_exists(path):
        raise UserError(f"window: there is no file {path}; {EXPECTED}")
    try:
        record = read_json(path)
    except Unreadable as error:
        raise Unreadable(f"window: {error}") from None
    if "window" not in record:
        raise UserError(f"window: {path} holds no window; {EXPECTED}")
    held = record["window"]
    if held is None:
        raise UserError(
            f"window: {path} found none: {record.get('why_no_window') or 'guidance does not reach its level'}"
        )
    if not (isinstance(held, list) and len(held) == 2 and all(isinstance(one, int | float) for one in held)):
        raise UserError(f"window: {path} holds {str(held)[:80]} for a window; {EXPECTED}")
    return written(shares_of(f"{held[0]}-{held[1]}"))
