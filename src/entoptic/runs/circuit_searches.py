"""Searches for circuits whose findings are kept in the cache, so that an interruption costs at most one of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from entoptic.base.cache import content_key, load_cached, save_cached
from entoptic.circuits.finders import Circuit, FinderOptions, Ranking, Search, find_finder
from entoptic.circuits.patched import Cost
from entoptic.circuits.problem import Problem


@dataclass(kw_only=True)
class KeptSearches:
    """What the searches for one circuit found, and what that cost: a resumed run counts as one that was not interrupted.

    Attributes:
        cost: of the circuit; what the cache gives is added to it once.
    """

    cost: Cost = field(repr=False)
    _held: dict[str, Circuit] = field(default_factory=dict, repr=False)

    def search(self, finder: str, problem: Problem, options: FinderOptions, key: dict[str, Any]) -> Search:
        """Searches, or takes what the cache has.

        Args:
            finder: its name.
            problem: graph and photos.
            options: of the finder.
            key: what the search depends on.
        """
        scores_key = content_key({**key, "what": "scores"})
        if (held := load_cached("circuits", scores_key, {"scores": 2, "flops": 1})) is not None:
            self.cost.flops += int(held["flops"])
            return Ranking(graph=problem.graph, scores=held["scores"])
        before = self.cost.flops
        search = find_finder(finder)(problem, options)
        if not isinstance(search, Ranking):
            return _Kept(search=search, key=key, owner=self)
        if search.by_photo:
            save_cached("circuits", scores_key, {"scores": search.scores, "flops": self._since(before)})
        return search

    def circuit(self, search: Search, key: str, tau: float) -> Circuit:
        """Returns the circuit of a search at a threshold, from memory or the cache where it is there."""
        if key not in self._held:
            read = self._read(key)
            self._held[key] = self._found(search, key, tau) if read is None else read  # an empty circuit is one too
        return self._held[key]

    def _read(self, key: str) -> Circuit | None:
        held = load_cached("circuits", key, {"kept": 1, "effects": None, "order": 1, "flops": 1})
        if held is None:
            return None
        self.cost.flops += int(held["flops"])
        return Circuit(kept=held["kept"].bool(), effects=held["effects"], order=held["order"])

    def _found(self, search: Search, key: str, tau: float) -> Circuit:
        before = self.cost.flops
        found = search.at(tau)
        effects = found.effects.nan_to_num(torch.inf)  # the cache holds no NaN
        kept = {"kept": found.kept.to(torch.uint8), "effects": effects, "order": found.order}
        save_cached("circuits", key, {**kept, "flops": self._since(before)})
        return found

    def _since(self, before: int) -> Tensor:
        return torch.tensor([self.cost.flops - before])


@dataclass(kw_only=True)
class _Kept:
    """A search whose circuits are kept."""

    search: Search
    key: dict[str, Any]
    owner: KeptSearches

    @property
    def levels(self) -> Sequence[float]:
        return self.search.levels

    @property
    def per_photo(self) -> Tensor | None:
        return self.search.per_photo

    def at(self, tau: float) -> Circuit:
        return self.owner.circuit(self.search, content_key({**self.key, "tau": tau}), tau)
