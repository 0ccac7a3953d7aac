"""`entoptic bench`: the same table again, also after a kill; what is measured with photos; what is refused."""

from __future__ import annotations

import html.parser
import json
import signal
import subprocess
import sys
from contextlib import chdir
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import entoptic
from entoptic import cli
from entoptic.bench.make import halve
from entoptic.bench.recipe import recipe_json
from entoptic.bench.recipes import RECIPES
from entoptic.bench.results import Results
from entoptic.bench.run import benchmark
from entoptic.bench.tables import csv_table, markdown
from entoptic.errors import UserError
from entoptic.images.photos import Photos
from entoptic.methods.pixels import PixelAscent
from entoptic.metrics.sets import cmmd
from entoptic.metrics.sets.zero_shot import ZeroShot, find_clip
from entoptic.models.sources import SOURCES
from entoptic.workers.count import Workers
from tiny_bench import MINI, named_networks
from tiny_clip import write_clip

pytestmark = pytest.mark.usefixtures("bench_networks")
TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Results]:
    """The miniature, undisturbed."""
    place = tmp_path_factory.mktemp("whole")
    # Pictures hold the command that makes them, with the folder of their scenes.
    with named_networks(), chdir(place):
        results = benchmark(MINI, out="out", device="cpu", progress=False)
    return place / "out", results


@pytest.mark.parametrize("link", ["runs", "runs/planted", "runs/planted/scenes"])
def test_planted_scenes_are_written_through_no_link(tmp_path: Path, link: str) -> None:
    out, outside = tmp_path / "out", tmp_path / "outside"
    outside.mkdir()
    (out / link).parent.mkdir(parents=True)
    (out / "bench.json").write_text('{"benchmark": "mini"}')
    (out / link).symlink_to(outside)
    with pytest.raises(UserError, match="symbolic link"):
        benchmark(replace(MINI, subjects=()), out=out, device="cpu", progress=False)
    assert not list(outside.iterdir())


def pictures(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.glob("runs/**/pictures/**/*.png"))}


def timeless(folder: Path) -> dict[str, object]:
    """The files of a table, without wall times and without the folder's own name."""
    table = json.loads((folder / "table.json").read_text())
    for cost in table["costs"]:
        del cost["time"]
    del table["about"]["command"]
    return {"table": table, "csv": (folder / "table.csv").read_bytes(), "plot": (folder / "plot.svg").read_bytes()}


# --- the same again --------------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
from pathlib import Path
from entoptic.workers.count import Workers
from tiny_bench import MINI, register
from tiny_clip import write_clip
from entoptic.runs.store import Run
from entoptic.bench.run import benchmark
register()
write, made = Run.write, 0
def counting(self, *args, **kwargs):
    global made
    made += 1
    if made > {count}:
        os.kill(os.getpid(), signal.SIGKILL)
    return write(self, *args, **kwargs)
