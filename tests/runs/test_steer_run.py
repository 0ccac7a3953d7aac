"""Steering as a run: its folder, what is resumed and refused, and its page."""

from __future__ import annotations

import json
import shlex
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from conftest import tiny_card, tiny_module
from entoptic.cli import main
from entoptic.errors import UserError
from entoptic.gallery.site import build
from entoptic.inversion.configs import Steer
from entoptic.inversion.maps import FeatureMaps
from entoptic.inversion.null_edits import COMMON_SIZE, OWN_SIZE, NullTest
from entoptic.inversion.targets import EditTarget, PhotoFile
from entoptic.methods import find_method
from entoptic.methods.contract import Item
from entoptic.methods.steer import SteerConcepts
from entoptic.models.model import Model
from entoptic.models.sources import SOURCES
from entoptic.runs.edit_items import Concepts, EditItems
from entoptic.runs.plan import Job
from entoptic.runs.steer import identity_of, steer, strongest
from entoptic.runs.store import Run
from entoptic.runs.verify import verify
from entoptic.units import dictionary

LAYER, SIDE = "stage2", 32
FEW = Steer(n=2, nulls=4, level=0.2, scales=(0.0, 1.0, 2.0))


class FakeInverter:
    """Colours are fixed mixtures of the channels, upsampled; noise comes on top."""

    steps, guidance, strength, size = 4, 1.0, 1.0, SIDE
    name, identity, card = "file:fake", "fake identity", {}

    def __init__(self, model: Model, layer: str = LAYER) -> None:
        self.maps, self.calls = FeatureMaps.of(model, layer), 0
        self.sd_C = torch.ones(self.maps.channels)
        mix = torch.randn(3, self.maps.channels, generator=torch.Generator().manual_seed(0))
        self.mix_3C = 0.2 * mix / self.maps.channels**0.5

    def noise(self, generators: Sequence[torch.Generator]) -> Tensor:
        return torch.stack([0.05 * torch.randn(3, SIDE, SIDE, generator=g) for g in generators])

    def sample(self, maps_BChw: Tensor, noise: Tensor, **options: Any) -> Tensor:
        self.calls += 1
        colours = F.interpolate(torch.einsum("xc,bchw->bxhw", self.mix_3C, maps_BChw), (SIDE, SIDE), mode="bilinear")
        return (0.5 + colours + noise).clamp(0, 1)


class FakeDictionary:
    """One concept for each four channels."""

    def __init__(self, model: Model, layer: str = LAYER) -> None:
        self.layer, self.model_sha256 = layer, model.card.weights_sha256
        self.names = ["sky", "head <b>", "leaves", "rest"]

    def parts(self, maps_BCD: Tensor) -> Tensor:
        whole = torch.zeros(4, *maps_BCD.shape)
        for k in range(4):
            whole[k, :, 4 * k : 4 * k + 4] = maps_BCD[:, 4 * k : 4 * k + 4]
        return whole


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    rng = np.random.default_rng(3)
    pixels = rng.uniform(0, 255, (5, 7, 3)).astype(np.uint8).repeat(9, 0).repeat(9, 1)
    path = tmp_path / "a photo.png"
    Image.fromarray(pixels).save(path)
    return path


def made(tiny: Model, photo: Any, out: Path, **more: Any) -> Run:
    options = {"config": FEW, "inverter": FakeInverter(tiny), "dictionary": FakeDictionary(tiny), **more}
    return steer(tiny, LAYER, photo, out=out, progress=False, **options)


