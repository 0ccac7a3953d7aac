"""The server of a study; see `entoptic.study.protocol` for its interface."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from entoptic.base.files import user_path
from entoptic.errors import UserError
from entoptic.study.admin import Admin
from entoptic.study.answers import DATABASE_FILE, manifest_of, read_plan, read_study
from entoptic.study.bodies import Refused
from entoptic.study.database import open_study_database, url_of
from entoptic.study.guards import Guard, check_origin
from entoptic.study.plan_check import check_pictures
from entoptic.study.private import open_private, replace_admin_token
from entoptic.study.records import Trial
from entoptic.study.sessions import Sessions, Where
from entoptic.study.stimuli import FOLDER
from entoptic.study.web import Body, Token
from entoptic.study.wording_files import read_wording

PAGES = Path(__file__).parent / "pages"
_KINDS = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
}
_SERVED = (
    "study.css",
    "text.js",
    "server_api.js",
    "pictures.js",
    "drawings.js",
    "screens.js",
    "trial.js",
    "app.js",
    "admin.js",
)


def make_app(
    study_folder: str | Path,
    *,
    database: str = "",
    origins: Iterable[str] = (),
    frames: Iterable[str] = (),
    completion_code: str = "",
    screened_out_code: str = "",
    completion_url: str = "",
    new_admin_token: bool = False,
) -> FastAPI:
    """Returns the web application of a study. `app.state.admin_token` holds the admin token where it is new.

    Args:
        study_folder: of the study.
        database: URL; "" is the study's own SQLite file.
        origins: further origins that may post.
        frames: origins of platforms that may show the study in a frame.
        completion_code: of those who finish, on a platform that has one code for all.
        screened_out_code: of those whose practice failed.
        completion_url: where people return to; "{code}" stands for their code.
        new_admin_token: whether the admin token is replaced.

    Raises:
        UserError: there is no study, it is damaged, its database belongs to another one, or an address is none.
    """
    may_post = tuple(check_origin(one, "origins") for one in origins)
    may_frame = tuple(check_origin(one, "frames") for one in frames)
    folder = user_path(study_folder)
    study, plan, manifest = read_study(folder), read_plan(folder), manifest_of(folder)
    check_pictures(folder, plan)
    wording = read_wording(folder, study)
    private, admin_token = open_private(
        folder,
        completion_code=completion_code,
        screened_out_code=screened_out_code,
        completion_url=completion_url,
    )
    if new_admin_token and not admin_token:
        private, admin_token = replace_admin_token(folder, private)
    opened = open_study_database(url_of(database, folder / DATABASE_FILE), manifest, study.participants)
    sessions = Sessions(study, plan, opened, private)
    about = {
        "title": study.consent.title or study.name, "manifest": manifest, "minutes": study.minutes,
        "consent": asdict(study.consent), "languages": {code: texts["language.name"] for code, texts in wording.items()},
    }  # fmt: skip

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.state.admin_token, app.state.database, app.state.sessions = admin_token, opened, sessions
    app.add_middleware(Guard, origins=may_post, frames=may_frame)

    @app.exception_handler(Refused)
    def refused(request: Request, error: Refused) -> JSONResponse:
        return JSONResponse({"error": error.code, "message": error.message}, status_code=error.status)

    @app.get("/")
    def page() -> Response:
        return _file("index.html")

    @app.get("/favicon.ico")
    def icon() -> Response:
        return Response(status_code=204)

    @app.get("/admin")
    def admin_page() -> Response:
        return _file("admin.html")

    @app.get("/pages/{name}")
    def file(name: str) -> Response:
        if name not in _SERVED:
            raise Refused(404, "page", "there is no such page")
        return _file(name)

    @app.get("/api/study")
    def tell() -> dict[str, Any]:
        return {**about, "open": sessions.is_open()}

    @app.get("/api/wording/{language}")
    def words(language: str) -> dict[str, str]:
        if language not in wording:
            raise Refused(404, "language", "there are no texts in this language")
        return wording[language]

    @app.post("/api/claim")
    def claim(given: Body) -> dict[str, Any]:
        made, where = sessions.claim(given)
        return {"token": made, "session": view(where, sessions)}

    @app.get("/api/session")
    def session(known: Token, reload: int = 0) -> dict[str, Any]:
        return view(sessions.reloaded(known) if reload else sessions.where(known), sessions)

    @app.post("/api/instructions")
    def instructions(given: Body, known: Token) -> dict[str, Any]:
        return view(sessions.instructed(known, given), sessions)

    @app.post("/api/continue")
    def go_on(given: Body, known: Token) -> dict[str, Any]:
        return view(sessions.rested(known), sessions)

    @app.post("/api/answers")
    def answers(given: Body, known: Token) -> dict[str, Any]:
        right, where = sessions.answer(known, given)
        return {"stored": True, "right": right, "session": view(where, sessions)}

    @app.post("/api/questions")
    def questions(given: Body, known: Token) -> dict[str, Any]:
        return view(sessions.questioned(known, given), sessions)

    @app.post("/api/finish")
    def finish(given: Body, known: Token) -> dict[str, str]:
        code, redirect = sessions.code(known)
        return {"code": code, "redirect": redirect}

    @app.post("/api/withdraw")
    def withdraw(given: Body, known: Token) -> dict[str, Any]:
        return view(sessions.withdraw(known), sessions)

    @app.get("/api/trials/{trial}/pictures/{n}")
    def picture(trial: str, n: str, known: Token) -> Response:
        found = _disclosed(sessions.where(known), trial, n)
        if found is None:
            raise Refused(404, "picture", "there is no such picture now")
        return Response((folder / FOLDER / f"{found}.png").read_bytes(), media_type="image/png")

    Admin(sessions, folder, database).add_to(app)
    return app


def view(where: Where, sessions: Sessions) -> dict[str, Any]:
    """Returns what a browser is told of a session: nothing that says what is right."""
    at = where.standing
    return {
        "stage": at.stage, "language": where.row.language, "done": at.done, "total": at.total,
        "tasks": list(dict.fromkeys(one.task for one in sessions.trials[where.row.slot])),
        "practice": {"round": at.round, "rounds": at.rounds},
        "trial": None if at.trial is None else shown(at.trial, sessions),
        "next": [shown(one, sessions) for one in at.following],
    }  # fmt: skip


def shown(trial: Trial, sessions: Sessions) -> dict[str, Any]:
    """Returns what a browser is told of a trial."""
    task = sessions.tasks[trial.task]
    sizes = sessions.sizes
    return {
        "id": trial.id, "task": trial.task, "practice": trial.kind == "practice", "word": trial.word, "scale": task.scale,
        "confidence": task.confidence, "not_sure": task.not_sure, "min_ms": task.min_ms,
        "pictures": [
            {"n": n, "role": one.role, "width": sizes[one.stimulus][0], "height": sizes[one.stimulus][1]}
            for n, one in enumerate(trial.pictures)
        ],
    }  # fmt: skip


def _disclosed(where: Where, trial: str, n: str) -> str | None:
    """The name of a picture that a session may see now."""
    at = where.standing
    if not (n.isascii() and n.isdigit()) or len(n) > 3:
        return None
    for one in ((at.trial,) if at.trial else ()) + at.following:
        if one.id == trial and int(n) < len(one.pictures):
            return one.pictures[int(n)].stimulus
    return None


def _file(name: str) -> Response:
    path = PAGES / name
    return Response(path.read_bytes(), media_type=_KINDS[path.suffix])


def bind(host: str, port: int) -> socket.socket:
    """Returns a socket that listens.

    Raises:
        UserError: the port is in use, or the address cannot be had.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        opened = socket.socket(family, socket.SOCK_STREAM)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind((host, port))
        opened.listen(512)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"{host}:{port} cannot be served ({reason}); give another --port, 0 takes one that is free"
        ) from None
    return opened


def run(app: FastAPI, listening: socket.socket) -> None:
    """Serves until it is interrupted."""
    import uvicorn

    config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False, date_header=False)
    uvicorn.Server(config).run(sockets=[listening])
