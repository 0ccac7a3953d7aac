"""The activation index against brute force: what it says of a unit is what the photos, read one by one, say."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

from conftest import tiny_card, tiny_module
from entoptic import cli
from entoptic.errors import UserError
from entoptic.images import build_index as build_module
from entoptic.images.build_index import build_index, merge_indexes
from entoptic.images.index import ActivationIndex
from entoptic.images.index_shards import ShardFolder
from entoptic.images.photos import Photos
from entoptic.images.references import References
from entoptic.models import sources
from entoptic.models.model import Model
from entoptic.runs.see import see
from entoptic.runs.verify import verify
from entoptic.units.unit import bind

SOURCE = Path(__file__).parents[2] / "src"
LAYERS = ["stem", "stage1", "stage2", "logits"]


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_module, "BLOCK", 8)


def write(folder: Path, count: int, seed: int = 0, size: int = 32) -> Path:
    """`count` noise photos 000.png, 001.png, …"""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for i in range(count):
        Image.fromarray(rng.integers(0, 255, (size, size, 3), dtype=np.uint8)).save(folder / f"{i:03}.png")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """37 photos, of which 005 cannot be read."""
    found = write(tmp_path_factory.mktemp("index") / "photos", 37)
    (found / "005.png").write_bytes(b"no picture")
    return found


def prepared(model: Model, photos: Photos) -> tuple[list[int], Tensor]:
    read = [(i, photo) for i in range(len(photos)) if (photo := photos.read(i)) is not None]
    return [i for i, _ in read], torch.stack([model.card.prepare(photo) for _, photo in read])


def check_against_brute_force(model: Model, index: ActivationIndex, folder: Path) -> None:
    """Every unit of every layer and readout: extremes, positions, moments, firing rate, quantiles."""
    photos = Photos.open(folder)
    numbers, images = prepared(model, photos)
    assert index.n == len(numbers)
    for layer in index.layers:
        units = bind(model, index.units(layer))
        with torch.no_grad():
            values = model.read(images, [unit.tap for unit in units])
        for unit in units:
            scores, maps = unit.read(values[unit.tap]), unit.map(values[unit.tap])
            hits = index.top(unit)
            assert [h.rank for h in hits] == list(range(min(index.k, len(numbers))))
            for end, sign in ((hits, 1), (index.bottom(unit), -1)):
                order = sorted(range(len(numbers)), key=lambda i: (-sign * float(scores[i]), i))[: len(end)]
                expected = torch.tensor([float(scores[i]) for i in order])
                found = torch.tensor([h.value for h in end])
                torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
                for hit in end:
                    at = numbers.index(hit.index)
                    assert photos[hit.index].name == hit.photo
                    assert hit.value == pytest.approx(float(scores[at]), rel=1e-5, abs=1e-5)
                    place = hit.row * model.layer(layer).grid[1] + hit.column
                    if unit.position is not None:
                        assert place == unit.position
                    else:
                        assert float(maps[at, place]) == pytest.approx(float(maps[at].max()), rel=1e-5, abs=1e-5)
            moments = index.moments(unit)
            wide = scores.double()
            assert moments.n == len(numbers)
            assert moments.mean == pytest.approx(float(wide.mean()), rel=1e-5, abs=1e-6)
            assert moments.variance == pytest.approx(float(wide.var(correction=0)), rel=1e-4, abs=1e-8)
            assert index.firing_rate(unit) == pytest.approx(float((scores > 0).float().mean()), abs=1e-6)
            levels = torch.linspace(0, 1, 201)
            torch.testing.assert_close(index.quantiles(unit), scores.float().quantile(levels), rtol=1e-4, atol=1e-5)


def test_it_says_what_brute_force_says(tiny: Model, folder: Path, tmp_path: Path) -> None:
    index = build_index(
        tiny, folder, LAYERS, out=tmp_path / "i", k=5, bottom=3, readouts=("", "max", "centre", "mean"), batch_size=3
    )
    check_against_brute_force(tiny, index, folder)
    assert index.skipped == [("005.png", "not an image in a known format")]
    assert index.units("logits") == [f"logits:{i}" for i in range(5)]  # a vector has one readout
    assert index.units("stage2")[15:18] == ["stage2:15", "stage2:0@max", "stage2:1@max"]
    assert index.top("logits:4@max") == index.top('logits:"dot"') == index.top("logits:4")
    assert index.top("stage2:3@mean", 2) == index.top("stage2:3")[:2]
    assert index.quantile_error == 0
    assert "36 photos" in index._repr_html_()


def test_tables_hold_what_unit_score_gives(tiny: Model, folder: Path, tmp_path: Path) -> None:
    index = build_index(tiny, folder, ["stage1", "logits"], out=tmp_path / "i", k=4, bottom=2, readouts=("", "max"))
    photos = Photos.open(folder)
    by_name = {photo.name: i for i, photo in enumerate(photos)}
    for end, count in (("top", 4), ("bottom", 2)):
        table = pq.read_table(tmp_path / "i" / f"{end}.parquet")
        assert table.column_names == ["unit", "rank", "value", "photo", "row", "column"]
        rows = table.to_pylist()
        assert len(rows) == count * (12 + 12 + 5)
        assert [row["rank"] for row in rows] == list(range(count)) * 29
        for row in rows[:: 3 if end == "top" else 5]:
            photo = photos.read(by_name[row["photo"]])
            assert photo is not None
            (unit,) = bind(tiny, row["unit"])
            score = float(unit.score(tiny.card.prepare(photo)[None])[0])
            assert row["value"] == pytest.approx(score, rel=1e-5, abs=1e-5)
    hit = index.top("stage1:7@max", 1)[0]
    assert [hit.unit, hit.value, hit.photo, hit.row, hit.column] == next(
        [r["unit"], r["value"], r["photo"], r["row"], r["column"]]
        for r in pq.read_table(tmp_path / "i" / "top.parquet").to_pylist()
        if r["unit"] == "stage1:7@max" and r["rank"] == 0
    )


# --- ties, signs, precision ----------------------------------------------------------------------------------------


class Exact(nn.Module):
    """Whole-number arithmetic on pixels 0 and 1: every score is exact, whatever the batch. Units 0-3 count pixels with
    signs, unit 4 is always -100 or less, unit 5 always 0, unit 6 is NaN for dark photos and infinite for bright ones."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 7, 4, 4).to(dtype)
        generator = torch.Generator().manual_seed(0)
        weight = torch.randint(-2, 3, self.conv.weight.shape, generator=generator).float()
        weight[4], weight[5], weight[6] = -weight[4].abs(), 0, 1
        self.conv.weight.data = weight.to(dtype)
        self.conv.bias.data = torch.tensor([0, 1, -1, 5, -100, 0, 0]).to(dtype)  # type: ignore[union-attr]
        self.odd = Odd()

    def forward(self, x: Tensor) -> Tensor:
        return self.odd(self.conv(x.to(self.conv.weight.dtype))).mean((2, 3)).float()


