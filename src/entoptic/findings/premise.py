"""Premise: the conjunctions of items that describe a table best when its rows fall into two groups.

Hedderich, Fischer, Klakow and Vreeken 2022 (arXiv:2110.09599). A table of n rows costs Σ_i log2 C(n, u_i) bits beside constants,
u_i being the rows in which item i is on. A rule says in which rows of each group some items are on together,

    log2 C(n_0, s_0) + log2 C(n_1, s_1) + NML(n_0) + NML(n_1) ,

then log2 of a multinomial coefficient where a clause leaves open which of its items is on, and which items it is of. In the rows
of its rules an item costs nothing more. Greedily the change is made that saves most: a new rule of one or two clauses, one more
clause for a rule, two rules in one. A table whose rules do not know the groups would also be shorter, so a rule must pass Fisher's
exact test as well.

The published test asks for p ≤ 0.01 of each rule, however many are tried. Here the level is divided by twice the number of rules
that a first step tries, all clauses and all pairs that overlap (Bonferroni; twice, as a rule leans to one group or the other). So
where groups are drawn at random, anything is found with probability at most `level`, however the items depend on each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from entoptic.findings.bits import count, exactly_one, pack, unpack
from entoptic.findings.codes import choose, nml, whole_number
from entoptic.findings.fisher import p_values, towards
from entoptic.findings.pattern import Clause, Pattern

LEVEL = 0.01
"""Probability that anything is found where groups are drawn at random, at most."""
PAIRED = 0.3
"""Two clauses, or two rules, are tried together where their rows overlap by more than this share of each."""
CLASHING = 0.05
"""Largest share of an item's rows in which another item of its clause is on too."""
NEIGHBOURS = 3
"""Items that a clause holds beside its first, at most."""
_BLOCK = 8192


@dataclass(frozen=True, eq=False)
class _Rule:
    """A rule in the model: its clauses by number, where it holds, and how often in each group."""

    clauses: tuple[int, ...]
    words: np.ndarray
    on: tuple[int, int]


@dataclass(frozen=True, eq=False)
class _Move:
    """A change of the model: rules that go, and the one that comes."""

    gain: float
    gone: tuple[_Rule, ...]
    come: _Rule


def mine(
    on: np.ndarray,
    group: np.ndarray,
    *,
    neighbours: Sequence[Sequence[int]] = (),
    level: float = LEVEL,
) -> list[Pattern]:
    """Finds the patterns that tell two groups of rows apart.

    Args:
        on: N×M bool, which items are on in each row.
        group: N bool, which rows are of group 1.
        neighbours: of each item those that may stand for it, the nearest first. Clauses are made of an item and its first
            neighbours, as long as no two are on in the same rows. Without them every clause is one item.
        level: probability that anything is found where groups are drawn at random, at most.

    Returns:
        The patterns, those that save most first.
    """
    return _Search(on, group, neighbours, level).run()


def make_clauses(words: np.ndarray, neighbours: Sequence[Sequence[int]]) -> list[Clause]:
    """Returns every item as a clause, and longer ones of items and their neighbours.

    Args:
        words: M×W, the rows of each item.
        neighbours: of each item, the nearest first; may be empty.
    """
    clauses: dict[Clause, None] = {(i,): None for i in range(len(words))}
    used = count(words)
    for first, near in enumerate(neighbours):
        members = [first]
        for item in near[:NEIGHBOURS]:
            both = [int(count(words[item] & words[other])) for other in members]
            clash = [b > CLASHING * min(used[item], used[o]) for b, o in zip(both, members)]
            if item not in members and used[item] and not any(clash):
                members.append(int(item))
                clauses.setdefault(tuple(sorted(members)), None)
    return list(clauses)


