"""Reads the answers of a study, from whatever they were stored in, as one tidy table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from entoptic.base.files import file_exists, sha256_of, user_path
from entoptic.base.records import read_json
from entoptic.errors import NotAvailable
from entoptic.study.extra import need_extra
from entoptic.study.json_form import from_json, to_json
from entoptic.study.records import Answer, Participation, Plan, Study

if TYPE_CHECKING:
    import pyarrow as pa

STUDY_FILE, PLAN_FILE, DATABASE_FILE, RETURNED = "study.json", "plan.json", "answers.sqlite", "returned"


def read_study(study_folder: str | Path) -> Study:
    """Returns the pre-registration of a study.

    Raises:
        UserError: there is no study, or it is damaged.
    """
    file = user_path(study_folder) / STUDY_FILE
    if not file_exists(file):
        raise NotAvailable(f"{study_folder} is no study (it has no {STUDY_FILE}); `entoptic study build` makes one")
    return from_json(Study, read_json(file), str(file))


def manifest_of(study_folder: str | Path) -> str:
    """Returns the sha256 of `study.json`, which names the study in every answer."""
    return sha256_of(user_path(study_folder) / STUDY_FILE)


def read_plan(study_folder: str | Path) -> Plan:
    """Returns the trials of a study with their right answers.

    Raises:
        UserError: there is none, it is damaged, or not the one that was registered.
    """
    from entoptic.errors import Unreadable

    file = user_path(study_folder) / PLAN_FILE
    if not file_exists(file):
        raise NotAvailable(f"{study_folder} has no {PLAN_FILE}; a copy of a study without it cannot be served")
    if sha256_of(file) != read_study(study_folder).plan_sha256:
        raise Unreadable(f"{file} is not the plan that was registered: its sha256 differs from the one in {STUDY_FILE}")
    return from_json(Plan, read_json(file), str(file))


def read_answers(study_folder: str | Path, *, database: str = "") -> list[Answer]:
    """Returns all answers that were given, in the order of their storing, practice and catch trials included.

    Args:
        study_folder: of the study.
        database: URL of the database; "" is the study's own file. Answer files of the static bundle are added.

    Raises:
        UserError: there is no study, or its answers cannot be read.
    """
    return [answer for _, answers in _read(study_folder, database) for answer in answers]


def read_participations(study_folder: str | Path, *, database: str = "") -> list[Participation]:
    """Returns all sessions that were begun, in their order; see `read_answers`."""
    return [participation for participation, _ in _read(study_folder, database)]


def _read(study_folder: str | Path, database: str) -> list[tuple[Participation, list[Answer]]]:
    from entoptic.study.returned import read_returned

    folder = user_path(study_folder)
    study, plan, manifest = read_study(folder), read_plan(folder), manifest_of(folder)
    found = []
    if database or file_exists(folder / DATABASE_FILE):
        need_extra()
        from entoptic.study.stored import read_stored

        found += read_stored(folder, database, study, plan, manifest)
    return found + read_returned(folder, study, plan, manifest)


def table_of_answers(answers: Sequence[Answer]) -> pa.Table:
    """Returns answers as an Arrow table, one column a field; lists of pictures are lists of texts."""
    import pyarrow as pa

    rows: list[dict[str, Any]] = [to_json(one) for one in answers]
    return pa.Table.from_pylist(rows, schema=_schema())


def _schema() -> Any:
    import pyarrow as pa

    kinds = {
        "str": pa.string(), "int": pa.int64(), "bool": pa.bool_(), "float": pa.float64(), "int | None": pa.int64(),
        "bool | None": pa.bool_(), "str | None": pa.string(), "float | None": pa.float64(),
        "tuple[str, ...]": pa.list_(pa.string()),
    }  # fmt: skip
    from dataclasses import fields

    return pa.schema([(one.name, kinds.get(str(one.type), pa.string())) for one in fields(Answer)])