def test_the_folder_is_an_ordinary_run(tiny: Model, photo: Path, tmp_path: Path) -> None:
    run = made(tiny, photo, tmp_path / "r", concepts=[2, "sky"])
    assert len(run) == 2
    by_name = {picture.record["label"]: picture for picture in Run.open(tmp_path / "r")}
    assert set(by_name) == {"leaves", "sky"}
    picture = by_name["leaves"]
    assert picture.method == "steer"
    assert picture.unit == f"dict({LAYER}):2"
    assert picture.pixels.shape == (SIDE, SIDE, 3)
    names = {"effect_p", "affected_area", "attenuation", "leakage", "logit_change", "map_cosine"}
    assert set(picture.evidence) == names | {"detectable_effect"}
    assert "too few" in picture.evidence["detectable_effect"]["reason"]
    for entry in (picture.evidence[name] for name in names):
        assert entry["value"] is not None
        assert entry["n"] == (4 if entry["name"] == "effect_p" else 2)
        assert entry["interval"][0] - 1e-9 <= entry["value"] <= entry["interval"][1] + 1e-9
    maps = picture.record["maps"]
    assert {"photo", "original", "overlay", "active", "effect", "scale-0.25", "scale-1", "scale-2"} <= set(maps)
    with Image.open(tmp_path / "r" / maps["photo"]["file"]) as image:
        assert image.size == (SIDE, SIDE)
    with (
        Image.open(tmp_path / "r" / maps["scale-1"]["file"]) as one,
        Image.open(tmp_path / "r" / maps["original"]["file"]) as original,
    ):
        assert np.array_equal(np.asarray(one), np.asarray(original))
    with Image.open(tmp_path / "r" / maps["scale-0.25"]["file"]) as shown:
        assert np.array_equal(np.asarray(shown)[..., :3], picture.pixels)
    sweep = picture.record["steering"]["sweep"]
    assert [step["scale"] for step in sweep] == [0.0, 0.25, 1.0, 2.0]
    assert sweep[2]["delta"] == 0
    assert sweep[2]["attenuation"]["value"] == 1
    assert sweep[1]["attenuation"]["value"] == picture.evidence["attenuation"]["value"]
    rows = [json.loads(line) for line in (tmp_path / "r" / "metadata.jsonl").read_text().splitlines()]
    assert {row["label"] for row in rows} == {"leaves", "sky"}


def test_the_record_holds_the_numbers_of_the_pictures(tiny: Model, photo: Path, tmp_path: Path) -> None:
    """The difference, recomputed from the two pictures that are shown, of one seed."""
    run = made(tiny, photo, tmp_path / "r", concepts=[1], config=Steer(n=1, nulls=0))
    (picture,) = run
    with Image.open(run.path / picture.record["maps"]["original"]["file"]) as image:
        original = np.asarray(image)[..., :3].astype(float)
    delta = np.sqrt(np.square((original - picture.pixels) / 255).sum(2))
    assert picture.record["steering"]["largest"] == pytest.approx(delta.max(), rel=1e-4)
    with Image.open(run.path / picture.record["maps"]["effect"]["file"]) as image:
        grey = np.asarray(image)[..., 0]
    assert np.abs(grey - 255 * delta / delta.max()).max() <= 0.51
    assert picture.evidence["affected_area"]["value"] == pytest.approx((delta >= 0.33 * delta.max()).mean())
    assert picture.evidence["effect_p"]["value"] is None
    assert "nulls 0" in picture.evidence["effect_p"]["reason"]
    assert picture.evidence["attenuation"]["interval"] is None


def test_size_and_power_of_the_test_are_recorded_verified_and_shown(tiny: Model, photo: Path, tmp_path: Path) -> None:
    run = made(tiny, photo, tmp_path / "r", concepts=[1], config=Steer(n=1, nulls=19, scales=()))
    (picture,) = run
    c = picture.record["steering"]["calibration"]
    assert c["version"] == 2
    assert c["size"] > 0
    assert c["flagged_from"] == pytest.approx(c["threshold"] / c["peak"])
    least = picture.evidence["detectable_effect"]
    assert (least["value"], least["interval"], least["n"]) == (
        c["detectable"]["value"], c["detectable"]["interval"], 19,
    )  # fmt: skip
    assert least["interval"][0] <= least["value"] <= least["interval"][1]
    detail = picture.evidence["effect_p"]["detail"]
    assert (detail["size of the test"], detail["flagged from"]) == (c["size"], c["flagged_from"])
    build(run.path)
    (page,) = run.path.glob("gallery/unit-*.html")
    text = page.read_text()
    for words in ("times as large as it is shown", "The concept gets an outline if", "80 % of edits that change it"):
        assert words in text


