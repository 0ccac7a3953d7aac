"""Lossless splits: planted polysemantic units come apart, others do not, and the network stays as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from conftest import tiny_card
from entoptic.cli.main import main
from entoptic.dictionaries.partitions import Partition, choose, partition_by_labels, partition_inputs
from entoptic.dictionaries.split import contributions, linear_layer, partition_of_unit, split_units
from entoptic.errors import UserError
from entoptic.models.model import Model
from entoptic.models.sources import SOURCES
from entoptic.models.taps import Tap
from entoptic.runs.split import split
from entoptic.units.dictionary import load_dictionary
from entoptic.units.splits import Split
from entoptic.units.unit import bind

INPUTS, OF_EACH, SHARED = 64, 12, 4

# --- planted contributions -----------------------------------------------------------------------------------------------


def planted(causes: int, *, noise: float = 0.1, shared: int = SHARED, same: bool = False) -> tuple[Tensor, Tensor]:
    """Contributions N×64 of a unit with so many causes, each of 12 inputs of which neighbours share some; N causes."""
    draw = torch.Generator().manual_seed(0)
    weight = 0.02 * torch.randn(INPUTS, generator=draw)
    x = (noise * torch.randn(2000, INPUTS, generator=draw)).relu()
    cause_N = torch.randint(0, 2 * causes + 2, (2000,), generator=draw)  # more than half of the positions have none
    for k in range(causes):
        inputs = torch.arange(OF_EACH) + (0 if same else k * (OF_EACH - shared))
        weight[inputs] = 1.0
        rows = (cause_N == k).nonzero()[:, 0]
        x[rows[:, None], inputs] += 0.5 + torch.rand(len(rows), OF_EACH, generator=draw)
    return weight * x, cause_N


def parted(kappa_NC: Tensor, most: int = 3) -> Partition:
    total = kappa_NC.sum(1)
    return partition_inputs(kappa_NC[total > total.quantile(0.8)], kappa_NC[total < total.median()], most=most, nulls=5)


def auc(ours: Tensor, others: Tensor) -> float:
    """How often one of ours is larger than one of the others."""
    return float((ours[:, None] > others[None]).double().mean())


@pytest.mark.parametrize("noise", [0.1, 0.6])
def test_a_polysemantic_unit_comes_apart(noise: float) -> None:
    kappa_NC, cause_N = planted(2, noise=noise)
    found = parted(kappa_NC)
    assert len(found) == 2
    assert not found.reason
    subunits_NK = kappa_NC @ found.shares.T
    first, second = subunits_NK[cause_N == 0], subunits_NK[cause_N == 1]
    k = int(first[:, 1].mean() > first[:, 0].mean())
    assert auc(first[:, k], second[:, k]) >= 0.99
    assert auc(second[:, 1 - k], first[:, 1 - k]) >= 0.99
    unit_N = kappa_NC.sum(1)
    assert 0.4 < auc(unit_N[cause_N == 0], unit_N[cause_N == 1]) < 0.6  # the unit itself cannot tell them apart
    assert float((subunits_NK.sum(1) - unit_N).abs().max()) <= 1e-5
    torch.testing.assert_close(found.shares.sum(0), torch.ones(INPUTS))


def test_the_number_of_causes_is_found() -> None:
    assert [len(parted(planted(3, shared=2)[0], most=5)), len(parted(planted(4, shared=1)[0], most=5))] == [3, 4]


@pytest.mark.parametrize(
    "kappa_NC", [planted(1)[0], planted(2, same=True)[0]], ids=["one cause", "two causes with the same inputs"]
)
def test_what_cannot_be_separated_by_inputs_is_left_whole(kappa_NC: Tensor) -> None:
    found = parted(kappa_NC)
    assert len(found) == 1
    assert "not separable by inputs" in found.reason
    assert torch.equal(found.shares, torch.ones(1, INPUTS))


def test_inputs_that_vary_together_without_clusters_are_left_whole() -> None:
    kappa_NC, cause_N = planted(1)
    mix = torch.rand(len(kappa_NC), 1, generator=torch.Generator().manual_seed(1)) * (cause_N == 0)[:, None]
    kappa_NC[:, :6] += mix
    kappa_NC[:, 6:12] += (cause_N == 0).float()[:, None] - mix
    assert len(parted(kappa_NC)) == 1


def test_labels_split_as_clusters_do_and_random_labels_do_not() -> None:
    kappa_NC, cause_N = planted(2, noise=0.3)
    low = kappa_NC[cause_N > 1]
    found = partition_by_labels([kappa_NC[cause_N == k] for k in range(2)], low)
    assert len(found) == 2
    subunits = kappa_NC @ found.shares.T
    assert auc(subunits[cause_N == 0, 0], subunits[cause_N == 1, 0]) >= 0.99
    strong = kappa_NC[cause_N < 2]
    half = torch.rand(len(strong), generator=torch.Generator().manual_seed(2)) < 0.5
    random = partition_by_labels([strong[half], strong[~half]], low)
    assert (len(random), "have a cosine of" in random.reason) == (1, True)
    with pytest.raises(UserError, match="two classes"):
        partition_by_labels([strong], low)


def test_a_number_of_clusters_must_beat_every_null() -> None:
    explained = torch.tensor([0.5, 0.6, 0.62])
    assert choose(explained, torch.tensor([[0.2, 0.3], [0.3, 0.3], [0.4, 0.5]])) == 1
    assert choose(explained, torch.tensor([[0.2, 0.5], [0.3, 0.58], [0.4, 0.6]])) is None


def test_too_few_positions_are_refused() -> None:
    with pytest.raises(UserError, match="12 positions cannot be clustered"):
        partition_inputs(torch.rand(12, 4), torch.rand(12, 4))


# --- in a network ---------------------------------------------------------------------------------------------------------


class TwoColours(nn.Module):
    """`mix` has a unit that red and blue both drive, through different inputs, and one that red alone drives."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 1)
        self.act = nn.ReLU()
        self.mix = nn.Conv2d(6, 2, 1)
        self.norm = nn.BatchNorm2d(2)
        self.wide = nn.Conv2d(2, 3, 3, padding=1)
        self.step = nn.Conv2d(3, 3, 3, stride=2, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(3, 5)
        draw = torch.Generator().manual_seed(0)
        with torch.no_grad():
            red, blue = torch.tensor([1.0, -0.5, -0.5]), torch.tensor([-0.5, -0.5, 1.0])
            self.stem.weight.copy_(torch.stack([red, red, red, blue, blue, blue])[:, :, None, None])
            self.stem.weight += 0.02 * torch.randn(self.stem.weight.shape, generator=draw)
            self.stem.bias.zero_()  # type: ignore[union-attr]
            self.mix.weight.copy_(torch.tensor([[1.0] * 6, [1.0] * 3 + [0.0] * 3])[:, :, None, None])
            self.norm.running_mean.copy_(torch.tensor([0.3, 0.1]))  # type: ignore[union-attr]
            self.norm.running_var.copy_(torch.tensor([2.0, 0.5]))  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Tensor:
        x = self.step(self.wide(self.norm(self.mix(self.act(self.stem(x))))))
        return self.head(self.pool(x).flatten(1))


@pytest.fixture
def colours() -> Model:
    return Model(TwoColours(), tiny_card(mean=(0.0,) * 3, std=(1.0,) * 3), device="cpu")


@pytest.fixture
def patches(tmp_path: Path) -> Path:
    """Photos of red, blue and grey patches, in folders of these names."""
    rng = np.random.default_rng(0)
    for name, colour in (("red", (0.9, 0.1, 0.1)), ("blue", (0.1, 0.1, 0.9)), ("grey", (0.5, 0.5, 0.5))):
        (tmp_path / name).mkdir()
        for i in range(10):
            pixels = np.clip(rng.normal(0.4, 0.05, (32, 32, 3)), 0, 1)
            top, left = rng.integers(0, 20, 2)
            pixels[top : top + 10, left : left + 10] = np.array(colour) * rng.uniform(0.7, 1.0, (10, 10, 1))
            Image.fromarray((255 * pixels).astype(np.uint8)).save(tmp_path / name / f"{i}.png")
    return tmp_path


def test_a_units_two_colours_come_apart(colours: Model, patches: Path, tmp_path: Path) -> None:
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    before, lines = colours(images), list[str]()
    file = split(
        colours, ["mix:0", "mix:1"], patches, tmp_path / "split.safetensors", most=3, progress=False, log=lines.append
    )
    made = load_dictionary(file, colours)
    assert isinstance(made, Split)
    assert (made.layer, made.writes, made.of_unit.tolist()) == ("act", "mix", [0, 0, 1])
    assert lines == ["mix:0: 2 sub-units", f"mix:1: {made.found['units'][1]['reason']}"]
    values = colours.read(images, [Tap("act"), Tap("mix")])
    torch.testing.assert_close(made.reconstruct(values[Tap("act")]), values[Tap("mix")], atol=1e-5, rtol=0)
    red, blue = (torch.zeros(1, 3, 32, 32) for _ in range(2))
    red[:, 0], blue[:, 2] = 0.9, 0.9
    scores = [[float(unit.score(image)) for image in (red, blue)] for unit in bind(colours, f"dict({file}):0-1")]
    first = 0 if scores[0][0] > scores[0][1] else 1
    assert scores[first][0] > 4 * abs(scores[first][1])
    assert scores[1 - first][1] > 4 * abs(scores[1 - first][0])
    assert torch.equal(colours(images), before)  # bit by bit


def test_a_split_by_labels(colours: Model, patches: Path) -> None:
    (unit,) = bind(colours, "mix:0")
    made = split_units(colours, [unit], patches, labels=["red", "blue"])
    assert len(made) == 2
    assert made.partition[0, :3].min() > 0.9 > 0.1 > made.partition[0, 3:].max()
    with pytest.raises(UserError, match=r'has the label "rod".*did you mean "red"'):
        split_units(colours, [unit], patches, labels=["rod", "blue"])


def test_windows_and_normalisations_are_folded_in(colours: Model) -> None:
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    for name, reads in (("norm", "act"), ("wide", "norm"), ("head", "pool")):
        found = linear_layer(colours, name)
        assert found.reads == reads
        values = colours.read(images, [Tap(found.reads), Tap(name)])
        if found.weight.shape[2] == 1:
            kappa = contributions(values[Tap(found.reads)].mT.flatten(0, 1), found.weight[1])
            expected = values[Tap(name)][:, 1].flatten() - found.bias[1]
            torch.testing.assert_close(kappa.sum(1), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("units", "message"),
    [
        (["act:0"], "is a ReLU; units of Conv2d and Linear layers can be split"),
        (["step:0"], "stride 2"),
        (["stem:0"], "is no module's output"),
        (["mix:0", "wide:0"], "units of one layer are split together"),
        (["mix:0@3,3"], "is read at one position; a channel is split at all of them: mix:0"),
    ],
)
def test_what_cannot_be_split_is_refused(units: list[str], message: str, colours: Model, patches: Path) -> None:
    with pytest.raises(UserError, match=message):
        split_units(colours, bind(colours, units), patches)


@pytest.mark.parametrize("most", [-3, 0, 1, 10_000, 2.5])
def test_numbers_of_sub_units_that_cannot_be_tried(most: Any, colours: Model, patches: Path) -> None:
    with pytest.raises(UserError, match="must be from 2 to 64"):
        split_units(colours, bind(colours, ["mix:0"]), patches, most=most)


@pytest.mark.parametrize("limit", [0, -1])
def test_no_photos_to_split_on(limit: int, colours: Model, patches: Path) -> None:
    with pytest.raises(UserError, match=f"must be at least 1, got {limit}"):
        split_units(colours, bind(colours, ["mix:0"]), patches, limit=limit)


def test_logits_are_split_through_the_layer_that_puts_them_out(colours: Model, patches: Path) -> None:
    found = linear_layer(colours, "logits")
    assert (found.name, found.reads) == ("head", "pool")
    with pytest.raises(
        UserError, match=r"3 positions cannot be clustered: of the strongest, 40 are needed; give more photos"
    ):
        split_units(colours, bind(colours, ["logits:1"]), patches)
    colours.module.head = nn.Sequential(nn.Linear(3, 5), nn.Softmax(1))
    bent = Model(colours.module, colours.card, device="cpu")
    with pytest.raises(UserError, match="are not what one of its Conv2d or Linear layers puts out"):
        linear_layer(bent, "logits")


def test_a_unit_that_never_changes_is_left_whole_beside_others(colours: Model, patches: Path, tmp_path: Path) -> None:
    with torch.no_grad():
        colours.module.mix.weight[1] = 0  # type: ignore[union-attr, index]
    lines: list[str] = []
    file = split(colours, ["mix:0", "mix:1"], patches, tmp_path / "s.safetensors", progress=False, log=lines.append)
    assert lines == [
        "mix:0: 2 sub-units",
        "mix:1: not separable: it has the same value at every position of these photos",
    ]
    made: Any = load_dictionary(file, colours)
    assert made.of_unit.tolist() == [0, 0, 1]


def test_a_unit_that_hardly_ever_stands_out_is_left_whole() -> None:
    kappa_NC = torch.zeros(4000, 3)
    kappa_NC[:20, 0] = 1.0
    found = partition_of_unit(kappa_NC, torch.arange(4000), [], 3, 0)
    assert len(found) == 1
    assert found.reason == "not separable: it stands out at 20 positions of these photos"


def test_the_verb(
    monkeypatch: pytest.MonkeyPatch, patches: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = tiny_card(name="colours:0", mean=(0.0,) * 3, std=(1.0,) * 3)
    monkeypatch.setitem(SOURCES, "colours", lambda *_: (TwoColours(), card))
    file = tmp_path / "s.safetensors"
    words: list[Any] = ["split", "colours:0", "mix:0", "--photos", patches, "--out", file, "--most", 2]
    assert main([str(word) for word in words]) == 0
    out = capsys.readouterr().out
    assert "mix:0: 2 sub-units" in out
    assert f"'dict({file}):0'" in out
    assert len(load_dictionary(file)) == 2  # type: ignore[arg-type]
