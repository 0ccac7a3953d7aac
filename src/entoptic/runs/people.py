"""What people answered about the pictures of a run, in `RUN/people.json`. `entoptic study analyse` writes it, pages show it.

What one study found holds a hash of itself, so that `verify` finds an edit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from entoptic.base.files import (
    check_inside,
    file_exists,
    json_bytes,
    lock_folder,
    path_exists,
    user_path,
    write_atomically,
    writing_to,
)
from entoptic.base.records import check_fields, is_a, read_json
from entoptic.errors import NotAvailable, Unreadable, UserError
from entoptic.metrics.evidence import Evidence
from entoptic.runs.difference import Difference
from entoptic.runs.listing import SEAL, seal, was_edited

FILE, FORMAT = "people.json", 1


@dataclass(frozen=True, kw_only=True)
class Answered:
    """What people answered about one unit's pictures by one method.

    Attributes:
        model: name of the network.
        unit: in the unit grammar.
        method: that made the pictures.
        evidence: of one task.
    """

    model: str
    unit: str
    method: str
    evidence: Evidence


@dataclass(frozen=True, kw_only=True)
class StudyOfRun:
    """What one study found about a run.

    Attributes:
        study: its name.
        manifest: sha256 of its pre-registration, which names it.
        analysed: date and time, UTC.
        participants: in the primary analysis.
        simulated: of them, how many a program stood for.
        answered: a task, unit and method each.
    """

    study: str
    manifest: str
    analysed: str
    participants: int
    simulated: int
    answered: tuple[Answered, ...]


def write_people(run_folder: str | Path, study: StudyOfRun) -> int:
    """Writes what a study found about the pictures of a run, beside what other studies found. The run's own files stay as they are.

    Args:
        run_folder: of the run.
        study: only what is about pictures of the run is written.

    Returns:
        How many entries were written.

    Raises:
        UserError: there is no run, none of its pictures was judged, or it cannot be written.
    """
    folder = user_path(run_folder)
    if not file_exists(folder / "run.json"):
        raise NotAvailable(f"{run_folder} is no run (it has no run.json); give a run whose pictures the study shows")
    known = _pictures_of(folder)
    own = [one for one in study.answered if (one.model, one.unit, one.method) in known]
    if not study.answered:
        raise NotAvailable(
            f"no answer about pictures counts in the study {study.study}, so nothing is written beside {run_folder}"
        )
    if not own:
        raise NotAvailable(
            f"no picture of {run_folder} was judged in the study {study.study}; its answers are about other runs"
        )
    with writing_to(folder, "the report is written"), lock_folder(folder, instead="analyse again later"):
        others = [one for one in _records(folder) if one.get("manifest") != study.manifest]
        record = {
            "study": study.study, "manifest": study.manifest, "analysed": study.analysed, "participants": study.participants,
            "simulated": study.simulated,
            "answered": [
                {"model": one.model, "unit": one.unit, "method": one.method, "evidence": one.evidence.to_json()} for one in own
            ],
        }  # fmt: skip
        write_atomically(
            check_inside(folder / FILE, folder), json_bytes({"format": FORMAT, "studies": [*others, _sealed(record)]})
        )
    return len(own)


def read_people(run_folder: Path) -> Mapping[tuple[str, str, str], Sequence[Mapping[str, Any]]]:
    """Returns the evidence of people as sidecars hold evidence, by (model, unit, method); nothing where nobody was asked.

    Raises:
        Unreadable: the file is damaged.
    """
    found: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for study in _records(run_folder):
        for one in study["answered"]:
            found.setdefault((one["model"], one["unit"], one["method"]), []).append(one["evidence"])
    return found


def check_people(run_folder: Path) -> None:
    """Checks that what people answered about a run can be passed on.

    Raises:
        Unreadable: it is damaged, or was changed after it was written.
    """
    for study in _records(run_folder):
        if was_edited(study):
            raise Unreadable(f"{run_folder / FILE}: {_changed(study)}")


def people_to_publish(record: Mapping[str, Any], scrub: Callable[[Any], Any]) -> dict[str, Any]:
    """Returns what `people.json` says without what may not be published, with hashes of what is left.

    Args:
        record: content of the file, checked.
        scrub: takes out what may not be published.
    """
    plain = scrub(record)
    return {**plain, "studies": [_sealed(one) if SEAL in one else one for one in plain["studies"]]}


def changed_people(run_folder: Path) -> tuple[list[Difference], int]:
    """Returns which studies of `people.json` are not as they were written, and how many keep no hash of themselves.

    Args:
        run_folder: of the run.
    """
    try:
        studies = _records(run_folder)
    except UserError as error:
        return [Difference(FILE, f"{FILE} cannot be read ({error})")], 0
    wrong = [Difference(FILE, f"{FILE}: {_changed(study)}") for study in studies if was_edited(study)]
    return wrong, sum(SEAL not in study for study in studies)


def merge_people(run_folder: Path, sources: Iterable[Path]) -> None:
    """Joins what people answered about several runs into one. The caller holds the lock of the run.

    Of a study that several runs hold, all answers are kept; of two about the same task, unit and method those that were
    analysed last.

    Args:
        run_folder: of the run that the others become; what it holds already counts too.
        sources: folders of the other runs.

    Raises:
        Unreadable: a file is damaged; nothing is written then.
    """
    studies: dict[str, dict[str, Any]] = {}
    answers: dict[str, dict[tuple[str, ...], dict[str, Any]]] = {}
    found = [study for folder in (run_folder, *sources) for study in _records(folder)]
    for study in sorted(
        found, key=lambda one: str(one.get("analysed", ""))
    ):  # stable, so that the order of runs decides ties
        name = study["manifest"]
        studies[name] = study
        for one in study["answered"]:
            of = (one["model"], one["unit"], one["method"], one["evidence"]["name"])
            answers.setdefault(name, {})[of] = one
    if found:
        joined = [
            _sealed({**study, "answered": list(answers.get(name, {}).values())}) for name, study in studies.items()
        ]
        file = check_inside(run_folder / FILE, run_folder)
        with writing_to(run_folder, "what was merged is kept"):
            write_atomically(file, json_bytes({"format": FORMAT, "studies": joined}))


def _sealed(study: Mapping[str, Any]) -> dict[str, Any]:
    return {**study, SEAL: seal(study)}


def _changed(study: Mapping[str, Any]) -> str:
    return f"what the study {study['study']!r} found was changed after it was written ({SEAL} differs)"


def _records(folder: Path) -> list[dict[str, Any]]:
    file = folder / FILE
    if not path_exists(file):
        return []
    check_inside(file, folder)
    record = read_json(file)
    studies = record.get("studies")
    if record.get("format") != FORMAT or not isinstance(studies, list):
        raise Unreadable(f"{file} is damaged or of another version")
    for study in studies:
        if not isinstance(study, dict):
            raise Unreadable(f"{file} is damaged: a study is no object")
        check_fields(study, {"study": str, "manifest": str, "answered": list}, file)
        for one in study["answered"]:
            if not isinstance(one, dict):
                raise Unreadable(f"{file} is damaged: an entry is no object")
            check_fields(one, {"model": str, "unit": str, "method": str, "evidence": dict}, file)
            evidence = one["evidence"]
            check_fields(evidence, {"name": str, "value": float | None, "n": int}, file)
            if not is_a(evidence.get("detail", {}), dict):
                raise Unreadable(f"{file} is damaged: the detail of an entry is no object")
    return studies


def _pictures_of(folder: Path) -> set[tuple[str, str, str]]:
    """Network, unit and method of the run's pictures."""
    found = set()
    for file in (folder / "pictures").glob("*/*.json"):
        if file.name.startswith("."):
            continue
        try:
            sidecar = read_json(file)
        except Unreadable:
            continue
        model = sidecar.get("model")
        name = model.get("name") if isinstance(model, dict) else None
        found.add((str(name), str(sidecar.get("unit")), str(sidecar.get("method"))))
    return found
