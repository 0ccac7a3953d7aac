"""The configs of the methods that a frontier places."""

from __future__ import annotations

import shlex
import warnings
from dataclasses import asdict, replace

from entoptic.errors import counted
from entoptic.methods.contract import MethodConfig, card_of, find_method, make_config
from entoptic.methods.klsc import Klsc
from entoptic.priors.prior import Prior
from entoptic.runs.execute import split
from entoptic.runs.plan import UnitPlan
from entoptic.runs.records import config_words
from entoptic.units.unit import Unit

_SHARED = ("nats", "particles", "islands", "bank", "reduction")
"""Options of `frontier` that methods take over."""
_LONG = 500
"""Steps of a chain that a person should know of before they wait."""


def filled(one: str | MethodConfig, shared: Klsc) -> MethodConfig:
    """A config in which what methods share has the values asked for here, unless it was given others.

    All that sample the prior share its bank and the score, and klsc the budget and the islands too.
    """
    card = find_method(one.strip()) if isinstance(one, str) else card_of(one)
    config = make_config(card, {}) if isinstance(one, str) else one
    if "prior" not in card.reads:
        return config
    default = card.config()
    names = ["bank", "reduction"]
    if isinstance(config, Klsc):
        aimed = any(getattr(config, name) is not None for name in ("nats", "mean", "share", "beta"))
        names += ["particles", "islands"] + ([] if aimed else ["nats"])
    same = [name for name in names if hasattr(config, name) and getattr(config, name) == getattr(default, name)]
    return replace(config, **{name: getattr(shared, name) for name in same})


def warn_of_long(plan: UnitPlan) -> None:
    """Warns of methods whose chains take long."""
    for job in plan.jobs:
        todo, steps = len(split(plan.run, plan.entries(job))[1]), getattr(job.config, "steps", 0)
        if todo and "prior" in job.card.reads and steps >= _LONG:
            warnings.warn(
                f"{job.card.name} makes {counted(steps, 'step')} for each of {counted(todo, 'picture')}, which takes "
                "long; its option `steps` says how many",
                stacklevel=3,
            )


def samples_alike(one: Klsc, other: Klsc) -> bool:
    """Whether the islands of one serve for the other: only how they move may differ."""
    return replace(one, moves=other.moves, leaps=other.leaps) == other


def command_of(plan: UnitPlan, prior: Prior, config: Klsc, nats: float, unit: Unit, n: int, seed: int) -> str:
    """Returns the command that measures the frontier of a unit again.

    Args:
        plan: of the frontier.
        prior: that is tilted.
        config: of the islands.
        nats: budget of the frontier.
        unit: the unit.
        n: pictures of each method.
        seed: of the run.
    """
    words = ["entoptic", "frontier", plan.model.card.name, str(unit), "--prior", prior.name]
    words += ["--methods", ",".join(job.card.name for job in plan.jobs), "--nats", f"{nats:g}"]
    words += ["--n", str(n), "--bank", str(config.bank), "--particles", str(config.particles)]
    words += ["--islands", str(config.islands), "--seed", str(seed)]
    words += ["--bank-seed", str(plan.kind.bank_seed)] if plan.kind.bank_seed else []
    words += ["--reduction", config.reduction] if config.reduction else []
    words += ["--photos", plan.kind.photos] if plan.kind.photos is not None else []
    for job in plan.jobs:
        words += config_words(job.card.name, job.config, {k: v for k, v in asdict(config).items() if k in _SHARED})
    return shlex.join(words)
