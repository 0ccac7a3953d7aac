"""The islands of a frontier on workers: each samples units, and the process that holds the run remembers what they found."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from entoptic.base.progress import Progress
from entoptic.errors import UserError
from entoptic.methods.contract import Context
from entoptic.methods.klsc import Klsc, Problem, sampled
from entoptic.methods.prior_sampling import scored_bank
from entoptic.priors.prior import Prior
from entoptic.priors.sources import load_prior
from entoptic.runs.again import Again
from entoptic.runs.plan import UnitPlan
from entoptic.units.unit import Unit
from entoptic.workers.count import Workers
from entoptic.workers.dispatch import Busy, dispatch
from entoptic.workers.pools import opened
from entoptic.workers.records import Chunk, Failed, Handler, Made, Step, Tell


@dataclass(frozen=True, kw_only=True)
class IslandWork:
    """The sampling of units as a worker gets it.

    Attributes:
        again: makes the plan of the frontier.
        prior: that is tilted.
        bank_seed: of the prior's bank.
        config: of the islands.
        seed: of the run.
    """

    again: Again
    prior: str | Prior
    bank_seed: int
    config: Klsc
    seed: int

    def start(self, device: str) -> Handler:
        """Loads the network and the prior.

        Args:
            device: of the worker, "" for the job's own choice.

        Raises:
            UserError: they cannot be loaded here.
        """
        plan = self.again.plan(device)
        assert isinstance(plan, UnitPlan)
        prior = load_prior(self.prior, device=plan.model.device)
        units = units_of_plan(plan)
        context = Context(
            model=plan.model, references=plan.kind.references, prior=prior, units=units, bank_seed=self.bank_seed
        )

        def sample(pieces: Sequence[str], tell: Tell) -> None:
            for place, piece in enumerate(pieces):
                context.on_step = lambda done, total: tell(Step(share=done / total))
                problem = problem_of(context, _unit(units, piece), self.config, self.seed)
                try:
                    tell(Made(piece=place, value=sampled(problem)))
                except UserError as error:
                    tell(Failed(piece=place, value=str(error), final=True))

        return sample


def units_of_plan(plan: UnitPlan) -> list[Unit]:
    """Returns the units of a plan, each once."""
    return list({item.unit.identity: item.unit for job in plan.jobs for item in job.items}.values())


def problem_of(context: Context, unit: Unit, config: Klsc, seed: int) -> Problem:
    """Returns what is sampled for the frontier of a unit.

    Args:
        context: with the network and the prior.
        unit: the unit.
        config: of the islands.
        seed: of the run.

    Raises:
        UserError: the prior's samples have no score of this unit.
    """
    bank, scores, raw = scored_bank(context, [unit], size=config.bank, reduction=config.reduction)
    return Problem(unit=unit, place=0, bank=bank, scores=scores, raw=raw[0], config=config, seed=seed, context=context)


def sample_on_workers(
    work: IslandWork, problems: Sequence[Problem], workers: Workers, device: str, progress: Progress
) -> dict[str, str]:
    """Has the islands of units sampled by workers; what they found is in the cache then.

    Args:
        work: how they are sampled.
        problems: of all units; those that are in the cache are left out.
        workers: which ones.
        device: that the job asked for.
        progress: is called with (what, done, total).

    Returns:
        Why units could not be sampled, by their identities.

    Raises:
        UserError: no worker can sample them; what is finished is kept.
    """
    left = [problem for problem in problems if problem.remembered() is None]
    if not left:
        return {}
    chunks = [Chunk(number=number, pieces=(problem.unit.identity,)) for number, problem in enumerate(left)]
    keeper = _Keeper(left, f"sampling frontiers on {workers}", progress)
    with opened(work, workers, device, len(chunks)) as pool:
        dispatch(pool, chunks, keeper)
    return keeper.reasons


def _unit(units: Sequence[Unit], identity: str) -> Unit:
    found = next((unit for unit in units if unit.identity == identity), None)
    if found is None:
        raise UserError("the network differs here from that of the job")
    return found


class _Keeper:
    """Remembers what workers sampled, and why they could not."""

    def __init__(self, problems: Sequence[Problem], what: str, progress: Progress) -> None:
        self._problems = {problem.unit.identity: problem for problem in problems}
        self._what, self._progress, self._through = what, progress, 0.0
        self.reasons: dict[str, str] = {}

    def made(self, piece: str, value: object) -> None:
        """Puts the samples of a unit into the cache, unless a worker of this machine has."""
        problem = self._problems[piece]
        if problem.remembered() is None:
            problem.remember(value)  # type: ignore[arg-type]

    def failed(self, piece: str, value: object) -> None:
        """Notes why a unit could not be sampled."""
        self.reasons[piece] = str(value)

    def lost(self, piece: str, reason: str) -> None:
        """Notes that workers ended over a unit."""
        self.reasons[piece] = f"{self._problems[piece].unit}: {reason}, whenever it was sampled"

    def finished(self, pieces: int, seconds: float) -> None:
        """Counts the units that are through."""
        self._through += pieces

    def said(self, text: str) -> None:
        """Warns."""
        warnings.warn(text, stacklevel=2)

    def state(self, busy: list[Busy]) -> None:
        """Passes on how many units are through."""
        self._progress(
            self._what, round(100 * (self._through + sum(one.share for one in busy))), 100 * len(self._problems)
        )
