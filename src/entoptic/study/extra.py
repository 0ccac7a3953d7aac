"""The packages of the extra `study`, which only a running study needs."""

from __future__ import annotations

from importlib.util import find_spec

from entoptic.errors import NotAvailable

PACKAGES = ("fastapi", "uvicorn", "sqlmodel")


def need_extra() -> None:
    """Checks that the packages of a running study are installed.

    Raises:
        NotAvailable: one is not.
    """
    missing = [one for one in PACKAGES if find_spec(one) is None]
    if missing:
        raise NotAvailable(
            f"studies are served and read with {', '.join(PACKAGES)}, and {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} not installed: pip install 'entoptic[study]'"
        )
