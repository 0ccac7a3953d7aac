"""The README.md of a shared run: a dataset card, or the card of a static Space, written from the run itself."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import yaml

from entoptic.errors import counted
from entoptic.runs.pictures import Picture
from entoptic.sharing.citations import Cited

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_MOST = 200
"""Rows of a table in the card."""


@dataclass(kw_only=True)
class Summary:
    """What a card says of a run.

    Attributes:
        title: of the run.
        pictures: how many there are, by method.
        units: of all pictures.
        models: networks under study with their licences.
        evidence: how many pictures have each measurement.
        cited: papers and weights.
        withheld: photos that are hashes and captions only.
        left_out: what else is not there, in words.
        damaged: how many of these are damaged in the run.
    """

    title: str
    pictures: Counter[str] = field(default_factory=Counter)
    units: set[str] = field(default_factory=set)
    models: dict[str, str] = field(default_factory=dict)
    evidence: Counter[str] = field(default_factory=Counter)
    cited: Cited = field(default_factory=Cited)
    withheld: int = 0
    left_out: list[str] = field(default_factory=list)
    damaged: int = 0

    @property
    def heading(self) -> str:
        """The title for people; where that only repeats the network, what its pictures show."""
        return f"What {self.title} looks for" if self.title in self.models else self.title

    def add(self, picture: Picture) -> None:
        """Takes note of a picture."""
        self.pictures[picture.method] += 1
        self.units.add(picture.unit)
        model = picture.record["model"]
        self.models.setdefault(str(model["name"]), str(model.get("licence") or "unknown"))
        self.evidence.update(str(one["name"]) for one in picture.record["evidence"] if one.get("value") is not None)
        self.cited.add(picture.record)


def dataset_card(summary: Summary, name: str, licence: str) -> str:
    """Returns the card of a dataset.

    Args:
        summary: of the run.
        name: of the place, for the command that fetches it.
        licence: of the pictures as the hub spells it, "" where the owner has not said.
    """
    total = summary.pictures.total()
    head: dict[str, Any] = {
        "pretty_name": summary.heading,
        "tags": ["entoptic", "interpretability", "feature-visualization", *sorted(summary.pictures)],
        "size_categories": [next((text for most, text in _SIZES if total < most), "n>1M")],
        "configs": [
            {"config_name": "default", "data_files": [{"split": "train", "path": ["metadata.jsonl", "pictures/**/*.png"]}]}
        ],
    }  # fmt: skip
    if licence:
        head = {"license": licence, **head}
    lines = [
        f"# {_line(summary.heading)}", "",
        f"{counted(total, 'picture')} of what {counted(len(summary.units), 'unit')} of "
        f"{', '.join(f'`{_line(one)}`' for one in summary.models)} look for, made with Entoptic. Every picture is one 8-bit file; "
        "its sidecar (`.json`) holds how it was made and what was measured on that file, with n and 95 % intervals.",
        "", "```bash", f"entoptic pull {name} --out run", "entoptic verify run", "```", "",
        "| method | pictures | cite |", "|---|---|---|",
        *(f"| `{_line(method)}` | {n} | {_line(summary.cited.papers.get(method, ''))} |" for method, n in summary.pictures.items()),
        "", "| measurement | pictures that have it |", "|---|---|",
        *(f"| `{_line(one)}` | {n} |" for one, n in sorted(summary.evidence.items())),
        "", "| network under study | licence of its weights |", "|---|---|",
        *(f"| `{_line(model)}` | {_line(what)} |" for model, what in summary.models.items()),
        "", "## What is not here", "",
        f"{counted(summary.withheld, 'photo')} of the data set that the network was shown "
        f"{'is' if summary.withheld == 1 else 'are'} not published: `withheld.jsonl` has a hash and a caption of each."
        if summary.withheld else "No photo was part of the run.",
        "", *(f"- {_line(line)}" for line in summary.left_out[:_MOST]),
        *([f"- and {len(summary.left_out) - _MOST} more"] if len(summary.left_out) > _MOST else []),
        "", "## To cite", "",
        "`CITATION.bib` has Entoptic, the paper of every method, and every file of weights with its hash.",
    ]  # fmt: skip
    return _with_head(head, lines)


def space_card(summary: Summary, name: str) -> str:
    """Returns the card of a static Space that shows the gallery.

    Args:
        summary: of the run.
        name: of the place.
    """
    head = {
        "title": summary.heading[:80], "emoji": "👁️", "colorFrom": "gray", "colorTo": "indigo", "sdk": "static",
        "app_file": "index.html", "pinned": False, "tags": ["entoptic", "interpretability"],
    }  # fmt: skip
    lines = [
        f"# {_line(summary.heading)}", "",
        f"The gallery of a run of Entoptic: {counted(summary.pictures.total(), 'picture')} of "
        f"{counted(len(summary.units), 'unit')}. `CITATION.bib` has what to cite.",
    ]  # fmt: skip
    return _with_head(head, lines)


def _with_head(head: dict[str, Any], lines: list[str]) -> str:
    text = yaml.safe_dump(head, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120)
    return f"---\n{text}---\n\n" + "\n".join(lines) + "\n"


def _line(text: str) -> str:
    """A text that stays in its cell of a table and is no markup."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;").replace("`", "'")[:300]
