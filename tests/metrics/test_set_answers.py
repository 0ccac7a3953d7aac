"""Metrics of a unit's pictures together: answers, diversity, facets, pathway, machine 2-AFC, CLIP."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torch.nn.functional import cosine_similarity

from conftest import tiny_card, tiny_module
from entoptic import UserError
from entoptic.base.estimates import mean_interval, wilson
from entoptic.errors import Unreadable
from entoptic.metrics.evidence import Evidence
from entoptic.metrics.sets import (
    Averaged,
    Counted,
    Usual,
    answers,
    choose,
    departure,
    diversity,
    facet_coverage,
    first_of,
    mean_activations,
    over_units,
    pathway,
    self_accuracy,
    specificity,
    verifier_accuracy,
)
from entoptic.metrics.sets.answers import ROBUSTNESS, SPECIFICITY, within_top
from entoptic.metrics.sets.zero_shot import PreparedClip, ZeroShot, embedder_of, find_clip, load_clip
from entoptic.models.model import Model
from tiny_clip import write_clip


def normal(n: int, d: int, seed: int = 0, shift: float = 0.0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) + shift


def value(found: Evidence) -> float:
    assert found.value is not None, found.reason
    assert found.interval is not None
    assert found.interval[0] <= found.value <= found.interval[1]
    return found.value


def other() -> Model:
    return Model(tiny_module(3), tiny_card(name="other"), device="cpu")


# --- answers -----------------------------------------------------------------------------------------------------------


def test_accuracy_is_the_share_of_right_answers(tiny: Model) -> None:
    pictures = torch.rand(12, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        order = tiny.module.eval()((pictures - 0.5) / 0.25).argsort(1, descending=True)
    labels = order[torch.arange(12), torch.tensor([0, 1, 2] * 4)]  # right at once, second, third
    for top, expected in ((1, 4), (2, 8), (3, 12)):
        counted = self_accuracy(tiny, top=top)
        counted.update(answers(tiny, pictures, labels, top=top, batch=5))
        found = counted.compute()
        assert value(found) == expected / 12
        assert found.interval == wilson(expected, 12)
        assert found.detail == {"embedder": "tiny", "chance": top / 5, "top": top}
        assert (found.n, found.direction) == (12, "higher")
    with pytest.raises(UserError, match="classes 0 to 4, got 0 to 5"):
        answers(tiny, pictures[:2], [0, 5])
    with pytest.raises(UserError, match="one class for each of 2 pictures"):
        answers(tiny, pictures[:2], [0])


def test_a_network_is_not_its_own_verifier(tiny: Model) -> None:
    same = Model(tiny_module(), tiny_card(name="another name"), device="cpu")
    for make in (verifier_accuracy, over_units):
        with pytest.raises(UserError, match="another name is the network under study"):
            make(tiny, same)
    assert verifier_accuracy(tiny, other()).embedder == "other"


def test_a_tie_is_no_right_answer() -> None:
    logits = torch.tensor([[1.0, 1.0, 0.0], [2.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    assert within_top(logits, torch.tensor([0, 0, 0])).tolist() == [False, True, False]
    assert within_top(logits, torch.tensor([0, 1, 2]), 2).tolist() == [True, True, False]


@given(st.lists(st.booleans(), min_size=1, max_size=30), st.integers(0, 30))
def test_counts_and_means_merge(right: list[bool], cut: int) -> None:
    made = [Counted(card=SPECIFICITY, embedder="net", chance=0.2) for _ in range(3)]
    made[0].update(torch.tensor(right))
    made[1].update(torch.tensor(right[:cut], dtype=torch.bool))
    made[2].update(torch.tensor(right[cut:], dtype=torch.bool))
    made[2].merge(made[1])
    assert made[2].compute() == made[0].compute()
    values = [float(k) + 0.1 * one for k, one in enumerate(right)] * 3
    means = [Averaged(card=ROBUSTNESS, embedder="net") for _ in range(3)]
    means[0].update(torch.tensor(values))
    means[1].update(torch.tensor(values[cut:]))
    means[2].update(torch.tensor(values[:cut]))
    means[1].merge(means[2])
    assert means[1].compute() == means[0].compute()


def test_means_have_students_interval_and_few_are_refused() -> None:
    mean = Averaged(card=ROBUSTNESS, embedder="net")
    mean.update(torch.tensor([0.5, 0.75]))
    assert "robustness needs at least 3 pictures, there are 2" in str(mean.compute().reason)
    mean.update(torch.tensor([1.0]))
    found = mean.compute()
    assert value(found) == 0.75
    assert found.interval == mean_interval([0.5, 0.75, 1.0])
    with pytest.raises(UserError, match="finite"):
        mean.update(torch.tensor([math.inf]))
    with pytest.raises(UserError, match="true or false"):
        specificity_of(2).update(torch.tensor([1.0]))
    assert "needs at least 1 pictures" in str(specificity_of(2).compute().reason)


def specificity_of(siblings: int) -> Counted:
    return specificity(Model(tiny_module(), tiny_card(), device="cpu"), siblings)


def test_specificity_compares_units_on_their_own_scales() -> None:
    """Unit 1 is large on everything; counted in its own deviations, it is not what the first picture drives most."""
    values = torch.tensor([[3.0, 100.0, 0.0], [0.0, 130.0, 0.0], [9.0, 100.0, 5.0]])
    own = [0, 1, 0]
    mean, sd = torch.tensor([0.0, 100.0, 5.0]), torch.tensor([1.0, 10.0, 0.0])
    assert first_of(values, own).tolist() == [False, True, False]
    assert first_of(values, own, mean, sd).tolist() == [True, True, True]
    assert first_of(values, [2, 2, 2], mean, sd).tolist() == [False] * 3  # it never varies
    counted = specificity_of(3)
    counted.update(first_of(values, own, mean, sd))
    found = counted.compute()
    assert (value(found), found.detail["chance"]) == (1, 1 / 3)
    with pytest.raises(UserError, match="at least 2 units"):
        specificity_of(1)


# --- diversity ---------------------------------------------------------------------------------------------------------


def test_diversity_is_the_mean_over_pairs() -> None:
    rows = normal(7, 5)
    metric = diversity("net")
    metric.update(rows[:3])
    metric.update(rows[3:])
    found = metric.compute()

    def by_hand(some: Tensor) -> float:
        pairs = [(i, j) for i in range(len(some)) for j in range(i)]
        return float(np.mean([1 - float(cosine_similarity(some[i], some[j], dim=0)) for i, j in pairs]))

    assert value(found) == pytest.approx(by_hand(rows), abs=1e-6)
    left_out = np.array([by_hand(rows[torch.arange(7) != k]) for k in range(7)])
    error = math.sqrt(6 / 7 * ((left_out - left_out.mean()) ** 2).sum())
    low, high = found.interval or (0, 0)
    assert high - value(found) == pytest.approx(1.96 * error, abs=1e-5)
    assert value(found) - low == pytest.approx(1.96 * error, abs=1e-5)
    assert (found.direction, found.scale, found.detail["pairs"]) == ("none", "cosine distance", 21)


def test_diversity_of_known_sets() -> None:
    same, opposite = diversity("net"), diversity("net")
    same.update(torch.ones(5, 3))
    assert value(same.compute()) == pytest.approx(0, abs=1e-9)
    opposite.update(torch.eye(4))
    assert value(opposite.compute()) == pytest.approx(1)
    few = diversity("net")
    few.update(torch.eye(3))
    assert "at least 4 pictures, there are 3" in str(few.compute().reason)
    beside = diversity("net", normal(40, 4, 1))
    beside.update(torch.ones(6, 4))
    found = beside.compute()
    assert found.detail["real"] > 0.5 > value(found)


def test_facets_that_are_shown() -> None:
    centres = torch.eye(4) * torch.tensor([1.0, 5.0, 1.0, 1.0])[:, None]  # a length says nothing
    metric = facet_coverage(centres, "net", photos=torch.tensor([1, 1, 1, 1]))
    metric.update(torch.tensor([[1.0, 0.9, 0, 0], [2.0, 0, 0, 0.1], [0, 0, 3.0, 0]]))
    found = metric.compute()
    assert value(found) == 0.5
    assert found.detail["pictures of each"] == [2, 0, 1, 0]
    assert found.detail["real"] == pytest.approx(1 - 0.75**3)
    for bad, match in ((centres[:1], "from 2 on"), (torch.full((2, 2), math.nan), "not finite")):
        with pytest.raises(UserError, match=match):
            facet_coverage(bad, "net")
    with pytest.raises(UserError, match="each of 4 facets"):
        facet_coverage(centres, "net", photos=torch.tensor([1, 2]))
    wrong = facet_coverage(centres, "net")
    wrong.update(torch.rand(2, 3))
    with pytest.raises(UserError, match="use one embedder"):
        wrong.compute()


# --- pathway -----------------------------------------------------------------------------------------------------------


def test_mean_activations_are_those_of_the_network(tiny: Model) -> None:
    pictures = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found = mean_activations(tiny, pictures, ["stage1", "stage2"], batch=2)
    with torch.no_grad():
        tiny.module.eval()
        deep = tiny.module.stage1(tiny.module.stem((pictures - 0.5) / 0.25))  # type: ignore[operator,union-attr]
    assert torch.allclose(found["stage1"], deep.mean((2, 3)), atol=1e-5)
    assert found["stage2"].shape == (5, 16)
    with pytest.raises(UserError, match='did you mean "stage1"'):
        mean_activations(tiny, pictures, ["stage_1"])


def test_pathway_is_the_cosine_of_means_beside_random_photos() -> None:
    direction, away = torch.tensor([1.0, 0, 0]), torch.tensor([0, 1.0, 0])
    strongest = {"a": direction + 0.1 * normal(20, 3, 1), "b": direction + 0.1 * normal(20, 3, 2)}
    pictures = {"a": direction + 0.1 * normal(10, 3, 3), "b": away + 0.1 * normal(10, 3, 4)}
    random = {"a": away + 0.1 * normal(15, 3, 5), "b": direction + 0.1 * normal(15, 3, 6)}
    found = pathway(pictures, strongest, random, "net")
    for layer, entry in found.items():
        expected = cosine_similarity(pictures[layer].mean(0), strongest[layer].mean(0), dim=0)
        assert value(entry) == pytest.approx(float(expected), abs=1e-6)
        floor = cosine_similarity(random[layer].mean(0), strongest[layer].mean(0), dim=0)
        assert entry.detail["random photos"] == pytest.approx(float(floor), abs=1e-6)
        assert (entry.detail["layer"], entry.n, entry.detail["strongest photos"]) == (layer, 10, 20)
    assert value(found["a"]) > 0.99 > 0.3 > value(found["b"])
    few = pathway(pictures, strongest, {k: v[:2] for k, v in random.items()}, "net")["a"]
    assert "at least 3 photos at random, there are 2" in str(few.reason)
    with pytest.raises(UserError, match="strongest photos have no activations of a"):
        pathway(pictures, {}, random, "net")


def test_the_pathways_interval_holds_the_truth() -> None:
    """Means (1, 0) and (1, 1): the cosine is √½."""
    held = 0
    for seed in range(60):
        made, real = normal(40, 2, seed) + torch.tensor([1.0, 0]), normal(40, 2, 1000 + seed) + torch.tensor([1.0, 1.0])
        entry = pathway({"a": made}, {"a": real}, {"a": normal(3, 2)}, "net")["a"]
        low, high = entry.interval or (0, 0)
        held += low <= math.sqrt(0.5) <= high
    assert 50 <= held <= 60


# --- machine 2-AFC -----------------------------------------------------------------------------------------------------


def test_choices_of_an_observer_by_hand() -> None:
    pictures, strong, weak = normal(3, 4, 0, 0.5), normal(5, 4, 1, 0.5), normal(6, 4, 2)

    def like(photo: Tensor, some: Tensor) -> float:
        return float(np.mean([float(cosine_similarity(photo, one, dim=0)) for one in some]))

    def share(some: Tensor, high: Tensor, low: Tensor) -> float:
        return float(np.mean([like(h, some) > like(w, some) for h in high for w in low]))

    found = choose(pictures, strong, weak)
    assert found.share == pytest.approx(share(pictures, strong, weak))
    assert (found.photos, found.pairs) == (5, 30)
    assert found.interval == wilson(found.share * 5, 5)
    rest = [share(strong[[k]], strong[torch.arange(5) != k], weak) for k in range(5)]
    assert found.ceiling == pytest.approx(np.mean(rest))
    assert 0 < found.share < 1
    turned = choose(pictures, weak, strong)
    assert turned.share == pytest.approx(1 - found.share)


def test_chance_and_certainty() -> None:
    strong, weak = torch.tensor([[1.0, 0.1]] * 4), torch.tensor([[0.1, 1.0]] * 4)
    assert choose(torch.tensor([[1.0, 0.0]]), strong, weak).share == 1
    assert choose(torch.tensor([[0.0, 1.0]]), strong, weak).share == 0
    assert choose(torch.tensor([[1.0, 1.0]]), strong, strong).share == 0.5  # ties
    assert choose(torch.tensor([[1.0, 0.0]]), strong[:1], weak).ceiling is None
    with pytest.raises(UserError, match="there are no weak photos"):
        choose(strong, strong, weak[:0])
    shares = [choose(normal(1, 8, k), normal(6, 8, 100 + k), normal(6, 8, 200 + k)).share for k in range(200)]
    assert abs(np.mean(shares) - 0.5) < 3 * np.std(shares) / math.sqrt(200)


def test_the_interval_over_photos_is_wide_enough() -> None:
    """Cosines of one number each: the share of pairs is the area under the curve of two laws, here P(N(1,1) > N(0,1))."""
    truth, held = 0.7602, 0
    draw = np.random.default_rng(0)
    for _ in range(200):
        angle = np.concatenate([draw.normal(1, 1, 12), draw.normal(0, 1, 12)]) / 10 + 1  # the cosine rises with it
        photos = torch.tensor(np.stack([np.sin(angle), np.cos(angle)], 1))
        found = choose(torch.tensor([[1.0, 0.0]]).double(), photos[:12], photos[12:])
        held += found.interval[0] <= truth <= found.interval[1]
    assert held >= 188


def test_the_share_over_units(tiny: Model) -> None:
    units = over_units(tiny, other())
    units.update(torch.tensor([1.0, 0.9]))
    units.update(torch.tensor([0.95]))
    found = units.compute()
    assert value(found) == pytest.approx(0.95)
    assert found.interval is not None
    assert found.interval[1] == 1  # cut at the bound
    assert found.detail == {"embedder": "other", "over": "units", "chance": 0.5}


# --- CLIP --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random CLIP with a vocabulary of letters, as transformers stores one."""
    return write_clip(tmp_path_factory.mktemp("hub") / "tiny-clip")