class Odd(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        x = x.clone()
        count = x[:, 6:]
        x[:, 6:] = torch.where(count > 30, torch.inf, torch.where(count < 18, torch.nan, count))
        return x


def exact(dtype: torch.dtype = torch.float32) -> Model:
    return Model(
        Exact(dtype), tiny_card(name="exact", size=(8, 8), mean=(0.0,) * 3, std=(1.0,) * 3, labels=None), device="cpu"
    )


def binary(folder: Path, count: int, seed: int = 0) -> Path:
    """Photos of 8×8 black and white pixels per colour, each third one a copy of its predecessor."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for i in range(count):
        if i % 3 != 2:
            pixels = 255 * rng.integers(0, 2, (8, 8, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:03}.png")
    return folder


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ties_negative_units_and_odd_scores(tmp_path: Path, dtype: torch.dtype) -> None:
    model, folder = exact(dtype), binary(tmp_path / "p", 30)
    index = build_index(model, folder, ["conv", "odd"], out=tmp_path / "i", k=12, bottom=12, readouts=("", "max"))
    numbers, images = prepared(model, Photos.open(folder))
    with torch.no_grad():
        maps = model.module.odd(model.module.conv(images.to(dtype))).float().flatten(2)  # type: ignore[operator]
    for readout, scores in (("", maps.mean(-1)), ("@max", maps.amax(-1))):
        for unit in range(7):
            column = scores[:, unit]
            finite = [i for i in numbers if torch.isfinite(column[i])]
            for sign, found in ((-1, index.top(f"odd:{unit}{readout}")), (1, index.bottom(f"odd:{unit}{readout}"))):
                brute = sorted(finite, key=lambda i: (sign * float(column[i]), i))[:12]
                assert [hit.index for hit in found] == brute
                assert [hit.value for hit in found] == [float(column[i]) for i in brute]
                for hit in found:
                    assert 2 * hit.row + hit.column == int(maps[hit.index, unit].argmax())
    assert all(hit.value < 0 for hit in index.top("odd:4"))
    assert [hit.index for hit in index.top("odd:5")] == list(range(12))  # all tie: in the order of the photos
    odd = [i for i in numbers if not torch.isfinite(maps.mean(-1)[i, 6])]
    assert 0 < len(odd) < 30
    assert index.moments("odd:6").n == 30 - len(odd)
    assert index.nonfinite["photos"] == len(set(odd))
    assert len(index.real_scores("odd:6").values) == 30 - len(odd)
    assert torch.isfinite(index.quantiles("odd:6")).all()


def test_bfloat16_means_are_taken_in_float32(tmp_path: Path) -> None:
    model, folder = exact(torch.bfloat16), binary(tmp_path / "p", 20)
    index = build_index(model, folder, ["conv"], out=tmp_path / "i", k=20)
    photos = Photos.open(folder)
    values = [hit.value for hit in index.top("conv:4")]
    assert any(float(torch.tensor(v).bfloat16()) != v for v in values)  # no bfloat16 number
    for hit in index.top("conv:4"):
        photo = photos.read(hit.index)
        assert photo is not None
        assert hit.value == float(bind(model, "conv:4")[0].score(model.card.prepare(photo)[None])[0])


# --- the same from anywhere ----------------------------------------------------------------------------------------


def same(a: ActivationIndex, b: ActivationIndex) -> None:
    """Bit by bit."""
    assert (a.key, a.n, a.skipped, a.nonfinite) == (b.key, b.n, b.skipped, b.nonfinite)
    for layer in a.layers:
        left, right = a._layer(layer), b._layer(layer)
        assert left.keys() == right.keys()
        for name in left:
            assert torch.equal(left[name].nan_to_num(1e30), right[name].nan_to_num(1e30)), name
    for table in ("top", "bottom", "photos"):
        assert pq.read_table(a.path / f"{table}.parquet").equals(pq.read_table(b.path / f"{table}.parquet"))


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ActivationIndex]:
    base = tmp_path_factory.mktemp("reference")
    folder = binary(base / "p", 75)
    (folder / "033.png").write_bytes(b"")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build_module, "BLOCK", 8)
        patch.setattr("entoptic.images.quantile_sketch.CAPACITY", 16)
        return folder, build_index(exact(), folder, ["odd"], out=base / "i", k=6, bottom=3, reservoir=7)


@settings(max_examples=12)
@given(data=st.data())
def test_shards_batches_and_merge_order_change_nothing(
    reference: tuple[Path, ActivationIndex], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder, whole = reference
    base = tmp_path_factory.mktemp("shards")
    m = data.draw(st.integers(1, 6))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("entoptic.images.quantile_sketch.CAPACITY", 16)
        shards = [
            build_index(
                exact(), folder, ["odd"], out=base / f"{i}", k=6, bottom=3, reservoir=7, shard=(i, m),
                batch_size=data.draw(st.sampled_from([1, 3, 8, 32])),
            )
            for i in range(m)
        ]  # fmt: skip
        if m == 1:
            same(shards[0], whole)
            return
        assert not any(shard.whole for shard in shards)
        order = data.draw(st.permutations([shard.path for shard in shards]))
        first = data.draw(st.integers(1, m - 1))
        some = merge_indexes(order[:first], base / "some")
        merged = merge_indexes([some.path, *order[first:]], base / "merged")
    assert merged.whole
    same(merged, whole)


def test_merging_refuses_what_does_not_fit(tiny: Model, folder: Path, tmp_path: Path) -> None:
    for i in range(2):
        build_index(tiny, folder, ["stage1"], out=tmp_path / f"{i}", shard=(i, 2))
    build_index(tiny, folder, ["stage1"], out=tmp_path / "k", k=3, shard=(1, 2))
    build_index(tiny, folder, ["stage1"], out=tmp_path / "all")
    with pytest.raises(UserError, match="hold the same photos"):
        merge_indexes([tmp_path / "0", tmp_path / "0"], tmp_path / "m1")
    with pytest.raises(UserError, match="has k = 3, not 25"):
        merge_indexes([tmp_path / "0", tmp_path / "k"], tmp_path / "m2")
    with pytest.raises(UserError, match="holds all photos already"):
        merge_indexes([tmp_path / "all"], tmp_path / "m3")
    with pytest.raises(UserError, match="holds an index"):
        merge_indexes([tmp_path / "0", tmp_path / "1"], tmp_path / "all")
    with pytest.raises(UserError, match="no index was given"):
        merge_indexes([], tmp_path / "m4")
    with pytest.raises(UserError, match="at most 5 shards"):
        build_index(tiny, folder, ["stage1"], out=tmp_path / "s", shard=(0, 6))
    with pytest.raises(UserError, match="shards of 2 are 0/2 to 1/2"):
        build_index(tiny, folder, ["stage1"], out=tmp_path / "s", shard=(2, 2))


# --- nothing is computed twice, nothing is lost ----------------------------------------------------------------------


def counting(model: Model, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures go through the network, by call."""
    calls: list[int] = []
    normalise = model.normalise
    monkeypatch.setattr(model, "normalise", lambda images: calls.append(len(images)) or normalise(images))
    return calls


def test_asking_again_computes_nothing_and_a_shard_grows(
    tiny: Model, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tiny.layers
    whole = build_index(tiny, folder, ["stage1"], out=tmp_path / "whole")
    build_index(tiny, folder, ["stage1"], out=tmp_path / "i", shard=(1, 2))
    calls = counting(tiny, monkeypatch)
    build_index(tiny, folder, ["stage1"], out=tmp_path / "i", shard=(1, 2))
    assert calls == []
    grown = build_index(tiny, folder, ["stage1"], out=tmp_path / "i")
    assert sum(calls) == 15  # blocks 0 and 1, one photo unreadable
    same(grown, whole)
    build_index(tiny, folder, ["stage1"], out=tmp_path / "i", batch_size=1)
    assert sum(calls) == 15


_KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
from conftest import tiny_card, tiny_module
from entoptic.images import build_index as index
from entoptic.models.model import Model
index.BLOCK = 8
model, read = Model(tiny_module(), tiny_card(), device="cpu"), 0
model.layers
normalise = model.normalise
def counted(images):
    global read
    read += len(images)
    if read > {die_after}:
        os.kill(os.getpid(), signal.SIGKILL)
    return normalise(images)
model.normalise = counted
index.build_index(model, {photos!r}, ["stage1", "logits"], out={out!r}, k=5, batch_size=4)
print(read)
"""


def test_kill_9_loses_at_most_one_block(tiny: Model, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "i"

    def start(die_after: int) -> subprocess.CompletedProcess[str]:
        code = _KILLED.format(
            tests=str(Path(__file__).parents[1]), die_after=die_after, photos=str(folder), out=str(out)
        )
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SOURCE), *sys.path])}
        return subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=300
        )

    killed = start(26)
    assert killed.returncode == -signal.SIGKILL
    with pytest.raises(UserError, match="not finished"):
        ActivationIndex.open(out)
    (out / "parts" / ".left.part").write_bytes(b"half a file")
    with pytest.raises(UserError, match="has k = 5, not 25 asked for"):
        build_index(tiny, folder, ["stage1", "logits"], out=out)
    done = start(10**9)
    assert done.returncode == 0, done.stderr
    # Blocks of 8, 7 (one unreadable: 5 is in the first), …: 7 + 8 + 8 were finished, 13 are left.
    assert int(done.stdout) == 36 - 23
    assert not list(out.glob("**/*.part"))
    whole = build_index(tiny, folder, ["stage1", "logits"], out=tmp_path / "w", k=5, batch_size=4)
    same(ActivationIndex.open(out), whole)


def test_a_kill_between_merging_and_deleting_is_mended(tiny: Model, folder: Path, tmp_path: Path) -> None:
    whole = build_index(tiny, folder, ["stage1"], out=tmp_path / "w")
    build_index(tiny, folder, ["stage1"], out=tmp_path / "leaf", shard=(0, 5))
    build_index(tiny, folder, ["stage1"], out=tmp_path / "i", shard=(0, 2))
    leaf = next((tmp_path / "leaf" / "parts").glob("*"))
    (tmp_path / "i" / "parts" / leaf.name).write_bytes(leaf.read_bytes())  # inside the part of blocks 0 and 1
    same(build_index(tiny, folder, ["stage1"], out=tmp_path / "i"), whole)


def test_a_kill_between_the_index_and_deleting_its_parts_is_mended(
    tiny: Model, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as killed:
        killed.setattr(ShardFolder, "clear", interrupted)
        with pytest.raises(KeyboardInterrupt):
            build_index(tiny, folder, ["stage1"], out=tmp_path / "i")
    assert list((tmp_path / "i" / "parts").iterdir())
    build_index(tiny, folder, ["stage1"], out=tmp_path / "i")
    assert not list((tmp_path / "i" / "parts").iterdir())


def test_two_writers_are_refused(tiny: Model, folder: Path, tmp_path: Path) -> None:
    with build_module._writing(tmp_path / "i"), pytest.raises(UserError, match="being written by another process"):
        build_index(tiny, folder, ["stage1"], out=tmp_path / "i")


# --- bounded memory -------------------------------------------------------------------------------------


def test_what_is_kept_does_not_grow_with_the_photos(
    tiny: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("entoptic.images.quantile_sketch.CAPACITY", 16)
    sizes = {}
    for blocks in (4, 8, 16):
        folder = write(tmp_path / f"p{blocks}", 8 * blocks - 1)  # the last photo is left out: one part less than all
        build_index(tiny, write(folder, 8 * blocks), ["stage1"], out=tmp_path / f"i{blocks}", shard=(0, 2), reservoir=4)
        (part,) = (tmp_path / f"i{blocks}" / "parts").glob("*.safetensors")
        sizes[blocks] = part.stat().st_size
    assert max(sizes.values()) - min(sizes.values()) < 1500, sizes  # names of more sketch levels


# --- photos that cannot be read, folders that are something else ----------------------------------------------------


def test_a_block_without_a_readable_photo(tiny: Model, tmp_path: Path) -> None:
    folder = write(tmp_path / "p", 20)
    for i in range(8, 16):
        (folder / f"{i:03}.png").write_bytes(b"")
    index = build_index(tiny, folder, LAYERS, out=tmp_path / "i", k=15, reservoir=3)
    check_against_brute_force(tiny, index, folder)
    assert [name for name, _ in index.skipped] == [f"{i:03}.png" for i in range(8, 16)]
    assert len(index.top("stem:0")) == 12
    for i in range(20):
        (folder / f"{i:03}.png").write_bytes(b"x")
    with pytest.raises(UserError, match="none of the photos"):
        build_index(tiny, folder, LAYERS, out=tmp_path / "none")


def test_another_index_and_other_folders_are_left_alone(tiny: Model, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "i"
    build_index(tiny, folder, ["stage1"], out=out)
    before = (out / "index.json").read_bytes()
    other = Model(tiny_module(seed=1), tiny_card(), device="cpu")
    squashed = Model(tiny_module(), tiny_card(squash=True), device="cpu")
    for build, says in (
        (lambda: build_index(tiny, folder, ["stage2"], out=out), "has the layers stage1, not stage2 asked for"),
        (lambda: build_index(tiny, folder, ["stage1"], out=out, readouts=("max",)), "has the readouts mean, not max"),
        (lambda: build_index(tiny, folder, ["stage1"], out=out, bottom=9), "has bottom = 8, not 9"),
        (lambda: build_index(other, folder, ["stage1"], out=out), "is of other weights"),
        (lambda: build_index(squashed, folder, ["stage1"], out=out), "is of other preprocessing"),
        (lambda: build_index(tiny, write(tmp_path / "q", 9), ["stage1"], out=out), "is of other photos"),
    ):
        with pytest.raises(UserError, match=says):
            build()
    assert (out / "index.json").read_bytes() == before
    with pytest.raises(UserError, match=r"is no index and holds other files"):
        build_index(tiny, folder, ["stage1"], out=folder)
    (out / "index.json").write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        ActivationIndex.open(out)
    with pytest.raises(UserError, match="there is no index"):
        ActivationIndex.open(tmp_path)


def test_what_is_asked_wrongly_gets_the_nearest_choice(tiny: Model, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r'did you mean "stage2" \(16 channels\)'):
        build_index(tiny, folder, ["stage_2"], out=tmp_path / "n")
    with pytest.raises(UserError, match=r"without tokens; use @ROW,COLUMN"):
        build_index(tiny, folder, ["stage2"], out=tmp_path / "n", readouts=("", "cls"))
    with pytest.raises(UserError, match='cannot read "@mxa"'):
        build_index(tiny, folder, ["stage2"], out=tmp_path / "n", readouts=("mxa",))
    index = build_index(tiny, folder, ["stage2"], out=tmp_path / "i", k=4)
    for ask, says in (
        (lambda: index.top("stage_2:1"), 'did you mean "stage2"'),
        (lambda: index.top("stage2:16"), "stage2 has units 0 to 15"),
        (lambda: index.top("stage2:1@max"), 'no readout "max" of stage2; it holds mean'),
        (lambda: index.top("stage2:1", 5), "holds the 4 strongest photos of each unit, 5 were asked for"),
        (lambda: index.bottom("stage2:0-3"), "one unit of a layer at a time"),
        (lambda: index.units("stage3"), 'did you mean "stage2"'),
        (lambda: index.vectors("stage2"), "has no reservoir"),
    ):
        with pytest.raises(UserError, match=says):
            ask()
    other = Model(tiny_module(seed=1), tiny_card(), device="cpu")
    with pytest.raises(UserError, match=r"is of tiny with the weights .*, not of tiny with"):
        index.top(bind(other, "stage2:1")[0])
    assert bind(tiny, "stage2:1")[0] in index
    assert "stage1:1" not in index
    assert bind(other, "stage2:1")[0] not in index


# --- reservoir ------------------------------------------------------------------------------------------------------


def test_the_reservoir_is_a_sample_by_content(tiny: Model, folder: Path, tmp_path: Path) -> None:
    index = build_index(tiny, folder, ["stage1", "logits"], out=tmp_path / "i", reservoir=6)
    photos = Photos.open(folder)
    numbers, images = prepared(tiny, photos)
    chosen = sorted(numbers, key=photos.sha256)[:6]
    positions, scores = index.sample("stage1")
    assert positions == chosen
    at = [numbers.index(i) for i in chosen]
    for i, unit in enumerate(bind(tiny, "stage1:*")):
        torch.testing.assert_close(scores[i], unit.score(images[at]), rtol=1e-5, atol=1e-5)
    vectors = index.vectors("stage1")
    assert vectors.shape == (6, 12)
    tap = bind(tiny, "stage1:0")[0].tap
    with torch.no_grad():
        maps = tiny.read(images[at], [tap])[tap]
    for row, map_CD in zip(vectors, maps):
        assert (map_CD - row[:, None]).abs().amax(0).min() < 1e-5  # one of the positions
    assert index.photos[chosen[0]] == (photos[chosen[0]].name, photos.sha256(chosen[0]))


# --- transformers ----------------------------------------------------------------------------------------------------


def tiny_vit(qk_norm: bool = False) -> Model:
    torch.manual_seed(0)
    module = timm.models.vision_transformer.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=12, depth=2, num_heads=3, num_classes=5, qk_norm=qk_norm
    )
    return Model(module, tiny_card(name="vit"), device="cpu")


@pytest.mark.parametrize("qk_norm", [False, True])
def test_tokens_neurons_and_heads(folder: Path, tmp_path: Path, qk_norm: bool) -> None:
    model = tiny_vit(qk_norm)
    layers = ["blocks.0", "blocks.1.mlp.act", "blocks.1.mlp.fc1", "blocks.1.attn.q_norm", "norm", "logits"]
    readouts = ("", "max", "cls", "tok7")
    index = build_index(model, folder, layers, out=tmp_path / "i", k=4, bottom=2, readouts=readouts)
    check_against_brute_force(model, index, folder)
    assert len(index.units("blocks.1.mlp.fc1")) == 4 * 48
    assert {hit.row for hit in index.top("blocks.0:3@tok7")} == {7}
    assert {hit.column for unit in index.units("blocks.0")[:12] for hit in index.top(unit)} == {0}
    # Three heads of four dimensions: a unit is one dimension of one head, as in the columns of the qkv layer.
    assert len(index.units("blocks.1.attn.q_norm")) == 4 * 12


# --- with the rest of the house ---------------------------------------------------------------------------------------


def test_references_ask_the_index(tiny: Model, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = Photos.open(folder)
    index = build_index(tiny, folder, ["stage2"], out=tmp_path / "i", k=6)
    units = bind(tiny, ["stage2:*"])
    plain = References(tiny, photos)
    expected = [(plain.choose(unit, 6)[0], plain.real_scores(unit)) for unit in units]
    with_index = References(tiny, photos, index=index)
    calls = counting(tiny, monkeypatch)
    for unit, (chosen, real) in zip(units, expected):
        assert with_index.choose(unit, 6)[0] == chosen
        held = with_index.real_scores(unit)
        assert not isinstance(held, str)
        assert not isinstance(real, str)
        assert held.n == real.n
        torch.testing.assert_close(held.values, real.values, rtol=1e-5, atol=1e-6)
    assert calls == []
    assert with_index.identity(units[0], {"targets"}) != plain.identity(units[0], {"targets"})
    assert with_index.identity(units[0], {"scores"}) == plain.identity(units[0], {"scores"})
    more = with_index.choose(units[0], 7)[0]  # more than the index holds: from the photos
    assert (len(more), more[:6]) == (7, expected[0][0])


def test_references_refuse_an_index_of_something_else(tiny: Model, folder: Path, tmp_path: Path) -> None:
    index = build_index(tiny, folder, ["stage2"], out=tmp_path / "i")
    shard = build_index(tiny, folder, ["stage2"], out=tmp_path / "s", shard=(0, 2))
    photos = Photos.open(folder)
    for model, given_photos, given_index, says in (
        (Model(tiny_module(seed=1), tiny_card(), device="cpu"), photos, index, "not of tiny with"),
        (Model(tiny_module(), tiny_card(crop=1.0), device="cpu"), photos, index, "made with crop = 0.875"),
        (tiny, Photos.open(write(tmp_path / "q", 5)), index, "is of the photos in"),
        (tiny, photos, shard, "is a shard"),
    ):
        with pytest.raises(UserError, match=says):
            References(model, given_photos, index=given_index)


def test_see_and_verify_use_it(tiny: Model, folder: Path, tmp_path: Path) -> None:
    index = build_index(tiny, folder, ["stage2"], out=tmp_path / "i", k=30)
    run = see(
        tiny, "stage2:3", photos=folder, index=index.path, out=tmp_path / "run", steps=2, verifiers="", progress=False,
        layers=("stem", "stage1"),
    )  # fmt: skip
    (picture,) = run
    assert picture.record["measured_with"]["index"] == index.key
    assert f"--index {index.path}" in picture.record["command"]
    assert picture.evidence["percentile"]["n"] == 36
    assert verify(run, model=tiny, photos=folder).ok
    index.path.rename(tmp_path / "gone")
    found = verify(run, model=tiny, photos=folder)
    assert found.ok
    assert any("index that is not there" in line for line in found.skipped)


def test_from_the_command_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sources.SOURCES, "tiny", lambda name, pretrained: (tiny_module(), tiny_card(name="tiny:net")))

    def say(*words: object) -> str:
        capsys.readouterr()
        code = cli.main([str(word) for word in words])
        out, err = capsys.readouterr()
        assert code == (2 if err else 0), err
        return out + err

    base = ("index", "tiny:net", "--photos", folder, "--layers", "stage2", "logits", "--device", "cpu")
    answer = say(*base, "--out", tmp_path / "i", "--k", "3", "--readouts", "", "max")
    assert "tiny:net on 36 photos, 37 units" in answer
    assert "not read: 005.png (not an image" in answer
    index = ActivationIndex.open(tmp_path / "i")
    listed = say("ls", tmp_path / "i")
    assert "32 (stage2:0 … stage2:15@max)" in listed
    shown = say("ls", tmp_path / "i", "stage2:4@max")
    assert all(hit.photo in shown for hit in index.top("stage2:4@max") + index.bottom("stage2:4@max"))
    assert index.top("stage2:9", 1)[0].photo in say("ls", tmp_path / "i", "stage2")
    assert 'did you mean "stage2"' in say("ls", tmp_path / "i", "stage_2:4")
    assert 'got "half"' in say(*base, "--out", tmp_path / "h", "--shard", "half")
    for i in range(2):
        say(*base, "--out", tmp_path / f"s{i}", "--k", "3", "--readouts", "", "max", "--shard", f"{i}/2")
    say("merge", tmp_path / "s1", tmp_path / "s0", "--out", tmp_path / "m")
    same(ActivationIndex.open(tmp_path / "m"), index)
    assert json.loads((tmp_path / "m" / "index.json").read_text())["whole"]
