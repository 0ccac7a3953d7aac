"""The packages of the extra `study` that statistics need."""

from __future__ import annotations

from importlib.util import find_spec

from entoptic.errors import NotAvailable

PACKAGES = ("scipy", "statsmodels")


def need_statistics() -> None:
    """Checks that the packages of an analysis are installed.

    Raises:
        NotAvailable: one is not.
    """
    missing = [one for one in PACKAGES if find_spec(one) is None]
    if missing:
        raise NotAvailable(
            f"studies are analysed with {' and '.join(PACKAGES)}, and {' and '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} not installed: pip install 'entoptic[study]'"
        )
