"""The map from a network's features into the space of a text encoder, trained on the network's own soft outputs.

TextUnlock (arXiv:2503.10981): o = softmax(logits) are the network's probabilities of its K classes, U (K×m) the text vectors of
their names, M a small network with f̃ = M(f)/|M(f)|. M is trained so that softmax(f̃ Uᵀ / τ) is o, by the loss
-Σ_k o_k log softmax(f̃ Uᵀ / τ)_k. No label is read. Where the logits are linear in the features, a mixture Σ a_i f_i has the logits
Σ a_i l_i, and every second pass over the photos trains on mixtures of two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax, normalize

from entoptic.base.bounds import check_bounds
from entoptic.base.progress import Progress, silent
from entoptic.base.randomness import generator_for
from entoptic.base.records import read_tensors
from entoptic.errors import Unreadable, UserError
from entoptic.names.records import Fidelity

_DROPOUT = 0.5


@dataclass(frozen=True, kw_only=True)
class MapRecipe:
    """How the map is trained.

    Attributes:
        width: of its two hidden layers; 0 is twice the number of features, as in the paper.
        epochs: passes over the photos.
        batch_size: photos of a step.
        rate: of Adam, falling to 0 as a cosine.
        temperature: τ at the start; it is learned.
        seed: of weights, order, mixtures and dropout.
    """

    width: int = 512
    epochs: int = 40
    batch_size: int = 64
    rate: float = 1e-3
    temperature: float = 0.05
    seed: int = 0

    bounds = {  # noqa: RUF012
        "width": (0, 65_536), "epochs": (1, 100_000), "batch_size": (1, 65_536), "rate": (1e-8, 1.0), "temperature": (1e-4, 10.0),
    }  # fmt: skip

    def __post_init__(self) -> None:
        check_bounds(self)


class Mapper(nn.Module):
    """Features B×n to unit vectors B×m: n→h→h→m with LayerNorm, GELU and dropout behind both hidden layers.

    Args:
        features: n.
        width: h.
        numbers: m.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, features: int, width: int, numbers: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))
        self.first, self.first_norm = nn.Linear(features, width), nn.LayerNorm(width)
        self.second, self.second_norm = nn.Linear(width, width), nn.LayerNorm(width)
        self.last = nn.Linear(width, numbers)
        self.log_temperature = nn.Parameter(torch.zeros(()))

    def forward(self, features_BC: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Maps features.

        Args:
            features_BC: B×n.
            generator: of dropout; None leaves it out.
        """
        x = (features_BC - self.mean) / self.scale
        x = _drop(nn.functional.gelu(self.first_norm(self.first(x))), generator)
        x = _drop(nn.functional.gelu(self.second_norm(self.second(x))), generator)
        return normalize(self.last(x), dim=1)


def train_mapper(
    features_NC: Tensor, logits_NK: Tensor, classes_Km: Tensor, recipe: MapRecipe, *, linear: bool,
    progress: Progress = silent,
) -> Mapper:  # fmt: skip
    """Trains a map; the same input gives the same map.

    Args:
        features_NC: of photos.
        logits_NK: of the same photos.
        classes_Km: text vector of each class's name, of length 1.
        recipe: how.
        linear: whether the logits are linear in the features, so that mixtures may be trained on.
        progress: called with (what, done, total).
    """
    count, width = features_NC.shape
    draw = generator_for("mapper", recipe.seed, count, width)
    mapper = Mapper(width, recipe.width or 2 * width, classes_Km.shape[1])
    _draw_weights(mapper, draw, recipe.temperature)
    mapper.mean.copy_(features_NC.mean(0))
    mapper.scale.copy_(features_NC.std(0).clamp_min(1e-6 + 1e-3 * features_NC.std()))
    classes_Km = classes_Km.to(features_NC)
    steps = -(-count // recipe.batch_size)
    optimiser = torch.optim.Adam(mapper.parameters(), recipe.rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, recipe.epochs * steps)
    for epoch in range(recipe.epochs):
        for rows in torch.randperm(count, generator=draw).split(recipe.batch_size):
            features_BC, logits_BK = features_NC[rows], logits_NK[rows]
            if linear and epoch % 2:
                other = rows[torch.randperm(len(rows), generator=draw)]
                share_B1 = torch.rand(len(rows), 1, generator=draw)
                features_BC = share_B1 * features_BC + (1 - share_B1) * features_NC[other]
                logits_BK = share_B1 * logits_BK + (1 - share_B1) * logits_NK[other]
            loss = -(logits_BK.softmax(1) * _log_outputs(mapper, features_BC, classes_Km, draw)).sum(1).mean()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
        progress("training the map into the text space", epoch + 1, recipe.epochs)
    return mapper.eval().requires_grad_(False)


@torch.no_grad()
def fidelity(mapper: Mapper, features_NC: Tensor, logits_NK: Tensor, classes_Km: Tensor) -> Fidelity:
    """Measures how well a map repeats the network's outputs.

    Args:
        mapper: the map.
        features_NC: of photos that it was not trained on.
        logits_NK: of the same photos.
        classes_Km: text vector of each class's name.
    """
    wanted = logits_NK.double().log_softmax(1)
    given = _log_outputs(mapper, features_NC, classes_Km.to(features_NC), None).double()
    mean = wanted.exp().mean(0, keepdim=True).log()

    def divergence(log_q: Tensor) -> float:
        return float((wanted.exp() * (wanted - log_q)).sum(1).mean())

    same = (wanted.argmax(1) == given.argmax(1)).double().mean()
    return Fidelity(
        agreement=float(same), divergence=divergence(given), floor=divergence(mean), n=len(features_NC)
    )  # fmt: skip


def mapper_bytes(mapper: Mapper, key: str) -> bytes:
    """Returns a map as the bytes of a safetensors file, with the key of the names that it gave."""
    from safetensors.torch import save

    tensors = {name: tensor.detach().contiguous() for name, tensor in mapper.state_dict().items()}
    return save(tensors, {"key": key, "format": "1"})


def load_mapper(file: Path) -> Mapper:
    """Reads a map.

    Raises:
        Unreadable: it is missing, damaged or no map.
    """
    mapper = mapper_of(read_tensors(file).tensors)
    if mapper is None:
        raise Unreadable(f"{file} holds no map into a text space")
    return mapper


def mapper_of(tensors: Mapping[str, Tensor]) -> Mapper | None:
    """Returns the map of some weights; None where they are of something else."""
    try:
        width, features = tensors["first.weight"].shape
        mapper = Mapper(features, width, len(tensors["last.weight"]))
        mapper.load_state_dict(dict(tensors))
    except (KeyError, ValueError, RuntimeError, TypeError):
        return None
    return mapper.eval().requires_grad_(False)


def check_classes(labels: tuple[str, ...] | None, name: str) -> tuple[str, ...]:
    """Returns a network's class names.

    Raises:
        UserError: it has none, or fewer than two that differ.
    """
    if labels is None or len(set(labels)) < 2:
        raise UserError(
            f"{name} has no class names, and the map into the text space is trained on them; give its card labels, or name "
            "units by a CLIP model (--clip MODEL:PRETRAINED)"
        )
    return labels


def _log_outputs(mapper: Mapper, features_BC: Tensor, classes_Km: Tensor, draw: torch.Generator | None) -> Tensor:
    cosines_BK = mapper(features_BC, draw) @ classes_Km.T
    return log_softmax(cosines_BK / mapper.log_temperature.exp().clamp_min(1e-3), dim=1)


def _drop(x: Tensor, generator: torch.Generator | None) -> Tensor:
    if generator is None:
        return x
    return x * (torch.rand(x.shape, generator=generator) >= _DROPOUT) / (1 - _DROPOUT)


def _draw_weights(mapper: Mapper, draw: torch.Generator, temperature: float) -> None:
    with torch.no_grad():
        for layer in (mapper.first, mapper.second, mapper.last):
            layer.weight.copy_(torch.randn(layer.weight.shape, generator=draw) / layer.in_features**0.5)
            layer.bias.zero_()
        mapper.log_temperature.fill_(torch.tensor(temperature).log())
