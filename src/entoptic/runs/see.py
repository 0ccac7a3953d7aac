"""The main job: pictures of units by one or more methods, measured and stored."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, Unpack, overload

from torch import nn

from entoptic.base.gradients import with_gradients
from entoptic.base.progress import reporter
from entoptic.base.unread import names_unread
from entoptic.images.index import ActivationIndex
from entoptic.methods.contract import MethodConfig
from entoptic.methods.presets import chosen_preset
from entoptic.models.card import Card
from entoptic.models.model import Model
from entoptic.priors.prior import Prior
from entoptic.runs import see_arguments as of
from entoptic.runs.execute import execute
from entoptic.runs.plan import make_plan
from entoptic.runs.store import Run
from entoptic.units.unit import Unit
from entoptic.workers.count import Workers

Network = str | nn.Module | Model
"""What `load` takes."""
Units = str | Unit | Iterable[str | Unit]
"""Units to show: strings of the unit grammar, or bound ones."""


# One signature for each method, so that editors complete its options; any other use is the last one.
@overload
def see(
    model: Network, units: Units, *, method: Literal["vital"] = ..., **options: Unpack[of.VitalArguments]
) -> Run: ...
@overload
def see(
    model: Network, units: Units, *, method: Literal["accentuate"], **options: Unpack[of.AccentuateArguments]
) -> Run: ...
@overload
def see(model: Network, units: Units, *, method: Literal["best-of"], **options: Unpack[of.BestOfArguments]) -> Run: ...
@overload
def see(
    model: Network, units: Units, *, method: Literal["caricature"], **options: Unpack[of.CaricatureArguments]
) -> Run: ...
@overload
def see(
    model: Network, units: Units, *, method: Literal["deep-inversion"], **options: Unpack[of.DeepInversionArguments]
) -> Run: ...
@overload
def see(
    model: Network,
    units: Units,
    *,
    method: Literal["deep-inversion-adaptive"],
    **options: Unpack[of.DeepInversionAdaptiveArguments],
) -> Run: ...
@overload
def see(model: Network, units: Units, *, method: Literal["diverse"], **options: Unpack[of.DiverseArguments]) -> Run: ...
@overload
def see(
    model: Network, units: Units, *, method: Literal["energydps"], **options: Unpack[of.EnergyDpsArguments]
) -> Run: ...
@overload
def see(model: Network, units: Units, *, method: Literal["fourier"], **options: Unpack[of.FourierArguments]) -> Run: ...
@overload
def see(model: Network, units: Units, *, method: Literal["klsc"], **options: Unpack[of.KlscArguments]) -> Run: ...
@overload
def see(
    model: Network, units: Units, *, method: Literal["klsc-twisted"], **options: Unpack[of.KlscTwistedArguments]
) -> Run: ...
@overload
def see(model: Network, units: Units, *, method: Literal["maco"], **options: Unpack[of.MacoArguments]) -> Run: ...
@overload
def see(
    model: Network, units: Units, *, method: Literal["pixels"], **options: Unpack[of.PixelAscentArguments]
) -> Run: ...
@overload
def see(model: Network, units: Units, *, method: Literal["prompt"], **options: Unpack[of.PromptArguments]) -> Run: ...
@overload
def see(
    model: Network, units: Units, *, method: Literal["prompt-class"], **options: Unpack[of.PromptClassArguments]
) -> Run: ...
@overload
def see(
    model: Network, units: Units, *, method: Literal["prompt-words"], **options: Unpack[of.PromptWordsArguments]
) -> Run: ...
@overload
def see(
    model: Network, units: Units, *, method: Literal["retrieval"], **options: Unpack[of.RetrievalArguments]
) -> Run: ...
@overload
def see(
    model: Network, units: Units, *, method: Literal["retrieval-bottom"], **options: Unpack[of.RetrievalBottomArguments]
) -> Run: ...
@overload
def see(
    model: Network, units: Units, *, method: Literal["retrieval-tilted"], **options: Unpack[of.RetrievalTiltedArguments]
) -> Run: ...
@overload
def see(
    model: Network, units: Units, *, method: Literal["vital-paper"], **options: Unpack[of.VitalPaperArguments]
) -> Run: ...
@overload
def see(
    model: Network, units: Units, *, method: str | MethodConfig | Sequence[str | MethodConfig], **options: Any
) -> Run: ...
@names_unread
@with_gradients
def see(
    model: Network,
    units: Units,
    *,
    method: str | MethodConfig | Sequence[str | MethodConfig] = "vital",
    photos: Any = None,
    n: int = 1,
    seed: int = 0,
    out: str | Path | None = None,
    verifiers: str | Sequence[str | Model] = "auto",
    batch_size: int | None = None,
    device: str = "auto",
    card: Card | None = None,
    index: str | Path | ActivationIndex | None = None,
    prior: str | Prior | None = None,
    bank_seed: int = 0,
    progress: bool = True,
    context: bool = True,
    noise_of: str | Unit | None = None,
    film: str = "",
    workers: int | str | Workers | None = None,
    quick: bool = False,
    fine: bool = False,
    **options: Any,
) -> Run:
    """Makes, measures and stores pictures of what units of a model look for.

    Args:
        model: anything `load` takes.
        units: one or several strings of the unit grammar, or units.
        method: one or several of `METHODS` by name (also "vital,maco"), or configs.
        photos: real photos, anything `Photos.open` takes; None uses the shipped statistics where there are any.
        n: pictures per unit and method.
        seed: of the run; the same request gives the same pictures.
        out: the run folder (default `runs/MODEL`). What is there already is not made again.
        verifiers: networks that judge the pictures and that no method optimises; "auto" takes the builtin ones that
            know all of the model's classes, "" none.
        batch_size: pictures optimised together (default 10 on a CPU, 64 elsewhere); results do not depend on it.
        device: "auto", "cpu", "cuda:1", ….
        card: of a bare `nn.Module`.
        index: an `ActivationIndex` of the model on these photos, or its folder: units it holds need no pass over them.
        prior: image prior of the methods that sample one, anything `load_prior` takes; None is the shipped one.
        bank_seed: of the prior's samples that standardise scores and start the sampling. `seed` does not change them, so
            runs of other seeds share their error; another bank_seed gives independent ones, sampled and scored anew.
        progress: show how far the work is.
        context: store small copies of the photos that drive each unit most and least beside its pictures, for the
            gallery; turn it off where a run is published whose photos may not be.
        noise_of: a unit whose random numbers all pictures use, so that pictures of several units start from the same noise and
            are seen through the same views; None gives each unit its own.
        film: "gif" or "apng" to store how each picture came about, in `RUN/films`; only for what is made now.
        workers: processes that share the work: a number, "auto" for one on each device, "ray" or "ray://HOST:PORT" for a Ray
            cluster; None makes all in this process. The pictures are the same.
        quick: make pictures sooner: what a method has as its preset "quick" stands for its defaults (`Vital.presets`).
        fine: make better pictures, which take longer; as quick.
        options: fields of the methods' configs (`entoptic.configs`), for instance `steps=300`; each goes to every method that
            has it.

    Returns:
        The run. Units that failed are named in `run.failures`; their mates are finished.

    Raises:
        UserError: bad input, or every picture failed.
        KeyboardInterrupt: on Ctrl-C, with all finished pictures stored.
    """
    from entoptic.runs.estimate import say_sampling_work

    shared, preset = Workers.parse(workers), chosen_preset(quick, fine)
    with reporter(progress) as report:
        plan = make_plan(
            model, units, method=method, photos=photos, n=n, seed=seed, out=out, verifiers=verifiers,
            batch_size=batch_size, device=device, card=card, report=report, options=options, index=index,
            context=context, prior=prior, bank_seed=bank_seed, noise_of=noise_of, film=film,
            preset=preset,
        )  # fmt: skip
        if progress:
            say_sampling_work(plan, report)
        return execute(plan, report, shared)
