"""`preflight`: does the card describe the preprocessing that the network was trained with?

A wrong mean or range does not crash, it costs accuracy. The preflight shows a few photos to the network under the card
and under well-known alternatives, and reports when one of those clearly fits better.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from entoptic.base.progress import Progress, silent
from entoptic.base.unread import names_unread
from entoptic.errors import UserError, counted
from entoptic.images.photos import Photos
from entoptic.models.model import Model

ALTERNATIVES: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "ImageNet mean and std": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "range -1 … 1 (mean 0.5, std 0.5)": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "CLIP mean and std": ((0.4815, 0.4578, 0.4082), (0.2686, 0.2613, 0.2758)),
    "range 0 … 1 (no normalisation)": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "range 0 … 255": ((0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255)),
}


@dataclass(frozen=True)
class Candidate:
    """How a network behaves under one preprocessing.

    Attributes:
        name: "the card" or one of `ALTERNATIVES` (or "blue and red swapped").
        correct: per photo, whether the top logit is its class; None without labels.
        deviation: mean over BatchNorm layers of |mean - running mean| in running standard deviations plus |log std
            ratio|; None for networks without BatchNorm.
        confidence: mean largest softmax probability.
    """

    name: str
    correct: Tensor | None
    deviation: float | None
    confidence: float


@dataclass(frozen=True)
class Preflight:
    """Result of `preflight`.

    Attributes:
        ok: no alternative fits clearly better than the card.
        message: one sentence for people.
        n: photos shown.
        candidates: the card first.
    """

    ok: bool
    message: str
    n: int
    candidates: tuple[Candidate, ...]

    def __str__(self) -> str:
        return self.message

    def _repr_html_(self) -> str:
        def cells(c: Candidate) -> list[str]:
            correct = "" if c.correct is None else f"{100 * float(c.correct.float().mean()):.0f} %"
            return [c.name, correct, "" if c.deviation is None else f"{c.deviation:.2f}", f"{c.confidence:.2f}"]

        rows = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells(c)) + "</tr>" for c in self.candidates
        )
        head = "<tr><th>preprocessing</th><th>accuracy</th><th>BatchNorm deviation</th><th>confidence</th></tr>"
        return f"<p>{html.escape(self.message)}</p><table>{head}{rows}</table>"


@names_unread
def preflight(model: Model, photos: Any, *, n: int = 64, progress: Progress = silent) -> Preflight:
    """Checks a card on photos spread over the set.

    With labels that the card knows, accuracies decide (a paired test at two standard errors). Where they do not, in
    networks with BatchNorm, the distance of activations from the running statistics decides; else the network's confidence.

    Args:
        model: the network with its card.
        photos: anything `Photos.open` takes.
        n: largest number of photos to show.
        progress: called with (what, done, total).

    Raises:
        UserError: no photo could be read, or n is below 1.
    """
    if n < 1:
        raise UserError(f"n is the number of photos to show and must be at least 1, got {n}")
    opened = photos if isinstance(photos, Photos) else Photos.open(photos)
    step = max(1, len(opened) // n)
    indices = list(range(0, len(opened), step))[:n]
    targets = _class_indices(model, opened)
    images, labels = [], []
    progress("reading photos", 0, len(indices))
    for batch, pixels in opened.batches(model.card.prepare, 32, indices):
        images.append(pixels)
        progress("reading photos", min(len(indices), batch[-1] // step + 1), len(indices))
        labels += [targets.get(i, -1) for i in batch]
    if not images:
        raise UserError(f"none of {opened.source}'s photos could be read, so the card cannot be checked")
    pixels = torch.cat(images)
    known = torch.tensor(labels)
    labelled = known if bool((known >= 0).float().mean() > 0.5) else None
    card = model.card
    trials = {"the card": (card.mean, card.std)}
    if card.channels == 3:
        trials |= {k: v for k, v in ALTERNATIVES.items() if not _same(v, (card.mean, card.std))}
    candidates: list[Candidate] = []
    total = len(trials) + (card.channels == 3)
    for name, (mean, std) in trials.items():
        progress(f"trying {name}", len(candidates), total)
        candidates.append(_try(model, pixels, labelled, name, mean, std))
    if card.channels == 3:
        progress("trying blue and red swapped", len(candidates), total)
        candidates.append(_try(model, pixels.flip(1), labelled, "blue and red swapped", card.mean, card.std))
    progress("trying preprocessings", total, total)
    ok, message = _judge(card.name, candidates, len(pixels))
    return Preflight(ok, message, len(pixels), tuple(candidates))


def _class_indices(model: Model, photos: Photos) -> dict[int, int]:
    """Maps photo positions to class indices, as far as labels are known."""
    by_name: dict[str, int] = {}
    for index in range(model.outputs):
        for name in model.card.identifiers(index) if model.card.labels else []:
            by_name.setdefault(name.lower(), index)
    found = {}
    for i, photo in enumerate(photos):
        if photo.class_index is not None:
            found[i] = photo.class_index
        for label in photo.labels:
            if label.lower() in by_name:
                found[i] = by_name[label.lower()]
                break
    return found


def _same(a: tuple[Sequence[float], Sequence[float]], b: tuple[Sequence[float], Sequence[float]]) -> bool:
    return all(abs(x - y) < 0.02 for one, other in zip(a, b) for x, y in zip(one, other))


@torch.no_grad()
def _try(
    model: Model,
    pixels: Tensor,
    labels: Tensor | None,
    name: str,
    mean: Sequence[float],
    std: Sequence[float],
) -> Candidate:
    norms = [m for m in model.module.modules() if isinstance(m, nn.BatchNorm2d) and m.running_mean is not None]
    gaps: list[float] = []

    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0]
        if x.ndim != 4 or not isinstance(module, nn.BatchNorm2d):
            return
        assert module.running_mean is not None
        assert module.running_var is not None
        sd = module.running_var.clamp_min(1e-6).sqrt()
        shift = ((x.mean((0, 2, 3)) - module.running_mean) / sd).abs().mean()
        ratio = (x.std((0, 2, 3)).clamp_min(1e-6) / sd).log().abs().mean()
        gaps.append(float(shift + ratio))

    # The model's own card is only swapped for the time of this trial.
    own, handles = model.card, [m.register_forward_pre_hook(hook) for m in norms[:8]]
    try:
        model.card = own.with_(mean=tuple(mean), std=tuple(std))
        logits = torch.cat([model(chunk.to(model.device)).cpu() for chunk in pixels.split(32)])
    finally:
        model.card = own
        for handle in handles:
            handle.remove()
    correct = None if labels is None else (logits.argmax(1) == labels)[labels >= 0]
    confidence = float(logits.softmax(1).amax(1).nan_to_num().mean())
    return Candidate(name, correct, sum(gaps) / len(gaps) if gaps else None, confidence)


def _closer(card: Candidate, others: list[Candidate]) -> Candidate | None:
    """Finds the candidate whose activations lie clearly closer to the BatchNorm statistics than the card's, if any."""
    measured = [(c.deviation, c) for c in others if c.deviation is not None]
    if card.deviation is None or not measured:
        return None
    deviation, best = min(measured, key=lambda pair: pair[0])
    return best if card.deviation - deviation > max(0.1, 0.3 * card.deviation) else None