def test_clip_gives_the_features_of_transformers(clip_folder: Path) -> None:
    clip = load_clip(clip_folder, device="cpu")
    pictures = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(v)[:, None, None] for v in ([0.5, 0.4, 0.3], [0.2, 0.25, 0.3]))
    words = clip.tokenizer(["a dog", "a church"], padding=True, return_tensors="pt")
    with torch.no_grad():
        whole = clip.network(**words, pixel_values=(pictures - mean) / std)
    assert torch.allclose(clip.images(pictures, batch=2), whole.image_embeds, atol=1e-5)
    assert torch.allclose(clip.texts(["a dog", "a church"]), whole.text_embeds, atol=1e-5)
    assert clip.embedder().embed(torch.rand(2, 3, 40, 40)).shape == (2, 12)
    assert clip.embedder().name == "clip:tiny-clip"


def test_zero_shot_counts_the_nearest_prompt(clip_folder: Path) -> None:
    clip = load_clip(clip_folder, device="cpu")
    labels = ["dog", "church", "radio"]
    pictures = torch.rand(9, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    nearest = (clip.images(pictures) @ clip.texts([f"a photo of a {one}" for one in labels]).T).argmax(1)
    classes = [int(one) if k < 6 else (int(one) + 1) % 3 for k, one in enumerate(nearest)]
    shot, rest = ZeroShot(clip, labels), ZeroShot(clip, labels)
    shot.update(pictures[:4], classes[:4])
    rest.update(pictures[4:], classes[4:])
    shot.merge(rest)
    found = shot.compute()
    assert value(found) == pytest.approx(6 / 9)
    assert found.interval == wilson(6, 9)
    assert found.detail == {
        "embedder": "clip:tiny-clip", "chance": 1 / 3, "weights": clip.identity[:12], "prompts": ["a photo of a {}"],
        "classes": 3, "top": 1,
    }  # fmt: skip
    with pytest.raises(UserError, match="same settings"):
        shot.merge(ZeroShot(clip, labels, "a {}"))
    with pytest.raises(UserError, match="from 0 to 2"):
        shot.update(pictures[:1], [3])
    with pytest.raises(UserError, match=r"one \{\}"):
        ZeroShot(clip, labels, "a photo")
    with pytest.raises(UserError, match="at least 2 classes"):
        ZeroShot(clip, ["dog"])


def test_prompts_are_averaged(clip_folder: Path) -> None:
    clip = load_clip(clip_folder, device="cpu")
    one, both = ZeroShot(clip, ["dog", "cat"], "a {}"), ZeroShot(clip, ["dog", "cat"], ["a {}", "the {}"])
    texts = clip.texts(["a dog", "the dog"]).mean(0)
    assert torch.allclose(both._classes_KC[0], texts / texts.norm(), atol=1e-6)
    assert not torch.allclose(one._classes_KC, both._classes_KC)


def test_a_folder_that_is_no_clip_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed")
    with pytest.raises(UserError, match="never downloaded"):
        load_clip(tmp_path / "openai-clip")
    with pytest.raises(Unreadable, match=r"holds no CLIP|not a CLIP"):
        load_clip(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(Unreadable, match="of the kind vit, not a CLIP"):
        load_clip(tmp_path)


def test_a_hint_at_random_is_not_shown_beside_itself() -> None:
    strong, weak = torch.tensor([[1.0, 0.1], [1.0, 0.2]]), torch.tensor([[0.1, 1.0], [0.2, 1.0]])
    assert choose(strong, strong, weak).random is None
    assert choose(strong, strong, weak, torch.tensor([[1.0, 0.0], [0.0, 1.0]])).random == 0.5
    # The first weak photo as the hint: itself it would choose, the other it does choose, a strong one never.
    assert choose(strong, strong, weak, weak[:1]).random == 0
    crossed = torch.tensor([[0.1, 1.0], [1.0, 0.3]])  # a weak photo that looks strong, beside one that is the hint
    assert choose(strong, strong, crossed, crossed[:1]).random == 0
    assert choose(strong, strong, crossed, torch.tensor([[0.1, 1.01]])).random == 0
    alone = torch.tensor([[0.1, 1.0]])
    assert choose(strong, strong, alone, alone).random is None  # no pair is left


# --- departures --------------------------------------------------------------------------------------------------------


def test_a_departure_is_the_cosine_in_standard_deviations() -> None:
    photos = torch.tensor([[0.0, 0.0, 5.0], [2.0, 20.0, 5.0], [0.0, 0.0, 5.0], [2.0, 20.0, 5.0]])
    usual = Usual.of({"a": photos})
    assert usual.first["a"].tolist() == [0, 0, 5]
    assert usual.second["a"].tolist() == [2, 20, 5]
    assert usual.sd["a"].tolist() == [1, 10, 0]
    made, strong = {"a": torch.tensor([[3.0, 0.0, 9.0]])}, {"a": torch.tensor([[5.0, 60.0, 1.0], [5.0, 40.0, 1.0]])}
    # In standard deviations: (3, 0) from the first half's mean, (3, 3) from the second's; the third channel never varies.
    assert departure(made, strong, usual)["a"] == pytest.approx(math.cos(math.pi / 4))
    with pytest.raises(UserError, match="at least 4 photos, there are 3"):
        Usual.of({"a": photos[:3]})


def test_photos_at_random_depart_in_directions_of_their_own() -> None:
    """With one mean for both, its error would make sets without anything in common alike."""
    draw = torch.Generator().manual_seed(0)

    def some(n: int, shift: float = 0.0) -> dict[str, torch.Tensor]:
        return {"a": torch.randn(n, 6, generator=draw) + shift * torch.tensor([1.0, 0, 0, 0, 0, 0])}

    chance = [departure(some(40), some(40), Usual.of(some(20)))["a"] for _ in range(400)]
    assert abs(sum(chance) / len(chance)) < 3 * (1 / 6 / 400) ** 0.5 + 0.02
    assert departure(some(40, 9.0), some(40, 9.0), Usual.of(some(60)))["a"] > 0.95


def test_another_clip_gives_its_own_features() -> None:
    """One that prepares photos itself, as open_clip does."""

    class Colours:
        name, identity, scale = "colours", "abc", 1.0

        def prepare(self, photo: Image.Image) -> torch.Tensor:
            assert photo.mode == "RGB"
            return torch.tensor(photo.getpixel((0, 0))) / 255

        def encode_images(self, images: torch.Tensor) -> torch.Tensor:
            return images

        def encode_texts(self, texts: list[str]) -> torch.Tensor:
            return torch.eye(3)[[["red", "green", "blue"].index(text.split()[-1]) for text in texts]]

    clip = PreparedClip(Colours())
    pictures = torch.tensor([[0.9, 0.1, 0.0], [0.0, 0.2, 0.7], [0.1, 0.3, 0.2]])[:, :, None, None].expand(-1, -1, 4, 4)
    shot = ZeroShot(clip, ["red", "green", "blue"])
    assert shot.answers(pictures, [0, 2, 2]).tolist() == [True, True, False]
    assert shot.counted.n == 0
    assert embedder_of(clip).name == "clip:colours"
    assert torch.allclose(embedder_of(clip).embed(pictures).norm(dim=1), torch.ones(3))


def test_a_clip_is_found_by_what_a_person_gives(clip_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr("entoptic.metrics.sets.zero_shot.OpenClip", lambda name, device: asked.append(name))
    assert isinstance(find_clip("RN50:openai", device="cpu"), PreparedClip)
    assert asked == ["RN50:openai"]
    assert find_clip(str(clip_folder), device="cpu").name == "clip:tiny-clip"
    with pytest.raises(UserError, match="there is no folder"):
        find_clip("models/clip", device="cpu")
