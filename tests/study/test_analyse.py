"""The folder of an analysis: tidy tables, dictionary, numbers and report."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import fields, replace
from pathlib import Path

import pytest

pytest.importorskip("statsmodels", reason='needs the extra "study"')

import pyarrow.parquet as pq

from entoptic.errors import UserError
from entoptic.study import analyse as module
from entoptic.study.analyse import analyse
from entoptic.study.records import Answer, Participation, Study
from entoptic.study.results import Results
from entoptic.study.tidy import MORE, csv_bytes, field_meanings
from study.made_answers import MANIFEST, LetterEncoder, made_answers, made_study

NASTY = '<script>alert("x")</script> & =1+1'


class Stored:
    """A study whose answers are in memory."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, study: Study, answers: list[Answer], sessions: list[Participation]
    ) -> None:
        monkeypatch.setattr(module, "read_study", lambda folder: study)
        monkeypatch.setattr(module, "read_answers", lambda folder, database="": answers)
        monkeypatch.setattr(module, "read_participations", lambda folder, database="": sessions)
        monkeypatch.setattr(module, "manifest_of", lambda folder: MANIFEST)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Results, list[Answer]]:
    study = replace(made_study(participants=12), name=f"study {NASTY}")
    answers, sessions = made_answers(study)
    k = next(i for i, one in enumerate(answers) if one.task == "describe")
    answers[k] = replace(answers[k], text=NASTY)
    answers[k + 4] = replace(answers[k + 4], text="=HYPERLINK(1)")
    out = tmp_path_factory.mktemp("analyse") / "report"
    with pytest.MonkeyPatch.context() as patch:
        Stored(patch, study, answers, sessions)
        return out, analyse("study", out, encoder=LetterEncoder(), draws=200), answers


def test_every_answer_is_a_row_and_excluded_ones_are_marked(report: tuple[Path, Results, list[Answer]]) -> None:
    out, results, answers = report
    table = pq.read_table(out / "answers.parquet")
    assert table.column_names == [one.name for one in fields(Answer)] + list(MORE)
    assert table.num_rows == len(answers)
    rows = table.to_pylist()
    assert [row["trial"] for row in rows] == [one.trial for one in answers]
    assert {row["participant"] for row in rows if row["excluded"]} == {"person-010", "person-011"}
    assert all("catch" in row["reasons"] for row in rows if row["excluded"])
    assert len(results.exclusions.kept) == 10
    with (out / "answers.csv").open(newline="", encoding="utf-8") as file:
        read = list(csv.DictReader(file))
    assert len(read) == len(answers)
    assert [row["correct"] for row in read] == [
        "" if one.correct is None else str(one.correct).lower() for one in answers
    ]
    assert [row["text"].lstrip("'") for row in read] == [one.text or "" for one in answers]


def test_no_cell_is_a_formula(report: tuple[Path, Results, list[Answer]]) -> None:
    out, _, _ = report
    for name in ("answers.csv", "units.csv", "participants.csv"):
        with (out / name).open(newline="", encoding="utf-8") as file:
            cells = [cell for row in csv.reader(file) for cell in row]
        assert not [cell for cell in cells if re.match(r"[=+@\t\r\n]|-(?![0-9.])", cell)]
    assert b"'=HYPERLINK(1)" in (out / "answers.csv").read_bytes()


def test_numbers_stay_numbers_in_csv() -> None:
    assert csv_bytes(["a", "b", "c", "d"], [[-0.5, "-x", None, ["a", "b"]]]) == b"a,b,c,d\n-0.5,'-x,,a b\n"


def test_every_column_has_a_meaning(report: tuple[Path, Results, list[Answer]]) -> None:
    out, _, _ = report
    text = (out / "answers.md").read_text()
    for name in [one.name for one in fields(Answer)] + list(MORE):
        assert re.search(rf"^\| `{name}` \| [^|]+ \| [^|]+ \|$", text.replace("\\|", "/"), flags=re.MULTILINE), name
    assert field_meanings(Answer)["shown_ms"] == "monotonic clock of the browser when the pictures stood on the screen."


