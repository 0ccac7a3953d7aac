"""`invert` keeps what `see` keeps: nothing twice, nothing lost, and every number comes out of the files again."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Generator, Tensor
from torch.nn.functional import interpolate as resize

import entoptic
from conftest import tiny_card, tiny_module
from entoptic.base.estimates import wilson
from entoptic.base.pixels import centre_square
from entoptic.base.randomness import generator_for
from entoptic.cli import main
from entoptic.errors import UserError
from entoptic.gallery.site import build
from entoptic.inversion import saved
from entoptic.inversion.configs import EntopticRecipe
from entoptic.inversion.map_gaussian import FeatureMapGaussian
from entoptic.inversion.maps import FeatureMaps, superpixel_cosine
from entoptic.metrics.distribution import features, frechet, kid
from entoptic.metrics.inversion import cross_match, sample_sd
from entoptic.models.model import Model
from entoptic.models.sources import SOURCES
from entoptic.runs.invert import invert
from entoptic.runs.set_evidence import SD_WHITE, SET_FILE
from entoptic.runs.store import Run
from entoptic.runs.verify import verify

LAYER = "stage2"


class Fake:
    """A fixed linear map from maps to colours, and noise on top: the members that an inverter has."""

    def __init__(self, model: Model, layer: str = LAYER, size: int = 32, identity: str = "fake-1") -> None:
        self.maps, self.size, self.identity, self.name = FeatureMaps.of(model, layer), size, identity, "file:fake"
        self.steps, self.guidance, self.strength = 4, 1.0, 1.0
        self.card: dict[str, Any] = {"prior": "builtin:small-32"}
        draw = torch.Generator().manual_seed(0)
        self._colours = torch.randn(3, self.maps.channels, generator=draw) / 4
        photos = torch.rand(60, 3, 2, 2, generator=draw).repeat_interleave(16, 2).repeat_interleave(16, 3)
        with torch.no_grad():
            seen = self.maps.read(photos)
        self.mean_C, self.sd_C, self.law = seen.mean((0, 2, 3)), seen.std((0, 2, 3)), FeatureMapGaussian.fit(seen)
        self.drawn: list[int] = []

    def noise(self, generators: Sequence[Generator]) -> Tensor:
        return torch.stack([torch.randn(3, self.size, self.size, generator=g) for g in generators])

    def sample(
        self, maps_BChw: Tensor, noise: Tensor, *, steps: int | None = None, strength: float | None = None,
        guidance: float | None = None, pull: int = 0, batch_size: int = 64,
    ) -> Tensor:  # fmt: skip
        assert maps_BChw.shape[1:] == (self.maps.channels, *self.maps.grid)
        self.drawn.append(len(maps_BChw))
        plain = torch.einsum("oc,bchw->bohw", self._colours, maps_BChw)
        plain = resize(plain, (self.size, self.size), mode="nearest").sigmoid()
        return (plain * (1 if strength is None else strength) + 0.1 * noise).clamp(0, 1)

    def standardise(self, maps_BChw: Tensor) -> Tensor:
        return (maps_BChw - self.mean_C[:, None, None]) / self.sd_C.clamp_min(1e-6)[:, None, None]


def generator(seed: int, unit: str, sample: int, candidate: int = 0) -> torch.Generator:
    """The generator that a picture's noise comes from."""
    return generator_for(seed, unit, sample, *([candidate] if candidate else []))


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> Model:
    """The tiny network under a loadable name, with a loadable inverter: what the command line needs."""
    from entoptic.models.sources import load

    monkeypatch.setitem(SOURCES, "tiny", lambda seed, _: (tiny_module(int(seed)), tiny_card(name=f"tiny:{seed}")))
    model = load("tiny:0", device="cpu")
    fakes = {name: Fake(model) for name in ("builtin:fake", "file:fake")}
    monkeypatch.setattr(saved, "shipped_inverter", lambda maps: "builtin:fake")
    monkeypatch.setattr(saved, "load_inverter", lambda name, model=None, prior=None, device="auto": fakes[name])
    return model


@pytest.fixture
def photos(photo_folder: Path) -> list[str]:
    return [str(photo_folder / "circle" / "0.png"), str(photo_folder / "dot" / "3.png")]


Do = Callable[..., Run]


