"""BibTeX of the papers that methods are of, by the identifiers that their cards name."""

from __future__ import annotations

import re
from collections.abc import Iterator

_ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5})")


def _entry(kind: str, key: str, **fields: str) -> str:
    lines = ",\n".join(f"  {name:<7} = {{{value}}}" for name, value in fields.items())
    return f"@{kind}{{{key},\n{lines}\n}}\n"


def _arxiv(key: str, eprint: str, title: str, author: str, year: str, **fields: str) -> str:
    return _entry("misc" if not fields else "inproceedings", key, title=title, author=author, year=year, **fields,
                  eprint=eprint, archivePrefix="arXiv")  # fmt: skip


ENTRIES: dict[str, str] = {
    "arXiv:2503.22399": _arxiv(
        "vital2025", "2503.22399", "{VITAL}: More Understandable Feature Visualization through Distribution Alignment and "
        "Relevant Information Flow", "Görgün, Ada and others", "2025", booktitle="ICCV",
    ),
    "arXiv:2306.06805": _arxiv(
        "maco2023", "2306.06805", "Unlocking Feature Visualization for Deeper Networks with {MAgnitude} Constrained Optimization",
        "Fel, Thomas and others", "2023", booktitle="NeurIPS",
    ),
    "doi:10.23915/distill.00007": _entry(
        "article", "olah2017", title="Feature Visualization", author="Olah, Chris and Mordvintsev, Alexander and Schubert, Ludwig",
        journal="Distill", year="2017", doi="10.23915/distill.00007",
    ),
    "arXiv:2402.10039": _arxiv("hamblin2024", "2402.10039", "Feature Accentuation", "Hamblin, Chris and others", "2024"),
    "TR 1341": _entry(
        "techreport", "erhan2009", title="Visualizing Higher-Layer Features of a Deep Network", author="Erhan, Dumitru and others",
        institution="Université de Montréal", number="1341", year="2009",
    ),
    "arXiv:1912.08795": _arxiv(
        "yin2020", "1912.08795", "Dreaming to Distill: Data-free Knowledge Transfer via {DeepInversion}", "Yin, Hongxu and others",
        "2020", booktitle="CVPR",
    ),
    "arXiv:2605.17504": _arxiv(
        "zhou2026", "2605.17504",
        "A Distributional View for Visual Mechanistic Interpretability: {KL}-Minimal Soft-Constraint Principle",
        "Zhou and Luo and He and Jin and Ge and Shu and Meng and Qiu", "2026", booktitle="ICML",
    ),
    "arXiv:2306.17775": _arxiv(
        "wu2023", "2306.17775", "Practical and Asymptotically Exact Conditional Sampling in Diffusion Models",
        "Wu, Luhuan and others", "2023",
    ),
    "arXiv:2404.02618": _arxiv("diffexplainer2024", "2404.02618", "{DiffExplainer}", "Pennisi and others", "2024"),
    "arXiv:2510.14741": _arxiv("dexter2025", "2510.14741", "{DEXTER}", "Carnemolla and others", "2025", booktitle="NeurIPS"),
    "arXiv:2505.21032": _arxiv("featinv2025", "2505.21032", "{FeatInv}", "Neukirch and others", "2025"),
}  # fmt: skip
"""Titles and authors as far as the project's pages know them; the identifier leads to the rest."""
_ALIASES = {"FeatInv": "arXiv:2505.21032"}

SOFTWARE = _entry(
    "software", "entoptic", title="Entoptic: see what a vision model looks for", author="{The Entoptic developers}",
    license="Apache-2.0",
)  # fmt: skip


def entries_of(paper: str) -> Iterator[str]:
    """Yields the BibTeX of each paper that a text names; an arXiv number that is not known here gets an entry of its own.

    Args:
        paper: as a method's card or a sidecar holds it, for instance "arXiv:2503.22399".
    """
    known = {**ENTRIES, **{name: ENTRIES[one] for name, one in _ALIASES.items()}}
    found = [entry for name, entry in known.items() if name in paper]
    numbers = [one for one in _ARXIV.findall(paper) if f"arXiv:{one}" not in known]
    yield from dict.fromkeys(found)
    for one in numbers:
        yield _entry("misc", f"arxiv{one.replace('.', '')}", title=f"arXiv:{one}", eprint=one, archivePrefix="arXiv")