def test_only_keys_of_edits_that_are_compared_hold_the_version(tiny: Model) -> None:
    card = find_method("steer")
    inverter, known = FakeInverter(tiny), FakeDictionary(tiny)
    concepts = Concepts(dictionary=known, source="x", identity="y")
    target = EditTarget(layer=LAYER, photo=PhotoFile("a", "b"), source="x", concept=0)
    item = Item(target=target, sample=0, seed=0)

    def key(test: NullTest, nulls: int) -> str:
        kind = EditItems(maps=inverter.maps, inverter=inverter, prior={}, concepts=concepts, photos=None, test=test)  # type: ignore[arg-type]
        return kind.key(Job(card=card, config=SteerConcepts(nulls=nulls), items=[]), item)

    assert key(OWN_SIZE, 19) != key(COMMON_SIZE, 19)
    assert key(OWN_SIZE, 0) == key(COMMON_SIZE, 0)


def test_what_is_there_is_not_made_again(tiny: Model, photo: Path, tmp_path: Path) -> None:
    made(tiny, photo, tmp_path / "r", concepts=[0])
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in (tmp_path / "r").glob("pictures/*/*")}
    inverter = FakeInverter(tiny)
    assert len(made(tiny, photo, tmp_path / "r", concepts=[0], inverter=inverter)) == 1
    assert inverter.calls == 0
    run = made(tiny, photo, tmp_path / "r", concepts=[0, 1], inverter=inverter)
    assert inverter.calls == FEW.n
    assert len(run) == 2
    after = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in (tmp_path / "r").glob("pictures/*/*") if p in before}
    assert after == before
    changed = Steer(n=2, nulls=4, level=0.2, scales=(0.0, 1.0, 2.0), scale=0.5)
    assert len(made(tiny, photo, tmp_path / "r", concepts=[0], config=changed)) == 3
    same = Steer(n=2, nulls=4, level=0.2, scales=(0.0, 1.0, 2.0), batch_size=3)
    inverter.calls = 0
    made(tiny, photo, tmp_path / "r", concepts=[0], config=same, inverter=inverter)
    assert inverter.calls == 0  # results do not depend on the batch size


def test_an_interrupted_run_keeps_what_it_had(tiny: Model, photo: Path, tmp_path: Path) -> None:
    second = tmp_path / "second.png"
    Image.new("RGB", (40, 40), (20, 160, 90)).save(second)

    class Stopped(FakeInverter):
        def sample(self, maps_BChw: Tensor, noise: Tensor, **options: Any) -> Tensor:
            if self.calls == FEW.n:
                raise KeyboardInterrupt
            return super().sample(maps_BChw, noise, **options)

    with pytest.raises(KeyboardInterrupt):
        made(tiny, [photo, second], tmp_path / "r", concepts=[0], inverter=Stopped(tiny))
    assert len(Run.open(tmp_path / "r")) == 1
    inverter = FakeInverter(tiny)
    assert len(made(tiny, [photo, second], tmp_path / "r", concepts=[0], inverter=inverter)) == 2
    assert inverter.calls == FEW.n


def test_without_names_the_strongest_concepts_of_the_photo_are_steered(
    tiny: Model, photo: Path, tmp_path: Path
) -> None:
    run = made(tiny, photo, tmp_path / "r")
    shares = {p.record["steering"]["concept"]: p.record["steering"]["share"] for p in run}
    assert len(shares) == 3
    rest = made(tiny, photo, tmp_path / "s", concepts=[0, 1, 2, 3])
    (left,) = [p.record["steering"]["share"] for p in rest if p.record["steering"]["concept"] not in shares]
    assert left <= min(shares.values())


def test_without_context_no_copy_of_the_photo_is_kept(tiny: Model, photo: Path, tmp_path: Path) -> None:
    run = made(tiny, photo, tmp_path / "r", concepts=[1], context=False)
    (picture,) = run
    assert "photo" not in picture.record["maps"]
    assert not list(run.path.glob("**/*.photo.png"))
    assert verify(run, model=tiny).ok
    build(run.path)
    (page,) = run.path.glob("gallery/unit-*.html")
    text = page.read_text()
    assert "Where the picture changes" in text  # over the decoded map then
    assert "The photo a photo.png" not in text
    # Asked for with the photo, the copy is added and nothing is made again; it stays where it is.
    inverter = FakeInverter(tiny)
    made(tiny, photo, tmp_path / "r", concepts=[1], inverter=inverter)
    assert inverter.calls == 0
    (picture,) = Run.open(run.path)
    whole = made(tiny, photo, tmp_path / "s", concepts=[1])[0]
    assert picture.record["maps"] == whole.record["maps"]
    assert verify(run, model=tiny).ok
    before = picture.path.with_suffix(".json").read_bytes()
    made(tiny, photo, tmp_path / "r", concepts=[1], context=False)
    assert picture.path.with_suffix(".json").read_bytes() == before


