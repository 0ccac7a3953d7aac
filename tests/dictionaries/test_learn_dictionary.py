"""Training dictionaries: planted ones are found again, and what is resumed is the same training."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from conftest import tiny_card
from entoptic import UserError, learn_dictionary
from entoptic.base.records import read_tensors
from entoptic.cli.main import main
from entoptic.dictionaries.kinds import KINDS
from entoptic.dictionaries.learn import train
from entoptic.dictionaries.measures import measure_fit
from entoptic.dictionaries.network import SparseNet, relative_error, revival
from entoptic.dictionaries.recipe import DictionaryRecipe
from entoptic.dictionaries.splice import spliced, splicing_cost
from entoptic.dictionaries.stream import Rows, Source
from entoptic.models.model import Model
from entoptic.units.dictionary import load_dictionary, save
from entoptic.units.sparse import Sparse
from entoptic.units.unit import bind

SMALL: dict[str, Any] = {
    "features": 20, "active": 3, "batch_size": 32, "positions": 8, "buffer": 200, "warmup": 2, "check_every": 4,
    "least_gain": 0.0, "dead_after": 100,
}  # fmt: skip

SHORT = DictionaryRecipe(steps=4, **SMALL)

needs_overcomplete = pytest.mark.skipif(
    find_spec("overcomplete") is None, reason="overcomplete is not installed (extra dictionaries)"
)
every_kind = pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=needs_overcomplete if kind == "archetypal" else ()) for kind in KINDS]
)


# --- planted truth -------------------------------------------------------------------------------------------------


def planted(count: int, channels: int = 20, features: int = 24, active: float = 2.5) -> tuple[Tensor, Tensor, Tensor]:
    """Rows that are sparse sums of unit directions, the directions, and their strengths."""
    draw = torch.Generator().manual_seed(0)
    directions_KC = torch.nn.functional.normalize(torch.randn(features, channels, generator=draw))
    on = torch.rand(count, features, generator=draw) < active / features
    strengths_NK = on * (0.5 + torch.rand(count, features, generator=draw))
    return (
        strengths_NK @ directions_KC + 0.02 * torch.randn(count, channels, generator=draw),
        directions_KC,
        strengths_NK,
    )


def f1(found: Tensor, true: Tensor) -> float:
    both = float((found & true).sum())
    return 2 * both / float(found.sum() + true.sum())


@every_kind
def test_a_planted_dictionary_is_found(kind: str, record_property: Any) -> None:
    rows_NC, directions_KC, strengths_NK = planted(8000)
    centred = rows_NC - rows_NC.mean(0)
    x_NC = centred / centred.square().sum(1).mean().sqrt()
    # The first groups of a Matryoshka dictionary hold sums of directions, so that it needs more features for them all.
    count = 64 if kind == "matryoshka" else 32
    recipe = DictionaryRecipe(features=count, active=3, steps=700, batch_size=256, rate=3e-3, dead_after=5000)
    chosen = KINDS[kind]
    net = chosen.network(x_NC[:2048], x_NC[:2048], recipe, learned_thresholds=chosen.learned_thresholds)
    optimiser = torch.optim.Adam(net.parameters())
    optimiser.register_step_pre_hook(net.before_update)
    optimiser.register_step_post_hook(net.after_update)
    draw = torch.Generator().manual_seed(1)
    for step in range(recipe.steps):
        optimiser.param_groups[0]["lr"] = recipe.rate * min(1.0, (recipe.steps - step) / 200)
        batch = x_NC[torch.randint(0, len(x_NC), (recipe.batch_size,), generator=draw)]
        pre = net.pre_activations(batch)
        codes = chosen.codes(net, pre, recipe)
        loss = chosen.loss(net, pre, codes, batch, recipe) + revival(net, pre, codes, batch, recipe)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
    with torch.no_grad():
        best = (net.decoder @ directions_KC.T).max(0)
        pre = net.pre_activations(x_NC[:3000])
        codes = torch.where(pre > chosen.thresholds(net, pre, recipe), pre, torch.zeros_like(pre))
        score = f1(codes[:, best.indices] > 0, strengths_NK[:3000] > 0)
        explained = 1 - float(relative_error(net.decode(codes), x_NC[:3000]))
    record_property("matched cosine, F1, explained", (float(best.values.mean()), score, explained))
    assert float(best.values.mean()) >= 0.9
    assert score >= 0.7
    assert explained >= 0.6
    torch.testing.assert_close(net.decoder.norm(dim=1), torch.ones(count))


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / json.loads((folder / "training.json").read_text())["state"])


# --- training on photos ----------------------------------------------------------------------------------------------


def source_of(model: Model, photos: Path, **more: Any) -> Source:
    return Source.of(model, "stage2", photos, **more)


@every_kind
def test_resuming_gives_the_same_bytes(tiny: Model, photo_folder: Path, tmp_path: Path, kind: str) -> None:
    recipe = DictionaryRecipe(steps=12, **SMALL)
    whole = learn_dictionary(tiny, "stage2", photo_folder, tmp_path / "a" / "x", recipe, kind=kind, progress=False)

    def stop(what: str, done: int, total: int) -> None:
        if what == "training the dictionary" and done == 7:
            raise KeyboardInterrupt

    parts = tmp_path / "b" / "x"
    with pytest.raises(KeyboardInterrupt):
        train(source_of(tiny, photo_folder), kind, parts, recipe, progress=stop)
    assert json.loads((parts / "training.json").read_text())["step"] == 7
    again = learn_dictionary(tiny, "stage2", photo_folder, parts, recipe, kind=kind, progress=False)
    assert again.read_bytes() == whole.read_bytes()
    states = [weights(one.parent) for one in (whole, again)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_learned_dictionary_is_a_unit_with_a_card(tiny: Model, photo_folder: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    recipe = DictionaryRecipe(steps=60, **SMALL)
    file = learn_dictionary(
        tiny, "stage2", photo_folder, tmp_path / "sae", recipe, kind="topk", second_seed=True, progress=False, log=lines.append
    )  # fmt: skip
    made = load_dictionary(file, tiny)
    assert isinstance(made, Sparse)
    found = made.found
    assert set(found["fit"]) == {"explained", "explained_each", "l0", "l0_alone", "alive", "dense", "positions"}
    assert found["fit"]["explained"] > 0.3
    assert found["fit"]["l0"] <= 3
    assert (found["measured on"]["photos"], found["photos"]) == (4, 36)
    assert -1 <= found["splicing"]["cosine"] <= 1
    assert 0 < found["stability"] <= 1
    assert (tmp_path / "sae" / "sheet.png").is_file()
    assert any("the buffer takes at most" in line for line in lines)
    assert any("explained variance" in line and "kept out" in line for line in lines)
    torch.testing.assert_close(made.decoder.norm(dim=1), torch.ones(20))
    assert str(bind(tiny, f"dict({file}):7")[0]) == f"dict({file}):7"


def test_a_transcoder_predicts_another_layer(tiny: Model, photo_folder: Path, tmp_path: Path) -> None:
    recipe = DictionaryRecipe(steps=400, window=3, **SMALL | {"rate": 5e-3, "batch_size": 64})
    with pytest.raises(UserError, match="a transcoder needs the same in both"):
        learn_dictionary(tiny, "stage1", photo_folder, tmp_path / "no", recipe, writes="stage2")
    file = learn_dictionary(
        tiny, "stage1.1", photo_folder, tmp_path / "t", recipe, writes="stage1.0", kind="batchtopk", progress=False
    )
    made = load_dictionary(file, tiny)
    assert isinstance(made, Sparse)
    assert (made.layer, made.writes, made.window, made.grid) == ("stage1.1", "stage1.0", 3, (16, 16))
    assert "runs after" in made.found["splicing"]["reason"]
    assert made.found["fit"]["explained"] > 0.2


def test_rows_do_not_depend_on_the_order_of_steps_and_mix_photos(tiny: Model, photo_folder: Path) -> None:
    recipe = DictionaryRecipe(steps=40, **SMALL | {"buffer": 64, "batch_size": 16})
    one, two = (Rows(source_of(tiny, photo_folder), recipe) for _ in range(2))
    later = two.batch(9)
    for step in range(10):
        last = one.batch(step)
    assert torch.equal(last[0], later[0])
    assert not torch.equal(one.batch(0)[0], one.batch(4)[0])
    assert one.bound == 3 * 4 * 8 * 8 * 16
    assert len(one.held_members) == 4
    assert float(one.first()[0].square().sum(1).mean()) == pytest.approx(1, abs=0.01)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(
    tiny: Model, photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Rows.batch

    def spoiled(self: Rows, step: int) -> tuple[Tensor, Tensor]:
        x, y = whole(self, step)
        return (x, y) if step < 5 else (x * torch.nan, y * torch.nan)

    monkeypatch.setattr(Rows, "batch", spoiled)
    with pytest.raises(UserError, match=r"loss became nan .* at step 5; the steps before are kept"):
        train(source_of(tiny, photo_folder), "topk", tmp_path, DictionaryRecipe(steps=9, **SMALL))
    record = json.loads((tmp_path / "training.json").read_text())
    assert record["step"] == 5
    assert all(tensor.isfinite().all() for tensor in load_file(tmp_path / record["state"]).values())


def test_it_stops_where_explained_variance_no_longer_rises(tiny: Model, photo_folder: Path, tmp_path: Path) -> None:
    recipe = DictionaryRecipe(steps=500, **SMALL | {"least_gain": 0.9, "patience": 2})
    _, _, record = train(source_of(tiny, photo_folder), "topk", tmp_path, recipe)
    assert record["step"] == 12
    assert "rose by" in record["stopped"]
    _, _, again = train(source_of(tiny, photo_folder), "topk", tmp_path, recipe)
    assert again["step"] == 12


def test_dead_features_come_back() -> None:
    rows = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    recipe = DictionaryRecipe(features=8, active=2, dead_after=10)
    net = SparseNet(rows, rows, recipe, learned_thresholds=False)
    codes = torch.zeros(64, 8)
    codes[:, 0] = 1
    assert float(revival(net, net.pre_activations(rows), codes, rows, recipe)) == 0
    net.after_update()
    assert net.quiet.tolist() == [0.0, *[64.0] * 7]
    loss = revival(net, net.pre_activations(rows), codes, rows, recipe)
    loss.backward()
    assert net.encoder.grad is not None
    assert net.encoder.grad[0].eq(0).all()
    assert net.encoder.grad[1:].abs().sum() > 0


def test_another_training_in_the_folder_is_refused(tiny: Model, photo_folder: Path, tmp_path: Path) -> None:
    recipe = DictionaryRecipe(steps=2, **SMALL)
    train(source_of(tiny, photo_folder), "topk", tmp_path, recipe)
    with pytest.raises(UserError, match=r"another kind \(topk, not relu\)"):
        train(source_of(tiny, photo_folder), "relu", tmp_path, recipe)
    with pytest.raises(UserError, match=r"another features \(20, not 24\)"):
        train(source_of(tiny, photo_folder), "topk", tmp_path, DictionaryRecipe(steps=2, **SMALL | {"features": 24}))


@pytest.mark.parametrize(
    ("change", "message"),
    [({"window": 2}, "has no centre"), ({"active": 30}, "30 active of 20"), ({"batch_size": 300}, "does not fit")],
)
def test_recipes_that_cannot_be(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        DictionaryRecipe(**SMALL | change)


def test_wrong_names_are_refused_before_anything_is_written(tiny: Model, photo_folder: Path, tmp_path: Path) -> None:
    for layer, kind, message in (
        ("stage3", "topk", "did you mean"), ("stage2", "topkk", 'did you mean "topk"'),
        ("logits", "topk", "a layer inside the network"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message):
            learn_dictionary(tiny, layer, photo_folder, tmp_path / "out", kind=kind)
    assert not (tmp_path / "out").exists()


def test_the_verb(photo_folder: Path, tmp_path: Path, tiny_student: str, capsys: pytest.CaptureFixture[str]) -> None:
    words: list[Any] = [
        "learn", "dictionary", tiny_student, "stage2", "--photos", photo_folder, "--kind", "relu", "--out", tmp_path / "d",
        "--features", 12, "--active", 2, "--steps", 8, "--batch-size", 32, "--buffer", 256, "--positions", 8,
    ]  # fmt: skip
    assert main([str(word) for word in words]) == 0
    out = capsys.readouterr().out
    assert "relu autoencoder of 12 features in stage2: explained variance" in out
    assert f"'dict({tmp_path / 'd' / 'dictionary.safetensors'}):0'" in out
    words[words.index("relu")] = "reluu"
    assert main([str(word) for word in words]) == 2
    assert 'did you mean "relu"' in capsys.readouterr().err


def test_a_damaged_dictionary_is_refused(tiny: Model, tmp_path: Path) -> None:
    file = save(identity(tiny), tmp_path / "d.safetensors")
    held = load_file(file)
    about = read_tensors(file).metadata
    for name, change in (
        ("without a part", lambda t: t.pop("decoder")),
        ("cut", lambda t: t.update(decoder=t["decoder"][:3])),
    ):
        tensors = dict(held)
        change(tensors)
        save_file({k: v.contiguous() for k, v in tensors.items()}, tmp_path / f"{name}.safetensors", about)
        with pytest.raises(UserError, match="is a damaged dictionary"):
            load_dictionary(tmp_path / f"{name}.safetensors")


# --- spliced in -----------------------------------------------------------------------------------------------------


def identity(model: Model) -> Sparse:
    """A dictionary that reconstructs a ReLU layer exactly: one feature a channel."""
    eye = torch.eye(16)
    return Sparse(
        encoder=eye[:, :, None, None], encoder_bias=torch.zeros(16), decoder=eye, decoder_bias=torch.zeros(16),
        threshold=torch.zeros(16), kind="relu", layer="stage2", model_sha256=model.card.identity,
    )  # fmt: skip


def test_an_exact_dictionary_costs_nothing_and_the_network_stays_as_it_was(tiny: Model) -> None:
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    before = tiny(images)
    assert splicing_cost(tiny, identity(tiny), images) == {"cosine": pytest.approx(1), "same answer": 1.0}
    with spliced(tiny, identity(tiny)):
        torch.testing.assert_close(tiny(images), before)
        torch.testing.assert_close(tiny(images), before)  # a second pass begins anew
    with spliced(tiny, identity(tiny), codes=lambda z: 0 * z):
        assert not torch.allclose(tiny(images), before)
    assert torch.equal(tiny(images), before)


class Flat(nn.Module):
    """`mix` puts out its bias alone, whatever the photo: 4-byte numbers of one value."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mix, self.head = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 6, 1), nn.Linear(6, 5)
        with torch.no_grad():
            self.mix.weight *= 1e-9
            self.mix.bias.copy_(torch.arange(6) + 1.0)  # type: ignore[union-attr]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.mix(self.stem(x)).mean((2, 3)))


