"""A study as one page without a server: answers stay in the browser and are saved as a file, or posted, at the end.

The bundle holds the trials of every place, with the right answers of practice trials only (whoever looks finds them; those of
other trials are not in it). Answer files go to `STUDY/returned/`, where `read_answers` checks and scores them.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from entoptic.base.files import user_path, write_atomically
from entoptic.errors import UserError
from entoptic.study.answers import manifest_of, read_plan, read_study
from entoptic.study.fresh_folder import fresh_folder
from entoptic.study.plan_check import check_pictures
from entoptic.study.records import Plan, Study, Trial
from entoptic.study.stimuli import FOLDER
from entoptic.study.wording_files import read_wording

PAGES = Path(__file__).parent / "pages"
PAGE = "index.html"
_SCRIPTS = (
    "text.js",
    "bundle_way.js",
    "bundle_api.js",
    "pictures.js",
    "drawings.js",
    "screens.js",
    "trial.js",
    "app.js",
)
LIMITS = (
    "the bundle cannot stop a person from taking part twice, nor balance places by who comes",
    "whoever reads its files can see which trials check attention and what is right in practice",
    "it issues no code that a platform could trust, and answers are lost with the browser's data",
)
"""What a static bundle cannot guard against."""


def export(study_folder: str | Path, out: str | Path, *, post_url: str = "") -> Path:
    """Writes the static bundle of a study.

    Args:
        study_folder: of the study.
        out: a folder that is not there, or is empty.
        post_url: where answers are posted at the end; "" saves a file.

    Returns:
        The page.

    Raises:
        UserError: there is no study, it is damaged, or `out` holds something or cannot be written. Nothing is left behind then.
    """
    source, folder = user_path(study_folder), user_path(out)
    study, plan = read_study(source), read_plan(source)
    check_pictures(source, plan)
    wording = read_wording(source, study)
    if post_url and not post_url.startswith(("https://", "http://")):
        raise UserError(f"--post-url must begin with https://, got {post_url[:80]}")
    data = {
        "study": _about(study, manifest_of(source)), "wording": wording, "slots": _slots(study, plan), "postUrl": post_url,
    }  # fmt: skip
    with fresh_folder(folder, ("study.css", *_SCRIPTS, "data.js", PAGE, FOLDER), "nothing was exported"):
        (folder / FOLDER).mkdir()
        for one in plan.stimuli:
            shutil.copyfile(source / FOLDER / f"{one.name}.png", folder / FOLDER / f"{one.name}.png")
        for name in ("study.css", *_SCRIPTS):
            write_atomically(folder / name, (PAGES / name).read_bytes())
        write_atomically(folder / "data.js", f"window.STUDY = {_script(data)};\n".encode())
        write_atomically(folder / PAGE, _page().encode())
    return folder / PAGE


def _about(study: Study, manifest: str) -> dict[str, Any]:
    return {
        "title": study.consent.title or study.name, "manifest": manifest, "minutes": study.minutes, "open": True,
        "consent": asdict(study.consent), "languages": {},
    }  # fmt: skip


def _slots(study: Study, plan: Plan) -> list[list[dict[str, Any]]]:
    sizes = {one.name: (one.width, one.height) for one in plan.stimuli}
    return [
        [_trial(study, trial, sizes) for trial in assignment.trials]
        for assignment in sorted(plan.assignments, key=lambda one: one.slot)
    ]


def _trial(study: Study, trial: Trial, sizes: dict[str, tuple[int, int]]) -> dict[str, Any]:
    """A trial as the server tells it, with what the page must know of practice and breaks."""
    task = study.task(trial.task)
    told: dict[str, Any] = {
        "id": trial.id, "task": trial.task, "practice": trial.kind == "practice", "word": trial.word, "scale": task.scale,
        "confidence": task.confidence, "not_sure": task.not_sure, "min_ms": task.min_ms, "round": trial.round,
        "block": trial.block,
        "pictures": [
            {
                "n": n, "role": one.role, "width": sizes[one.stimulus][0], "height": sizes[one.stimulus][1],
                "file": f"{FOLDER}/{one.stimulus}.png",
            }
            for n, one in enumerate(trial.pictures)
        ],
    }  # fmt: skip
    if trial.kind == "practice":
        told["right"] = list(trial.right)
    return told


def _script(data: Any) -> str:
    """JSON that may stand in a script: nothing in it ends the script."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _page() -> str:
    """The page of the server, with its files beside it."""
    page = (PAGES / PAGE).read_text(encoding="utf-8")
    before, _, rest = page.partition("<script")
    scripts = "\n".join(f'<script src="{name}"></script>' for name in ("data.js", *_SCRIPTS))
    head = before.replace("/pages/study.css", "study.css")
    return f"{head}{scripts}\n{rest[rest.index('</body>') :]}"
