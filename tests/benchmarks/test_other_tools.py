"""The comparison with other tools, end to end with made-up tools on a tiny network, and its measurements."""

from __future__ import annotations

import importlib
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

HERE = Path(__file__).parent
BENCHMARKS = HERE.parents[1] / "benchmarks"
NAMES = ("protocol", "environments", "measuring", "page", "other_tools")


@pytest.fixture(scope="module")
def bench() -> Iterator[SimpleNamespace]:
    """The benchmark's modules."""
    before = list(sys.path)
    sys.path[:0] = [str(BENCHMARKS), str(BENCHMARKS / "tools")]
    modules: dict[str, ModuleType] = {name: importlib.import_module(name) for name in NAMES}
    yield SimpleNamespace(**modules)
    sys.path[:] = before
    for name in NAMES:
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny network in a file, so that another process can load it."""
    folder = tmp_path_factory.mktemp("network")
    torch.manual_seed(0)
    module = timm.create_model("test_efficientnet", pretrained=False, num_classes=5)
    save_file(module.state_dict(), folder / "tiny.safetensors")
    card = {"architecture": "timm:test_efficientnet", "options": {"num_classes": 5}, "size": [32, 32], "mean": [0.5] * 3,
            "std": [0.25] * 3, "labels": list("abcde")}  # fmt: skip
    (folder / "tiny.json").write_text(json.dumps(card))
    return f"file:{folder / 'tiny.json'}"


def test_a_tool_end_to_end(
    bench: SimpleNamespace, network: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In this process; the slow test below does the same in one of its own.
    monkeypatch.setattr(bench.other_tools, "run", lambda tool, path, tasks, folder: bench.protocol.work(tool, tasks))
    (noise,) = bench.other_tools.adapters(HERE, ["noise"])
    assert bench.other_tools.make(noise, network, [0, 1, 2], 0, 1, 4, tmp_path) == ""
    record = json.loads((tmp_path / "noise" / "equal-1-seed0.json").read_text())
    assert record["evaluations"] == {"forward": 4, "backward": 4}
    assert record["task"] == {"network": network, "index": 1, "setting": "equal", "evaluations": 4, "seed": 0}
    assert record["native size"] == [48, 48]
    assert record["settings"] == {"steps": 4}
    for name in ("equal-1-seed0.png", "equal-1-seed0-centre.png"):
        assert Image.open(tmp_path / "noise" / name).size == (32, 32)

    # A second call makes only what is missing.
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "noise").glob("*.png")}
    (tmp_path / "noise" / "equal-2-seed0.json").unlink()
    assert bench.other_tools.make(noise, network, [0, 1, 2], 0, 1, 4, tmp_path) == ""
    changed = {path.name for path, when in written.items() if path.stat().st_mtime_ns != when}
    assert changed == {"equal-2-seed0.png", "equal-2-seed0-centre.png"}

    def judge(pictures: Tensor) -> Tensor:
        return torch.tensor([[3.0, 2.0, 1.0, 0.0, 0.0]]).expand(len(pictures), 5)

    def embed(pictures: Tensor) -> Tensor:
        return pictures.mean((2, 3))

    space = bench.measuring.Space(name="mean colour", embed=embed, photos=torch.rand(40, 3))
    rows = bench.other_tools.rows_of([noise], tmp_path, [0, 1, 2])
    assert list(rows) == ["Noise equal", "Noise equal, centre"]
    monkeypatch.setattr(bench.other_tools, "BASE", "Noise equal")
    told = bench.other_tools.tables(rows, {"itself": judge, "other": judge}, [space], "itself")
    one = told["Noise equal"]
    assert one["judges"]["other"]["top-1"]["value"] == pytest.approx(1 / 3)
    assert one["judges"]["other"]["top-5"]["value"] == 1
    assert one["agreement"]["n"] == 3
    assert one["sets"]["mean colour"]["kid"]["value"] is None, "3 pictures are too few for the metric of sets"
    assert told["Noise equal, centre"]["against"]["agreement"]["value"] == 0

    result = {
        "command": "python benchmarks/other_tools.py", "about": {"torch": "x"}, "seeds": 1, "evaluations": 4, "rows": told,
        "classes": {"0": "a", "1": "b", "2": "c"},
        "tools": [
            {"key": "absent", "name": "Absent", "requirements": [], "reason": "does not run: no module", "note": "So.",
             "settings": ["Absent default"]},
            {"key": "noise", "name": "Noise", "requirements": [], "reason": "", "note": "",
             "settings": ["Noise equal", "Noise default"]},
        ],
    }  # fmt: skip
    text = bench.page.page(result)
    assert "| Absent |  | does not run: no module. So. |" in text
    assert "| Noise equal | 4 | 0.33 [" in text
    assert "Not made: Noise default." in text
    assert "* **Agreement**: `vital` is not told apart from Noise equal, centre." in text
    assert "fewer than" not in text
    assert str(tmp_path) not in text
    shown = bench.other_tools.published({"photos": (rows["Noise equal"][0], None, None), **rows})
    assert list(shown) == list(rows), "photos are never published"
    bench.other_tools.strip(shown, result["classes"], tmp_path / "s.jpg")
    assert (tmp_path / "s.jpg").stat().st_size < 200_000


def test_the_committed_page_is_made_of_the_committed_numbers(bench: SimpleNamespace) -> None:
    folder = BENCHMARKS.parent / "docs" / "benchmarks"
    result = json.loads((folder / "other-tools.json").read_text())
    assert len(result["classes"]) >= 30
    assert (folder / "other-tools.md").read_text() == bench.page.page(result)
    assert f"\n{bench.page.short_table(result)}\n" in (BENCHMARKS.parent / "README.md").read_text()


@pytest.mark.slow
def test_what_cannot_run_has_a_reason(bench: SimpleNamespace, network: str, tmp_path: Path) -> None:
    absent, noise = bench.other_tools.adapters(HERE, ["absent", "noise"])
    why = bench.other_tools.make(absent, network, [0], 0, 1, 2, tmp_path)
    assert why == "does not run: ModuleNotFoundError: No module named 'a_tool_that_nobody_has'"
    # One picture that fails costs no other, whether it comes first or last.
    why = bench.other_tools.make(noise, network, [3, 0], 0, 1, 2, tmp_path)
    assert why == "does not run: ValueError: this tool knows no class 3"
    assert (tmp_path / "noise" / "equal-0-seed0.json").is_file()
    assert not (tmp_path / "noise" / "equal-3-seed0.png").exists()


def test_slow_settings_make_fewer(bench: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []
    monkeypatch.setattr(bench.other_tools, "run", lambda tool, path, tasks, folder: asked.extend(tasks))
    (horama,) = bench.other_tools.adapters(BENCHMARKS / "tools", ["horama"])
    bench.other_tools.make(horama, "x", [5, 6, 7], 1, 2, 300, tmp_path)
    count = {name: sum(task.setting == name for task in asked) for name in ("maco-default", "maco-equal")}
    assert count == {"maco-default": 2, "maco-equal": 6}
    assert asked[-1].setting.endswith("default"), "what is slow comes last"


def test_failed_installation(bench: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object, **__: object) -> SimpleNamespace:
        return SimpleNamespace(
            returncode=1, stderr="noise\nERROR: No matching distribution found for ghost\n\n[notice] a new pip"
        )

    monkeypatch.setattr(bench.environments.subprocess, "run", refuse)
    monkeypatch.setattr(
        bench.environments.venv, "create", lambda home, **_: (home / "lib/python3/site-packages").mkdir(parents=True)
    )
    ghost = bench.protocol.Tool(name="Ghost", package="ghost", settings=(), make=lambda s, t: None, bare=("ghost==1",))
    with pytest.raises(
        bench.environments.DoesNotRun, match="does not install: ERROR: No matching distribution found for ghost"
    ):
        bench.environments.python_of(ghost, tmp_path)
    assert not (tmp_path / "ghost" / "installed.json").exists(), "it is tried again"


def test_a_reason_names_no_folder(bench: SimpleNamespace) -> None:
    said = bench.environments.last_line(
        "Traceback\nImportError: cannot import name 'optim' from 'captum' (/home/me/x/captum/__init__.py)\n\n[notice] new\n"
    )
    assert said == "ImportError: cannot import name 'optim' from 'captum'"
    assert bench.environments.last_line("needs kornia<=0.4.1 and/or more") == "needs kornia<=0.4.1 and/or more"
    assert bench.environments.last_line("\n") == "it ended without a word"


def test_every_adapter_says_what_it_needs(bench: SimpleNamespace) -> None:
    for one in bench.other_tools.adapters(BENCHMARKS / "tools", bench.other_tools.ORDER):
        assert one.tool.settings
        assert all("==" in requirement for requirement in one.tool.bare if requirement != "decorator"), one.key
        assert one.key == "entoptic" or one.tool.bare


def test_evaluations_are_counted(bench: SimpleNamespace) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).requires_grad_(
        False
    )
    with bench.protocol.counted(net) as count:
        x = torch.rand(5, 3, 8, 8, requires_grad=True)
        net(x)[:, 0].sum().backward()
        net(x)  # no backward pass
        with torch.no_grad():
            net(x)
    assert (count.forward, count.backward) == (10, 5)
    assert not net[0]._forward_hooks


def shots(bench: SimpleNamespace, classes: list[int], value: float = 0.5) -> object:
    return bench.measuring.Shots(pictures=torch.full((len(classes), 3, 4, 4), value), classes=tuple(classes))


def test_seeds_of_a_class_are_one_observation(bench: SimpleNamespace) -> None:
    values = bench.measuring.by_class([1, 0, 1, 1], [7, 7, 9, 9])
    assert values == {7: 0.5, 9: 1.0}
    assert bench.measuring.share(values)["n"] == 2


def test_paired_difference(bench: SimpleNamespace) -> None:
    # What is hard for both rows does not count: Student's interval of -0.25, 0, -0.25, 0.
    told = bench.measuring.difference({1: 0.25, 2: 0.5, 3: 0.75, 4: 1.0, 9: 0.0}, {1: 0.5, 2: 0.5, 3: 1.0, 4: 1.0})
    half = 3.182 * 0.125 / 3**0.5
    assert told["value"] == -0.125
    assert told["n"] == 4
    assert told["interval"] == pytest.approx([-0.125 - half, -0.125 + half], abs=1e-3)
    # No class differs: the interval does not close up, and is that of Newcombe's square-and-add, here by hand.
    ones = dict.fromkeys(range(10), 1.0)
    same = bench.measuring.difference(ones, ones)
    assert same["value"] == 0
    assert same["interval"] == pytest.approx([-0.2775, 0.2775], abs=1e-3)  # 1 - 1/(1 + 1.96²/10)
    far = bench.measuring.difference(ones, dict.fromkeys(range(10), 0.0))["interval"]
    assert far == pytest.approx([1 - 0.2775 * 2**0.5, 1.0], abs=1e-3)


def test_distances_over_classes(bench: SimpleNamespace) -> None:
    draw = torch.Generator().manual_seed(0)
    photos = torch.randn(60, 4, generator=draw)
    near, far = (torch.randn(12, 4, generator=draw) + shift for shift in (0.0, 3.0))
    classes = list(range(12))
    space = bench.measuring.Space(name="s", embed=lambda x: x, photos=photos)
    sides = [
        (shots(bench, classes), bench.measuring.Seen(ranks={"a": [1] * 12, "b": [1] * 12}, features={"s": features}))
        for features in (far, near)
    ]
    told = bench.measuring.against(*sides, [space], "a")["distance"]["s"]
    assert told["interval"][0] > 0, "the far set is farther"
    none = bench.measuring.against(sides[1], sides[1], [space], "a")["distance"]["s"]
    assert none["value"] == none["interval"][0] == none["interval"][1] == 0
    # The jackknife of a mean is Student's interval of the mean.
    values = [1.0, 2.0, 4.0, 7.0]
    without = [(14 - v) / 3 for v in values]
    low, high = bench.measuring.jackknife(3.5, without)["interval"]
    error = math.sqrt(sum((v - 3.5) ** 2 for v in values) / 3 / 4)
    assert (low, high) == pytest.approx((3.5 - 3.182 * error, 3.5 + 3.182 * error), abs=1e-2)


def test_ratios_of_time(bench: SimpleNamespace) -> None:
    told = bench.measuring.ratio({1: 2.0, 2: 8.0}, {1: 1.0, 2: 2.0, 3: 5.0})
    assert told["value"] == pytest.approx(math.sqrt(8))
    assert told["n"] == 2
    assert bench.measuring.ratio({1: 2.0}, {1: 1.0})["interval"] is None


def test_without_the_shared_data_two_networks_judge(
    bench: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def net(value: float) -> object:
        def run(pictures: Tensor) -> Tensor:
            return torch.full((len(pictures), 5), value)

        run.fit = lambda pictures: pictures  # type: ignore[attr-defined]
        return run

    known = {"builtin:lite1": net(1.0), "builtin:lite2": net(2.0)}
    monkeypatch.setattr(bench.other_tools, "DATA", tmp_path)
    monkeypatch.setattr(bench.other_tools, "entoptic", SimpleNamespace(load=known.__getitem__))
    judges, spaces = bench.other_tools.judges_and_spaces(net(0.0))
    assert {name: judge(torch.zeros(30, 3, 2, 2)).unique().item() for name, judge in judges.items()} == {
        "Lite0 (itself)": 0.0, "Lite1": 1.0, "Lite2": 2.0,
    }  # fmt: skip
    assert spaces == []


def test_the_command_names_no_folder(bench: SimpleNamespace) -> None:
    words = bench.other_tools.words_kept(["--classes", "3", "--run", "somewhere", "--tables-only"])
    assert words == ["--classes", "3"]
