"""The registry of metrics: cards agree with what is measured, a new metric reaches sidecar, verify and table."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from entoptic.metrics import METRICS, registry
from entoptic.metrics.evidence import Evidence
from entoptic.metrics.registry import EDIT, MAP, PHOTOS, TRACE, UNIT, VERIFIERS, card, headline_order, metric, needing
from entoptic.metrics.unit_picture import UnitPicture
from entoptic.models.model import Model
from entoptic.runs.see import see
from entoptic.runs.store import Run
from entoptic.runs.verify import verify

STORED = Path(__file__).parents[1] / "stored" / "runs"


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A registry that a test may write to."""
    monkeypatch.setattr(registry, "_MEASURES", list(registry._MEASURES))
    before = dict(METRICS)
    yield
    METRICS.clear()
    METRICS.update(before)


def test_every_measurement_has_a_card_that_agrees_with_it() -> None:
    """Of the stored run, which holds pictures of units, maps and edits."""
    kinds = {"see": UNIT, "frontier": UNIT, "invert": MAP, "steer": EDIT}
    seen = set()
    for name, kind in kinds.items():
        for picture in Run.open(STORED / name):
            for entry in picture.record["evidence"]:
                found = METRICS[entry["name"]]
                assert kind in found.targets
                if entry["value"] is not None:
                    assert entry["direction"] == found.direction, entry["name"]
                seen.add(entry["name"])
    sets = {name for name, found in METRICS.items() if found.set_level}
    newer = {"map_cosine", "detectable_effect"} | {name for name, found in METRICS.items() if found.since}
    assert seen >= set(METRICS) - sets - newer  # than the run


def test_what_metrics_need() -> None:
    assert needing(PHOTOS) == {
        "percentile", "margin", "robustness", "selectivity", "relevance_agreement", "causal", "specificity", "two_afc",
        "consistency", "part_localisation", "part_coverage", "cell_consistency",
    }  # fmt: skip
    assert needing(VERIFIERS) >= {"transfer_top1", "others_match_top1"}
    assert needing(TRACE) == {"nats"}
    assert headline_order()[:3] == ["transfer_top1", "percentile", "causal"]


def test_a_metric_is_one_function_and_one_card(tiny: Model, tmp_path: Path, own: None) -> None:
    @metric(card("redness", "Share of red", unit="%", direction="none", targets={UNIT}))
    def redness(picture: UnitPicture) -> Evidence:
        value = 100 * float(picture.image[0, 0].mean() / picture.image[0].sum(0).mean())
        return Evidence("redness", value, 1, (value, value), "none", "%")

    run = see(tiny, "logits:0", method="fourier", steps=2, out=tmp_path / "r", verifiers="", progress=False)
    (picture,) = run
    assert picture["redness"] is not None
    row = json.loads((run.path / "metadata.jsonl").read_text().splitlines()[0])
    assert row["redness"] == picture["redness"]
    assert verify(run, model=tiny).ok
    sidecar = picture.path.with_suffix(".json")
    record = json.loads(sidecar.read_text())
    next(e for e in record["evidence"] if e["name"] == "redness")["value"] += 1
    sidecar.write_text(json.dumps(record))
    assert any("redness says" in line for line in verify(run, model=tiny).drift)


def test_what_cannot_be_measured_from_files_is_not_compared(tiny: Model, tmp_path: Path, own: None) -> None:
    @metric(card("votes", "People who agree", targets={UNIT}, recomputable=False))
    def votes(picture: UnitPicture) -> Evidence:
        return Evidence("votes", 0.0, 1, (0.0, 1.0))

    run = see(tiny, "logits:0", method="fourier", steps=2, out=tmp_path / "r", verifiers="", progress=False)
    sidecar = run[0].path.with_suffix(".json")
    record = json.loads(sidecar.read_text())
    next(e for e in record["evidence"] if e["name"] == "votes")["value"] = 0.7
    run.write_record(run[0].path, record)
    (run.path / "metadata.jsonl").unlink()
    (run.path / "files.json").unlink()
    progress = json.loads((run.path / "progress.json").read_text())  # while a job runs, rows may be missing
    (run.path / "progress.json").write_text(json.dumps(progress | {"state": "running"}))
    found = verify(run, model=tiny)
    assert found.ok
    assert any("votes cannot be measured from the files" in line for line in found.skipped)


def test_cards_that_contradict_are_refused(own: None) -> None:
    with pytest.raises(ValueError, match="there is a metric rank already"):
        metric(card("rank", "Rank", targets={UNIT}))
    with pytest.raises(ValueError, match="different kinds of pictures"):
        metric(card("one", "One", targets={UNIT}), card("two", "Two", targets={MAP}))
    with pytest.raises(ValueError, match='not "up"'):
        card("one", "One", targets={UNIT}, direction="up")
    with pytest.raises(ValueError, match="names photo, which there is not"):
        card("one", "One", targets={UNIT}, needs={"photo"})
    metric(card("one", "One", targets={UNIT}))(lambda picture: Evidence("another", 1.0))
    registry._MEASURES[:] = registry._MEASURES[-1:]
    with pytest.raises(ValueError, match="another, which has no card"):
        registry.measure_all(UNIT, None)
