"""Simulated participants answer a study over HTTP, into a database of their own."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from entoptic.base.files import check_inside, file_exists, json_bytes, user_path, write_atomically, writing_to
from entoptic.base.progress import Progress, silent
from entoptic.errors import NotAvailable, UserError
from entoptic.study.answers import read_plan, read_study
from entoptic.study.client import Http, StudyClient
from entoptic.study.extra import need_extra
from entoptic.study.json_form import to_json
from entoptic.study.observers import Careless, Coin, Effects, ModelObserver, Observer, Rater, spaced_effects
from entoptic.study.picture_features import NETWORK, picture_features, with_right_answer
from entoptic.study.records import WITH_RIGHT_ANSWER, Plan, Study, Trial
from entoptic.study.statistics.bootstrap import generator

DATABASE, TRUTH = "simulated.sqlite", "simulated.json"


@dataclass(frozen=True, kw_only=True)
class Crowd:
    """Who takes part.

    Attributes:
        participants: who come.
        coins: share of them who flip coins.
        careless: share of them who click as fast as they can.
        effects: planted, for those who take part in earnest; None takes `effects_for`.
        network: whose features answer tasks with a right answer: a name, a `Model`, or "" for planted effects there too.
        seed: of all draws.
    """

    participants: int = 60
    coins: float = 0.05
    careless: float = 0.1
    effects: Effects | None = None
    network: Any = NETWORK
    seed: int = 0

    def __post_init__(self) -> None:
        if self.participants < 1:
            raise UserError(f"expected at least 1 participant, got {self.participants}")
        if min(self.coins, self.careless) < 0 or self.coins + self.careless > 1:
            raise UserError(
                f"the shares of coins and careless people must add up to at most 1, got {self.coins:g} and {self.careless:g}"
            )


@dataclass(frozen=True, kw_only=True)
class Simulated:
    """What a simulation did.

    Attributes:
        database: URL that `analyse` takes.
        came: how many of each kind claimed a place.
        ended: how many sessions ended in each stage.
        turned_away: who found no place.
        answers: stored, practice included.
        effects: planted.
    """

    database: str
    came: Mapping[str, int]
    ended: Mapping[str, int]
    turned_away: int
    answers: int
    effects: Effects


def simulated_database(study_folder: str | Path) -> str:
    """Returns the URL of the database of a study's simulated answers, which is not that of people."""
    return f"sqlite:///{(user_path(study_folder) / DATABASE).resolve()}"


def check_simulated(study_folder: str | Path) -> None:
    """Checks that simulated participants have answered a study.

    Raises:
        NotAvailable: none have.
    """
    read_study(study_folder)
    if not file_exists(user_path(study_folder) / DATABASE):
        raise NotAvailable(
            f"{study_folder} has no simulated answers (no {DATABASE}); `entoptic study simulate {study_folder}` makes them"
        )


def effects_for(study: Study, width: float = 1.5) -> Effects:
    """Returns planted effects: the method that the study proposes is best, the others follow evenly in their order.

    Args:
        study: pre-registration.
        width: between first and last method, in logits.
    """
    proposed = study.registration.primary.arm
    return spaced_effects(sorted(study.methods, key=lambda method: method != proposed), width)


def simulate(
    study_folder: str | Path, crowd: Crowd | None = None, *, http: Http | None = None, device: str = "auto",
    progress: Progress = silent,
) -> Simulated:  # fmt: skip
    """Lets simulated participants answer a study.

    A server of the study is started on the loopback address, and everybody claims a place, reads the instructions and answers
    over HTTP as a browser does. Pictures are read from the study's folder. Answers go to `STUDY/simulated.sqlite`, never to
    those of people; what was planted is written to `STUDY/simulated.json`. Participants who came before are still there.

    Args:
        study_folder: of the study.
        crowd: who takes part.
        http: sends requests to a server that runs already, whose database is used; None starts one.
        device: of the network.
        progress: called with (what, done, total).

    Raises:
        UserError: there is no study, or its server refuses.
    """
    crowd = crowd or Crowd()
    folder = user_path(study_folder)
    study, plan = read_study(folder), read_plan(folder)
    effects = crowd.effects or effects_for(study)
    features = _features(folder, study, plan, crowd.network, device, progress)
    if http is not None:
        return _run(study, plan, folder, crowd, effects, features, http, progress)
    with _served(folder) as started:
        return _run(study, plan, folder, crowd, effects, features, started, progress)