@pytest.fixture
def do(tiny: Model, tmp_path: Path) -> Do:
    def run(photos: Any, *, inverter: Any = None, **more: Any) -> Run:
        given = {"out": tmp_path / "r", "verifiers": "", "progress": False, "n": 3} | more
        return invert(tiny, LAYER, photos, inverter=inverter or Fake(tiny), **given)

    return run


def everything(run: Run) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in run.path.rglob("*") if p.is_file() and p.name != ".lock"}


def seen(path: str) -> Tensor:
    return centre_square(Image.open(path).convert("RGB"), 32)[None].float() / 255


def pixels(picture: Any) -> Tensor:
    return torch.from_numpy(picture.pixels.copy()).permute(2, 0, 1)[None].float() / 255


# --- what a run holds ----------------------------------------------------------------------------------------------


def test_pictures_are_drawn_from_the_photos_map_and_measured(tiny: Model, do: Do, photos: list[str]) -> None:
    fake, judge = Fake(tiny), Model(tiny_module(4), tiny_card(name="judge"), device="cpu")
    run = do(photos, inverter=fake, verifiers=[judge, tiny])
    assert sorted((p.unit, p.sample) for p in run) == [(f"fmap({LAYER})<{p}>", k) for p in photos for k in range(3)]
    for picture in run:
        path = picture.record["photo"]["path"]
        assert picture.record["photo"]["sha256"] == hashlib.sha256(Path(path).read_bytes()).hexdigest()
        with torch.no_grad():
            wanted = fake.maps.read(seen(path))
            found = fake.maps.read(pixels(picture))
        noise = fake.noise([generator(0, picture.unit, picture.sample)])
        drawn = (fake.sample(wanted, noise)[0] * 255).round().byte().permute(1, 2, 0).numpy()
        assert np.array_equal(picture.pixels, drawn)
        assert picture["cosine"] == pytest.approx(float(superpixel_cosine(found, wanted)), abs=1e-5)
        z = [fake.standardise(m) for m in (found, wanted)]
        assert picture["cosine_standardised"] == pytest.approx(float(superpixel_cosine(*z)), abs=1e-5)
        same = [int(m(seen(path)).argmax()) == int(m(pixels(picture)).argmax()) for m in (tiny, judge)]
        assert picture["match_top1"] == float(same[0])
        entry = picture.evidence["others_match_top1"]
        assert (entry["value"], entry["n"]) == (float(same[1]), 1)  # the network never judges itself
        assert entry["interval"] == list(wilson(same[1], 1))
        assert picture["map_percentile"] is not None
        assert picture.record["inverter"] == {"name": "file:fake", "identity": "fake-1", "source": "file:fake"}
        assert picture.record["config"]["steps"] == 4
    mates = torch.cat([pixels(p) for p in run if p.unit == run[0].unit])
    assert run[0]["sample_sd"] == pytest.approx(float(sample_sd(mates).mean()), abs=1e-6)
    with Image.open(run.path / run[0].record["maps"]["sd"]["file"]) as image:
        stored = np.asarray(image)
    assert stored.shape == (32, 32, 2)
    grey = (sample_sd(mates).numpy() / SD_WHITE).clip(0, 1) * 255
    assert np.abs(stored[:, :, 0] - grey).max() <= 0.51


def test_generators_belong_to_pictures_not_to_batches(do: Do, photos: list[str], tmp_path: Path) -> None:
    whole = {(p.unit, p.sample): p.pixels for p in do(photos, n=3)}
    for out, asked in (("one", {"batch_size": 1, "n": 3}), ("two", {"batch_size": 2, "n": 2})):
        for picture in do(photos[::-1], out=tmp_path / out, **asked):
            assert np.array_equal(whole[picture.unit, picture.sample], picture.pixels)
    other = do(photos, n=3, seed=1, out=tmp_path / "seed")
    assert not any(np.array_equal(whole[p.unit, p.sample], p.pixels) for p in other)
    texts = {(s, u, k, c) for s in (0, 1) for u in ("a", "b") for k in (0, 1) for c in (0, 1)}
    draws = {float(torch.rand(1, generator=generator(*one))) for one in texts}
    assert len(draws) == len(texts)


