"""A small network with planted units, and the recipe that made its stored weights.

    python -m tests.planted.nets    # from the repository: makes planted.safetensors again, in a minute

The network learns to name twenty objects and five backgrounds, so its lower layers hold features of all of them, of
grass as well as of rings. Three channels of its last stage are planted: they are trained to fire where a known cause is
seen and to be silent elsewhere, in scenes where every object stands on every background:

* `RING_UNIT` fires for red rings, on any background, and for nothing else;
* `EITHER_UNIT` fires for red rings or blue crosses: one unit, two causes;
* `GRASS_UNIT` fires for grass.

What happens downstream is known too: the logit "red ring" reads `RING_UNIT`, the logit "grass" reads `GRASS_UNIT`, and
nothing reads `EITHER_UNIT`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from entoptic.models.card import Card
from entoptic.models.model import Model

from .shapes import BACKGROUNDS, CROSS, GRASS, OBJECTS, RING, SIZE, Scene, balanced_scenes, stack

WEIGHTS = Path(__file__).with_name("planted.safetensors")
LABELS = OBJECTS + BACKGROUNDS
RING_UNIT, EITHER_UNIT, GRASS_UNIT = "stage3:0", "stage3:1", "stage3:2"
CAUSES: dict[str, tuple[str, ...]] = {RING_UNIT: (RING,), EITHER_UNIT: (RING, CROSS), GRASS_UNIT: (GRASS,)}
"""What each planted unit fires for, in the order of the channels."""

FIELD, STRIDE = 31, 16
"""Side of the square that a unit of `stage3` sees and the distance between two such squares, in pixels. Position
(r, c) of the 4×4 map sees a square centred on pixel (16·r, 16·c)."""

_DOWNSTREAM = {RING_UNIT: RING, GRASS_UNIT: GRASS}
_GAIN = 4.0  # of the logit that reads a planted unit


def planted_model() -> Model:
    """The network with its stored weights, on the CPU."""
    module = _module()
    module.load_state_dict(load_file(WEIGHTS))
    card = Card(
        name="planted", size=(SIZE, SIZE), mean=(0.5,) * 3, std=(0.25,) * 3, labels=LABELS, licence="Apache-2.0"
    )
    return Model(module.eval(), card, device="cpu")


def causes(unit: str, scenes: Sequence[Scene]) -> list[tuple[str, ...]]:
    """For each scene, which causes of a planted unit are in it."""
    return [tuple(cause for cause in CAUSES[unit] if cause in scene) for scene in scenes]


def _module() -> nn.Sequential:
    def stage(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.ReLU()]

    module = nn.Sequential()
    module.add_module("stem", nn.Conv2d(3, 16, 3, stride=2, padding=1))
    module.add_module("stage1", nn.Sequential(nn.ReLU(), *stage(16, 32)))
    module.add_module("stage2", nn.Sequential(*stage(32, 48)))
    module.add_module("stage3", nn.Sequential(*stage(48, 64), nn.Conv2d(64, 64, 1), nn.ReLU()))
    module.add_module("pool", nn.AdaptiveMaxPool2d(1))
    module.add_module("flat", nn.Flatten())
    module.add_module("head", nn.Linear(64, len(LABELS)))
    return module


# --- the recipe --------------------------------------------------------------------------------------------------


def make(scenes: int = 7000, epochs: int = 12, seed: int = 0) -> nn.Sequential:
    """Trains the network with its planted units on scenes where every object stands on every background."""
    torch.manual_seed(seed)
    train = balanced_scenes(scenes, seed=1000)
    images = (stack(train) - 0.5) / 0.25
    labels = torch.tensor([[float(name in scene) for name in LABELS] for scene in train])
    sees = torch.stack([torch.stack([_sees(scene, names) for names in CAUSES.values()]) for scene in train])
    module = _module()
    _train(module, images, labels, sees, epochs)
    with torch.no_grad():
        peak = torch.cat([module[:4](part)[:, : len(CAUSES)].amax((2, 3)) for part in images.split(500)])
        present = sees.flatten(2).any(2)
        for channel, unit in enumerate(CAUSES):
            # Scaled so that the mean peak over scenes with a cause is 1.
            scale = peak[present[:, channel], channel].mean()
            module.stage3[2].weight[channel] /= scale
            module.stage3[2].bias[channel] /= scale
            module.head.weight[:, channel] = 0
            if unit in _DOWNSTREAM:
                module.head.weight[LABELS.index(_DOWNSTREAM[unit]), channel] = _GAIN
    return module


def _train(module: nn.Module, images: Tensor, labels: Tensor, sees: Tensor, epochs: int, batch: int = 32) -> None:
    steps = epochs * (len(images) // batch)
    optimiser = torch.optim.Adam(module.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps)
    others = torch.ones(64, 1, 1)
    others[: len(CAUSES)] = 0  # the head learns from the channels that are not planted
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(batch)[: len(images) // batch]:
            before = module.stage3[:3](module[:3](images[rows]))  # B×64×4×4, before the last ReLU
            logits = module.head(module.flat(module.pool(before.relu() * others)))
            loss = F.binary_cross_entropy_with_logits(logits, labels[rows])
            optimiser.zero_grad()
            (loss + _planted_loss(before[:, : len(CAUSES)], sees[rows])).backward()
            optimiser.step()
            schedule.step()


def _planted_loss(before: Tensor, sees: Tensor) -> Tensor:
    """Logistic loss: above 1 somewhere where a cause is seen, below -1 wherever none is (both B×U×4×4).

    The margin makes a silent unit exactly 0 after its ReLU.
    """
    peak = before.masked_fill(~sees, -1e9).flatten(2).amax(2)[sees.flatten(2).any(2)]
    outside = before.masked_fill(sees, -1e9).flatten(2).amax(2)[~sees.flatten(2).all(2)]
    return 0.5 * F.softplus(2 * (1 - peak)).mean() + 0.5 * F.softplus(2 * (1 + outside)).mean()


def _sees(scene: Scene, names: Sequence[str]) -> Tensor:
    """4×4 bool: whether any of the named things is in the square that the position sees."""
    mask = torch.zeros(SIZE, SIZE)
    for name in names:
        mask = torch.maximum(mask, scene.masks.get(name, torch.zeros(SIZE, SIZE)).float())
    return F.max_pool2d(mask[None], FIELD, STRIDE, FIELD // 2)[0] > 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    save_file({name: value.contiguous() for name, value in make().state_dict().items()}, WEIGHTS)
    print(f"{WEIGHTS.name}: {WEIGHTS.stat().st_size} bytes")
