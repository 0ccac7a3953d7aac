"""Retrieval by rank and by tilt: which photos, in which order, and what is said about the choice."""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from entoptic import UserError, see
from entoptic.images.photos import Photos
from entoptic.images.references import References
from entoptic.methods import find_method
from entoptic.methods.contract import Context, Draft, Item, make_config
from entoptic.models.model import Model
from entoptic.sampling.tilt import rank_kl, selection_kl
from entoptic.units.unit import Unit, bind


@pytest.fixture
def photos(photo_folder: Path) -> Photos:
    return Photos.open(photo_folder)


def draw(
    name: str, model: Model, units: list[str], photos: Photos, *, samples: int = 1, seed: int = 0, **options: Any
) -> list[Draft]:
    card = find_method(name)
    items = [Item(target=unit, sample=sample, seed=seed) for unit in bind(model, units) for sample in range(samples)]
    return list(
        card.function(items, make_config(card, options), Context(model=model, references=References(model, photos)))
    )


def shown(draft: Draft) -> str:
    """The photo's name."""
    return str(draft.trace.to_json()["notes"][0]).split(",")[0].removeprefix("photo ")


def scores_of(unit: Unit, photos: Photos) -> dict[str, float]:
    values = References(unit.model, photos).scores([unit]).of(unit)
    return {photos[i].name: float(v) for i, v in enumerate(values)}


# --- by rank ------------------------------------------------------------------------------------------------


def test_bottom_is_the_other_end(tiny: Model, photos: Photos) -> None:
    top = draw("retrieval", tiny, ["stage2:3"], photos, samples=40, shown=40)
    bottom = draw("retrieval-bottom", tiny, ["stage2:3"], photos, samples=40, shown=40)
    (unit,) = bind(tiny, "stage2:3")
    scores = scores_of(unit, photos)
    assert [scores[shown(d)] for d in top] == sorted(scores.values(), reverse=True)
    assert [scores[shown(d)] for d in bottom] == sorted(scores.values())
    assert len({shown(d) for d in bottom}) == 40


def test_the_law_of_the_choice_is_in_the_trace(tiny: Model, photos: Photos) -> None:
    (unit,) = bind(tiny, "logits:1")
    ordered = sorted(scores_of(unit, photos).values())
    for name, best in (("retrieval", ordered[::-1][:5]), ("retrieval-bottom", ordered[:5])):
        for sample, draft in enumerate(draw(name, tiny, ["logits:1"], photos, samples=5, shown=5)):
            selection = draft.trace.to_json()["selection"]
            assert (selection["N"], selection["K"], selection["rank"]) == (40, 5, sample + 1)
            assert selection["nats"] == selection_kl(40, 5)
            assert selection["nats_of_rank"] == rank_kl(40, sample + 1)
            assert selection["nats_among_photos"] == pytest.approx(math.log(40 / 5))
            assert selection["mean"] == pytest.approx(sum(best) / 5, rel=1e-5)


def test_the_law_does_not_depend_on_how_many_were_asked_for(tiny: Model, photos: Photos) -> None:
    """A batch may hold one picture of a unit or nine: what is said of a picture is the same."""
    one = draw("retrieval", tiny, ["logits:1"], photos, samples=1)
    nine = draw("retrieval", tiny, ["logits:1"], photos, samples=9)
    assert one[0].trace == nine[0].trace


def test_ranks_beyond_those_shown_are_refused(tiny: Model, photos: Photos) -> None:
    drafts = draw("retrieval", tiny, ["logits:1"], photos, samples=4, shown=3)
    assert [d.failure is None for d in drafts] == [True, True, True, False]
    assert "3 are shown (option `shown`)" in str(drafts[3].failure)
    few = draw("retrieval-bottom", tiny, ["logits:1"], photos, samples=41, shown=99)
    assert "only 40 photos" in str(few[40].failure)
    assert few[0].trace.to_json()["selection"]["K"] == 40
    assert few[0].trace.to_json()["selection"]["nats"] == 0, "all of them is no selection"