def _run(
    study: Study, plan: Plan, folder: Path, crowd: Crowd, effects: Effects, features: Mapping[str, np.ndarray], http: Http,
    progress: Progress,
) -> Simulated:  # fmt: skip
    trials = {trial.id: trial for one in plan.assignments for trial in one.trials}
    labels = sorted({trial.label for trial in trials.values() if trial.label})
    came: Counter[str] = Counter()
    ended: Counter[str] = Counter()
    turned_away = answers = 0
    language = "en" if "en" in study.wording else next(iter(study.wording), "en")
    for number, kind in enumerate(kinds_of(crowd)):
        rater = Rater(person=str(number), seed=str(crowd.seed), effects=effects, labels=labels)
        observer = _observer(kind, rater, features)
        client = StudyClient(http, f"{crowd.seed}-{number}")
        if not client.claim(language):
            turned_away += 1
        else:
            _take_part(client, observer, study, trials, generator("answers", crowd.seed, number))
            came[observer.name] += 1
            ended[client.stage] += 1
            answers += client.sent
        progress("participants", number + 1, crowd.participants)
    if not came:
        raise NotAvailable(
            f"nobody found a place: all {study.participants} are taken or these participants came before; delete "
            f"{folder / DATABASE} to begin again, or give another --seed"
        )
    found = Simulated(
        database=simulated_database(folder), came=dict(came), ended=dict(ended), turned_away=turned_away, answers=answers,
        effects=effects,
    )  # fmt: skip
    record = {**to_json(found), "seed": crowd.seed, "network": _network_name(crowd.network)}
    del record["database"]  # it names a folder of this machine
    with writing_to(folder, "the answers are stored"):
        write_atomically(check_inside(folder / TRUTH, folder), json_bytes(record))
    return found


def _take_part(
    client: StudyClient, observer: Observer, study: Study, trials: Mapping[str, Trial], draw: np.random.Generator
) -> None:
    """One session from the instructions to the end."""
    while True:
        stage = client.stage
        if stage == "instructions":
            client.read_instructions(observer.instruction_seconds)
        elif stage == "break":
            client.go_on()
        elif stage in ("practice", "trials"):
            shown = client.session["trial"]
            trial = trials[str(shown["id"])]
            client.answer(shown, observer.answer(trial, study.task(trial.task), draw))
        else:
            client.finish()
            return


def kinds_of(crowd: Crowd) -> list[str]:
    """Returns the kind of each participant in the order of arrival: the kinds are mixed evenly, with exact shares."""
    shares = {"earnest": 1 - crowd.careless - crowd.coins, "careless": crowd.careless, "coin": crowd.coins}
    kinds: list[str] = []
    for number in range(crowd.participants):
        kinds.append(max(shares, key=lambda kind: shares[kind] * (number + 1) - kinds.count(kind)))
    return kinds


def _observer(kind: str, rater: Rater, features: Mapping[str, np.ndarray]) -> Observer:
    if kind == "careless":
        return Careless(rater=rater)
    if kind == "coin":
        return Coin(labels=rater.labels)
    return ModelObserver(rater=rater, features=features) if features else rater


def _features(
    folder: Path, study: Study, plan: Plan, network: Any, device: str, progress: Progress
) -> dict[str, np.ndarray]:
    """Features of the pictures that tasks with a right answer show; none where effects are planted there."""
    if network in (None, "") or not {task.kind for task in study.tasks} & WITH_RIGHT_ANSWER:
        return {}
    return picture_features(folder, with_right_answer(plan), network, device=device, progress=progress).by_name


def _network_name(network: Any) -> str:
    return network if isinstance(network, str) else str(getattr(getattr(network, "card", None), "name", network or ""))


@contextmanager
def _served(folder: Path) -> Iterator[Http]:
    """A client of a server of the study that runs in a thread, on the loopback address."""
    need_extra()
    try:
        import httpx
    except ImportError:
        raise NotAvailable("simulated participants need the package httpx: pip install 'entoptic[study]'") from None
    import uvicorn

    from entoptic.study.server import bind, make_app

    app = make_app(folder, database=simulated_database(folder))
    listening = bind("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    host, port = listening.getsockname()[:2]
    try:
        with httpx.Client(base_url=f"http://{host}:{port}", timeout=60, trust_env=False) as client:
            yield client
    except httpx.HTTPError as error:
        raise NotAvailable(f"the server of the study does not answer ({type(error).__name__})") from None
    finally:
        server.should_exit = True
        thread.join(10)
        listening.close()
        app.state.database.close()
