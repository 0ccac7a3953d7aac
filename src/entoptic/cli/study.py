"""`entoptic study build`, `serve` and `export`: studies with people."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from tyro.conf import OmitArgPrefixes, Positional, arg

from entoptic.cli.options import Debug, Device, Threads, use_threads
from entoptic.errors import UserError
from entoptic.study.design import Design

StudyFolder = Positional[Annotated[Path, arg(metavar="STUDY", help="folder that `entoptic study build` wrote")]]


@dataclass(frozen=True, kw_only=True)
class StudyBuild:
    """Build a study with people from the pictures of runs: pictures with neutral names, trials, pre-registration."""

    title: ClassVar[str] = "build a study with people from the pictures of runs"
    examples: ClassVar[tuple[str, ...]] = (
        "entoptic study build runs/first --tasks describe class-match --out study",
        "entoptic study build runs/first --photos photos --with-photos --out study",
        "entoptic study build runs/a runs/b --preset vital --with-photos --out study",
    )

    runs: Positional[Annotated[tuple[Path, ...], arg(metavar="RUN")]]
    """run folders; methods are compared on the units that all of them show"""
    out: Annotated[Path, arg(metavar="FOLDER")]
    """folder of the study, which is not there or empty"""
    preset: Annotated[str, arg(metavar="PRESET")] = "default"
    """default (2afc, intruder, preference) or vital (describe, inner-match, class-match)"""
    tasks: Annotated[tuple[str, ...], arg(metavar="TASK")] = ()
    """instead of the preset's: 2afc, intruder, preference, class-match, inner-match, describe"""
    photos: Annotated[Path | None, arg(metavar="PHOTOS")] = None
    """real photos to rank for each unit: references and queries of 2afc"""
    with_photos: bool = False
    """put real photos into the study; mind their licences, since it may be published"""
    design: OmitArgPrefixes[Design] = field(default_factory=Design)
    proposed: Annotated[str, arg(metavar="METHOD")] = ""
    """method of the primary comparison (default: the first)"""
    hypotheses: Annotated[tuple[str, ...], arg(metavar="SENTENCE")] = ()
    """hypotheses for the pre-registration (default: made from the primary comparison)"""
    consent: Annotated[Path | None, arg(metavar="FILE")] = None
    """JSON of what the consent page says: title, contact, ethics, purpose, payment, risks, data, deletion"""
    languages: Annotated[tuple[str, ...], arg(metavar="LANGUAGE")] = ()
    """languages of the texts, such as en de (default: all)"""
    wording: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """texts of further languages, such as fr.json"""
    name: Annotated[str, arg(metavar="NAME")] = ""
    """name of the study (default: the folder's)"""
    dry_run: bool = False
    """only say trials, minutes and participants"""
    device: Device = "auto"
    threads: Threads = None
    debug: Debug = False


@dataclass(frozen=True, kw_only=True)
class StudyServe:
    """Serve a study: its pages, its answers and an admin page, until it is interrupted."""

    title: ClassVar[str] = "serve a study and store its answers"
    examples: ClassVar[tuple[str, ...]] = (
        "entoptic study serve study",
        "entoptic study serve study --port 8080 --origins https://lab.example.org",
        "entoptic study serve study --database postgresql://user@localhost/study",
    )

    study: StudyFolder
    host: Annotated[str, arg(metavar="ADDRESS")] = "127.0.0.1"
    """address to listen at; other machines reach it through a proxy with TLS"""
    port: int = 8000
    """port to listen at; 0 takes one that is free"""
    database: Annotated[str, arg(metavar="URL")] = ""
    """database in which answers are stored (default: STUDY/answers.sqlite)"""
    origins: Annotated[tuple[str, ...], arg(metavar="ORIGIN")] = ()
    """addresses at which people see the study, where a proxy changes them"""
    frames: Annotated[tuple[str, ...], arg(metavar="ORIGIN")] = ()
    """platforms that may show the study in a frame, such as https://www.mturk.com"""
    completion_code: Annotated[str, arg(metavar="CODE")] = ""
    """code for people who came from Prolific and finished (default: a random one)"""
    screened_out_code: Annotated[str, arg(metavar="CODE")] = ""
    """code for people who did not pass the practice (default: a random one)"""
    completion_url: Annotated[str, arg(metavar="URL")] = ""
    """where people return to at the end; {code} stands for their code"""
    new_admin_token: bool = False
    """replace the token of the admin page"""
    debug: Debug = False


