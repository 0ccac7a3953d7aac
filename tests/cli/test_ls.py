"""`entoptic ls`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cli.conftest import Say, refusal, see
from conftest import tiny_card, tiny_module
from entoptic.cli import list_model
from entoptic.cli.list_known import INVERTERS, LISTS, MODELS, PRIORS
from entoptic.inversion import card
from entoptic.metrics import METRICS
from entoptic.models import sources
from entoptic.priors.sources import SHIPPED
from entoptic.priors.sources import SOURCES as PRIOR_SOURCES


def test_ls(say: Say) -> None:
    code, out, _ = say("ls")
    assert code == 0
    for word in ("builtin:", "torchvision:", "builtin:lite0", "vital", "retrieval", SHIPPED, "builtin:lite0-bn2"):
        assert word in out
    code, out, _ = say("ls", "tiny:net")
    assert code == 0
    assert "stage1.2" in out
    assert "logits" in out
    code, out, _ = say("ls", "tiny:net", "logits")
    assert "logits:2\tstripe" in out
    code, out, _ = say("ls", "tiny:net", "stage1")
    assert "12 units, 8×8 positions, ends in stage1.3" in out
    assert "stage1:0 … stage1:11" in out


def test_what_it_says_of_itself_is_so(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sources.SOURCES, "tiny")
    assert {name.partition(":")[0] for name in MODELS} == set(sources.SOURCES)
    for name in sources.BUILTIN:
        assert name in " ".join([*MODELS, *MODELS.values()])
    assert {name.partition(":")[0] for name in PRIORS} | {"builtin"} == set(PRIOR_SOURCES)
    assert card.builtin_inverters() == ["lite0-bn2", "lite0-bn2-128", "vit-s14-blocks-10"]
    assert list(INVERTERS) == ["file:FOLDER"]
    for word in LISTS:
        code, out, _ = say("ls", word)
        assert (code, out.strip() != "") == (0, True)
    assert all(name in say("ls", "metrics")[1] for name in METRICS)
    assert "channel, combination, direction, feature, logit" in say("ls", "methods")[1]


@pytest.fixture
def _deep(monkeypatch: pytest.MonkeyPatch) -> None:
    """An outline of the tiny network is not its whole list."""
    monkeypatch.setattr(list_model, "OUTLINE", 7)


@pytest.mark.usefixtures("_deep")
def test_a_model_in_outline(say: Say) -> None:
    code, out, _ = say("ls", "tiny:net")
    assert code == 0
    rows = [line.split() for line in out.splitlines()]
    assert [row[0] for row in rows[2:9]] == ["stem", "stage1", "stage2", "pool", "flat", "head", "logits"]
    assert rows[3][-2:] == ["4", "layers"]
    assert "7 layers more inside of these: --filter stage1 lists those of a part, --all lists all" in out
    code, out, _ = say("ls", "tiny:net", "--all")
    assert "stage1.2" in out
    assert "more inside" not in out
    code, out, _ = say("ls", "tiny:net", "--filter", "stage2")
    assert [line.split()[0] for line in out.splitlines()[2:]] == ["stage2.0", "stage2.1", "stage2.2", "stage2"]
    assert [line.split()[0] for line in say("ls", "tiny:net", "--filter", "*.1")[1].splitlines()[2:]] == [
        "stage1.1",
        "stage2.1",
    ]
    assert "stage1.0" in say("ls", "tiny:net", "--filter", "AGE1")[1]


def test_near_matches(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    assert 'did you mean "stage1"?' in refusal(say("ls", "tiny:net", "--filter", "stge1"))
    assert 'did you mean "methods"?' in refusal(say("ls", "methds"))
    assert "did you mean builtin:lite0?" in refusal(say("ls", "lite0"))
    assert 'did you mean "builtin:lite0"?' in refusal(say("ls", "builtin-lite0"))
    assert 'no label "strpie" in tiny:net; did you mean "stripe"?' in refusal(
        say("ls", "tiny:net", "--units", "strpie")
    )
    assert 'did you mean "stripe"?' in refusal(say("ls", "tiny:net", 'logits:"strpie"'))

    def bare(name: str, pretrained: bool) -> Any:
        return tiny_module(), tiny_card(name="tiny:net", labels=None)

    monkeypatch.setitem(sources.SOURCES, "tiny", bare)
    assert "tiny:net has no labels; its logits are logits:0 to logits:4" in refusal(
        say("ls", "tiny:net", "--units", "stripe")
    )


def test_units_by_label_and_by_the_grammar(say: Say) -> None:
    assert say("ls", "tiny:net", "--units", "r")[1].splitlines() == [
        "logits:0\tcircle", "logits:1\tsquare", "logits:2\tstripe", "logits:3\tcross",
    ]  # fmt: skip
    assert say("ls", "tiny:net", "--units", "Stripe")[1] == "logits:2\tstripe\n"
    assert say("ls", "tiny:net", 'logits:"stripe"')[1] == "logits:2\tstripe\tlogit, read by value\n"
    assert say("ls", "tiny:net", "stage1:3-4@max")[1].splitlines() == [
        "stage1:3@max\tchannel, read by max", "stage1:4@max\tchannel, read by max",
    ]  # fmt: skip


def test_a_run(say: Say, tmp_path: Path) -> None:
    run = tmp_path / "first"
    say(*see("logits:2", "stage1:3", "--method", "fourier,pixels", "--out", run))
    code, out, err = say("ls", run)
    assert (code, err) == (0, "")
    assert f"{run}: 4 finished pictures of tiny:net, begun 20" in out.splitlines()[0]
    rows = [line.split() for line in out.splitlines()[1:]]
    assert rows == [["unit", "label", "fourier", "pixels"], ["logits:2", "stripe", "1", "1"], ["stage1:3", "1", "1"]]
    assert "stage1" not in say("ls", run, "--filter", "stripe")[1]
    assert 'did you mean "stripe"?' in refusal(say("ls", run, "--filter", "strpie"))
    assert 'did you mean "' in refusal(say("ls", tmp_path / "frist"))
    assert "--filter stage1" in refusal(say("ls", run, "stage1"))
    assert "neither a run nor an index" in refusal(say("ls", tmp_path))
    one, other = sorted(run.glob("pictures/*/fourier*.json"))
    one.write_text(one.read_text().replace('"complete": true', '"complete": false'))
    other.write_text("{")
    code, out, _ = say("ls", run)
    assert code == 0
    assert "2 finished pictures" in out
    assert "1 picture stopped early; the same command again goes on from there" in out
    assert "1 stopped" in out
    assert f"not read: pictures/{other.parent.name}/{other.name}: cannot be read" in out


def test_an_index(say: Say, tmp_path: Path, photo_folder: Path) -> None:
    index = tmp_path / "index"
    say("index", "tiny:net", "--photos", photo_folder, "--layers", "stage1", "logits", "--out", index)
    assert "stage1:0 … stage1:11" in say("ls", index)[1].replace("@mean", "")
    assert "stage1" not in say("ls", index, "--filter", "LOG")[1]
    assert 'did you mean "stage1"?' in refusal(say("ls", index, "--filter", "stgae1"))
    assert "--units is for a model" in refusal(say("ls", index, "--units", "stripe"))
    assert "strongest" in say("ls", index, "stage1:3")[1]


def test_words_that_are_too_much(say: Say) -> None:
    assert '"vital" is too much' in refusal(say("ls", "methods", "vital"))
    assert '"vital" is too much' in refusal(say("ls", "methods", "--filter", "vital"))


def test_a_long_run_is_cut(say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from entoptic.cli import list_run

    monkeypatch.setattr(list_run, "MOST", 2)
    say(*see("logits:0-2", "--method", "fourier", "--out", tmp_path / "r"))
    assert "… and 1 unit more: --all lists all, --filter WORD some" in say("ls", tmp_path / "r")[1]
    assert "logits:2" in say("ls", tmp_path / "r", "--all")[1]
    assert "more:" not in say("ls", tmp_path / "r", "--all")[1]