def test_a_layer_of_one_value_is_refused(photo_folder: Path, tmp_path: Path) -> None:
    model = Model(Flat(), tiny_card(), device="cpu")
    with pytest.raises(UserError, match="mix has the same values at every position of these photos"):
        learn_dictionary(model, "mix", photo_folder, tmp_path / "d", SHORT, progress=False)


def test_photos_of_one_value_leave_the_fit_open() -> None:
    made = Sparse(
        encoder=torch.eye(16)[:, :, None, None], encoder_bias=torch.zeros(16), decoder=torch.eye(16), decoder_bias=torch.zeros(16),
        threshold=torch.zeros(16), kind="relu", layer="stage2",
    )  # fmt: skip
    same = torch.rand(1, 16, 1, generator=torch.Generator().manual_seed(0)).expand(3, 16, 9)
    with pytest.raises(UserError, match="same values at every position, of which no share can be explained"):
        measure_fit(made, same, same)


def test_what_cannot_be_measured_is_said_with_its_reason(tiny: Model, photo_folder: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    learn_dictionary(
        tiny, "stage2", photo_folder, tmp_path / "d", SHORT, writes="stage2.0", progress=False, log=lines.append
    )  # fmt: skip
    assert "not spliced in (stage2 runs after stage2.0, which the dictionary is to write)" in lines[-1]
