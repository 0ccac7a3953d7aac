"""Who is left out of the primary analysis, by the registered rules, with the count of each rule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from entoptic.study.records import Answer, ExclusionRules, Participation

LEAST_CHOICES = 10
"""Choices between two from which on a person can be called one-sided: an honest one is with probability 0.002."""
NO_SESSION, OTHER_VERSION, SIMULATED = "no session", "other version", "simulated"
"""Reasons that no rule is needed for: nothing is known of the session, its answers are of another `study.json`, or it was
simulated while others were not."""


@dataclass(frozen=True, kw_only=True)
class RuleCount:
    """What one rule did.

    Attributes:
        rule: its name, as in the column `reasons`.
        text: the rule in words, with its threshold.
        left_out: people to whom it applies.
        alone: people to whom no other rule applies.
    """

    rule: str
    text: str
    left_out: int
    alone: int


@dataclass(frozen=True, kw_only=True)
class Exclusions:
    """Who takes part in the primary analysis.

    Attributes:
        reasons: names of the rules that apply, by participant; () for those who are kept.
        counts: of every rule that was registered, also those that nobody broke.
        started: sessions that were begun.
        answered: people with an answer that is no practice.
        finished: sessions that reached the end.
        screened_out: people who did not pass the practice.
        withdrawn: people who took their answers back; nothing else is known of them.
        honeypots: kept people who filled the field that people do not see.
        automated: kept people who said that a program gave some of their answers.
    """

    reasons: Mapping[str, tuple[str, ...]]
    counts: tuple[RuleCount, ...]
    started: int
    answered: int
    finished: int
    screened_out: int
    withdrawn: int
    honeypots: int
    automated: int = 0

    @property
    def kept(self) -> frozenset[str]:
        """Participants of the primary analysis."""
        return frozenset(who for who, reasons in self.reasons.items() if not reasons)


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """One person with the answers that are no practice."""

    session: Participation
    answers: Sequence[Answer]

    @property
    def sides(self) -> list[int]:
        """Choices between two."""
        return [one.choice for one in self.answers if one.task in ("2afc", "preference") and one.choice is not None]

    @property
    def seconds_per_trial(self) -> float | None:
        """None where no time is known, or a single answer was given. Simulated people never wait: their answers say how long."""
        if self.session.source == "simulated":
            times = [one.rt_ms for one in self.answers if one.rt_ms is not None]
            return sum(times) / len(times) / 1000 if times else None
        seconds = self.session.main_seconds
        return None if seconds is None or len(self.answers) < 2 else seconds / (len(self.answers) - 1)


@dataclass(frozen=True, kw_only=True)
class _Rule:
    name: str
    text: str
    breaks: Callable[[_Seen], bool]


def exclude(
    rules: ExclusionRules, answers: Sequence[Answer], sessions: Sequence[Participation], *, manifest: str = ""
) -> Exclusions:
    """Returns who is left out.

    Args:
        rules: registered.
        answers: of everybody, practice included.
        sessions: of everybody.
        manifest: sha256 of `study.json`; answers of another version leave their participant out. "" checks nothing.
    """
    by_person: dict[str, list[Answer]] = {}
    for one in answers:
        if one.kind != "practice":
            by_person.setdefault(one.participant, []).append(one)
    known = {one.participant: one for one in sessions}
    asked = _rules(rules)
    reasons: dict[str, tuple[str, ...]] = {}
    mixed = any(known[who].source != "simulated" for who in by_person if who in known)
    for who, theirs in by_person.items():
        found = []
        if manifest and any(one.manifest != manifest for one in theirs):
            found.append(OTHER_VERSION)
        if who not in known:
            found.append(NO_SESSION)
        else:
            seen = _Seen(session=known[who], answers=theirs)
            found += [SIMULATED] if mixed and seen.session.source == "simulated" else []
            found += [rule.name for rule in asked if rule.breaks(seen)]
        reasons[who] = tuple(found)
    texts = {rule.name: rule.text for rule in asked}
    for name, text in (
        (OTHER_VERSION, "answered another version of study.json"),
        (NO_SESSION, "has no session record"),
        (SIMULATED, "was simulated by a program, among people"),
    ):
        if any(name in found for found in reasons.values()):
            texts[name] = text
    applied, alone = (
        Counter(name for found in reasons.values() for name in found),
        Counter(found[0] for found in reasons.values() if len(found) == 1),
    )
    stages = Counter(one.stage for one in sessions)
    return Exclusions(
        reasons=reasons,
        counts=tuple(
            RuleCount(rule=name, text=text, left_out=applied[name], alone=alone[name]) for name, text in texts.items()
        ),
        started=len(sessions),
        answered=len(by_person),
        finished=stages["finished"],
        screened_out=stages["screened-out"],
        withdrawn=stages["withdrawn"],
        honeypots=sum(one.honeypot and not reasons.get(one.participant, ("-",)) for one in sessions),
        automated=sum(one.automated and not reasons.get(one.participant, ("-",)) for one in sessions),
    )


def _rules(rules: ExclusionRules) -> list[_Rule]:
    found: list[_Rule] = []

    def add(name: str, text: str, breaks: Callable[[_Seen], bool]) -> None:
        found.append(_Rule(name=name, text=text, breaks=breaks))

    if (share := rules.min_catch_share) is not None:
        least = share
        add(
            "catch", f"fewer than {100 * share:g} % of catch trials right",
            lambda seen: seen.session.catch_shown > 0 and seen.session.catch_right < least * seen.session.catch_shown - 1e-9,
        )  # fmt: skip
    if (seconds := rules.min_instruction_seconds) is not None:
        short = seconds
        add(
            "instructions",
            f"less than {seconds:g} s on the instructions",
            lambda seen: _below(seen.session.instruction_seconds, short),
        )
    if (fast := rules.min_seconds_per_trial) is not None:
        quick = fast
        add("too fast", f"less than {fast:g} s a trial", lambda seen: _below(seen.seconds_per_trial, quick))
    if (slow := rules.max_seconds_per_trial) is not None:
        long = slow
        add("too slow", f"more than {slow:g} s a trial", lambda seen: _above(seen.seconds_per_trial, long))
    if (side := rules.min_each_choice) is not None:
        part = side
        add(
            "one side",
            f"one of two choices in less than {100 * side:g} % of at least {LEAST_CHOICES} answers",
            lambda seen: _one_sided(seen.sides, part),
        )
    if (rounds := rules.max_practice_rounds) is not None:
        most = rounds
        add(
            "practice", f"more than {rounds} rounds of practice, or none passed",
            lambda seen: seen.session.practice_rounds > most or seen.session.stage == "screened-out",
        )  # fmt: skip
    if rules.finished_only:
        add("unfinished", "session not finished", lambda seen: seen.session.stage != "finished")
    return found


def _below(value: float | None, least: float) -> bool:
    return value is not None and value < least


def _above(value: float | None, most: float) -> bool:
    return value is not None and value > most


def _one_sided(sides: Sequence[int], least: float) -> bool:
    return len(sides) >= LEAST_CHOICES and min(sides.count(0), sides.count(1)) < least * len(sides) - 1e-9