def _judge(name: str, candidates: list[Candidate], n: int) -> tuple[bool, str]:
    card, others = candidates[0], candidates[1:]
    if card.correct is not None:
        own = card.correct.float()
        best = max(others, key=lambda c: float(c.correct.float().mean()), default=card)  # type: ignore[union-attr]
        assert best.correct is not None
        gain = best.correct.float() - own
        error = float(gain.std()) / math.sqrt(len(gain)) if len(gain) > 1 else 1.0
        a, b = 100 * float(own.mean()), 100 * float(best.correct.float().mean())
        if float(gain.mean()) > 2 * error and float(gain.mean()) > 0.05:
            return False, (
                f"the card of {name} looks wrong: {a:.0f} % of {counted(len(own), 'photo')} right with it, "
                f"{b:.0f} % with {best.name}"
            )
        # A robust network may classify as well under a wrong range; its BatchNorm statistics still differ.
        rivals = [c for c in others if c.correct is not None and float(c.correct.float().mean()) >= float(own.mean())]
        if closer := _closer(card, rivals):
            return False, (
                f"the card of {name} looks wrong: {a:.0f} % of {counted(len(own), 'photo')} right with it and no fewer with "
                f"{closer.name}, where activations lie {closer.deviation:.2f} instead of {card.deviation:.2f} from "
                "the BatchNorm statistics"
            )
        return (
            True,
            f"the card of {name} fits: {a:.0f} % of {counted(len(own), 'labelled photo')} right, no alternative is better",
        )
    if card.deviation is not None:
        if closer := _closer(card, others):
            return False, (
                f"the card of {name} looks wrong: activations lie {card.deviation:.2f} from the BatchNorm statistics "
                f"on {counted(n, 'photo')}, {closer.deviation:.2f} with {closer.name}"
            )
        return (
            True,
            f"the card of {name} fits: BatchNorm deviation {card.deviation:.2f} on {counted(n, 'photo')}, no alternative is better",
        )
    best = max(others, key=lambda c: c.confidence, default=card)
    if best.confidence > 1.25 * card.confidence:
        return False, (
            f"the card of {name} may be wrong: mean confidence {card.confidence:.2f} on {counted(n, 'photo')}, "
            f"{best.confidence:.2f} with {best.name}; labelled photos would settle it"
        )
    return (
        True,
        f"the card of {name} gives confidence {card.confidence:.2f} on {counted(n, 'photo')}, no alternative is clearly better",
    )
