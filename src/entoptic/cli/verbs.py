"""Every verb of the command line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from entoptic.cli.atlas import Atlas, run_atlas
from entoptic.cli.bench import Bench, run_bench
from entoptic.cli.check import Check, run_check
from entoptic.cli.circuit import Circuit, run_circuit
from entoptic.cli.commitment import Commitment, run_commitment
from entoptic.cli.completion import Completion, run_completion
from entoptic.cli.export import Export, run_export
from entoptic.cli.figure import Figure, run_figure
from entoptic.cli.frontier import Frontier, run_frontier
from entoptic.cli.gallery import Gallery, run_gallery
from entoptic.cli.index import Index, run_index
from entoptic.cli.interpolate import Interpolate, run_interpolate
from entoptic.cli.invert import Invert, run_invert
from entoptic.cli.learn import (
    LearnDictionary,
    LearnInverter,
    LearnPrior,
    run_learn_dictionary,
    run_learn_inverter,
    run_learn_prior,
)
from entoptic.cli.ls import Ls, run_ls
from entoptic.cli.merge import Merge, run_merge
from entoptic.cli.name import Name, run_name
from entoptic.cli.patterns import Patterns, run_patterns
from entoptic.cli.push import Pull, Push, run_pull, run_push
from entoptic.cli.report_verb import MakeReport, run_report
from entoptic.cli.see import See, run_see
from entoptic.cli.split import Split, run_split
from entoptic.cli.status import Status, run_status
from entoptic.cli.steer import Steer, run_steer
from entoptic.cli.study import StudyBuild, StudyExport, StudyServe, run_study_build, run_study_export, run_study_serve
from entoptic.cli.study_answers import (
    StudyAnalyse,
    StudyPower,
    StudySimulate,
    run_study_analyse,
    run_study_power,
    run_study_simulate,
)
from entoptic.cli.verify import Verify, run_verify

VERBS: dict[str, tuple[type, Callable[[Any], int]]] = {
    "ls": (Ls, run_ls),
    "see": (See, run_see),
    "interpolate": (Interpolate, run_interpolate),
    "frontier": (Frontier, run_frontier),
    "invert": (Invert, run_invert),
    "steer": (Steer, run_steer),
    "circuit": (Circuit, run_circuit),
    "patterns": (Patterns, run_patterns),
    "report": (MakeReport, run_report),
    "commitment": (Commitment, run_commitment),
    "atlas": (Atlas, run_atlas),
    "name": (Name, run_name),
    "split": (Split, run_split),
    "status": (Status, run_status),
    "verify": (Verify, run_verify),
    "gallery": (Gallery, run_gallery),
    "figure": (Figure, run_figure),
    "export": (Export, run_export),
    "push": (Push, run_push),
    "pull": (Pull, run_pull),
    "check": (Check, run_check),
    "bench": (Bench, run_bench),
    "index": (Index, run_index),
    "merge": (Merge, run_merge),
    "learn-prior": (LearnPrior, run_learn_prior),
    "learn-inverter": (LearnInverter, run_learn_inverter),
    "study-build": (StudyBuild, run_study_build),
    "study-serve": (StudyServe, run_study_serve),
    "study-export": (StudyExport, run_study_export),
    "study-simulate": (StudySimulate, run_study_simulate),
    "study-analyse": (StudyAnalyse, run_study_analyse),
    "study-power": (StudyPower, run_study_power),
    "learn-dictionary": (LearnDictionary, run_learn_dictionary),
    "completion": (Completion, run_completion),
}
"""The options of each verb and the function that runs it. What is learned is part of the verb: `entoptic learn prior`.
`entoptic study build` is one verb too."""

FAMILIES = tuple(dict.fromkeys(name.partition("-")[0] for name in VERBS if "-" in name))
"""Words that begin several verbs: learn, study."""


def spoken(name: str) -> str:
    """Returns a verb as it is typed: `learn prior` for `learn-prior`."""
    return name.replace("-", " ")
