"""Reads the answer files of the static bundle, which people send back: `STUDY/returned/*.json`.

Right answers are not in the bundle; answers are scored here. A file that was damaged on its way (its CRC-32 differs), that is of
another study, or holds what no trial can have, is refused whole.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from entoptic.base.records import check_fields, list_of, parse_json, read_json
from entoptic.errors import Unreadable, UserError
from entoptic.study.answer_records import Given, Person
from entoptic.study.answers import RETURNED
from entoptic.study.bodies import Refused, check_answer, clean, is_right, read_answer
from entoptic.study.records import Answer, Participation, Plan, Stage, Study, Trial
from entoptic.study.rows import rows_of
from entoptic.study.stimuli import is_name

LIMIT = 2_000
_FIELDS: Mapping[str, Any] = {
    "manifest": str, "slot": int, "participant": str, "language": str, "started": str, "finished": str,
    "instruction_seconds": float | None, "open_data": bool, "automated": bool, "comments": str, "stage": str, "answers": list,
}  # fmt: skip


def read_returned(folder: Path, study: Study, plan: Plan, manifest: str) -> list[tuple[Participation, list[Answer]]]:
    """Returns the sessions of all answer files in a study's folder. A participant's latest file counts.

    Raises:
        UserError: a file is damaged or of another study.
    """
    found: dict[str, tuple[Participation, list[Answer]]] = {}
    for file in sorted((folder / RETURNED).glob("*.json")):
        participation, answers = read_file(file, study, plan, manifest)
        before = found.get(participation.participant)
        if before is None or len(before[1]) <= len(answers):
            found[participation.participant] = participation, answers
    return list(found.values())


def read_file(file: Path, study: Study, plan: Plan, manifest: str) -> tuple[Participation, list[Answer]]:
    """Returns the session of one answer file.

    Raises:
        UserError: it is damaged or of another study.
    """
    outer = read_json(file)
    payload, crc = outer.get("payload"), outer.get("crc32")
    if not isinstance(payload, str) or not isinstance(crc, str):
        raise Unreadable(f"{file} is no answer file of a study")
    if f"{zlib.crc32(payload.encode('utf-8', 'surrogatepass')):08x}" != crc:
        raise Unreadable(f"{file} is damaged: its checksum differs; ask for the file again")
    record = parse_json(payload, file)
    check_fields(record, _FIELDS, file)
    if record["manifest"] != manifest:
        raise UserError(
            f"{file} holds answers to another study ({record['manifest'][:12]}…, this one is {manifest[:12]}…); take it out of "
            f"{file.parent}"
        )
    trials = next((one.trials for one in plan.assignments if one.slot == record["slot"]), None)
    if trials is None or not is_name(record["participant"]) or not list_of(record["answers"], dict):
        raise Unreadable(f"{file} is damaged: its place, participant or answers are none of this study")
    if len(record["answers"]) > LIMIT or len(record["comments"]) > LIMIT:
        raise Unreadable(f"{file} is damaged: it holds more than a person can have answered")
    hashes = {one.name: one.sha256 for one in plan.stimuli}
    known = {one.id: one for one in trials}
    given: dict[str, tuple[Trial, Given]] = {}
    for body in record["answers"]:
        try:
            answer = read_answer(body)
            trial = known[answer.trial]
            check_answer(answer, trial, study.task(trial.task))
        except (Refused, KeyError) as error:
            raise Unreadable(f"{file} is damaged: an answer is none that its trial can have ({error})") from None
        given.setdefault(
            trial.id,
            (trial, answer.stored(correct=is_right(answer, trial), received=_iso(body.get("received")), reloads=0)),
        )
    stage: Stage = "finished" if record["stage"] == "finished" else "trials"
    seconds = record["instruction_seconds"]
    person = Person(
        participant=record["participant"], source="bundle", slot=record["slot"], attempt=0, stage=stage,
        language=record["language"] if record["language"] in study.wording else "", started=_iso(record["started"]),
        finished=_iso(record["finished"]), instruction_seconds=None if seconds is None else float(seconds),
        open_data=record["open_data"], honeypot=False, automated=record["automated"], comments=clean(record["comments"]),
    )  # fmt: skip
    return rows_of(study, manifest, hashes, person, list(given.values()), trials)


def _iso(text: Any) -> str:
    """A time of a browser, "" where it is none."""
    try:
        time = datetime.fromisoformat(str(text)) if text else None
        if time is None:
            return ""
        # A time without a zone could not be compared with the others.
        known = time if time.tzinfo else time.replace(tzinfo=UTC)
        return known.astimezone(UTC).isoformat().replace("+00:00", "Z")
    except (ValueError, OverflowError):
        return ""