class _Search:
    def __init__(self, on: np.ndarray, group: np.ndarray, neighbours: Sequence[Sequence[int]], level: float) -> None:
        self.rows, self.items = on.shape
        self.words_of_item = pack(np.ascontiguousarray(on.T))
        self.sides = pack(np.stack([~group, group]))
        self.size = (int((~group).sum()), int(group.sum()))
        self.clauses = make_clauses(self.words_of_item, neighbours)
        self.words = np.stack([self._of_clause(c) for c in self.clauses])
        widest = max(len(clause) for clause in self.clauses)
        self.members = np.full((len(self.clauses), widest), -1)
        for number, clause in enumerate(self.clauses):
            self.members[number, : len(clause)] = clause
        self.rules: list[_Rule] = []
        self.free = self.words_of_item.copy()  # rows in which an item is on and no rule says so
        self.stated = nml(self.size[0]) + nml(self.size[1])
        self.clause_cost = np.array([float(choose(self.items, len(c))) for c in self.clauses]) + nml(self.items)
        pairs, tables = self._overlapping()
        self.least_p = level / (2 * (len(self.clauses) + len(pairs)))
        on0, on1 = self._sides(self.words)
        self.singles = np.nonzero(self._passes(on0, on1) & (on0 + on1 > 0))[0]
        self.pairs = pairs[self._passes(*tables)]

    def _of_clause(self, clause: Clause) -> np.ndarray:
        return self.words_of_item[clause[0]] if len(clause) == 1 else exactly_one(self.words_of_item[list(clause)])

    def _sides(self, words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return count(words & self.sides[0]), count(words & self.sides[1])

    # --- what may become a rule ---------------------------------------------------------------------------------------

    def _passes(self, on0: np.ndarray, on1: np.ndarray) -> np.ndarray:
        """Whether rules of these supports pass Fisher's test."""
        return p_values(on0, on1, *self.size) <= self.least_p

    def _overlapping(self) -> tuple[np.ndarray, np.ndarray]:
        """Pairs of clauses that overlap enough, K×2, and in how many rows of each group, 2×K."""
        used = count(self.words)
        found, tables = [np.zeros((0, 2), np.int64)], [np.zeros((2, 0), np.int64)]
        for first in range(len(self.words) - 1):
            second = np.arange(first + 1, len(self.words))
            both = count(self.words[first] & self.words[second])
            near = both > PAIRED * np.maximum(used[first], used[second])
            second = second[near & ~self._share(first, second)]
            if len(second):
                tables.append(np.stack(self._sides(self.words[first] & self.words[second])))
                found.append(np.stack([np.full(len(second), first), second], 1))
        return np.concatenate(found), np.concatenate(tables, 1)

    def _share(self, one: int | Sequence[int], others: np.ndarray) -> np.ndarray:
        """Whether clauses hold an item that one of some given clauses holds."""
        taken = self.members[one].ravel()
        return np.asarray(np.isin(self.members[others], taken[taken >= 0]).any(1))

    # --- what it saves ------------------------------------------------------------------------------------------------

    def _gains(self, clauses: np.ndarray, words: np.ndarray, free: np.ndarray | None = None) -> np.ndarray:
        """Bits that rules save beside the cost of one more rule: K×C clauses with their rows K×W.

        Args:
            free: see `self.free`; of a model from which rules were taken.
        """
        free = self.free if free is None else free
        on0, on1 = self._sides(words)
        on = on0 + on1
        cost = choose(self.size[0], on0) + choose(self.size[1], on1) + self.stated
        cost = cost + self.clause_cost[clauses].sum(1) + whole_number(clauses.shape[1])
        saved = np.zeros(len(clauses))
        for clause in clauses.T:
            left = on.copy()
            wide = (self.members[clause] >= 0).sum(1) > 1
            for item in self.members[clause].T:
                held = item >= 0
                own = free[np.where(held, item, 0)]
                before = count(own)
                after = before - count(own & words)
                saved += np.where(held, choose(self.rows, before) - choose(self.rows, after), 0.0)
                if wide.any():  # which of the clause's items it is
                    here = np.where(held & wide, count(self.words_of_item[np.where(held, item, 0)] & words), 0)
                    cost = cost + choose(left, here)
                    left = left - here
        return saved - cost

    def _number_cost(self, rules: int) -> float:
        return whole_number(rules + 1)

    def _worth(self, rule: _Rule, free: np.ndarray) -> float:
        return float(self._gains(np.array([rule.clauses]), rule.words[None], free)[0])

    def _without(self, gone: Sequence[_Rule]) -> np.ndarray:
        """What is free once some rules are gone."""
        free = self.free.copy()
        for item in {i for rule in gone for c in rule.clauses for i in self.clauses[c]}:
            free[item] = self.words_of_item[item]
            for rule in self.rules:
                if rule not in gone and any(item in self.clauses[c] for c in rule.clauses):
                    free[item] &= ~rule.words
        return free

    # --- the search ---------------------------------------------------------------------------------------------------

    def run(self) -> list[Pattern]:
        while True:
            moves = [self._new(self.singles[:, None]), self._new(self.pairs), *map(self._longer, self.rules)]
            moves += [self._merged(a, b) for i, a in enumerate(self.rules) for b in self.rules[:i]]
            best = max((move for move in moves if move is not None), key=lambda move: move.gain, default=None)
            if best is None or best.gain <= 0:
                break
            self.free = self._without(best.gone)
            self.rules = [rule for rule in self.rules if rule not in best.gone] + [best.come]
            for item in {i for c in best.come.clauses for i in self.clauses[c]}:
                self.free[item] &= ~best.come.words
        return sorted((self._pattern(rule) for rule in self.rules), key=lambda p: -p.bits)

    def _new(self, clauses: np.ndarray) -> _Move | None:
        """The best new rule among K×C clauses."""
        known = {frozenset(rule.clauses) for rule in self.rules}
        gains = np.full(len(clauses), -np.inf)
        for start in range(0, len(clauses), _BLOCK):
            some = clauses[start : start + _BLOCK]
            gains[start : start + _BLOCK] = self._gains(some, self._rows_of(some))
        gains -= self._number_cost(len(self.rules) + 1) - self._number_cost(len(self.rules))
        for best in np.argsort(-gains, kind="stable"):
            if gains[best] <= 0:
                return None
            if frozenset(chosen := tuple(map(int, clauses[best]))) not in known:
                return _Move(float(gains[best]), (), self._rule(chosen))
        return None

    def _rows_of(self, clauses: np.ndarray) -> np.ndarray:
        words = self.words[clauses[:, 0]]
        for column in clauses.T[1:]:
            words = words & self.words[column]
        return words

    def _longer(self, rule: _Rule) -> _Move | None:
        """The best clause for a rule, in place of the rule."""
        others = np.arange(len(self.words))
        others = others[~self._share(list(rule.clauses), others)]
        words = rule.words & self.words[others]
        on0, on1 = self._sides(words)
        passing = self._passes(on0, on1) & (on0 + on1 > 0)
        if not passing.any():
            return None
        others, words = others[passing], words[passing]
        clauses = np.concatenate([np.tile(rule.clauses, (len(others), 1)), others[:, None]], 1)
        free = self._without([rule])
        gains = self._gains(clauses, words, free) - self._worth(rule, free)
        best = int(gains.argmax())
        return _Move(float(gains[best]), (rule,), self._rule(tuple(map(int, clauses[best]))))

    def _merged(self, one: _Rule, other: _Rule) -> _Move | None:
        """Two rules as one."""
        both = int(count(one.words & other.words))
        clauses = tuple(dict.fromkeys((*one.clauses, *other.clauses)))
        items = [i for c in clauses for i in self.clauses[c]]
        if both <= PAIRED * max(sum(one.on), sum(other.on)) or len(set(items)) < len(items):
            return None
        come = self._rule(clauses)
        on0, on1 = np.array(come.on[:1]), np.array(come.on[1:])
        if not self._passes(on0, on1)[0]:
            return None
        free = self._without([one, other])
        held = free.copy()
        for item in {i for c in one.clauses for i in self.clauses[c]}:
            held[item] &= ~one.words
        before = self._worth(one, free) + self._worth(other, held)
        fewer = self._number_cost(len(self.rules)) - self._number_cost(len(self.rules) - 1)
        return _Move(self._worth(come, free) - before + fewer, (one, other), come)

    def _rule(self, clauses: tuple[int, ...]) -> _Rule:
        words = self._rows_of(np.array([clauses]))[0]
        on0, on1 = self._sides(words)
        return _Rule(clauses, words, (int(on0), int(on1)))

    def _pattern(self, rule: _Rule) -> Pattern:
        on = (np.array(rule.on[:1]), np.array(rule.on[1:]))
        bits = self._worth(rule, self._without([rule]))
        bits -= self._number_cost(len(self.rules)) - self._number_cost(len(self.rules) - 1)
        return Pattern(
            clauses=tuple(sorted(self.clauses[c] for c in rule.clauses)), on=rule.on, size=self.size,
            towards=int(towards(*on, *self.size)[0]), bits=bits, p=float(p_values(*on, *self.size)[0]),
            rows=unpack(rule.words, self.rows),
        )  # fmt: skip