@dataclass(frozen=True, kw_only=True)
class StudyExport:
    """Export a study as one page without a server, whose answers are saved as files or posted to an address."""

    title: ClassVar[str] = "export a study as one page without a server"
    examples: ClassVar[tuple[str, ...]] = (
        "entoptic study export study --out bundle",
        "entoptic study export study --out bundle --post-url https://example.org/in",
        "entoptic study export study --out lab --form jspsych",
    )

    study: StudyFolder
    out: Annotated[Path, arg(metavar="FOLDER")]
    """folder of the page, which is not there or empty"""
    form: Annotated[Literal["page", "jspsych"], arg(metavar="FORM")] = "page"
    """page, which runs by itself, or jspsych: timelines for a laboratory's own jsPsych"""
    post_url: Annotated[str, arg(metavar="URL")] = ""
    """where a page posts answers as JSON at the end (default: people save a file)"""
    debug: Debug = False


def run_study_build(options: StudyBuild) -> int:
    """Runs `entoptic study build`; returns the exit code."""
    from entoptic.base.progress import reporter
    from entoptic.study.build import build

    use_threads(options.threads)
    with reporter() as report:
        built = build(
            options.runs,
            options.out,
            options.design,
            name=options.name,
            preset=options.preset,
            tasks=tuple(word for task in options.tasks for word in task.split(",") if word),
            photos=options.photos,
            with_photos=options.with_photos,
            proposed=options.proposed,
            hypotheses=options.hypotheses,
            consent=options.consent,
            languages=options.languages,
            wording=options.wording,
            device=options.device,
            dry_run=options.dry_run,
            progress=report.progress,
        )
    print(built.size)
    for line in built.size.left_out:
        print(f"left out: {line}")
    for line in built.notes:
        print(f"note: {line}")
    if built.path is not None:
        print(f"{built.path}: read {built.path / 'study.json'}, then `entoptic study serve {built.path}`")
    return 0


def run_study_serve(options: StudyServe) -> int:
    """Runs `entoptic study serve`; returns the exit code."""
    from entoptic.study.extra import need_extra

    need_extra()
    from entoptic.study.server import bind, make_app, run

    app = make_app(
        options.study,
        database=options.database,
        origins=options.origins,
        frames=options.frames,
        completion_code=options.completion_code,
        screened_out_code=options.screened_out_code,
        completion_url=options.completion_url,
        new_admin_token=options.new_admin_token,
    )
    try:
        with bind(options.host, options.port) as listening:
            host = f"[{options.host}]" if ":" in options.host else options.host
            address = f"http://{host}:{listening.getsockname()[1]}"
            print(f"study: {address}/", flush=True)
            if app.state.admin_token:
                print(f"admin: {address}/admin with the token {app.state.admin_token} (it is shown once)", flush=True)
            else:
                print(f"admin: {address}/admin (a lost token is replaced by --new-admin-token)", flush=True)
            run(app, listening)
    finally:
        app.state.database.close()
    return 0


def run_study_export(options: StudyExport) -> int:
    """Runs `entoptic study export`; returns the exit code."""
    from entoptic.study.bundle import LIMITS, export
    from entoptic.study.jspsych import NOTES, export_jspsych

    if options.form == "jspsych":
        if options.post_url:
            raise UserError("--post-url is for the page; with --form jspsych your own system stores the answers")
        page = export_jspsych(options.study, options.out)
        print(
            f"{page}: put jsPsych into {page.parent / 'jspsych'} and the folder on a web server, or read the timelines yourself"
        )
        for line in (*LIMITS[:1], *NOTES):
            print(f"mind: {line}")
        return 0
    page = export(options.study, options.out, post_url=options.post_url)
    print(f"{page}: open it from the disk or put the folder on any web server; ?slot=0 chooses a place")
    for line in LIMITS:
        print(f"mind: {line}")
    return 0