def test_the_strongest_and_the_identity_need_one_part_at_a_time(tiny: Model) -> None:
    class ByParts(FakeDictionary):
        def part(self, maps_BCD: Tensor, k: int) -> Tensor:
            return super().parts(maps_BCD)[k]

        def parts(self, maps_BCD: Tensor) -> Tensor:
            raise AssertionError("all parts at once")

    map_1Chw = torch.randn(1, 16, 4, 4, generator=torch.Generator().manual_seed(1))
    for one in (strongest, lambda d, _: identity_of(d, 16)):
        assert one(ByParts(tiny), map_1Chw) == one(FakeDictionary(tiny), map_1Chw)


def test_bad_input_is_refused(tiny: Model, photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "r"
    with pytest.raises(UserError, match=r"no concept 9: there are 4, 0 to 3; did you mean 3 \(rest\)"):
        made(tiny, photo, out, concepts=[9])
    with pytest.raises(UserError, match=r'no concept "leave".*did you mean "leaves"'):
        made(tiny, photo, out, concepts=["leave"])
    with pytest.raises(UserError, match='is of stage1, not of stage2; did you mean the layer "stage1"'):
        made(tiny, photo, out, dictionary=FakeDictionary(tiny, "stage1"))
    other = Model(tiny_module(5), tiny_card(), device="cpu")
    with pytest.raises(UserError, match="its concepts mean nothing there"):
        made(tiny, photo, out, dictionary=FakeDictionary(other))
    with pytest.raises(UserError, match="is for the layer stage1 of tiny, not for stage2"):
        made(tiny, photo, out, inverter=FakeInverter(tiny, "stage1"))
    with pytest.raises(UserError, match="its weights are"):
        made(tiny, photo, out, inverter=FakeInverter(other))
    with pytest.raises(UserError, match="give a dictionary"):
        made(tiny, photo, out, dictionary=None)
    with pytest.raises(UserError, match=r"no class of tiny.*stripe"):
        made(tiny, photo, out, dictionary=None, class_name="strip", class_photos=photo.parent)
    assert not list(out.glob("pictures/*/*"))


def test_unreadable_photos_cost_only_themselves(tiny: Model, photo: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(photo.read_bytes()[:60])
    with pytest.raises(UserError, match=r"no photo could be steered: .*broken\.png"):
        made(tiny, broken, tmp_path / "r")
    with pytest.raises(UserError, match="nowhere"):
        made(tiny, tmp_path / "nowhere.png", tmp_path / "r")
    with pytest.warns(UserWarning, match=r"broken\.png"):
        run = made(tiny, [broken, photo], tmp_path / "s", concepts=[0])
    assert len(run) == 1
    assert "broken.png" in run.failures[0]


def test_verify_checks_the_files_and_says_what_it_cannot_redo(tiny: Model, photo: Path, tmp_path: Path) -> None:
    run = made(tiny, photo, tmp_path / "r", concepts=[0])
    found = verify(run, model=tiny)
    assert found.ok
    assert "needs its inverter" in found.skipped[0]
    overlay = run.path / run[0].record["maps"]["overlay"]["file"]
    overlay.write_bytes(overlay.read_bytes() + b" ")
    assert "map overlay" in verify(run, model=tiny).drift[0]


def test_the_page_shows_the_photo_the_region_and_the_sweep(tiny: Model, photo: Path, tmp_path: Path) -> None:
    run = made(tiny, photo, tmp_path / "r", concepts=[1])
    build(run.path)
    (page,) = run.path.glob("gallery/unit-*.html")
    text = page.read_text()
    assert "Where the picture changes" in text
    assert "head &lt;b&gt;" in text
    assert "head <b>" not in text
    for alt in (
        "The photo a photo.png",
        "with the outline of the affected region",
        "Decoded with 2 times",
        "Blue where",
    ):
        assert alt in text
    assert "20\u00a0%" in text or "20 % would get an outline" in text
    assert "a photo.png decoded with 0.25 times its concept" in text
    for link in ("photo", "original", "overlay", "active", "scale-2"):
        file = Path(run[0].record["maps"][link]["file"]).name
        assert file.replace(" ", "%20") in text
    # A record that somebody has damaged costs the section, not the page.
    sidecar = run[0].path.with_suffix(".json")
    record = json.loads(sidecar.read_text())
    record["steering"]["sweep"][0]["delta"] = "<script>"
    sidecar.write_text(json.dumps(record))
    build(run.path)
    assert "Where the picture changes" not in page.read_text()


def test_the_verb_and_concepts_made_on_the_fly(
    tiny: Model, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the neighbours' modules replaced: concepts are discovered once and then taken from the run."""
    asked: list[Any] = []
    monkeypatch.setitem(SOURCES, "toy", lambda name, device: (tiny.module, tiny.card))

    def concepts_of(model: Model, layer: str, photos: Any, class_index: int, config: Any = None) -> FakeDictionary:
        asked.append((layer, class_index, config.concepts))
        return FakeDictionary(model)

    def save(dictionary: FakeDictionary, file: Path) -> None:
        file.write_text("saved")

    fakes = {
        "entoptic.inversion.class_concepts": {"concepts_of": concepts_of},
        "entoptic.units.dictionary": {"save": save, "load_dictionary": lambda file: FakeDictionary(tiny)},
    }
    monkeypatch.setattr("entoptic.inversion.saved.shipped_inverter", lambda maps: "builtin:none")
    monkeypatch.setattr("entoptic.inversion.saved.load_inverter", lambda *a, **k: FakeInverter(tiny))
    for name, members in fakes.items():
        module = types.ModuleType(name)
        module.__dict__.update(vars(dictionary) if name == dictionary.__name__ else {})
        module.__dict__.update(members)
        monkeypatch.setitem(sys.modules, name, module)
    words = ["steer", "toy:x", LAYER, str(photo), "--concept", "2", "--class", "stripe", "--photos", str(photo.parent)]
    words += ["--n", "1", "--nulls", "0", "--scale", "0.5", "--out", str(tmp_path / "r"), "--device", "cpu"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "leaves" in printed
    assert "0.5 asked" in printed
    assert "index.html" in printed
    assert main(words) == 0
    assert asked == [(LAYER, 2, 4)]
    (file,) = (tmp_path / "r" / "dictionaries").iterdir()
    (picture,) = Run.open(tmp_path / "r")
    assert picture.unit == f"dict({file}):2"
    again = shlex.split(picture.record["command"])
    assert again[again.index("--class") + 1] == "stripe"
    assert again[again.index("--scale") + 1] == "0.5"
    assert "--concepts" not in again
    assert main([*words, "--concepts", "0"]) == 0  # as many as the rule says: others, so they are discovered anew
    assert asked[1:] == [(LAYER, 2, 0)]
    assert len(list((tmp_path / "r" / "dictionaries").iterdir())) == 2
    capsys.readouterr()
    assert main([*words[:5], "12", *words[6:]]) == 2
    assert "did you mean 3 (rest)" in capsys.readouterr().err
    assert main([*words, "--nulls", "5"]) == 2


def test_null_edits_are_asked_for() -> None:
    assert Steer().nulls == 0


def test_a_dry_run_counts_what_would_be_decoded(
    tiny: Model, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = FakeInverter(tiny)
    made(tiny, photo, tmp_path / "r", concepts=[0, 1], inverter=fake, config=FEW, dry_run=True)
    # 2 seeds × (the original + 2 concepts × (3 scales + the test's own edit + 4 random ones)), 4 steps without guidance
    assert "34 pictures to decode, 4 network evaluations each: about " in capsys.readouterr().err
    assert fake.calls == 2
    assert not (tmp_path / "r").exists()


def test_the_time_is_said_before_anything_is_made(
    tiny: Model, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steer(tiny, LAYER, photo, dictionary=FakeDictionary(tiny), inverter=FakeInverter(tiny), concepts=[0], config=FEW,
          out=tmp_path / "r")  # fmt: skip
    assert "18 pictures to decode" in capsys.readouterr().err
    steer(tiny, LAYER, photo, dictionary=FakeDictionary(tiny), inverter=FakeInverter(tiny), concepts=[0], config=FEW,
          out=tmp_path / "r")  # fmt: skip
    assert "to decode" not in capsys.readouterr().err
