"""From training to the shelf: the folder that `learn inverter` leaves loads, samples, and says how good it is."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import tiny_card, tiny_module
from entoptic import Model, UserError
from entoptic.base.files import lock_folder
from entoptic.cli import main
from entoptic.inversion.configs import EntopticRecipe
from entoptic.inversion.saved import load_inverter
from entoptic.models.sources import SOURCES
from entoptic.priors.learn import network
from entoptic.priors.recipe import Recipe
from entoptic.priors.saved import save_prior
from entoptic.runs.learn_inverter import learn, measured

RECIPE = EntopticRecipe(steps=3, batch_size=4, hint=8, warmup=1)


@pytest.fixture
def prior_folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    net = network(Recipe(size=8, patch=2, widths=(16, 32), attention=(2,)), 0)
    return save_prior(net, tmp_path / "prior", {"name": "tiny", "size": 8, "patch": 2, "classes": []})


def test_it_is_trained_measured_and_shelved(
    tiny: Model, prior_folder: Path, photo_folder: Path, tmp_path: Path
) -> None:
    judge = Model(tiny_module(seed=4), tiny_card(name="judge"), device="cpu")
    out = learn(
        tiny, "stage2", photo_folder, tmp_path / "inv", RECIPE, prior=f"file:{prior_folder}", held_out=photo_folder,
        verifiers=[judge], compared=20, progress=False,
    )  # fmt: skip
    card = json.loads((out / "card.json").read_text())
    assert card["training"]["pictures_seen"] == 12
    assert (card["layer"], card["map"], card["size"]) == ("stage2", [16, 4, 4], 8)
    assert (out / "samples.png").is_file()
    inverter = load_inverter(f"file:{out}", tiny, device="cpu")
    assert inverter.law is not None
    assert inverter.law.channels == 16
    again = measured(inverter, photo_folder, [judge], compared=20)
    assert again == {k: v for k, v in card["measured"].items() if k != "on"}
    assert card["measured"]["on"] == "held-out photos"
    small, made = (again[k] for k in ("photo at this size", "inverter"))
    assert set(made) == {"cosine", "standardised cosine", "tiny", "judge"}
    assert small["cosine"][0] > made["cosine"][0]  # an untrained inverse is no better than the photo itself
    value, low, high = made["judge"]["top1"]
    assert 0 <= low <= value <= high <= 1


def asked(prior_folder: Path, photo_folder: Path, out: Path, *more: str) -> list[str]:
    return [
        "learn", "inverter", "tiny:0", "stage2", "--photos", str(photo_folder), "--out", str(out), "--prior",
        f"file:{prior_folder}", "--verifiers", "", "--device", "cpu", *more,
    ]  # fmt: skip


def test_the_command_trains_and_goes_on(
    prior_folder: Path, photo_folder: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.setitem(SOURCES, "tiny", lambda seed, _: (tiny_module(int(seed)), tiny_card(name=f"tiny:{seed}")))
    command = asked(
        prior_folder, photo_folder, tmp_path / "inv", "--compared", "10", "--recipe", "paper", "--paper.hint", "8",
        "--paper.batch-size", "4",
    )  # fmt: skip
    assert main([*command, "--steps", "2"]) == 0
    assert "entoptic invert tiny:0 stage2 PHOTO" in capsys.readouterr().out
    assert main([*command, "--steps", "3"]) == 0
    record = json.loads((tmp_path / "inv" / "training.json").read_text())
    assert record["step"] == 3
    assert record["recipe"]["drop_together"]
    assert main([*command[:-4], "--steps", "3"]) == 2  # the published hint of 512 channels is another network
    assert "with another" in capsys.readouterr().err
    assert main([*command[:-6], "--steps", "3", "--paper.hint", "8"]) == 2
    assert "options of --paper were given for --recipe entoptic" in capsys.readouterr().err
    assert main([*command, "--recipe", "papr"]) == 2
    assert 'did you mean "paper"?' in capsys.readouterr().err


def test_two_trainings_in_one_folder(
    prior_folder: Path, photo_folder: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.setitem(SOURCES, "tiny", lambda seed, _: (tiny_module(int(seed)), tiny_card(name=f"tiny:{seed}")))
    command = asked(
        prior_folder, photo_folder, tmp_path / "inv", "--steps", "1", "--entoptic.hint", "8", "--entoptic.batch-size", "2",
        "--compared", "4",
    )  # fmt: skip
    with lock_folder(tmp_path / "inv"):
        assert main(command) == 2
    said = capsys.readouterr().err
    assert f"{tmp_path / 'inv'} is being written by another process (pid {os.getpid()} on" in said
    assert "wait until it ends, or give another --out" in said
    assert [p.name for p in (tmp_path / "inv").iterdir()] == [".lock"]
    # Pairs may lie in the folder of the training itself: the two locks do not get in each other's way.
    assert main([*command, "--pairs", str(tmp_path / "inv")]) == 0


def test_what_a_killed_training_left_half_written_is_deleted(
    prior_folder: Path, photo_folder: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setitem(SOURCES, "tiny", lambda seed, _: (tiny_module(int(seed)), tiny_card(name=f"tiny:{seed}")))
    out = tmp_path / "inv"
    command = asked(
        prior_folder, photo_folder, out, "--entoptic.hint", "8", "--entoptic.batch-size", "2", "--compared", "4", "--steps",
    )  # fmt: skip
    for place in ("pairs", "sheets", "inverter"):
        (out / place).mkdir(parents=True)
        (out / place / ".left.part").write_bytes(b"half a file")
    (out / ".left.part").write_bytes(b"half a file")
    assert main([*command, "1"]) == 0
    assert not list(out.rglob("*.part"))


def test_an_untrained_network_can_be_trained_directly(tiny: Model, photo_folder: Path, tmp_path: Path) -> None:
    recipe = EntopticRecipe(steps=1, batch_size=2, hint=8, network="direct")
    with pytest.raises(UserError, match="nothing of it is worth freezing"):
        learn(tiny, "stage2", photo_folder, tmp_path / "b", RECIPE, prior="fresh:8", progress=False)
    with pytest.raises(UserError, match="fresh:SIZE"):
        learn(tiny, "stage2", photo_folder, tmp_path / "a", recipe, prior="fresh:big", progress=False)
    out = learn(
        tiny, "stage2", photo_folder, tmp_path / "a", recipe, prior="fresh:8", verifiers="", compared=4, progress=False
    )
    loaded = load_inverter(f"file:{out}", tiny, device="cpu")
    assert (loaded.prior.name, loaded.size) == ("fresh:8", 8)


def test_the_text_of_a_prior_is_on_the_card(tiny: Model, photo_folder: Path, tmp_path: Path) -> None:
    from entoptic.inversion.configs import PaperRecipe
    from tiny_pipelines import save_text_pipeline

    folder = save_text_pipeline(tmp_path / "sd")
    out = learn(
        tiny, "stage2", photo_folder, tmp_path / "inv", PaperRecipe(steps=1, batch_size=2, hint=8), prior=f"hf:{folder}",
        prompt="abc", verifiers="", compared=2, progress=False,
    )  # fmt: skip
    card = json.loads((out / "card.json").read_text())
    assert card["prior_options"] == {"prompt": "abc", "guidance": 1.75}  # guidance as FeatInv released it
    assert (card["steps"], card["order"]) == (50, 1)
    loaded: Any = load_inverter(f"file:{out}", tiny, device="cpu")
    assert loaded.prior.guidance == 1.75
    torch.testing.assert_close(loaded.prior.text, loaded.prior.embed(["abc"]))
    assert loaded.order == 1


def test_what_is_wrong_shows_before_the_training(
    tiny: Model, prior_folder: Path, photo_folder: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"prior": f"file:{prior_folder}", "progress": False}
    for wrong, message in [
        ({"held_out": tmp_path / "nowhere"}, "nowhere"),
        ({"verifiers": "builtin:nothing"}, "nothing"),
        ({"compared": 0}, "at least 1, got 0"),
        ({"prompt": "a church"}, "reads no text"),
    ]:
        with pytest.raises(UserError, match=message):
            learn(tiny, "stage2", photo_folder, tmp_path / "inv", RECIPE, **options, **wrong)
        assert not (tmp_path / "inv" / "training.json").exists()
