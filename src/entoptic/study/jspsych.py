"""A study as timelines for jsPsych, for laboratories that host studies on a system of their own.

    FOLDER/timeline-LANG.json  trials of every place: the kind of plugin by name, the page as HTML, the buttons, and what each means
    FOLDER/pictures/           as in the study
    FOLDER/entoptic.js         makes jsPsych trials of a timeline, and an answer file of jsPsych's data
    FOLDER/index.html          shows one place (?slot=0) with the jsPsych that lies in FOLDER/jspsych

Answer files go to `STUDY/returned/`, as those of the static bundle. What a bundle cannot guard against, this cannot either.
"""

from __future__ import annotations

import html
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from entoptic.base.files import json_bytes, user_path, write_atomically
from entoptic.study.answers import manifest_of, read_plan, read_study
from entoptic.study.fresh_folder import fresh_folder
from entoptic.study.plan_check import check_pictures
from entoptic.study.records import Shown, Stimulus, Study, Task, Trial
from entoptic.study.stimuli import FOLDER
from entoptic.study.wording_files import read_wording

PAGES = Path(__file__).parent / "pages"
SCRIPT, PAGE = "entoptic.js", "index.html"
NOTES = (
    "practice is shown once and is not repeated until all is right; breaks and consent are yours to add",
    "whoever reads its files can work out which trials check attention",
)
"""What a timeline leaves to the laboratory."""
Words = Mapping[str, str]


def export_jspsych(study_folder: str | Path, out: str | Path) -> Path:
    """Writes the timelines of a study for jsPsych 7 and later.

    Args:
        study_folder: of the study.
        out: a folder that is not there, or is empty.

    Returns:
        The page.

    Raises:
        UserError: there is no study, it is damaged, or `out` holds something or cannot be written. Nothing is left behind then.
    """
    source, folder = user_path(study_folder), user_path(out)
    study, plan, manifest = read_study(source), read_plan(source), manifest_of(source)
    check_pictures(source, plan)
    wording = read_wording(source, study)
    stimuli = {one.name: one for one in plan.stimuli}
    names = {language: f"timeline-{language}.json" for language in wording}
    with fresh_folder(folder, (*names.values(), SCRIPT, PAGE, FOLDER), "nothing was exported"):
        (folder / FOLDER).mkdir()
        for one in plan.stimuli:
            shutil.copyfile(source / FOLDER / f"{one.name}.png", folder / FOLDER / f"{one.name}.png")
        for language, name in names.items():
            slots = [
                [_trial(study, trial, stimuli, wording[language]) for trial in assignment.trials if trial.round == 0]
                for assignment in sorted(plan.assignments, key=lambda one: one.slot)
            ]
            told = {
                "format": 1, "title": study.consent.title or study.name, "manifest": manifest, "language": language,
                "minutes": study.minutes, "slots": slots,
            }  # fmt: skip
            write_atomically(folder / name, json_bytes(told))
        write_atomically(folder / SCRIPT, (PAGES / "jspsych.js").read_bytes())
        page = (
            (PAGES / "jspsych.html").read_text(encoding="utf-8").replace("timeline-en.json", next(iter(names.values())))
        )
        write_atomically(folder / PAGE, page.encode())
    return folder / PAGE


def _trial(study: Study, trial: Trial, stimuli: Mapping[str, Stimulus], words: Words) -> dict[str, Any]:
    """One trial in jsPsych's words; `data.means` says for each button what the answer is."""
    task, head = study.task(trial.task), _question(trial, words)
    data: dict[str, Any] = {
        "trial": trial.id,
        "task": trial.task,
        "practice": trial.kind == "practice",
        "block": trial.block,
    }
    page = f"<h1>{html.escape(head)}</h1>{_pictures(trial, stimuli, words)}"
    files = [_file(one) for one in trial.pictures]
    if trial.task == "describe":
        asked = [{"prompt": words["trial.text"], "name": "text", "required": False}]
        return {"type": "survey-text", "preamble": page, "questions": asked, "button_label": words["trial.send"],
                "data": data, "preload": files}  # fmt: skip
    buttons = _buttons(trial, task, words)
    if trial.kind == "practice":
        data["right"] = list(trial.right)
    return {
        "type": "html-button-response", "stimulus": page, "choices": [text for text, _ in buttons],
        "prompt": _ends(task, words), "enable_button_after": task.min_ms,
        "data": data | {"means": [means for _, means in buttons]}, "preload": files,
    }  # fmt: skip


def _buttons(trial: Trial, task: Task, words: Words) -> list[tuple[str, dict[str, Any]]]:
    if task.scale:
        return [(str(one), {"rating": one}) for one in range(1, task.scale + 1)]
    letters = [chr(ord("A") + i) for i in range(len(trial.choices))]
    if task.confidence:
        return [
            (f"{letter}, {sure}: {words[f'trial.confidence.{sure}']}", {"choice": i, "confidence": sure})
            for i, letter in enumerate(letters)
            for sure in range(1, task.confidence + 1)
        ]
    found: list[tuple[str, dict[str, Any]]] = [(letter, {"choice": i}) for i, letter in enumerate(letters)]
    return [*found, (words["trial.unsure"], {"not_sure": True})] if task.not_sure else found


def _ends(task: Task, words: Words) -> str:
    return (
        f"<p>1: {html.escape(words['trial.rating.1'])}; {task.scale}: {html.escape(words['trial.rating.5'])}</p>"
        if task.scale
        else ""
    )


def _question(trial: Trial, words: Words) -> str:
    if trial.task == "2afc" and not any(one.role == "high" for one in trial.pictures):
        return words["task.2afc.none"]
    if trial.task == "preference" and trial.word:
        return words["task.preference.word"].replace("{word}", trial.word)
    return words[f"task.{trial.task}.question"].replace("{word}", trial.word)


def _pictures(trial: Trial, stimuli: Mapping[str, Stimulus], words: Words) -> str:
    groups: dict[str, list[Shown]] = {}
    for one in trial.pictures:
        groups.setdefault(one.role, []).append(one)
    titles = {"high": words["trial.high"], "low": words["trial.low"], "reference": words["trial.references"]}
    parts = []
    for role, members in groups.items():
        title = f"<h2>{html.escape(titles[role])}</h2>" if role in titles else ""
        boxes = "".join(_picture(one, role, i, stimuli, words) for i, one in enumerate(members))
        parts.append(f'<div class="entoptic-{role}">{title}<div class="entoptic-boxes">{boxes}</div></div>')
    return "".join(parts)


def _picture(one: Shown, role: str, i: int, stimuli: Mapping[str, Stimulus], words: Words) -> str:
    letter, about = chr(ord("A") + i), stimuli[one.stimulus]
    choice = role in ("query", "option")
    alt = (
        words["trial.alt.choice"].replace("{letter}", letter)
        if choice
        else words[f"trial.alt.{role}"].replace("{number}", str(i + 1))
    )
    image = f'<img src="{_file(one)}" width="{about.width}" height="{about.height}" alt="{html.escape(alt)}">'
    return f"<figure>{image}<figcaption>{letter}</figcaption></figure>" if choice else f"<figure>{image}</figure>"


def _file(one: Shown) -> str:
    return f"{FOLDER}/{one.stimulus}.png"
