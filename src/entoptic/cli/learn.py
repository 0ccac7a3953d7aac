"""`entoptic learn prior`, `entoptic learn inverter` and `entoptic learn dictionary`: what is trained."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, ClassVar

from tyro.conf import OmitArgPrefixes, Positional, arg

from entoptic.cli.options import Debug, Device, ModelName, Threads, TrainingPhotos, Verifiers, use_threads
from entoptic.cli.report import Report, tracked
from entoptic.dictionaries.recipe import DictionaryRecipe
from entoptic.errors import UserError, nearest
from entoptic.inversion.configs import RECIPES, EntopticRecipe, PaperRecipe
from entoptic.priors.recipe import Recipe

CardName = Annotated[str, arg(metavar="NAME", help="name on its card (default: the folder's name)")]


@dataclass(frozen=True, kw_only=True)
class LearnPrior:
    """Train an image prior on photos, or go on training it."""

    title: ClassVar[str] = "train an image prior on photos"
    examples: ClassVar[tuple[str, ...]] = (
        "entoptic learn prior --photos photos --size 64",
        "entoptic learn prior --photos photos --size 32 --steps 2000 --out priors/small",
        "entoptic learn prior --photos photos --size 32 --steps 4000 --out priors/small",
    )

    photos: Annotated[tuple[str, ...], arg(metavar="PHOTOS")]
    """folders or Parquet files of photos; their labels become the prior's classes"""
    out: Annotated[Path, arg(metavar="FOLDER")] = Path("priors/mine")
    """folder of checkpoints, sample sheets and, in OUT/prior, the prior that --prior takes"""
    recipe: OmitArgPrefixes[Recipe] = field(default_factory=Recipe)
    start: Annotated[str | None, arg(metavar="PRIOR")] = None
    """begin with the weights of builtin:NAME or file:FOLDER, a prior of the same architecture"""
    held_out: Annotated[str | None, arg(metavar="PHOTOS")] = None
    """photos that the prior is compared with in the end (default: those it is trained on)"""
    name: CardName = ""
    guidance: float = 1.0
    """weight of classifier-free guidance that the finished prior samples with"""
    samples: int = 1000
    """pictures compared on each side"""
    minutes: float | None = None
    """end the training after so many minutes, whatever step it has reached; the same command goes on"""
    device: Device = "auto"
    threads: Threads = None
    report: Report = ""
    debug: Debug = False


@dataclass(frozen=True, kw_only=True)
class LearnInverter:
    """Train the inverse of a layer, or go on training it."""

    title: ClassVar[str] = "train the inverse of a layer"
    examples: ClassVar[tuple[str, ...]] = (
        "entoptic learn inverter builtin:lite0 bn2 --photos photos",
        "entoptic learn inverter builtin:lite0 bn2 --photos photos --steps 500",
        "entoptic learn inverter builtin:lite0 bn2 --photos photos --recipe paper",
    )

    model: ModelName
    layer: Positional[Annotated[str, arg(metavar="LAYER")]]
    """a layer with a map or patches (`entoptic ls MODEL`), such as bn2 of builtin:lite0"""
    photos: TrainingPhotos
    out: Annotated[Path, arg(metavar="FOLDER")] = Path("inverters/mine")
    """folder of checkpoints, sample sheets and, in OUT/inverter, the inverter that --inverter takes"""
    recipe: Annotated[str, arg(metavar="RECIPE")] = "entoptic"
    """entoptic, or paper (FeatInv as published)"""
    entoptic: EntopticRecipe = field(default_factory=EntopticRecipe)
    paper: PaperRecipe = field(default_factory=PaperRecipe)
    steps: int | None = None
    """optimisation steps in all, whichever recipe is used"""
    prior: Annotated[str | None, arg(metavar="PRIOR")] = None
    """image prior (default: the shipped one); fresh:SIZE is an untrained network for --entoptic.network direct"""
    start: Annotated[str | None, arg(metavar="INVERTER")] = None
    """begin with the weights of builtin:NAME or file:FOLDER, an inverter of the same architecture"""
    prompt: Annotated[str | None, arg(metavar="TEXT")] = None
    """for a prior that reads text: the text that it is trained with (the paper's recipe has its own)"""
    prior_guidance: float | None = None
    """for a prior that reads text: weight of guidance by it (the paper's recipe has its own)"""
    trust: bool = False
    """read pickled weights of hf: priors where there are no safetensors; code is never run"""
    held_out: Annotated[str | None, arg(metavar="PHOTOS")] = None
    """photos that it is measured on in the end (default: those it is trained on)"""
    limit: int = 0
    """largest number of photos taken, at random; 0 takes all"""
    pairs: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """folder of the photos' maps (default: OUT/pairs); trainings on the same layer and photos may share it"""
    name: CardName = ""
    compared: int = 200
    """photos that it is measured on"""
    verifiers: Verifiers = "auto"
    device: Device = "auto"
    threads: Threads = None
    report: Report = ""
    debug: Debug = False


