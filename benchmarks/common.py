"""What the benchmarks share: where the data is, the verifier networks, features, distances and intervals."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor

from entoptic.metrics.distribution import kid, kid_interval  # noqa: F401 (the benchmarks take them from here)
from entoptic.models.card import Card, imagenet_labels
from entoptic.models.model import Model
from entoptic.models.sources import load
from entoptic.runs.records import versions

DATA = Path(os.environ.get("ENTOPTIC_DATA", Path(__file__).parents[2] / "shared" / "data"))
CLASSES = (0, 217, 482, 491, 497, 566, 569, 571, 574, 701)  # imagenette, in the order of its folders


def mobilenet() -> Model:
    """MobileNetV2 with weights that no network of Entoptic shares anything with (see the data's README)."""
    module = timm.create_model("mobilenetv2_100", pretrained=False, pad_type="same", bn_eps=0.0)
    module.load_state_dict(load_file(DATA / "weights" / "mobilenetv2_100_coral_dequant.safetensors"))
    labels, ids = imagenet_labels()
    half = (0.5, 0.5, 0.5)
    card = Card(
        name="MobileNetV2",
        size=(224, 224),
        mean=half,
        std=half,
        labels=labels,
        label_ids=ids,
        licence="apache-2.0",
    )
    return Model(module, card)


def verifiers() -> dict[str, Model]:
    """Networks that no method optimises."""
    return {"Lite1": load("builtin:lite1"), "Lite2": load("builtin:lite2"), "MobileNetV2": mobilenet()}


@torch.no_grad()
def logits_and_features(model: Model, images: Tensor) -> tuple[Tensor, Tensor]:
    """Logits N×K and pooled penultimate features N×C of a timm network for pictures N×3×H×W in [0, 1]."""
    net, logits, features = model.module, [], []
    with model.frozen():
        for chunk in images.split(25):
            x = model.normalise(model.fit(chunk))
            f = net.forward_head(net.forward_features(x), pre_logits=True)  # type: ignore[operator]
            features.append(f)
            logits.append(net.get_classifier()(f))  # type: ignore[operator]
    return torch.cat(logits), torch.cat(features)


def bootstrap(values: Sequence[float], draws: int = 4000) -> tuple[float, float]:
    """95 % percentile bootstrap of a mean over pictures."""
    rng = np.random.default_rng(0)
    array = np.asarray(values, dtype=float)
    means = array[rng.integers(0, len(array), (draws, len(array)))].mean(1)
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def about() -> dict[str, str]:
    """Versions and machine, for the tables."""
    return {**versions(), "python": platform.python_version(), "threads": str(torch.get_num_threads())}
