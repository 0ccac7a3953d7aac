"""Random generators seeded by a hash, so that the draws for one purpose do not depend on other draws."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Generator


def generator_for(*parts: object) -> Generator:
    """Returns a CPU generator whose seed is a hash of `parts`. The same parts give the same draws on every machine.

    Args:
        parts: what the draws are for, for instance a run's seed, a unit's string and a sample's number. Their `str` is
            hashed (sha256 of the strings joined by "|", the first 63 bits).
    """
    import torch

    digest = hashlib.sha256("|".join(map(str, parts)).encode("utf-8", "backslashreplace")).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
