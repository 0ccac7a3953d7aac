"""A small network with planted units, and the recipe that made its stored weights.

    python -m tests.planted.nets    # from the repository: makes planted.safetensors again, in a minute

The network learns to name twenty objects and five backgrounds, so its lower layers hold features of all of them, of
grass as well as of rings. Then three channels of its last stage, which training left at zero, are fitted to what that
stage sees in scenes where every object stands on every background:

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


def make(scenes: int = 5000, epochs: int = 14, seed: int = 0) -> nn.Sequential:
    """Trains the network and plants its units."""
    torch.manual_seed(seed)
    train = balanced_scenes(scenes, seed=1000)
    images = (stack(train) - 0.5) / 0.25
    labels = torch.tensor([[float(name in scene) for name in LABELS] for scene in train])
    module = _module()
    with torch.no_grad():
        # ReLU has no gradient at 0, so these channels stay at zero until they are planted.
        module.stage3[2].weight[: len(CAUSES)] = 0
        module.stage3[2].bias[: len(CAUSES)] = 0
        module.head.weight[:, : len(CAUSES)] = 0
    _train(module, images, labels, epochs)
    with torch.no_grad():
        seen = torch.cat([module[:3](part) for part in images.split(500)])
        seen = torch.cat([module.stage3[:2](part) for part in seen.split(500)])  # N×64×4×4
    for channel, (unit, names) in enumerate(CAUSES.items()):
        weight, bias = _fit(seen, torch.stack([_sees(scene, names) for scene in train]))
        with torch.no_grad():
            module.stage3[2].weight[channel, :, 0, 0] = weight
            module.stage3[2].bias[channel] = bias
            if unit in _DOWNSTREAM:
                module.head.weight[LABELS.index(_DOWNSTREAM[unit]), channel] = _GAIN
    return module


def _train(module: nn.Module, images: Tensor, labels: Tensor, epochs: int, batch: int = 32) -> None:
    steps = epochs * (len(images) // batch)
    optimiser = torch.optim.Adam(module.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps)
    # The causes of planted units must be told from everything that resembles them.
    weight = torch.tensor([5.0 if name in (RING, CROSS) else 1.0 for name in LABELS])
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(batch)[: len(images) // batch]:
            optimiser.zero_grad()
            F.binary_cross_entropy_with_logits(module(images[rows]), labels[rows], weight).backward()
            optimiser.step()
            schedule.step()


def _sees(scene: Scene, names: Sequence[str]) -> Tensor:
    """4×4 bool: whether any of the named things is in the square that the position sees."""
    mask = torch.zeros(SIZE, SIZE)
    for name in names:
        mask = torch.maximum(mask, scene.masks.get(name, torch.zeros(SIZE, SIZE)).float())
    return F.max_pool2d(mask[None], FIELD, STRIDE, FIELD // 2)[0] > 0


def _fit(seen_NCHW: Tensor, sees_NHW: Tensor, steps: int = 1500) -> tuple[Tensor, Tensor]:
    """Weights (C) and bias of a channel that is positive somewhere where its cause is seen and negative elsewhere.

    Logistic loss on the maximum over the positions that see the cause, and on every position that does not; then the
    channel is scaled so that its mean peak over scenes with the cause is 1.
    """
    features = seen_NCHW.flatten(2)  # N×C×16
    inside = sees_NHW.flatten(1)
    has = inside.any(1)
    scale = features.amax((0, 2)).clamp_min(1e-3)
    weight, bias = torch.zeros(features.shape[1], requires_grad=True), torch.zeros((), requires_grad=True)
    optimiser = torch.optim.Adam([weight, bias], lr=0.05)
    for _ in range(steps):
        value = torch.einsum("ncd,c->nd", features, weight / scale) + bias
        peak = value.masked_fill(~inside, -1e9).amax(1)[has]
        outside = value.masked_fill(inside, -1e9).amax(1)[~inside.all(1)]
        # Half a unit of margin on each side: silence is exact zero after the ReLU.
        loss = F.softplus(1 - peak).mean() + F.softplus(1 + outside).mean() + 1e-4 * weight.square().sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    unit = peak.detach().mean()
    return (weight / scale).detach() / unit, bias.detach() / unit


if __name__ == "__main__":
    torch.set_num_threads(1)
    save_file({name: value.contiguous() for name, value in make().state_dict().items()}, WEIGHTS)
    print(f"{WEIGHTS.name}: {WEIGHTS.stat().st_size} bytes")