def test_best_of_keeps_the_highest_cosine_and_says_so(tiny: Model, do: Do, photos: list[str]) -> None:
    fake = Fake(tiny)
    run = do(photos[:1], inverter=fake, n=3, best_of=4, batch_size=5)
    with torch.no_grad():
        wanted = fake.maps.read(seen(photos[0]))
        for picture in run:
            noise = fake.noise([generator(0, picture.unit, picture.sample, c) for c in range(4)])
            candidates = (fake.sample(wanted.expand(4, -1, -1, -1), noise) * 255).round() / 255
            cosines = superpixel_cosine(fake.maps.read(candidates), wanted.expand(4, -1, -1, -1))
            assert picture["cosine"] == pytest.approx(float(cosines.max()), abs=1e-5)
            assert picture.record["trace"]["cosines of candidates"] == pytest.approx(cosines.tolist(), abs=1e-5)
            assert "best of 4" in picture.evidence["cosine"]["detail"]["selected"]
            assert "best of 4" in picture.evidence["match_top1"]["detail"]["selected"]
            assert "best of 4" in picture.evidence["sample_sd"]["detail"]["selected"]
    pulled = do(photos[:1], n=1, pull=2)
    assert any("pulled by 2" in str(p.evidence["cosine"]["detail"].get("selected")) for p in pulled)


# --- nothing twice, nothing lost -----------------------------------------------------------------------------------


def test_the_same_request_makes_nothing_and_more_samples_only_those(tiny: Model, do: Do, photos: list[str]) -> None:
    fake = Fake(tiny)
    run = do(photos, inverter=fake, n=3)
    before = everything(run)
    fake.drawn.clear()
    assert everything(do(photos, inverter=fake, n=3)) == before
    do(photos, inverter=fake, n=2)  # a smaller request does not forget the third sample
    assert fake.drawn == []
    assert everything(run) == before
    do(photos, inverter=fake, n=5)
    assert sum(fake.drawn) == 4
    assert {p.evidence["sample_sd"]["n"] for p in run} == {5}
    fake.drawn.clear()
    for change in ({"steps": 7}, {"guidance": 2.0}, {"seed": 3}, {"inverter": Fake(tiny, identity="fake-2")}):
        made = len(run)
        do(photos[:1], n=1, **{"inverter": fake} | change)
        assert len(run) == made + 1
    assert do(photos[:1], inverter=fake, n=1, steps=4) is not None  # the default, said aloud, is the same request
    assert len(run) == made + 1


def test_other_judges_measure_again_and_make_nothing(tiny: Model, do: Do, photos: list[str]) -> None:
    fake = Fake(tiny)
    first = {p.path: (p.path.read_bytes(), p["others_match_top1"]) for p in do(photos[:1], inverter=fake)}
    fake.drawn.clear()
    judge = Model(tiny_module(4), tiny_card(name="judge"), device="cpu")
    for picture in do(photos[:1], inverter=fake, verifiers=[judge]):
        assert (picture.path.read_bytes(), None) == first[picture.path]
        assert picture["others_match_top1"] is not None
        assert picture["sample_sd"] is not None
    assert fake.drawn == []


def test_an_interrupted_run_goes_on(tiny: Model, do: Do, photos: list[str], tmp_path: Path) -> None:
    fake = Fake(tiny)
    plain = fake.sample
    whole = everything(do(photos, inverter=fake, out=tmp_path / "whole"))

    def stop(maps: Tensor, noise: Tensor, **more: Any) -> Tensor:
        if len(fake.drawn) >= 2:
            raise KeyboardInterrupt
        return plain(maps, noise, **more)

    fake.sample, fake.drawn = stop, []  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        do(photos, inverter=fake, batch_size=2)
    assert len(Run(tmp_path / "r")) == 4
    assert verify(tmp_path / "r", model=tiny, inverter=fake).ok  # type: ignore[arg-type]
    fake.sample, fake.drawn = plain, []  # type: ignore[method-assign]
    run = do(photos, inverter=fake, batch_size=2)
    assert fake.drawn == [2]
    names = {Path(path).name: data for path, data in whole.items() if path.endswith(".png")}
    assert {Path(p).name: d for p, d in everything(run).items() if p.endswith(".png")} == names
    evidence = {p.path.name: p.record["evidence"] for p in Run(tmp_path / "whole")}
    assert {p.path.name: p.record["evidence"] for p in run} == evidence


