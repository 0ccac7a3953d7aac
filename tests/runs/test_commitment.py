"""`commitment`: what is stored, found again and resumed; its window for other methods; its page; what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import entoptic
from conftest import TwoClasses
from entoptic.base.pixels import to_float
from entoptic.errors import UserError
from entoptic.gallery.commitment_page import write_commitment_pages
from entoptic.models.model import Model
from entoptic.priors.toy import GaussianMixture
from entoptic.runs.commitment import CommitmentResult, commitment
from entoptic.runs.results import read_results
from entoptic.runs.store import Run
from entoptic.sampling.switched_chains import Switched

SMALL: dict[str, Any] = {"steps": 10, "switches": 5, "seeds": 20, "bank": 256, "beta": 8.0, "progress": False}
UNIT = "logits:1"


def measured(tiny: Model, out: Path, **changes: Any) -> CommitmentResult:
    return commitment(tiny, UNIT, prior=TwoClasses(), out=out, **(SMALL | changes))[0]


def test_guidance_raises_success_and_the_record_holds_it(tiny: Model, tmp_path: Path) -> None:
    found = measured(tiny, tmp_path / "run", quantile=0.8, level=0.6)
    on, off = found.record["curves"]["on"], found.record["curves"]["off"]
    assert on["rates"][0] > on["rates"][-1] + 0.2
    assert off["rates"][-1] == on["rates"][0]  # both are guidance at every step, of the same seeds
    assert off["rates"][0] == on["rates"][-1]
    assert on["isotonic"] == sorted(on["isotonic"], reverse=True)
    assert off["isotonic"] == sorted(off["isotonic"])
    assert on["places"] == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    evidence = found.evidence
    assert evidence["success_guided"]["value"] == on["rates"][0]
    assert evidence["success_guided"]["n"] == 20
    assert found.record["threshold"]["n"] == 256
    assert set(found.result.record["files"]) == {"commitment.json", "curve.svg", "curve.png", "on.png", "off.png"}
    start, end = found.record["window"]
    assert 0 <= start < end <= 1
    assert evidence["success_in_window"]["n"] == 20
    assert found.window == f"{start:g}-{end:g}"


def test_scores_are_those_of_the_saved_pictures(tiny: Model, tmp_path: Path) -> None:
    found = measured(tiny, tmp_path / "run")
    sheet = Image.open(found.result.file("on.png")).convert("RGB")
    tile = np.asarray(sheet)[11:19, 1:9]  # the second seed at the first switch: 8 pixels with an edge of 1
    score = float(entoptic.bind(tiny, UNIT)[0].score(to_float(np.ascontiguousarray(tile)))[0])
    assert score == pytest.approx(found.record["curves"]["on"]["scores"][0][1], abs=0.05)


def test_the_same_request_is_found_again_and_another_is_not(
    tiny: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = measured(tiny, tmp_path / "run")
    monkeypatch.setattr(Switched, "trunk", lambda *_: pytest.fail("made again"))
    monkeypatch.setattr(Switched, "finish", lambda *_: pytest.fail("made again"))
    again = measured(tiny, tmp_path / "run")
    assert again.record == first.record
    # Another quantile judges the same chains, which are in the cache.
    other = measured(tiny, tmp_path / "run", quantile=0.7, level=0.99)
    assert other.result.path != first.result.path
    assert other.record["curves"]["on"]["scores"] == first.record["curves"]["on"]["scores"]


def test_an_interrupted_measurement_goes_on_where_it_stopped(
    tiny: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = measured(tiny, tmp_path / "whole")
    for path in (tmp_path / "whole").rglob("*"):
        assert not path.name.endswith(".part")
    finish, calls = Switched.finish, []

    def stops(self: Switched, *given: Any) -> Tensor:
        calls.append(1)
        if len(calls) == 9:
            raise KeyboardInterrupt
        return finish(self, *given)

    monkeypatch.setenv("ENTOPTIC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(Switched, "finish", stops)
    with pytest.raises(KeyboardInterrupt):
        measured(tiny, tmp_path / "run")
    assert not list(read_results(Run(tmp_path / "run")))
    after: list[int] = []
    monkeypatch.setattr(Switched, "finish", lambda self, *given: after.append(1) or finish(self, *given))
    resumed = measured(tiny, tmp_path / "run")
    assert len(after) == 2 * 6 * 2 - 8  # sides × switches × batches of seeds, less what was done
    assert resumed.record == whole.record


def test_more_seeds_reuse_those_that_are_there(tiny: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = measured(tiny, tmp_path / "run", seeds=16)
    calls: list[int] = []
    finish = Switched.finish
    monkeypatch.setattr(Switched, "finish", lambda self, *given: calls.append(1) or finish(self, *given))
    more = measured(tiny, tmp_path / "run", seeds=32)
    assert len(calls) == 12
    rows = zip(first.record["curves"]["off"]["scores"], more.record["curves"]["off"]["scores"])
    assert all(few == many[:16] for few, many in rows)


def test_photos_are_natural_where_they_are_given(tiny: Model, tmp_path: Path, photo_folder: Path) -> None:
    found = measured(tiny, tmp_path / "run", photos=photo_folder, quantile=0.8)
    photos = entoptic.Photos.open(photo_folder)
    unit = entoptic.bind(tiny, UNIT)[0]
    scores = torch.cat([unit.score(images) for _, images in photos.batches(tiny.card.prepare, 32)])
    assert found.record["threshold"]["n"] == len(photos)
    assert found.record["threshold"]["source"] == "photos"
    assert found.record["threshold"]["value"] == pytest.approx(float(scores.detach().double().quantile(0.8)), rel=1e-4)
    assert str(photo_folder) not in found.file.read_text()


def test_the_window_goes_to_other_methods(tiny: Model, tmp_path: Path) -> None:
    from entoptic.configs import EnergyDps

    found = measured(tiny, tmp_path / "run", quantile=0.8, level=0.6)
    assert EnergyDps(window=str(found.file)) == EnergyDps(window=found.window)
    options: dict[str, Any] = {
        "method": "energydps", "prior": TwoClasses(), "steps": 10, "bank": 512, "verifiers": "", "progress": False,
    }  # fmt: skip
    run = entoptic.see(tiny, UNIT, window=str(found.file), out=tmp_path / "see", **options)
    whole = entoptic.see(tiny, UNIT, out=tmp_path / "whole", **options)
    [one], [other] = list(run), list(whole)
    assert one.record["config"]["window"] == found.window
    assert one.record["key"] != other.record["key"]
    start, end = found.record["window"]
    inside = sum(start <= k / 10 + 1e-9 and k / 10 < end - 1e-9 for k in range(10))
    assert one.record["trace"]["calls"]["denoise_gradients"] == inside
    assert other.record["trace"]["calls"]["denoise_gradients"] == 10


def test_no_window_says_why(tiny: Model, tmp_path: Path) -> None:
    weak = measured(tiny, tmp_path / "run", beta=0.0)
    assert weak.record["window"] is None
    with pytest.raises(UserError, match=r"with guidance at every step .* succeed, and the window keeps 70%"):
        _ = weak.window
    assert weak.evidence["tau70_on"]["value"] is None
    assert "at no switch" in weak.evidence["tau70_on"]["reason"]
    easy = measured(tiny, tmp_path / "run", quantile=0.05)
    assert "without any guidance" in easy.record["why_no_window"]
    assert write_commitment_pages(tmp_path / "run")


def test_the_page_needs_no_other_file(tiny: Model, tmp_path: Path) -> None:
    found = measured(tiny, tmp_path / "run", quantile=0.8, level=0.6)
    [page] = write_commitment_pages(tmp_path / "run")
    text = page.read_text()
    assert not re.search(r'(?:src|href)="(?!data:|#)', text)
    assert text.count("data:image/png;base64,") == 2
    assert f"--energydps.window {found.window}" in text
    assert "success with guidance in the window alone" in text
    assert str(tmp_path) not in text
    assert text.count('class="hit"') == sum(
        sum(hit[:6]) for curve in found.record["curves"].values() for hit in zip(*zip(*curve["successes"]))
    )


def test_a_damaged_result_costs_no_other_page(tiny: Model, tmp_path: Path) -> None:
    measured(tiny, tmp_path / "run")
    other = measured(tiny, tmp_path / "run", quantile=0.8)
    other.file.write_text("{}")
    assert len(write_commitment_pages(tmp_path / "run")) == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sampler": "ancestrl"}, 'did you mean "ancestral"'),
        ({"reduction": "maxx"}, 'did you mean "max"'),
        ({"switches": 11}, "at most 10 switches"),
        ({"quantile": 0.995}, "fewer than 5 above it"),
        ({"quantile": 1.5}, "quantile"),
        ({"seeds": 1}, "seeds"),
        ({"beta": None, "nats": 50.0}, "not supported"),
        ({"beta": -1.0}, "beta"),
        ({"stepss": 3}, 'did you mean "steps"'),
        ({"reduction": "mean", "photos": "nowhere"}, "leave out --reduction"),
        ({"photos": "nowhere"}, "nowhere"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(changes: dict[str, Any], words: str, tiny: Model, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        measured(tiny, tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


def test_a_silent_unit_is_refused(tiny: Model, tmp_path: Path) -> None:
    flat = GaussianMixture(torch.ones(1), torch.zeros(1, 3, 8, 8), torch.full((1, 3, 8, 8), 1e-12), offset=0.5)
    with pytest.raises(UserError, match="nothing to tilt by"):
        commitment(tiny, UNIT, prior=flat, out=tmp_path / "run", **SMALL)
    assert not (tmp_path / "run").exists()


def test_a_folder_of_other_files_is_refused_before_the_work(tiny: Model, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"notes\.txt"):
        measured(tiny, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