def test_the_report_states_the_registered_test_first(report: tuple[Path, Results, list[Answer]]) -> None:
    out, _, _ = report
    page = (out / "report.html").read_text()
    headings = re.findall(r"<h2[^>]*>(.*?)</h2>", page)
    assert headings[0] == "The registered test"
    assert {"Who took part", "Choice of two photos", "Class match", "Description", "Preference", "Agreement"} <= set(
        headings
    )
    assert page.index("VITAL helps more than Fourier.") < page.index("Who took part")
    assert "fewer than 80 % of catch trials right" in page
    assert "10 people in the primary analysis, 12 answered" in page
    assert "Simulated answers" not in page
    assert page.count("not stated") >= 5  # what the consent page leaves open


def test_the_report_escapes_what_people_wrote_and_asks_nothing_of_other_hosts(
    report: tuple[Path, Results, list[Answer]],
) -> None:
    page = (report[0] / "report.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt; &amp; =1+1" in page
    assert "<i>zzz" not in page
    assert "&lt;i&gt;zzz" in page
    assert not re.findall(r"(?:src|href)=|https?://(?!www\.w3\.org)|url\(|@import", page)


def test_results_are_json_with_both_analyses(report: tuple[Path, Results, list[Answer]]) -> None:
    out, results, _ = report
    found = json.loads((out / "results.json").read_text())
    assert found["kept"]["persons"] == 10
    assert found["everybody"]["persons"] == 12
    assert found["kept"]["primary"]["found"]["value"] == results.kept.primary.found.value  # type: ignore[union-attr]
    assert found["encoder"] == "letters"
    assert found["detectable"] > 0


def test_a_report_is_written_again_and_a_foreign_folder_never(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = made_study(participants=4)
    answers, sessions = made_answers(study, careless=0)
    Stored(monkeypatch, study, answers, sessions)
    analyse("study", tmp_path / "r", encoder=LetterEncoder(), draws=100)
    first = (tmp_path / "r" / "answers.csv").read_bytes()
    analyse("study", tmp_path / "r", encoder=LetterEncoder(), draws=100)
    assert (tmp_path / "r" / "answers.csv").read_bytes() == first
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="holds other files"):
        analyse("study", other, encoder=LetterEncoder(), draws=100)
    assert [one.name for one in other.iterdir()] == ["thesis.txt"]


def test_what_cannot_be_analysed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = made_study(participants=3)
    _, sessions = made_answers(study, careless=0)
    Stored(monkeypatch, study, [], sessions)
    with pytest.raises(UserError, match=r"has no answers yet \(3 sessions were begun\)"):
        analyse("study", tmp_path / "r")
    with pytest.raises(UserError, match="at least 100 draws"):
        analyse("study", tmp_path / "r", draws=3)
    assert not (tmp_path / "r").exists()


def test_without_an_encoder_the_other_tasks_are_analysed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = made_study(participants=6)
    answers, sessions = made_answers(study, careless=0)
    Stored(monkeypatch, study, answers, sessions)
    found = analyse("study", tmp_path / "r", encoder="no such encoder", draws=100)
    assert found.text_note
    assert found.kept.primary.found is not None
    assert f"Not scored: {found.text_note[:30]}" in (tmp_path / "r" / "report.html").read_text().replace("&#34;", '"')


@pytest.mark.parametrize(("share", "said"), [(0.0, "Contradicted"), (0.6, "Not supported"), (None, "Not tested")])
def test_verdicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float | None, said: str) -> None:
    study = made_study(participants=16, units=12)
    answers, sessions = made_answers(study, careless=0)
    if share is None:
        answers = [one for one in answers if one.arm != "fourier"]
    else:  # vital is like fourier, or never right
        answers = [
            replace(one, correct=share > 0.5 and k % 5 < 3) if (one.task, one.arm) == ("2afc", "vital") else one
            for k, one in enumerate(answers)
        ]
    Stored(monkeypatch, study, answers, sessions)
    analyse("study", tmp_path / "r", encoder=LetterEncoder(), draws=300)
    page = (tmp_path / "r" / "report.html").read_text()
    assert f'<p class="said">{said}</p>' in page
    if said == "Not supported":
        assert "with a power of 80 %" in page
