"""`CITATION.bib` of a run: Entoptic, every method, and all weights that made or judged its pictures."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from entoptic.methods import METHODS
from entoptic.methods.citations import SOFTWARE, entries_of

_LIBRARIES = {
    "timm": "@misc{timm,\n  title  = {PyTorch Image Models},\n  author = {Wightman, Ross},\n  year   = {2019},\n"
    "  doi    = {10.5281/zenodo.4414861}\n}\n",
    "torchvision": "@software{torchvision,\n  title  = {{TorchVision}: {PyTorch}'s Computer Vision library},\n"
    "  author = {{TorchVision maintainers and contributors}},\n  year   = {2016}\n}\n",
    "builtin:lite": "@inproceedings{efficientnet2019,\n  title  = {{EfficientNet}: Rethinking Model Scaling for Convolutional "
    "Neural Networks},\n  author = {Tan, Mingxing and Le, Quoc V.},\n  year   = {2019},\n  booktitle = {ICML},\n"
    "  eprint = {1905.11946},\n  archivePrefix = {arXiv}\n}\n",
}
"""What else to cite for weights whose names begin so."""


@dataclass(kw_only=True)
class Cited:
    """What a run is to be cited by.

    Attributes:
        papers: the identifiers of each method, by its name.
        entries: BibTeX of papers and libraries.
        weights: what is said of each file of weights, by the name of its network.
    """

    papers: dict[str, str] = field(default_factory=dict)
    entries: list[str] = field(default_factory=lambda: [SOFTWARE])
    weights: dict[str, str] = field(default_factory=dict)

    def add(self, record: Mapping[str, Any]) -> None:
        """Takes note of a sidecar.

        Args:
            record: of a picture.
        """
        method, paper = str(record.get("method") or ""), str(record.get("paper") or "")
        if method not in self.papers:
            self.papers[method] = paper
            card = METHODS.get(method)
            self._take(card.citations if card is not None else entries_of(paper))
        for name, about in _weights(record):
            if name and name not in self.weights:
                self.weights[name] = about
                self._take(entry for begin, entry in _LIBRARIES.items() if name.startswith(begin))

    def _take(self, entries: Iterable[str]) -> None:
        self.entries += [one for one in dict.fromkeys(entries) if one not in self.entries]

    def bibtex(self) -> str:
        """Returns the file."""
        made = []
        for name, about in sorted(self.weights.items()):
            key = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower()
            made.append(
                f"@misc{{weights-{key},\n  title = {{Weights of {_plain(name)}}},\n  note  = {{{_plain(about)}}}\n}}\n"
            )
        return "\n".join([*self.entries, *made])


def _weights(record: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """Every network, prior and inverter that a sidecar names, with its hash and licence."""
    model = _map(record.get("model"))
    licence = f", licence: {model['licence']}" if model.get("licence") else ""
    yield str(model.get("name") or ""), f"sha256 {model.get('weights_sha256') or 'unknown'}{licence}"
    judges = _map(_map(record.get("measured_with")).get("verifiers")) or _map(record.get("verifiers"))
    for name, sha256 in judges.items():
        yield str(name), f"sha256 {sha256}"
    prior, identity = record.get("prior"), record.get("prior_identity")
    if isinstance(prior, str):
        yield prior, f"image prior, identity {identity}"
    inverter = _map(record.get("inverter"))
    if inverter.get("name"):
        yield (
            str(inverter["name"]),
            f"inverter, identity {inverter.get('identity') or inverter.get('sha256') or 'unknown'}",
        )


def _plain(text: str) -> str:
    """A text without the signs that BibTeX reads."""
    return re.sub(r"[{}\\]", "", text).replace("\n", " ")


def _map(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