@dataclass(frozen=True, kw_only=True)
class LearnDictionary:
    """Train a sparse autoencoder or transcoder of a layer, or go on training it; its features are units."""

    title: ClassVar[str] = "train a dictionary of a layer's features"
    examples: ClassVar[tuple[str, ...]] = (
        "entoptic learn dictionary builtin:lite0 bn2 --photos photos",
        "entoptic learn dictionary builtin:lite0 bn2 --photos photos --kind topk",
        "entoptic learn dictionary builtin:lite0 bn2 --from CHECKPOINT --photos photos",
    )

    model: ModelName
    layer: Positional[Annotated[str, arg(metavar="LAYER")]]
    """a layer inside the network (`entoptic ls MODEL`), such as bn2 of builtin:lite0"""
    photos: TrainingPhotos = ()
    out: Annotated[Path, arg(metavar="FOLDER")] = Path("dictionaries/mine")
    """folder of checkpoints, a sheet of features and, in OUT/dictionary.safetensors, the dictionary"""
    checkpoint: Annotated[Path | None, arg(name="from", metavar="CHECKPOINT")] = None
    """read this dictionary of another tool (a folder or file) instead of training one; photos, if any, measure it"""
    kind: Annotated[str, arg(metavar="KIND")] = ""
    """relu, topk, batchtopk, jumprelu, matryoshka, archetypal, or nmf (a layer behind a ReLU); the last two need overcomplete
    (default: batchtopk, or what the checkpoint says)"""
    writes: Annotated[str, arg(metavar="LAYER")] = ""
    """layer whose values are predicted, for a transcoder (default: the layer itself, an autoencoder)"""
    recipe: OmitArgPrefixes[DictionaryRecipe] = field(default_factory=DictionaryRecipe)
    second_seed: bool = False
    """train a second one with the next seed too, and measure how alike the two are"""
    name: CardName = ""
    device: Device = "auto"
    threads: Threads = None
    report: Report = ""
    debug: Debug = False


@tracked
def run_learn_dictionary(options: LearnDictionary) -> int:
    """Runs `entoptic learn dictionary`; returns the exit code."""
    from entoptic.runs.learn_dictionary import learn
    from entoptic.runs.read_dictionary import read_dictionary

    use_threads(options.threads)
    if options.checkpoint is not None:
        _check_reading(options)
        file = read_dictionary(
            options.model, options.layer, options.checkpoint, options.out, photos=options.photos, writes=options.writes,
            kind=options.kind, k=options.recipe.active if options.kind == "topk" else 0, name=options.name,
            device=options.device,
        )  # fmt: skip
    else:
        if not options.photos:
            raise UserError(
                "--photos is missing: a dictionary is learned from photos (--from reads one of another tool)"
            )
        file = learn(
            options.model, options.layer, options.photos, options.out, options.recipe, kind=options.kind or "batchtopk",
            writes=options.writes, second_seed=options.second_seed, name=options.name, device=options.device, log=_log,
        )  # fmt: skip
    print(f"{file}: see a feature with `entoptic see {options.model} 'dict({file}):0' --photos PHOTOS`")
    return 0


def _check_reading(options: LearnDictionary) -> None:
    """Refuses what --from would leave aside."""
    fresh = DictionaryRecipe()
    changed = [one.name for one in fields(fresh) if getattr(options.recipe, one.name) != getattr(fresh, one.name)]
    allowed = {"active"} if options.kind == "topk" else set()
    odd = [f"--{name.replace('_', '-')}" for name in changed if name not in allowed]
    odd += ["--second-seed"] if options.second_seed else []
    if odd:
        raise UserError(
            f"{', '.join(odd)} cannot be used with --from: it reads a dictionary that is trained already"
            + ("; --active goes with --kind topk" if "--active" in odd else "")
        )


@tracked
def run_learn_prior(options: LearnPrior) -> int:
    """Runs `entoptic learn prior`; returns the exit code."""
    from entoptic.runs.learn import learn

    use_threads(options.threads)
    out = learn(
        options.photos,
        options.out,
        options.recipe,
        start=options.start,
        held_out=options.held_out,
        name=options.name,
        guidance=options.guidance,
        samples=options.samples,
        minutes=options.minutes,
        device=options.device,
        log=_log,
    )
    print(f"{out}: sample it with `entoptic see MODEL UNIT --method klsc --prior file:{out}`")
    return 0


@tracked
def run_learn_inverter(options: LearnInverter) -> int:
    """Runs `entoptic learn inverter`; returns the exit code."""
    from entoptic.priors.sources import SHIPPED
    from entoptic.runs.learn_inverter import learn

    use_threads(options.threads)
    out = learn(
        options.model,
        options.layer,
        options.photos,
        options.out,
        _chosen_recipe(options),
        prior=options.prior or SHIPPED,
        start=options.start,
        prompt=options.prompt,
        prior_guidance=options.prior_guidance,
        trust=options.trust,
        held_out=options.held_out,
        limit=options.limit,
        name=options.name,
        compared=options.compared,
        pairs_folder=options.pairs,
        verifiers=options.verifiers,
        device=options.device,
        log=_log,
    )
    print(f"{out}: use it with `entoptic invert {options.model} {options.layer} PHOTO --inverter file:{out}`")
    return 0


def _chosen_recipe(options: LearnInverter) -> EntopticRecipe:
    """The recipe that --recipe names, with its own options and --steps; options of the other one are refused."""
    if options.recipe not in RECIPES:
        raise UserError(
            f'no recipe "{options.recipe}"; expected one of {", ".join(RECIPES)}{nearest(options.recipe, RECIPES)}'
        )
    other = "entoptic" if options.recipe == "paper" else "paper"
    if getattr(options, other) != RECIPES[other]():
        raise UserError(
            f"options of --{other} were given for --recipe {options.recipe}; write --{options.recipe}.… instead"
        )
    recipe: EntopticRecipe = getattr(options, options.recipe)
    return recipe if options.steps is None else replace(recipe, steps=options.steps)


def _log(line: str) -> None:
    print(line, flush=True)
