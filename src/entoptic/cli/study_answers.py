"""`entoptic study simulate`, `analyse` and `power`: from answers to a report, and how many answers it takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from tyro.conf import arg

from entoptic.base.bounds import Bounds
from entoptic.cli.options import Debug, Device, Threads, use_threads
from entoptic.cli.study import StudyFolder


@dataclass(frozen=True, kw_only=True)
class StudySimulate:
    """Let simulated participants answer a study, over HTTP and into a database of their own, to test it."""

    title: ClassVar[str] = "let simulated participants answer a study"
    examples: ClassVar[tuple[str, ...]] = (
        "entoptic study simulate study",
        "entoptic study simulate study --participants 20 --network '' --careless 0.2",
    )
    bounds: ClassVar[Bounds] = {"participants": (1, 10_000), "coins": (0, 1), "careless": (0, 1), "width": (-10, 10)}

    study: StudyFolder
    participants: int = 60
    """number of simulated participants"""
    network: Annotated[str, arg(metavar="MODEL")] = "builtin:lite1"
    """network whose features answer the tasks that have a right answer; '' plants effects of methods there too"""
    width: float = 1.5
    """size of the planted effects: log odds between the proposed method and the last"""
    coins: float = 0.05
    """share of participants who flip coins"""
    careless: float = 0.1
    """share of participants who click as fast as they can"""
    seed: int = 0
    """random seed of every draw"""
    device: Device = "auto"
    threads: Threads = None
    debug: Debug = False


@dataclass(frozen=True, kw_only=True)
class StudyAnalyse:
    """Analyse the answers of a study: tidy tables, exclusions, estimates with intervals, and a report."""

    title: ClassVar[str] = "analyse the answers of a study and write a report"
    examples: ClassVar[tuple[str, ...]] = (
        "entoptic study analyse study --simulated --out report",
        "entoptic study analyse study --out report --runs runs/first",
    )
    bounds: ClassVar[Bounds] = {"draws": (100, 1_000_000)}

    study: StudyFolder
    out: Annotated[Path, arg(metavar="FOLDER")]
    """folder of the report; an earlier report there is replaced"""
    simulated: bool = False
    """analyse the answers of `entoptic study simulate` instead of those of people"""
    database: Annotated[str, arg(metavar="URL")] = ""
    """database in which the answers are (default: STUDY/answers.sqlite)"""
    encoder: Annotated[str, arg(metavar="NAME")] = "minilm"
    """text encoder for written answers: minilm, or a model of sentence-transformers"""
    draws: int = 10_000
    """draws of the bootstrap"""
    machine: Annotated[str, arg(metavar="MODEL")] = ""
    """a network whose features answer the same trials, to compare with people: builtin:lite1"""
    runs: Annotated[tuple[Path, ...], arg(metavar="RUN")] = ()
    """runs whose pictures were judged: their galleries show what people answered"""
    device: Device = "auto"
    debug: Debug = False


@dataclass(frozen=True, kw_only=True)
class StudyPower:
    """Say how many participants and units find an effect, from simulated studies in which persons and units are random."""

    title: ClassVar[str] = "say how many participants and units find an effect"
    examples: ClassVar[tuple[str, ...]] = (
        "entoptic study power --effect 0.1 --baseline 0.75 --units 24 48 96",
        "entoptic study power --units 48 --participants 60 --simulations 1000",
    )
    bounds: ClassVar[Bounds] = {
        "simulations": (1, 100_000), "most": (4, 2000), "person_sd": (0, 10), "unit_sd": (0, 10), "unit_method_sd": (0, 10),
    }  # fmt: skip

    effect: float = 0.1
    """effect to find: by how much the share of right answers is higher; for --ratings, in log odds"""
    baseline: float = 0.75
    """share of right answers of the other method"""
    ratings: bool = False
    """five-level ratings instead of right answers"""
    units: Annotated[tuple[int, ...], arg(metavar="N")] = (24, 48, 96)
    """numbers of units to try"""
    participants: Annotated[tuple[int, ...], arg(metavar="N")] = ()
    """numbers of participants to try (default: the fewest that reach --power are searched)"""
    trials: int | None = None
    """main trials a participant, over both methods (default: one a unit, at most 45)"""
    power: float = 0.8
    """power to reach"""
    most: int = 200
    """largest number of participants to try"""
    simulations: int = 200
    """simulated studies per design; take 1000 for a final number"""
    person_sd: float = 0.25
    """standard deviation of participants, in log odds"""
    unit_sd: float = 1.0
    """standard deviation of units"""
    unit_method_sd: float = 0.5
    """standard deviation of how much a unit gains by the method; a guess, vary it from 0.25 to 1"""
    seed: int = 0
    """random seed of every draw"""
    debug: Debug = False


def run_study_simulate(options: StudySimulate) -> int:
    """Runs `entoptic study simulate`; returns the exit code."""
    from entoptic.study.needs import need_statistics

    need_statistics()
    from entoptic.base.progress import reporter
    from entoptic.errors import counted
    from entoptic.study.answers import read_study
    from entoptic.study.simulate import Crowd, effects_for, simulate

    use_threads(options.threads)
    crowd = Crowd(
        participants=options.participants, coins=options.coins, careless=options.careless, network=options.network,
        seed=options.seed, effects=effects_for(read_study(options.study), options.width),
    )  # fmt: skip
    with reporter() as report:
        found = simulate(options.study, crowd, device=options.device, progress=report.progress)
    came = ", ".join(f"{n} {kind}" for kind, n in found.came.items())
    ended = ", ".join(f"{n} {stage}" for stage, n in found.ended.items())
    print(
        f"{counted(found.answers, 'answer')} of {counted(sum(found.came.values()), 'simulated participant')} ({came}): {ended}"
    )
    if found.turned_away:
        print(f"{found.turned_away} found no place: the study has no more, or they came before")
    print(f"{options.study}: next, `entoptic study analyse {options.study} --simulated --out report`")
    return 0


def run_study_analyse(options: StudyAnalyse) -> int:
    """Runs `entoptic study analyse`; returns the exit code."""
    from entoptic.errors import UserError
    from entoptic.study.needs import need_statistics

    need_statistics()
    from entoptic.study.analyse import REPORT, analyse
    from entoptic.study.answers import read_study
    from entoptic.study.report import verdict
    from entoptic.study.simulate import check_simulated, simulated_database

    if options.simulated and options.database:
        raise UserError("--simulated names a database already; give it or --database, not both")
    if options.simulated:
        check_simulated(options.study)
    database = simulated_database(options.study) if options.simulated else options.database
    found = analyse(
        options.study,
        options.out,
        database=database,
        encoder=options.encoder,
        draws=options.draws,
        runs=options.runs,
        machine=options.machine,
        device=options.device,
    )
    told = verdict(read_study(options.study), found.kept.primary, found.detectable, found.alpha)
    if found.simulated:
        print(
            f"{found.simulated} of {found.exclusions.answered} participants are simulated: this says nothing about people"
        )
    print(f"{told.verdict}: {told.sentence}")
    left_out = found.exclusions.answered - len(found.exclusions.kept)
    print(f"{len(found.exclusions.kept)} people in the primary analysis, {left_out} left out by the registered rules")
    if found.text_note:
        print(f"note: {found.text_note}")
    print(options.out / REPORT)
    return 0


def run_study_power(options: StudyPower) -> int:
    """Runs `entoptic study power`; returns the exit code."""
    from entoptic.errors import UserError
    from entoptic.study.needs import need_statistics

    need_statistics()
    from entoptic.study.power import Effect, Power, RatingEffect, fewest_persons, lower_bound, power
    from entoptic.study.statistics.planted import Spread

    if not options.units or min((*options.units, *options.participants)) < 2:
        raise UserError(
            "--units and --participants must be at least 2: an interval over persons and units needs two of each"
        )
    spread = Spread(person=options.person_sd, unit=options.unit_sd, unit_method=options.unit_method_sd)
    effect: Effect | RatingEffect = (
        RatingEffect(gain=options.effect, spread=spread)
        if options.ratings
        else Effect(baseline=options.baseline, gain=options.effect, spread=spread)
    )
    seed = str(options.seed)

    def tell(one: Power, note: str = "") -> None:
        low, high = one.interval
        print(
            f"{one.persons:>12} {one.units:>6} {one.trials:>7} {100 * one.power:>7.0f} % ({100 * low:.0f} to {100 * high:.0f}) "
            f"{100 * one.found_robust / one.simulations:>16.0f} %{note}",
            flush=True,
        )

    print("participants  units  trials  power (95 % of the simulation)  cluster-robust")
    for units in options.units:
        if options.participants:
            for persons in options.participants:
                tell(power(effect, persons, units, trials=options.trials, simulations=options.simulations, seed=seed))
            continue
        best = fewest_persons(
            effect, units, target=options.power, most=options.most, trials=options.trials, simulations=options.simulations,
            seed=seed,
        )  # fmt: skip
        tell(
            best, "" if best.power >= options.power else f"   not reached with {options.most} participants: more units"
        )
    print(f"{options.simulations} simulated studies a design; the registered test is the two-way bootstrap")
    if isinstance(effect, Effect):
        print(
            f"independent answers would need {lower_bound(effect, options.power):.0f} a method: a lower bound, no plan"
        )
    return 0
