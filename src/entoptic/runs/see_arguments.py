"""What `see` takes by keyword, for each method, so that editors complete it and type checkers check it.

A test holds these to the methods' configs, which are the source: the meaning and the default of an option stand there
(`entoptic.configs`). A method that is registered elsewhere needs no entry here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    from entoptic.images.index import ActivationIndex
    from entoptic.models.card import Card
    from entoptic.models.model import Model
    from entoptic.priors.prior import Prior
    from entoptic.units.unit import Unit
    from entoptic.workers.count import Workers


class SeeArguments(TypedDict, total=False):
    """What `see` takes whatever the method."""

    photos: Any
    n: int
    seed: int
    out: str | Path | None
    verifiers: str | Sequence[str | Model]
    batch_size: int | None
    device: str
    card: Card | None
    index: str | Path | ActivationIndex | None
    prior: str | Prior | None
    bank_seed: int
    progress: bool
    context: bool
    noise_of: str | Unit | None
    film: str
    workers: int | str | Workers | None
    quick: bool
    fine: bool


class AccentuateArguments(SeeArguments, total=False):
    """With the options of `accentuate`, see `entoptic.configs.Accentuate`."""

    photo: str
    photo_sha256: str
    steps: int
    lr: float
    keep: float
    layer: str
    transforms: bool


class BestOfArguments(SeeArguments, total=False):
    """With the options of `best-of`, see `entoptic.configs.BestOf`."""

    bank: int
    reduction: str


class CaricatureArguments(SeeArguments, total=False):
    """With the options of `caricature`, see `entoptic.configs.Caricature`."""

    photo: str
    photo_sha256: str
    steps: int
    lr: float
    power: float
    std: float
    transforms: bool


class DeepInversionArguments(SeeArguments, total=False):
    """With the options of `deep-inversion`, see `entoptic.configs.DeepInversion`."""

    steps: int
    lr: float
    group: int
    low: float
    statistics: float
    tv: float
    l2: float
    start: float
    jitter: int
    flip: bool


class DeepInversionAdaptiveArguments(SeeArguments, total=False):
    """With the options of `deep-inversion-adaptive`, see `entoptic.configs.DeepInversionAdaptive`."""

    steps: int
    lr: float
    group: int
    low: float
    statistics: float
    tv: float
    l2: float
    start: float
    jitter: int
    flip: bool
    student: str
    competition: float


class DiverseArguments(SeeArguments, total=False):
    """With the options of `diverse`, see `entoptic.configs.Diverse`."""

    pictures: int
    weight: float
    layer: str
    steps: int
    lr: float
    std: float
    decay: float
    transforms: bool
    size: int


class EnergyDpsArguments(SeeArguments, total=False):
    """With the options of `energydps`, see `entoptic.configs.EnergyDps`."""

    steps: int
    scale: float
    cap: float | None
    reduction: str
    bank: int
    window: str


class FourierArguments(SeeArguments, total=False):
    """With the options of `fourier`, see `entoptic.configs.Fourier`."""

    steps: int
    lr: float
    std: float
    decay: float
    transforms: bool
    size: int


class KlscArguments(SeeArguments, total=False):
    """With the options of `klsc`, see `entoptic.configs.Klsc`."""

    nats: float | None
    mean: float | None
    share: float | None
    beta: float | None
    particles: int
    islands: int
    moves: int
    leaps: int
    bank: int
    reduction: str
    bound: float | None


class KlscTwistedArguments(SeeArguments, total=False):
    """With the options of `klsc-twisted`, see `entoptic.configs.KlscTwisted`."""

    nats: float
    beta: float | None
    steps: int
    particles: int
    islands: int
    bank: int
    reduction: str
    bound: float | None
    window: str


class MacoArguments(SeeArguments, total=False):
    """With the options of `maco`, see `entoptic.configs.Maco`."""

    steps: int
    lr: float
    canvas: int
    crops: int
    crop_start: float
    crop_end: float
    crop_std: float
    noise: float
    size: int


class PixelAscentArguments(SeeArguments, total=False):
    """With the options of `pixels`, see `entoptic.configs.PixelAscent`."""

    steps: int
    lr: float
    std: float
    radius: float
    size: int


class PromptArguments(SeeArguments, total=False):
    """With the options of `prompt`, see `entoptic.configs.Prompt`."""

    seeds: int
    fresh: int
    bank: int
    reduction: str
    steps: int
    lr: float


class PromptClassArguments(SeeArguments, total=False):
    """With the options of `prompt-class`, see `entoptic.configs.PromptClass`."""

    bank: int
    fresh: int
    reduction: str


class PromptWordsArguments(SeeArguments, total=False):
    """With the options of `prompt-words`, see `entoptic.configs.PromptWords`."""

    seeds: int
    fresh: int
    bank: int
    reduction: str
    words: int
    shortlist: int
    vocabulary: tuple[str, ...]


class RetrievalArguments(SeeArguments, total=False):
    """With the options of `retrieval`, see `entoptic.configs.Retrieval`."""

    shown: int


class RetrievalBottomArguments(SeeArguments, total=False):
    """With the options of `retrieval-bottom`, see `entoptic.configs.RetrievalBottom`."""

    shown: int


class RetrievalTiltedArguments(SeeArguments, total=False):
    """With the options of `retrieval-tilted`, see `entoptic.configs.RetrievalTilted`."""

    beta: float | None
    mean: float | None
    nats: float | None


class VitalArguments(SeeArguments, total=False):
    """With the options of `vital`, see `entoptic.configs.Vital`."""

    steps: int
    lr: float
    references: int
    reference: str
    layers: tuple[str, ...]
    relevance: str
    contrast: float
    class_contrast: float
    refresh: int
    drive: float
    natural: float
    plain: float
    facets: int
    smoothness: float
    smooth_from: int
    denoise: float
    jitter: int
    zoom: float
    flip: bool
    start: float
    finish: float
    size: int


class VitalPaperArguments(SeeArguments, total=False):
    """With the options of `vital-paper`, see `entoptic.configs.VitalPaper`."""

    steps: int
    references: int
    preset: str
    reference: str
    jitter: int