def test_one_bad_photo_does_not_cost_the_others(do: Do, photos: list[str], tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    given = [photos[0], str(tmp_path / "broken.png"), str(tmp_path / "gone.png"), photos[1]]
    with pytest.warns(UserWarning, match="cannot be read"):
        run = do(given, n=2)
    assert len(run) == 4
    assert len(run.failures) == 2
    assert any(("broken.png" in f and "damaged" in f) or "known format" in f for f in run.failures)
    assert any("gone.png" in f and "No such file" in f for f in run.failures)
    with pytest.raises(UserError, match=r"broken\.png cannot be read"):
        do(given[1:2], out=tmp_path / "none")


def test_folders_are_unfolded_and_doubles_dropped(do: Do, photo_folder: Path) -> None:
    run = do([photo_folder / "dot", str(photo_folder / "dot" / "3.png")], n=1)
    assert sorted(p.record["label"] for p in run) == [f"{i}.png" for i in range(8)]


# --- sets ----------------------------------------------------------------------------------------------------------


class WithFeatures(torch.nn.Module):
    """The tiny network with the two methods of timm's that pooled features are read by."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        net = tiny_module(seed)
        self.body, self.head = net[:-1], net[-1]

    def forward_features(self, x: Tensor) -> Tensor:
        return self.body(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        return x if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


def test_many_pictures_are_measured_as_a_set(tiny: Model, do: Do, photo_folder: Path, tmp_path: Path) -> None:
    fake = Fake(tiny)
    given = [str(p) for p in sorted(photo_folder.rglob("*.png"))]
    extra = tmp_path / "more"
    extra.mkdir()
    for i in range(10):  # other photos: mirrored
        Image.open(given[i]).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(extra / f"{i}.png")
    given += [str(p) for p in sorted(extra.glob("*.png"))]
    judge = Model(WithFeatures(4), tiny_card(name="judge"), device="cpu")
    few = do(given[:49], inverter=fake, n=1, verifiers=[judge], out=tmp_path / "few")
    assert not (few.path / SET_FILE).exists()
    run = do(given, inverter=fake, n=1, verifiers=[judge])
    found = json.loads((run.path / SET_FILE).read_text())
    assert (found["pictures"], found["photos"], found["distances"]["features"]) == (50, 50, "judge")
    made = {p.record["photo"]["path"]: p for p in run}
    cosines = [made[path]["cosine"] for path in given]
    assert found["means"][0]["value"] == pytest.approx(np.mean(cosines), abs=1e-6)
    pictures, originals = torch.cat([pixels(made[p]) for p in given]), torch.cat([seen(p) for p in given])
    for name, pair in cross_match([tiny, judge], originals, pictures).items():
        assert found["cross_match"][name] == [json.loads(json.dumps(e.to_json())) for e in pair]
    a, b = (features(judge, x) for x in (pictures, originals))
    frechet_entry, kid_entry = found["distances"]["evidence"]
    assert frechet_entry["value"] == pytest.approx(frechet(a, b), rel=1e-4)
    assert kid_entry["value"] == pytest.approx(kid(a, b), rel=1e-4)
    assert kid_entry["interval"][0] < kid_entry["value"] < kid_entry["interval"][1]
    before = (run.path / SET_FILE).stat().st_mtime_ns
    do(given, inverter=fake, n=1, verifiers=[judge])
    assert (run.path / SET_FILE).stat().st_mtime_ns == before
    do(given, inverter=fake, n=1)  # no judge, no distances
    reasons = [e["reason"] for e in json.loads((run.path / SET_FILE).read_text())["distances"]["evidence"]]
    assert all("no verifier has pooled features" in reason for reason in reasons)


# --- bad input -----------------------------------------------------------------------------------------------------


def test_an_inverter_for_something_else_is_refused(tiny: Model, do: Do, photos: list[str], tmp_path: Path) -> None:
    other = Model(tiny_module(1), tiny_card(name="other"), device="cpu")
    with pytest.raises(UserError, match="is for other, not for tiny"):
        do(photos, inverter=Fake(other))
    with pytest.raises(
        UserError, match=r"for the layer stage1 of tiny, not for stage2; did you mean the layer .stage1"
    ):
        do(photos, inverter=Fake(tiny, "stage1"))
    larger = Model(tiny_module(), tiny_card(size=(64, 64)), device="cpu")
    with pytest.raises(UserError, match=r"has maps of 16×4×4, the inverter file:fake takes 16×8×8"):
        do(photos, inverter=Fake(larger))
    with pytest.raises(UserError, match=r"is loaded and has its prior; give prior='hf:other' to load_inverter"):
        do(photos, prior="hf:other")
    assert not (tmp_path / "r").exists()


def test_the_pooled_ablation_is_not_helped_by_positions(tiny: Model, do: Do, photos: list[str], tmp_path: Path) -> None:
    fake = Fake(tiny)
    fake.recipe = EntopticRecipe(pooled=True)  # type: ignore[attr-defined]
    for options in ({"best_of": 2}, {"pull": 1}):
        with pytest.raises(UserError, match=r"pooled over positions.*best_of at 1 and pull at 0"):
            do(photos[:1], inverter=fake, **options)
    assert not (tmp_path / "r").exists()
    assert len(do(photos[:1], inverter=fake, n=1)) == 1
    fake.recipe = EntopticRecipe()  # type: ignore[attr-defined]
    assert len(do(photos[:1], inverter=fake, n=1, best_of=2)) == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n": 0}, "at least 1"), ({"stepz": 3}, 'did you mean "steps"'), ({"steps": 0}, "at least 1"),
        ({"mix": "B", "paste": "B"}, "one of them"), ({"paste": "B"}, "4×4 cells"), ({"region": "0,0,1,1"}, "--paste"),
        ({"paste": "B", "region": "0,0,9,1"}, "not inside 4×4"), ({"paste": "B", "region": "0,0,1.5,1"}, "whole cells"),
        ({"mix": "B", "weights": "0,a"}, "such as 0,.25"), ({"mix": "B", "mixing": "slurp"}, "slerp"),
        ({"mix": "gone.png"}, "gone.png cannot be read"), ({"mix": "B", "best_of": 2}, "same noise"),
    ],
)  # fmt: skip
def test_bad_requests_are_refused_before_anything_is_made(
    do: Do, photos: list[str], tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    given = {k: photos[1] if v == "B" else v for k, v in options.items()}
    with pytest.raises(UserError, match=words.replace("(", r"\(")):
        do(photos[:1], **given)
    assert not (tmp_path / "r").exists()


def test_see_sends_feature_maps_here(tiny: Model, photos: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"has no score.*`entoptic invert tiny {LAYER} {photos[0]}`"):
        entoptic.see(tiny, f"fmap({LAYER})<{photos[0]}>", method="fourier", out=tmp_path / "r", progress=False)
    assert entoptic.invert is invert


# --- edits ---------------------------------------------------------------------------------------------------------


def test_mixtures_share_their_noise_and_end_at_the_photos(tiny: Model, photos: list[str], tmp_path: Path) -> None:
    module = tiny_module()
    with torch.no_grad():  # a network that sees different things in the two photos
        module.head.bias -= torch.cat([tiny(seen(path)) for path in photos]).mean(0)  # type: ignore[union-attr, operator]
    tiny = Model(module, tiny_card(), device="cpu")
    fake = Fake(tiny)

    def do(photos: Any, **more: Any) -> Run:
        return invert(tiny, LAYER, photos, out=tmp_path / "r", verifiers="", progress=False, **more)

    plain = {p.sample: p.pixels for p in do(photos[:1], inverter=fake, n=2)}
    run = do(photos[:1], inverter=fake, n=2, mix=photos[1], weights="0,.5,1", mixing="norm")
    mixed = {(p.record["config"]["weight"], p.sample): p for p in run if "mix" in p.record["config"]}
    assert len(mixed) == 6
    with torch.no_grad():
        a, b = (fake.maps.read(seen(path)) for path in photos)
        heads = [tiny(seen(path)).softmax(1)[0] for path in photos]
    classes = [int(h.argmax()) for h in heads]
    assert classes[0] != classes[1]
    for sample in range(2):
        assert np.array_equal(mixed[0.0, sample].pixels, plain[sample])
        noise = fake.noise([generator(0, f"fmap({LAYER})<{photos[0]}>", sample)])
        end = (fake.sample(b, noise)[0] * 255).round().byte().permute(1, 2, 0).numpy()
        assert np.array_equal(mixed[1.0, sample].pixels, end)
        for weight, head in ((0.0, heads[0]), (1.0, heads[1])):
            for name, place in zip(("probability_a", "probability_b"), classes):
                entry = mixed[weight, sample].evidence[name]
                assert entry["detail"]["head of the map"] == pytest.approx(float(head[place]), abs=1e-5)
                assert entry["value"] == pytest.approx(
                    float(tiny(pixels(mixed[weight, sample])).softmax(1)[0, place]), abs=1e-5
                )
    half = (a + b) / 2
    wanted = half / half.norm(dim=1, keepdim=True) * (a.norm(dim=1, keepdim=True) + b.norm(dim=1, keepdim=True)) / 2
    with torch.no_grad():
        found = fake.maps.read(pixels(mixed[0.5, 0]))
    assert mixed[0.5, 0]["cosine"] == pytest.approx(float(superpixel_cosine(found, wanted)), abs=1e-4)
    assert "no photo" in str(mixed[0.5, 0].evidence["others_match_top1"]["reason"])


def test_a_paste_is_compared_with_the_same_noise_without_it(tiny: Model, do: Do, photos: list[str]) -> None:
    fake = Fake(tiny)
    plain = {p.sample: p.pixels for p in do(photos[:1], inverter=fake, n=2)}
    run = do(photos[:1], inverter=fake, n=2, paste=photos[1], region="1,1,3,4")
    pasted = [p for p in run if "paste" in p.record["config"]]
    assert len(pasted) == 2
    inside = np.zeros((32, 32), dtype=bool)
    inside[8:24, 8:] = True
    for picture in pasted:
        with Image.open(run.path / picture.record["maps"]["pair"]["file"]) as image:
            before = np.asarray(image)[:, :, :3]
        assert np.array_equal(before, plain[picture.sample])
        # The fake inverter is local: outside the region nothing changes but nothing at all.
        assert np.array_equal(picture.pixels[~inside], before[~inside])
        assert not np.array_equal(picture.pixels[inside], before[inside])
        assert "did not change outside" in str(picture.evidence["locality"]["reason"])
        assert picture.evidence["cosine_inside"]["n"] == 6
        assert picture.evidence["cosine_outside"]["n"] == 10
        assert "sd" in picture.record["maps"]
        assert "pair" in picture.record["maps"]


# --- verified and shown --------------------------------------------------------------------------------------------


def test_verify_recomputes_every_number(tiny: Model, do: Do, photos: list[str], photo_folder: Path) -> None:
    fake, judge = Fake(tiny), Model(tiny_module(4), tiny_card(name="judge"), device="cpu")
    do(photos, inverter=fake, verifiers=[judge])
    do(photos[:1], inverter=fake, n=1, mix=photos[1], weights=[0.5], verifiers=[judge])
    run = do(photos[:1], inverter=fake, n=1, paste=photos[1], region=(0, 0, 2, 2), verifiers="")
    numbers = sum(len(p.record["evidence"]) for p in run)
    known = {"judge": judge}

    def loaded(name: str, device: str) -> Model:
        return known[name]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("entoptic.runs.recompute.load", loaded)
        found = verify(run, model=tiny, inverter=fake)  # type: ignore[arg-type]
        assert (found.drift, found.skipped, found.pictures, found.numbers) == ([], [], len(run), numbers)
        picture = next(p for p in run if not p.record["config"].get("paste") and not p.record["config"].get("mix"))
        record = json.loads(picture.path.with_suffix(".json").read_text())
        names = [e["name"] for e in record["evidence"]]
        changed = json.loads(json.dumps(record))
        for entry in changed["evidence"]:
            entry["value"] = (entry["value"] or 0) + 0.5
        picture.path.with_suffix(".json").write_text(json.dumps(changed))
        drift = verify(run, model=tiny, inverter=fake).drift  # type: ignore[arg-type]
        assert [line.split(": ")[1].split()[0] for line in drift] == names
        picture.path.with_suffix(".json").write_text(json.dumps(record))


def test_verify_finds_a_changed_picture_and_its_mates(tiny: Model, do: Do, photos: list[str]) -> None:
    fake = Fake(tiny)
    run = do(photos[:1], inverter=fake)
    path = run[1].path
    Image.fromarray(255 - run[1].pixels).save(path)
    drift = "\n".join(verify(run, model=tiny, inverter=fake).drift)  # type: ignore[arg-type]
    assert f"{path.name}: the picture was changed" in drift
    assert f"{path.name}: cosine says" in drift
    assert f"{run[0].path.name}: a sample that sample_sd was measured on is gone" in drift
    fake.drawn.clear()
    do(photos[:1], inverter=fake)  # and the same command makes it again
    assert sum(fake.drawn) == 1
    assert verify(run, model=tiny, inverter=fake).ok  # type: ignore[arg-type]


def test_verify_says_what_it_lacks(tiny: Model, do: Do, photo_folder: Path, tmp_path: Path) -> None:
    fake, here = Fake(tiny), tmp_path / "here"
    here.mkdir()
    shutil.copy(photo_folder / "dot" / "1.png", here / "a.png")
    run = do(here / "a.png", inverter=fake, n=1)
    there = tmp_path / "there"
    here.rename(there)
    lost = verify(run, model=tiny, inverter=fake)  # type: ignore[arg-type]
    assert lost.ok
    assert lost.numbers == 0
    assert "is not there any more; give the folder that it is in with --photos" in lost.skipped[0]
    (there / "a.png").rename(there / "b.png")
    found = verify(run, model=tiny, inverter=fake, photos=there)  # type: ignore[arg-type]
    assert found.ok
    assert found.numbers > 0
    here.mkdir()
    shutil.copy(photo_folder / "dot" / "2.png", here / "a.png")  # another photo under the same name
    replaced = verify(run, model=tiny, inverter=fake)  # type: ignore[arg-type]
    assert replaced.ok
    assert "was changed" in replaced.skipped[0]
    changed = verify(run, model=tiny, inverter=Fake(tiny, identity="fake-2"), photos=there)  # type: ignore[arg-type]
    assert "has changed since" in changed.skipped[0]


def test_the_gallery_shows_the_photo_and_the_spread(tiny: Model, do: Do, photos: list[str], tmp_path: Path) -> None:
    do(photos[:1], n=3)
    run = do(photos[:1], n=2, paste=photos[1], region="0,0,2,2")
    page = next(p for p in build(run.path).parent.glob("unit-*.html")).read_text()
    assert len(re.findall(r"<img[^>]*original-", page)) == 2  # of both photos; the edit has not driven out the first
    assert "Whose map it is" in page
    assert "what the map leaves open" in page
    assert "the same noise without the edit" in page
    assert "no photo has such a map" in page
    assert "looks for" not in page
    private = do(photos[:1], n=1, out=tmp_path / "private", context=False)
    assert not (private.path / "context").exists()
    assert "original-" not in next(p for p in build(private.path).parent.glob("unit-*.html")).read_text()


# --- the command line ----------------------------------------------------------------------------------------------


def test_the_command_line_does_the_same(
    named: Model, photos: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "r"), "--verifiers", "tiny:3"]
    assert main(["invert", "tiny:0", LAYER, *photos, "--n", "2", *out, "--dry-run"]) == 0
    assert f"{2 * len(photos)} pictures to decode" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()
    assert main(["invert", "tiny:0", LAYER, *photos, "--n", "2", *out]) == 0
    printed = capsys.readouterr().out
    assert "cosine 0." in printed
    assert "look at" in printed
    assert main(["verify", str(tmp_path / "r")]) == 0
    assert "all as recorded" in capsys.readouterr().out
    mixed = ["--mix", photos[1], "--weights=-.5,1.5", "--mixing", "slerp", "--steps", "2"]
    assert main(["invert", "tiny:0", LAYER, photos[0], "--n", "1", *mixed, *out]) == 0
    run = Run(tmp_path / "r")
    assert sorted(p.record["config"].get("weight", 0) for p in run if p.record["config"]["steps"] == 2) == [-0.5, 1.5]
    (tmp_path / "bad.jpg").write_text("no")
    capsys.readouterr()
    assert main(["invert", "tiny:0", LAYER, photos[0], str(tmp_path / "bad.jpg"), "--n", "1", *out]) == 2
    assert "bad.jpg cannot be read" in capsys.readouterr().err
    assert main(["invert", "tiny:0", "stage1", photos[0], *out]) == 2
    assert "for the layer stage2" in capsys.readouterr().err


def test_the_recorded_command_makes_the_picture_again(named: Model, photos: list[str], tmp_path: Path) -> None:
    import shlex

    first = invert(
        named, LAYER, photos[:1], n=2, mix=photos[1], weights=[-0.25], steps=3, out=tmp_path / "a", verifiers=""
    )
    command = shlex.split(first[1].record["command"])
    assert main([*command[1:], "--verifiers", "", "--out", str(tmp_path / "b")]) == 0
    again = {p.path.name: p.pixels for p in Run(tmp_path / "b")}
    for picture in first:
        assert np.array_equal(again[picture.path.name], picture.pixels)