def test_ties_at_the_cut_are_named(tiny: Model, photo_folder: Path, tmp_path: Path) -> None:
    for i in range(6):
        shutil.copy(photo_folder / "circle" / "0.png", tmp_path / f"copy{i}.png")
    shutil.copy(photo_folder / "dot" / "0.png", tmp_path / "other.png")
    drafts = draw("retrieval", tiny, ["logits:1"], Photos.open(tmp_path), samples=2, shown=3)
    lowest = draw("retrieval-bottom", tiny, ["logits:1"], Photos.open(tmp_path), samples=2, shown=3)
    assert any(
        "6 photos share the score of rank 3" in note
        for d in (drafts[0], lowest[0])
        for note in d.trace.to_json()["notes"]
    )
    whole = draw("retrieval", tiny, ["logits:1"], Photos.open(tmp_path), shown=7)
    assert not any("share" in note for note in whole[0].trace.to_json()["notes"]), "nothing is cut"


@pytest.mark.parametrize("name", ["retrieval", "retrieval-bottom"])
def test_none_shown_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="shown"):
        make_config(find_method(name), {"shown": 0})


# --- by tilt ------------------------------------------------------------------------------------------------


def test_a_strong_tilt_is_top_k(tiny: Model, photos: Photos) -> None:
    for unit in ("logits:2", "stage2:1"):
        top = [shown(d) for d in draw("retrieval", tiny, [unit], photos, samples=6)]
        assert [shown(d) for d in draw("retrieval-tilted", tiny, [unit], photos, samples=6, beta=1e9)] == top


def test_no_tilt_draws_every_photo_alike(tiny: Model, photos: Photos) -> None:
    (draft,) = draw("retrieval-tilted", tiny, ["logits:2"], photos, beta=0.0)
    (unit,) = bind(tiny, "logits:2")
    scores = list(scores_of(unit, photos).values())
    selection = draft.trace.to_json()["selection"]
    assert (selection["nats"], selection["beta"]) == (0, 0)
    assert selection["ess"] == pytest.approx(40)
    assert selection["mean"] == pytest.approx(sum(scores) / 40, rel=1e-5)
    firsts = {shown(draw("retrieval-tilted", tiny, ["logits:2"], photos, beta=0.0, seed=s)[0]) for s in range(30)}
    assert len(firsts) > 12


@pytest.mark.parametrize(
    ("option", "value", "key"), [("nats", 1.5, "nats"), ("mean", 1.2, "mean_in_sd"), ("beta", 0.7, "beta")]
)
def test_what_is_asked_for_is_reached_for_every_unit(
    option: str, value: float, key: str, tiny: Model, photos: Photos
) -> None:
    for draft in draw("retrieval-tilted", tiny, ["logits:0", "stage2:1", "stage1:2@max"], photos, **{option: value}):
        selection = draft.trace.to_json()["selection"]
        assert selection[key] == pytest.approx(value, rel=1e-6)
        assert selection["N"] == 40
        json.dumps(draft.trace.to_json(), allow_nan=False)


def test_at_equal_mean_it_costs_less_than_top_k(tiny: Model, photos: Photos) -> None:
    (unit,) = bind(tiny, "logits:3")
    values = torch.tensor(list(scores_of(unit, photos).values()), dtype=torch.float64)
    (top,) = draw("retrieval", tiny, ["logits:3"], photos, shown=5)
    mean = (top.trace.to_json()["selection"]["mean"] - float(values.mean())) / float(values.std(correction=0))
    (tilted,) = draw("retrieval-tilted", tiny, ["logits:3"], photos, mean=mean)
    assert tilted.trace.to_json()["selection"]["mean"] == pytest.approx(
        top.trace.to_json()["selection"]["mean"], rel=1e-5
    )
    assert tilted.trace.to_json()["selection"]["nats"] < top.trace.to_json()["selection"]["nats_among_photos"]


