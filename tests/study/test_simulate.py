"""Simulated participants over HTTP: known effects come back, and who does not care is left out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("statsmodels", reason='needs the extra "study"')
pytest.importorskip("sqlmodel", reason='needs the extra "study"')
pytest.importorskip("httpx", reason='needs the extra "study"')

import httpx

from entoptic.errors import UserError
from entoptic.models.model import Model
from entoptic.models.sources import load
from entoptic.study.analyse import analyse
from entoptic.study.answers import DATABASE_FILE, read_answers, read_participations, read_plan
from entoptic.study.build import build
from entoptic.study.client import StudyClient
from entoptic.study.design import Design
from entoptic.study.observers import Careless, Coin, Effects, ModelObserver, Rater, spaced_effects
from entoptic.study.records import Answer, Shown, Task, Trial
from entoptic.study.simulate import Crowd, kinds_of, simulate, simulated_database
from entoptic.study.statistics.bootstrap import generator
from study.conftest import METHODS, Make
from study.made_answers import LetterEncoder

CROWD = Crowd(participants=6, coins=0.17, careless=0.17, network="")
TASK = Task(kind="2afc", trials=1, options=2, confidence=3)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, run_folder: Path, network: Model, many_photos: Path) -> Path:
    """A study that six simulated people have answered."""
    design = Design(participants=7, references=2, batches=1, trials=6, practice_units=1)
    given: dict[str, Any] = {"photos": many_photos, "with_photos": True, "model": network}
    folder = tmp_path_factory.mktemp("simulate") / "study"
    assert build([run_folder], folder, design, tasks=("2afc", "class-match"), **given).path
    simulate(folder, CROWD)
    return folder


@pytest.fixture(scope="module")
def answers(study: Path) -> list[Answer]:
    return read_answers(study, database=simulated_database(study))


def test_everybody_answers_over_http_and_the_real_database_stays_untouched(study: Path, answers: list[Answer]) -> None:
    assert not (study / DATABASE_FILE).exists()
    truth = json.loads((study / "simulated.json").read_text())
    assert truth["came"] == {"rater": 4, "careless": 1, "coin": 1}
    assert truth["effects"]["methods"] == {"fourier": 0.75, "vital": -0.75}  # the proposed one is best
    assert str(study) not in (study / "simulated.json").read_text()
    assert len(answers) == truth["answers"]
    assert {one.source for one in answers} == {"simulated"}
    sessions = read_participations(study, database=simulated_database(study))
    assert len(sessions) == sum(truth["ended"].values()) == 6
    assert truth["ended"]["finished"] >= 4
    # what came back is what was sent: the right answers of the plan are scored by the server
    right = {trial.id: trial.right for one in read_plan(study).assignments for trial in one.trials}
    scored = [one for one in answers if one.task == "2afc"]
    assert scored
    assert all(one.correct == (one.choice in right[one.trial]) for one in scored)


def test_the_careless_are_left_out_and_the_report_is_marked(study: Path, tmp_path: Path) -> None:
    database = simulated_database(study)
    results = analyse(study, tmp_path / "report", database=database, encoder=LetterEncoder(), draws=100)
    sessions = read_participations(study, database=database)
    (careless,) = (one.participant for one in sessions if (one.instruction_seconds or 0) < 10)
    assert {"instructions", "too fast"} <= set(results.exclusions.reasons[careless])
    assert len(results.exclusions.kept) >= 3  # their made-up clock passes the rules on time
    assert results.simulated == len(results.exclusions.reasons)
    assert "Simulated answers" in (tmp_path / "report" / "report.html").read_text()


def test_who_came_before_finds_no_second_place(study: Path) -> None:
    with pytest.raises(UserError, match="nobody found a place"):
        simulate(study, replace(CROWD, participants=1))


def test_the_kinds_have_exact_shares() -> None:
    kinds = kinds_of(Crowd(participants=60))
    assert (kinds.count("careless"), kinds.count("coin")) == (6, 3)
    assert kinds[:20].count("careless") == 2
    assert set(kinds_of(Crowd(participants=5, coins=0, careless=1))) == {"careless"}


@pytest.mark.slow
def test_the_same_seed_gives_the_same_answers(make: Make) -> None:
    design = Design(participants=3, references=2, batches=1, trials=6)
    rows = []
    for name in ("a", "b"):
        built = make(name, design=design, tasks=("2afc", "preference"), name="same")
        assert built.path is not None
        simulate(built.path, Crowd(participants=2, network="", careless=0, coins=0))
        found = read_answers(built.path, database=simulated_database(built.path))
        rows.append([(one.slot, one.unit, one.arm, one.choice, one.confidence, one.rt_ms) for one in found])
    assert rows[0] == rows[1]


@pytest.mark.slow
def test_a_network_looks_at_the_pictures(make: Make, tmp_path: Path) -> None:
    design = Design(participants=3, references=3, batches=1, trials=8, practice_units=1)
    built = make(design=design, tasks=("2afc", "intruder"))
    assert built.path is not None
    observer = load("builtin:lite1", device="cpu")
    found = simulate(built.path, Crowd(participants=1, network=observer, careless=0, coins=0))
    assert dict(found.came) == {"model": 1}
    assert json.loads((built.path / "simulated.json").read_text())["network"] == observer.card.name
    database, out = simulated_database(built.path), tmp_path / "report"
    results = analyse(built.path, out, database=database, encoder=LetterEncoder(), draws=100, machine=observer)
    assert results.machine is not None
    assert results.machine.network == observer.card.name
    assert {one.task for one in results.machine.arms} == {"2afc", "intruder"}
    assert "A machine on the same trials" in (out / "report.html").read_text()


def test_a_network_without_features_is_refused(study: Path, network: Model) -> None:
    with pytest.raises(UserError, match="no pooled features"):
        simulate(study, Crowd(participants=2, network=network))


@pytest.mark.parametrize("shares", [{"coins": 0.7, "careless": 0.4}, {"coins": -0.1}, {"participants": 0}])
def test_an_impossible_crowd_is_refused(shares: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        Crowd(**shares)


# --- observers ----------------------------------------------------------------------------------------------------------


def trial(task: str = "2afc", **fields: Any) -> Trial:
    pictures = (
        *(Shown(role="high", stimulus=f"h{k}") for k in range(2)), *(Shown(role="low", stimulus=f"l{k}") for k in range(2)),
        Shown(role="query", stimulus="q0"), Shown(role="query", stimulus="q1"),
    )  # fmt: skip
    values: dict[str, Any] = {
        "id": "x", "task": task, "kind": "main", "arm": "vital", "method": "vital", "unit": "u:1", "pictures": pictures,
        "right": (1,),
    } | fields  # fmt: skip
    return Trial(**values)


def rater(person: str = "0", **fields: Any) -> Rater:
    return Rater(person=person, seed="0", effects=spaced_effects(METHODS), labels=("church", "dog"), **fields)


def share(answers: list[bool]) -> float:
    return sum(answers) / len(answers)


def test_a_network_takes_the_query_that_is_like_the_high_references() -> None:
    draw = np.random.default_rng(0)
    high, low = draw.normal(size=8), draw.normal(size=8)
    near = lambda row: row + 0.1 * draw.normal(size=8)  # noqa: E731
    features = {"h0": near(high), "h1": near(high), "l0": near(low), "l1": near(low), "q0": near(low), "q1": near(high)}
    observer = ModelObserver(rater=rater(), features=features)
    assert observer.chances(trial())[1] > 0.95
    options = tuple(Shown(role="option", stimulus=name) for name in ("h0", "h1", "l0", "q1"))
    assert observer.chances(trial("intruder", pictures=options, right=(2,))).argmax() == 2
    alone = trial(pictures=tuple(one for one in trial().pictures if one.role == "query"))
    np.testing.assert_allclose(observer.chances(alone), 0.5)  # without references it guesses
    reply = observer.answer(trial(), TASK, draw)
    assert (reply.choice, reply.confidence) == (1, 3)


def test_a_rater_has_the_planted_effects() -> None:
    draw, effects = np.random.default_rng(1), spaced_effects(("a", "b", "c"))
    assert effects.methods == {"a": 0.75, "b": 0.0, "c": -0.75}
    shares = {}
    for arm in ("natural", "vital", "fourier", "none"):
        method = arm if arm in METHODS else ""
        shares[arm] = share(
            [
                rater(str(p)).answer(trial(arm=arm, method=method, unit=f"u:{u}"), TASK, draw).choice == 1
                for p in range(20)
                for u in range(30)
            ]
        )
    assert shares["natural"] > shares["vital"] > shares["fourier"] > shares["none"]
    assert shares["natural"] - shares["none"] > 0.25


def test_ratings_words_and_preferences_follow_the_effects() -> None:
    draw, strong = np.random.default_rng(2), Effects(methods={"vital": 3.0, "fourier": -3.0})
    person = replace(rater(), effects=strong)
    match = Task(kind="class-match", trials=1, scale=5)
    means = [
        np.mean(
            [
                person.answer(trial("class-match", method=m, unit=f"u:{u}", right=()), match, draw).rating
                for u in range(60)
            ]
        )
        for m in METHODS
    ]
    assert means[0] > 4
    assert means[1] < 2
    describe = Task(kind="describe", trials=1)
    words = [
        {
            person.answer(trial("describe", method=m, label="church, church building", right=()), describe, draw).text
            for _ in range(40)
        }
        for m in METHODS
    ]
    assert "church" in words[0]
    assert words[1] & {"dog", "don't know"}
    pair = (Shown(role="option", stimulus="a", method="fourier"), Shown(role="option", stimulus="b", method="vital"))
    liked = Task(kind="preference", trials=1, options=2, not_sure=True)
    replies = [
        person.answer(trial("preference", pictures=pair, right=(), unit=f"u:{u}"), liked, draw) for u in range(80)
    ]
    assert share([one.choice == 1 for one in replies if not one.not_sure]) > 0.9
    assert 0 < sum(one.not_sure for one in replies) < 25


def test_practice_is_passed_by_all_but_coins() -> None:
    draw, practice = np.random.default_rng(3), trial(kind="practice")
    assert share([rater().answer(practice, TASK, draw).choice == 1 for _ in range(200)]) > 0.9
    assert share([Careless(rater=rater()).answer(practice, TASK, draw).choice == 1 for _ in range(200)]) > 0.9
    assert abs(share([Coin().answer(practice, TASK, draw).choice == 1 for _ in range(400)]) - 0.5) < 0.1
    hasty = Careless(rater=rater()).answer(trial(), TASK, draw)
    assert (hasty.choice, hasty.seconds) == (0, 0.8)


# --- client --------------------------------------------------------------------------------------------------------------


class Answering:
    """A server that gives replies in their order."""

    def __init__(self, *replies: tuple[int, dict[str, Any]]) -> None:
        self.replies, self.seen = list(replies), []  # type: list[tuple[int, dict[str, Any]]], list[tuple[str, Any]]

    def post(self, url: str, *, json: Any, headers: Any) -> Any:
        self.seen.append((url, json))
        status, body = self.replies.pop(0)
        return httpx.Response(status, json=body)

    def get(self, url: str, *, headers: Any) -> Any:
        raise AssertionError


def test_a_client_waits_where_it_is_asked_to_and_says_what_was_refused() -> None:
    waited: list[float] = []
    http = Answering(
        (429, {"error": "rate"}), (200, {"token": "t", "session": {"stage": "trials"}}), (409, {"message": "no"})
    )
    client = StudyClient(http, "a", wait=waited.append)
    assert client.claim("en")
    assert len(waited) == 1
    with pytest.raises(UserError, match="refused: no"):
        client.go_on()
    assert not StudyClient(Answering((409, {"error": "full"})), "b").claim("en")
    with pytest.raises(UserError, match="refused"):
        StudyClient(Answering((403, {"error": "closed", "message": "the study is closed"})), "c").claim("en")


def test_the_clock_of_a_client_goes_on_by_the_seconds_of_answers() -> None:
    session = {"stage": "trials", "trial": {"id": "x"}}
    http = Answering((200, {"session": session}), (200, {"session": session}), (200, session))
    client = StudyClient(http, "a")
    person, draw = rater(), generator("clock")
    for _ in range(2):
        client.answer({"id": "x"}, person.answer(trial(), TASK, draw))
    first, second = (body for _, body in http.seen)
    assert first["answered_ms"] == second["shown_ms"] > first["shown_ms"] == 0
    assert first["nonce"] != second["nonce"]
    assert "rating" not in first
