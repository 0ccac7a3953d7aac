"""Analyses a study: tidy answers, exclusions, estimates and a report, into one folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import NormalDist
from typing import Any

from entoptic.base.files import (
    check_inside,
    check_own,
    json_bytes,
    lock_folder,
    user_path,
    write_atomically,
    writing_to,
)
from entoptic.errors import NotAvailable, OutOfReach, UserError
from entoptic.names.encoders import MINILM, TextEncoder, load_encoder
from entoptic.runs.people import write_people
from entoptic.runs.records import version
from entoptic.study.answers import manifest_of, read_answers, read_participations, read_plan, read_study
from entoptic.study.estimates import analyse_sample, sample_of
from entoptic.study.exclusions import exclude
from entoptic.study.flow_back import study_of_run
from entoptic.study.json_form import to_json
from entoptic.study.machine_scores import MachineScores, machine_scores
from entoptic.study.picture_features import picture_features, with_right_answer
from entoptic.study.records import Answer, Participation, Study
from entoptic.study.report import report_page
from entoptic.study.results import Comparison, Results
from entoptic.study.statistics.bootstrap import DRAWS
from entoptic.study.text_scores import TextScores, score_texts
from entoptic.study.tidy import (
    UNIT_COLUMNS,
    csv_bytes,
    data_dictionary,
    dictionary_markdown,
    table_csv,
    tidy_table,
    unit_rows,
)

REPORT, RESULTS, MARK = "report.html", "results.json", ".entoptic-report"
_POWER_Z = 0.841621  # of 80 %


def analyse(
    study_folder: str | Path,
    out: str | Path,
    *,
    database: str = "",
    encoder: str | TextEncoder = MINILM,
    draws: int = DRAWS,
    runs: Sequence[str | Path] = (),
    machine: Any = "",
    device: str = "auto",
) -> Results:
    """Analyses a study and writes its report.

    `out` gets `report.html`, `results.json`, `answers.csv` and `answers.parquet` with `answers.md` (what their columns mean),
    `units.csv` and `participants.csv`. Nothing in the study is changed.

    Args:
        study_folder: of the study.
        out: folder of the report; an earlier report there is replaced.
        database: URL of the answers' database; "" is the study's own.
        encoder: of texts, or its name.
        draws: of the bootstrap.
        machine: a network, or its name, whose features answer the same trials; "" asks none.
        device: of that network.
        runs: whose pictures were judged. What people answered is written beside them, where `entoptic gallery` shows it.

    Raises:
        UserError: there is no study, it has no answers, or the report cannot be written.
    """
    if draws < 100:
        raise UserError(f"intervals need at least 100 draws of the bootstrap, got {draws}; 10000 is usual")
    study = read_study(study_folder)
    answers = read_answers(study_folder, database=database)
    sessions = read_participations(study_folder, database=database)
    folder = user_path(out)
    check_own(folder, marks={MARK}, what="report")
    if not any(one.kind == "main" for one in answers):
        raise NotAvailable(
            f"{study_folder} has no answers yet ({len(sessions)} sessions were begun); `entoptic study serve` collects them, "
            "`entoptic study simulate` makes some up"
        )
    texts, note = _texts(study, answers, encoder)
    results = estimate(study, answers, sessions, texts, manifest=manifest_of(study_folder), text_note=note, draws=draws)
    if machine != "":
        results = replace(results, machine=_machine(user_path(study_folder), study, answers, results, machine, device))
    with writing_to(folder, "an earlier report is whole or partly replaced"), lock_folder(folder):
        _write(folder, study, results, answers, sessions, texts)
    for run in runs:
        write_people(run, study_of_run(study, results, answers))
    return results


def estimate(
    study: Study, answers: Sequence[Answer], sessions: Sequence[Participation], texts: TextScores | None, *,
    manifest: str, text_note: str = "", draws: int = DRAWS,
) -> Results:  # fmt: skip
    """Returns what the answers say, with and without exclusions.

    Args:
        study: pre-registration.
        answers: of everybody.
        sessions: of everybody.
        texts: scores of written answers, or None.
        manifest: sha256 of `study.json`.
        text_note: why there are no scores.
        draws: of the bootstrap.
    """
    exclusions = exclude(study.exclusions, answers, sessions, manifest=manifest)
    kept = analyse_sample(sample_of(study, answers, exclusions.kept, texts, text_note=text_note, draws=draws))
    everybody = kept
    if len(exclusions.kept) < len(exclusions.reasons):
        everybody = analyse_sample(
            sample_of(study, answers, exclusions.reasons, texts, text_note=text_note, draws=draws)
        )
    return Results(
        study=study.name,
        manifest=manifest,
        software=_software(),
        analysed=datetime.now(UTC).isoformat(timespec="seconds"),
        simulated=len({one.participant for one in answers if one.source == "simulated" and one.kind != "practice"}),
        contrast=study.registration.primary,
        alpha=study.registration.alpha,
        draws=draws,
        exclusions=exclusions,
        kept=kept,
        everybody=everybody,
        detectable=_detectable(kept.primary),
        encoder=texts.encoder if texts else "",
        encoder_identity=texts.identity if texts else "",
        text_note=text_note,
        median_minutes=_median_minutes(sessions),
    )


def _machine(
    folder: Path, study: Study, answers: Sequence[Answer], results: Results, network: Any, device: str
) -> MachineScores:
    plan = read_plan(folder)
    kept = results.exclusions.kept
    counted = [one for one in answers if one.kind == "main" and not one.technical and one.participant in kept]
    return machine_scores(
        study, plan, counted, picture_features(folder, with_right_answer(plan), network, device=device)
    )


def _texts(study: Study, answers: Sequence[Answer], encoder: str | TextEncoder) -> tuple[TextScores | None, str]:
    """The scores of written answers, or why there are none; the rest of the analysis goes on without them."""
    written = [one for one in answers if one.task == "describe"]
    if not written or "describe" not in {task.kind for task in study.tasks}:
        return None, ""
    try:
        return score_texts(written, load_encoder(encoder) if isinstance(encoder, str) else encoder), ""
    except (NotAvailable, OutOfReach) as error:
        return None, str(error)


def _detectable(primary: Comparison) -> float | None:
    if primary.found is None:
        return None
    return (NormalDist().inv_cdf((1 + primary.found.level) / 2) + _POWER_Z) * primary.found.se


def _median_minutes(sessions: Sequence[Participation]) -> float | None:
    minutes = []
    for one in sessions:
        if one.stage != "finished" or not one.finished:
            continue
        try:
            took = datetime.fromisoformat(one.finished) - datetime.fromisoformat(one.started)
        except (ValueError, TypeError):  # a clock without a time zone beside one with it
            continue
        minutes.append(took.total_seconds() / 60)
    return sorted(minutes)[len(minutes) // 2] if minutes else None


def _software() -> str:
    return f"entoptic {version('entoptic')}"


def _write(
    folder: Path, study: Study, results: Results, answers: Sequence[Answer], sessions: Sequence[Participation],
    texts: TextScores | None,
) -> None:  # fmt: skip
    import pyarrow.parquet as pq

    table = tidy_table(answers, results.exclusions, texts)
    columns = data_dictionary(table)
    session_rows = [list(to_json(one).values()) for one in sessions]
    session_columns = list(to_json(sessions[0])) if sessions else ["participant"]
    people = [
        [*row, "; ".join(results.exclusions.reasons.get(one.participant, ()))]
        for row, one in zip(session_rows, sessions)
    ]
    content: dict[str, Any] = {
        MARK: b"Written by `entoptic study analyse`, which may write this folder again.\n",
        "answers.csv": table_csv(table),
        "answers.parquet": lambda part: pq.write_table(table, part),
        "answers.md": dictionary_markdown(columns, f"Columns of answers.csv and answers.parquet of {study.name}"),
        "units.csv": csv_bytes(UNIT_COLUMNS, unit_rows(results.kept.units)),
        "participants.csv": csv_bytes([*session_columns, "reasons"], people),
        RESULTS: json_bytes(_finite(to_json(results))),
        REPORT: report_page(study, results, answers, texts, columns).encode("utf-8", "backslashreplace"),
    }
    for name, bytes_or_writer in content.items():
        write_atomically(check_inside(folder / name, folder), bytes_or_writer)


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: a standard error that is not known is null."""
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    if isinstance(value, frozenset):
        return sorted(value)
    return None if isinstance(value, float) and not abs(value) < float("inf") else value