Run.write = counting
benchmark(MINI, out="out", device="cpu", progress=False)
"""


@pytest.mark.parametrize("count", [3, pytest.param(34, marks=pytest.mark.slow)])
def test_a_killed_benchmark_goes_on_to_the_same_bytes(whole: tuple[Path, Results], tmp_path: Path, count: int) -> None:
    """The first is killed in the first run, the second in the planted part."""
    out = tmp_path / "out"
    code = KILLED.format(tests=str(TESTS), count=count)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=120, cwd=tmp_path)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    made = pictures(out)
    assert len(made) == count
    assert not (out / "table.json").exists()
    times = {name: (out / name).stat().st_mtime_ns for name in made}
    with chdir(tmp_path):
        benchmark(MINI, out="out", device="cpu", progress=False)
    assert pictures(out) == pictures(whole[0])
    assert {name: (out / name).stat().st_mtime_ns for name in made} == times
    assert timeless(out) == timeless(whole[0])


def test_the_same_call_makes_no_picture_again(whole: tuple[Path, Results], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, results = whole
    monkeypatch.setattr("entoptic.runs.execute.make_batch", lambda *args: pytest.fail("a picture is made again"))
    before = timeless(folder)
    with chdir(folder.parent):
        assert entoptic.benchmark(MINI, out="out", device="cpu", progress=False).cells == results.cells
    assert timeless(folder) == before


def test_some_seeds_first_then_all_is_the_same(whole: tuple[Path, Results], tmp_path: Path) -> None:
    with chdir(tmp_path):
        first = benchmark(MINI, out="out", device="cpu", progress=False, seeds=1)
        made = pictures(tmp_path / "out")
        assert first.recipe["subjects"][0]["seeds"] == [0]
        assert "5 units of `tiny:0`, 1 seed." in markdown(first)
        assert "--seeds 1" in first.about["command"]
        benchmark(MINI, out="out", device="cpu", progress=False)
    both = pictures(tmp_path / "out")
    assert len(made) < len(both)
    assert made.items() <= both.items()
    assert both == pictures(whole[0])
    assert timeless(tmp_path / "out") == timeless(whole[0])


@pytest.mark.parametrize(
    ("seeds", "said"), [(3, "2 seeds; give --seeds of 1 to 2, got 3"), (0, "of 1 to 2, got 0"), (True, "got True")]
)
def test_seeds_that_a_recipe_does_not_have(tmp_path: Path, seeds: int, said: str) -> None:
    with pytest.raises(UserError, match=said):
        benchmark(MINI, out=tmp_path / "out", device="cpu", progress=False, seeds=seeds)
    assert not (tmp_path / "out").exists()


# --- what it finds ---------------------------------------------------------------------------------------------------


def test_every_part_has_its_numbers(whole: tuple[Path, Results]) -> None:
    _, results = whole
    found = {(c.subject, c.column) for c in results.cells if c.found is not None}
    assert {
        ("classes", "self_top1"), ("classes", "verifier_top1"), ("classes", "verifier_top5"), ("classes", "diversity"),
        ("planted, honest", "planted_identified"), ("planted, honest", "planted_silent"),
        ("planted, fooling", "planted_fooled"),
    } <= found  # fmt: skip
    for c in results.cells:
        assert (c.found is None) == bool(c.reason), c
        if c.found is not None:
            assert c.found.low <= c.found.value <= c.found.high
            assert c.n > 0
        assert c.method != "fourier" or c.gap is None, "the first method is compared with itself"
    compared = [c for c in results.cells if c.method == "pixels" and c.found is not None]
    assert all(c.gap is not None for c in compared if "top" in c.column or c.column == "planted_identified")
    top5 = results.cell("classes", "fourier", "verifier_top5", "all")
    assert top5 is not None
    assert top5.found is not None
    assert (top5.found.value, top5.n) == (1.0, 5), "five classes are among the first five"
    costs = {(c.subject, c.method): c for c in results.costs}
    assert costs["classes", "pixels"].ratio == 2.0
    assert costs["classes", "pixels"].evaluations == 6


def test_self_accuracy_is_that_of_the_files(whole: tuple[Path, Results]) -> None:
    folder, results = whole
    run = entoptic.Run.open(folder / "runs" / "classes")
    model = entoptic.load("tiny:0", device="cpu")
    hits: dict[str, list[float]] = {}
    for picture in run:
        if picture.method == "pixels":
            first = int(model(picture.tensor[None]).argmax())
            hits.setdefault(picture.unit, []).append(float(f"logits:{first}" == picture.unit))
    cell = results.cell("classes", "pixels", "self_top1")
    assert cell is not None
    assert cell.found is not None
    assert cell.found.value == pytest.approx(sum(sum(h) / len(h) for h in hits.values()) / len(hits))


def test_photos_add_what_needs_them(tmp_path: Path, photo_folder: Path) -> None:
    recipe = replace(MINI, planted=None, subjects=(replace(MINI.subjects[0], seeds=(0, 1, 2, 3)), MINI.subjects[1]))
    results = benchmark(recipe, out=tmp_path / "out", photos=str(photo_folder), device="cpu", progress=False)
    found = {(c.subject, c.column) for c in results.cells if c.found is not None}
    assert {
        ("classes", "kid"), ("classes", "two_afc"), ("classes", "beats_photos"), ("channels", "specificity"),
        ("channels", "two_afc"), ("classes", "cmmd"), ("classes", "pathway"),
    } <= found  # fmt: skip
    way = results.cell("classes", "pixels", "pathway")
    assert way is not None
    assert way.found is not None
    assert way.real is not None
    assert way.found.value < way.real <= 1, "pixels of few steps lead the network elsewhere than photos"
    channels = results.cell("channels", "pixels", "pathway")
    assert channels is not None
    assert channels.found is not None
    assert -1 <= channels.found.low <= channels.found.high <= 1
    crowd = results.cell("classes", "pixels", "precision", "pooled:1")
    assert crowd is not None
    assert "at least 50 pictures, there are 20" in crowd.reason
    kid = results.cell("classes", "pixels", "kid", "pooled:1")
    assert kid is not None
    assert kid.n == 5, "the interval is over units, of which there are 4 pictures each"
    few = results.cell("channels", "pixels", "kid", "pooled:1")
    assert few is not None
    assert "at least 20 pictures" in few.reason
    endless = results.cell("classes", "pixels", "frechet_infinite", "pooled:1")
    assert endless is not None
    assert "at least 26 pictures" in endless.reason
    assert results.cell("classes", "photos", "self_top1") is not None
    halves = results.measured_with["photos"]
    assert (halves["matched"], halves["held_out"]) == (20, 20)


def test_no_photo_is_in_both_halves(photo_folder: Path) -> None:
    photos = Photos.open(photo_folder)
    halves = halve(photos, 1000)
    assert halves is not None
    a, b = ({part.sha256(i) for i in range(len(part))} for part in (halves.matched, halves.held_out))
    assert a.isdisjoint(b)
    assert len(a | b) == len({photos.sha256(i) for i in range(len(photos))})
    few = halve(photos, 5)
    assert few is not None
    assert len(few.held_out) == 5


def test_a_method_that_cannot_show_a_unit_costs_the_others_nothing(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    from entoptic.bench.recipe import Entry
    from entoptic.methods.retrieval import Retrieval

    subject = replace(MINI.subjects[0], methods=(*MINI.subjects[0].methods, Entry(label="photo", config=Retrieval())))
    recipe = replace(MINI, planted=None, subjects=(subject,))
    results = benchmark(recipe, out=tmp_path / "out", device="cpu", progress=False)
    assert any("photos" in line for line in results.failures)
    assert results.cell("classes", "pixels", "self_top1") is not None
    assert results.cell("classes", "photo", "self_top1") is None
    assert "## Not made" in markdown(results)


# --- what it writes --------------------------------------------------------------------------------------------------


class Tags(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.images: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        held = dict(attrs)
        self.images += [held["src"] or ""] if tag == "img" else []
        self.links += [held["href"] or ""] if tag == "a" else []


def test_the_page_shows_every_unit_by_every_method(whole: tuple[Path, Results]) -> None:
    folder, _ = whole
    text = (folder / "index.html").read_text()
    tags = Tags()
    tags.feed(text)
    assert len(tags.images) == (5 + 3 + 3) * 2
    assert all((folder / name).is_file() for name in (*tags.images, *tags.links))
    assert "://" not in text.replace("http://www.w3.org", "")
    for said in ("other networks, top-1", "Mind:", "entoptic bench mini"):
        assert said in text
    assert str(folder) not in text


def test_tables_are_made_of_the_json_alone(whole: tuple[Path, Results]) -> None:
    folder, _ = whole
    again = Results.from_json(json.loads((folder / "table.json").read_text()))
    assert markdown(again) == (folder / "table.md").read_text()
    assert csv_table(again) == (folder / "table.csv").read_text()
    assert again.recipe == recipe_json(MINI)
    assert len((folder / "table.csv").read_text().splitlines()) == len(again.cells) + 1
    with pytest.raises(UserError, match="format"):
        Results.from_json({"format": 99})


def test_a_recipe_is_the_same_only_with_the_same_configs() -> None:
    other = replace(MINI.subjects[0].methods[1], config=PixelAscent(steps=6, lr=0.02))
    changed = replace(MINI, subjects=(replace(MINI.subjects[0], methods=(MINI.subjects[0].methods[0], other)),))
    assert recipe_json(changed)["subjects"][0] != recipe_json(MINI)["subjects"][0]
    assert recipe_json(changed)["subjects"][0]["methods"][1]["method"] == "pixels"


# --- the command line ------------------------------------------------------------------------------------------------


def said(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = cli.main(["bench", *map(str, words)])
    out, err = capsys.readouterr()
    return code, out, err


def test_what_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], photo_folder: Path) -> None:
    code, _, err = said(capsys, "smal", "--out", tmp_path / "a")
    assert code == 2
    assert 'no benchmark "smal"; did you mean "small"?' in err
    code, _, err = said(capsys, "standard", "--out", tmp_path / "a")
    assert code == 2
    assert "--photos" in err
    code, _, err = said(capsys, "small", "--out", photo_folder)
    assert code == 2
    assert "is no benchmark and holds other files" in err
    assert not (tmp_path / "a").exists()


def test_the_folder_of_another_benchmark_is_refused(
    whole: tuple[Path, Results], capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = said(capsys, "small", "--out", whole[0])
    assert code == 2
    assert 'is of the benchmark "mini"' in err


def test_a_recipe_by_name_and_its_price(
    whole: tuple[Path, Results], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RECIPES, "mini", MINI)
    code, out, _ = said(capsys, "mini", "--out", tmp_path / "new", "--device", "cpu", "--dry-run")
    assert code == 0
    assert "classes, fourier: 10 to make, 0 there" in out
    assert "planted, pixels: 3 to make" in out
    assert "together" in out
    assert not (tmp_path / "new").exists()
    code, out, _ = said(capsys, "mini", "--out", whole[0], "--device", "cpu", "--dry-run")
    assert "classes, fourier: 0 to make, 10 there" in out
    code, out, _ = said(capsys, "mini", "--out", whole[0], "--device", "cpu", "--threads", "1")
    assert code == 0
    assert "| method | other networks, top-1 |" in out
    assert "index.html" in out


def test_judges_of_one_name_are_refused(tmp_path: Path) -> None:
    from conftest import tiny_card, tiny_module

    def of(seed: str, _: bool) -> object:
        return tiny_module(int(seed)), tiny_card(name=f"file:folder{seed}/judge.json")

    SOURCES["other"] = of  # type: ignore[assignment]
    with pytest.raises(UserError, match='two judges would both be called "judge"'):
        benchmark(MINI, out=tmp_path / "out", verifiers="other:5,other:6", device="cpu", progress=False)
    assert not (tmp_path / "out").exists()


def test_judges_that_are_given_judge_too(tmp_path: Path) -> None:
    recipe = replace(MINI, planted=None, subjects=(replace(MINI.subjects[0], units=("logits:0",), seeds=(0,)),))
    results = benchmark(recipe, out=tmp_path / "out", verifiers="tiny:9,tiny:0,pooled:1", device="cpu", progress=False)
    judges = {c.judge for c in results.cells if c.column == "verifier_top1"}
    assert judges == {"all", "untouched", "pooled:1", "pooled:2", "tiny:9"}, "a network does not judge itself"
    assert results.measured_with["untouched"] == ["tiny:9"], "a judge of the recipe is none"
    assert "--verifiers tiny:9,tiny:0,pooled:1" in results.about["command"]


def test_a_judge_of_a_family_that_took_part_is_not_called_untouched(tmp_path: Path) -> None:
    from conftest import tiny_card, tiny_module

    class SqueezeNet(torch.nn.Module):
        def __init__(self, seed: int) -> None:
            super().__init__()
            self.inside = tiny_module(seed)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inside(x)

    SOURCES["squeezed"] = lambda seed, _: (SqueezeNet(int(seed)), tiny_card(name=f"squeezed:{seed}"))  # type: ignore[assignment]
    recipe = replace(MINI, planted=None, subjects=(replace(MINI.subjects[0], units=("logits:0",), seeds=(0,)),))
    results = benchmark(recipe, out=tmp_path / "out", verifiers="squeezed:5,tiny:9", device="cpu", progress=False)
    assert results.measured_with["untouched"] == ["tiny:9"]
    assert results.measured_with["related"] == ["squeezed:5"]
    assert "Of a family that took part in the choice of a recipe: squeezed:5." in markdown(results)
    assert {c.judge for c in results.cells if c.column == "verifier_top1"} >= {"squeezed:5", "tiny:9", "untouched"}


def test_untouched_judges_come_first_and_absent_ones_are_named(tmp_path: Path) -> None:
    subject = replace(MINI.subjects[0], units=("logits:0", "logits:1"), seeds=(0,))
    recipe = replace(MINI, planted=None, subjects=(subject,), untouched=("pooled:7", "tiny:8", "torchvision:nothing/X"))
    results = benchmark(recipe, out=tmp_path / "out", device="cpu", progress=False)
    assert results.measured_with["untouched"] == ["pooled:7", "tiny:8"]
    each = [results.cell("classes", "pixels", "verifier_top1", name) for name in ("pooled:7", "tiny:8")]
    mean = results.cell("classes", "pixels", "verifier_top1", "untouched")
    every = results.cell("classes", "pixels", "verifier_top1", "all")
    assert mean is not None
    assert every is not None
    assert mean.found is not None
    assert mean.found.value == pytest.approx(sum(c.found.value for c in each if c and c.found) / 2)
    text, page = markdown(results), (tmp_path / "out" / "index.html").read_text()
    assert "<th>other networks, top-1, untouched</th>" in page
    assert "Untouched judges, on which nothing was chosen: pooled:7, tiny:8." in page
    assert "other networks, top-1, untouched" in (tmp_path / "out" / "plot.svg").read_text()
    assert "| method | other networks, top-1, untouched |" in text
    assert "Untouched judges, on which nothing was chosen: pooled:7, tiny:8." in text
    assert "* the judge torchvision:nothing/X: " in text
    assert "other networks, top-1, all" in text
    assert recipe_json(recipe)["untouched"] == ["pooled:7", "tiny:8", "torchvision:nothing/X"]
    assert "untouched" not in recipe_json(MINI)
    none = benchmark(
        replace(recipe, untouched=("torchvision:nothing/X",)), out=tmp_path / "out", device="cpu", progress=False
    )
    assert "no untouched judge could be loaded: give one with --verifiers" in markdown(none)
    assert none.cell("classes", "pixels", "verifier_top1", "untouched") is None


def test_a_clip_judges_and_is_where_sets_are_compared(tmp_path: Path, photo_folder: Path) -> None:
    clip = find_clip(str(write_clip(tmp_path / "tiny-clip")), device="cpu")
    subject = replace(MINI.subjects[0], seeds=(0, 1, 2, 3))
    recipe = replace(MINI, planted=None, subjects=(subject,))
    results = benchmark(
        recipe, out=tmp_path / "out", photos=str(photo_folder), clip=clip, device="cpu", progress=False
    )  # fmt: skip
    model, run = entoptic.load("tiny:0", device="cpu"), entoptic.Run.open(tmp_path / "out" / "runs" / "classes")
    shot = ZeroShot(clip, model.card.labels or ())
    pictures = [p for p in run if p.method == "pixels"]
    right = shot.answers(torch.stack([p.tensor for p in pictures]), [int(p.unit.split(":")[1]) for p in pictures])
    found = results.cell("classes", "pixels", "clip_top1", "clip:tiny-clip")
    assert found is not None
    assert found.found is not None
    assert found.found.value == pytest.approx(float(right.double().mean()))
    assert results.cell("classes", "photos", "clip_top1", "clip:tiny-clip") is not None
    assert results.measured_with["clip"] == {
        "network": "clip:tiny-clip", "chance": 0.2, "weights": clip.identity[:12], "prompts": ["a photo of a {}"],
        "classes": 5, "top": 1,
    }  # fmt: skip
    near = {c.judge for c in results.cells if c.column == "precision"}
    assert near == {"clip:tiny-clip"}, "precision and recall are measured in the chosen embedder"
    held = halve(Photos.open(photo_folder), 2000)
    assert held is not None
    real = torch.cat([clip.images(images) for _, images in held.held_out.batches(model.card.prepare, 25)])
    metric = cmmd(real, "clip", bandwidth=10.0)
    metric.update(clip.images(torch.stack([p.tensor for p in pictures])))
    cell = results.cell("classes", "pixels", "cmmd", "clip:tiny-clip")
    assert cell is not None
    assert cell.found is not None
    assert cell.found.value == pytest.approx(metric.compute().value, rel=1e-4)
    assert "--clip clip:tiny-clip" in results.about["command"]


@pytest.mark.slow
def test_two_workers_make_the_same_pictures(whole: tuple[Path, Results], tmp_path: Path) -> None:
    with chdir(tmp_path):
        results = benchmark(MINI, out="out", device="cpu", progress=False, workers=Workers(count=2, threads=1))
    assert not results.failures
    assert pictures(tmp_path / "out") == pictures(whole[0])