def test_samples_of_a_unit_are_one_draw_without_replacement(tiny: Model, photos: Photos) -> None:
    options = {"nats": 1.0}
    drawn = [shown(d) for d in draw("retrieval-tilted", tiny, ["logits:1"], photos, samples=40, **options)]
    assert len(set(drawn)) == 40
    card = find_method("retrieval-tilted")
    (unit,) = bind(tiny, "logits:1")
    context = Context(model=tiny, references=References(tiny, photos))
    for sample in (0, 7, 39):
        (alone,) = card.function([Item(target=unit, sample=sample, seed=0)], make_config(card, options), context)
        assert shown(alone) == drawn[sample]
    (beyond,) = card.function([Item(target=unit, sample=40, seed=0)], make_config(card, options), context)
    assert "only 40 photos" in str(beyond.failure)


def test_units_and_seeds_draw_for_themselves(tiny: Model, photos: Photos) -> None:
    def order(unit: str, seed: int) -> list[str]:
        return [shown(d) for d in draw("retrieval-tilted", tiny, [unit], photos, samples=10, seed=seed, beta=0.0)]

    assert order("logits:1", 0) == order("logits:1", 0)
    assert len({tuple(order(unit, seed)) for unit in ("logits:1", "logits:2") for seed in (0, 1)}) == 4


def test_draws_do_not_depend_on_the_order_of_the_photos(tiny: Model, photo_folder: Path) -> None:
    files = sorted(photo_folder.rglob("*.png"))
    forth, back = (
        [
            str(d.trace.to_json()["notes"][0]).split("sha256 ")[1][:16]
            for d in draw("retrieval-tilted", tiny, ["logits:1"], Photos.open(order), samples=8, nats=1.0)
        ]
        for order in (files, files[::-1])
    )
    assert forth == back


def test_first_draws_have_the_mean_that_is_promised(tiny: Model, photos: Photos) -> None:
    (unit,) = bind(tiny, "logits:1")
    scores, references = scores_of(unit, photos), References(tiny, photos)
    card = find_method("retrieval-tilted")
    items = [Item(target=unit, sample=0, seed=seed) for seed in range(300)]
    drafts = list(card.function(items, make_config(card, {"nats": 1.0}), Context(model=tiny, references=references)))
    drawn = torch.tensor([scores[shown(d)] for d in drafts], dtype=torch.float64)
    promised = drafts[0].trace.to_json()["selection"]["mean"]
    assert abs(float(drawn.mean()) - promised) < 4 * float(drawn.std()) / math.sqrt(300)
    assert Counter(map(shown, drafts)).most_common(1)[0][1] < 150, "no single photo"


def test_a_budget_that_the_photos_cannot_spend_is_refused_unit_by_unit(tiny: Model, photos: Photos) -> None:
    (draft,) = draw("retrieval-tilted", tiny, ["logits:1"], photos)  # 4 nats of at most log 40
    assert "maximum is 3.689 nats" in str(draft.failure)
    (draft,) = draw("retrieval-tilted", tiny, ["logits:1"], photos, mean=40.0)
    assert "standard deviations" in str(draft.failure)


@pytest.mark.parametrize(
    "options",
    [{"beta": 1.0, "nats": 2.0}, {"mean": 1.0, "beta": 0.0}, {"beta": math.inf}, {"nats": -1.0}, {"beta": -0.1}],
)
def test_one_target_and_a_possible_one(options: dict[str, float]) -> None:
    with pytest.raises(UserError, match="|".join(options)):
        make_config(find_method("retrieval-tilted"), options)


def test_the_choice_is_in_the_sidecar(tiny: Model, photo_folder: Path, tmp_path: Path) -> None:
    run = see(
        tiny, "logits:1", method="retrieval,retrieval-bottom,retrieval-tilted", photos=photo_folder, n=2, nats=1.0,
        out=tmp_path / "r", progress=False, verifiers="",
    )  # fmt: skip
    for picture in run:
        selection = json.loads(picture.path.with_suffix(".json").read_text())["trace"]["selection"]
        assert selection["nats"] > 0
        assert selection["N"] == 40
    assert len(run) == 6
