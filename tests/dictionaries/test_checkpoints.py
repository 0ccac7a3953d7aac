"""Checkpoints of other tools: each layout built here gives the reconstruction that its tool computes."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import normalize

from conftest import tiny_card, tiny_module
from entoptic.cli.main import main
from entoptic.dictionaries.checkpoints import read_checkpoint, write_saelens
from entoptic.errors import UserError
from entoptic.models import sources
from entoptic.models.model import Model
from entoptic.units.dictionary import info, load_dictionary, save
from entoptic.units.sparse import Sparse
from entoptic.units.unit import bind

K, C = 12, 16


def numbers(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


ENC, DEC = numbers(K, C, seed=0), normalize(numbers(K, C, seed=1))
B_ENC, B_DEC, THETA = 0.1 * numbers(K, seed=2), numbers(C, seed=3), 0.3 + numbers(K, seed=4).abs()
X = numbers(40, C, seed=5)


def topk(pre: Tensor, k: int) -> Tensor:
    found = pre.relu().topk(k, dim=1)
    return torch.zeros_like(pre).scatter(1, found.indices, found.values)


def write(folder: Path, tensors: dict[str, Tensor], config: dict[str, Any], names: tuple[str, str]) -> Path:
    folder.mkdir()
    weights = folder / names[0]
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    if weights.suffix == ".safetensors":
        save_file(tensors, weights)
    else:
        torch.save(tensors, weights)
    if names[1]:
        (folder / names[1]).write_text(json.dumps(config))
    return folder


def plain() -> dict[str, Tensor]:
    return {"W_enc": ENC.T, "b_enc": B_ENC, "W_dec": DEC, "b_dec": B_DEC}


def linear() -> dict[str, Tensor]:
    return {"encoder.weight": ENC, "encoder.bias": B_ENC, "decoder.weight": DEC.T}


SAELENS = ("sae_weights.safetensors", "cfg.json")
PRISMA = ("weights.pt", "config.json")
TRAINED = ("ae.pt", "config.json")
LENGTHS = 0.5 + numbers(K, seed=6).abs()

Case = tuple[str, Callable[[Path], Path], Callable[[], Tensor], dict[str, Any]]


def batch_norm() -> tuple[dict[str, Tensor], Tensor]:
    mean, var, weight, bias = (
        numbers(K, seed=7),
        0.5 + numbers(K, seed=8).abs(),
        numbers(K, seed=9),
        numbers(K, seed=10),
    )
    held = {
        "encoder.final_block.0.weight": ENC, "encoder.final_block.0.bias": B_ENC, "encoder.final_block.1.weight": weight,
        "encoder.final_block.1.bias": bias, "encoder.final_block.1.running_mean": mean,
        "encoder.final_block.1.running_var": var, "dictionary._weights": 3 * DEC,
    }  # fmt: skip
    return held, (X @ ENC.T + B_ENC - mean) / (var + 1e-5).sqrt() * weight + bias


def saev(folder: Path) -> Path:
    folder.mkdir()
    header = {"schema": 2, "cfg": {"d_vit": C, "activation": {"cls": "TopK", "params": {"top_k": 3}}}, "lib": "0.1"}
    with (folder / "sae.pt").open("wb") as file:
        file.write(json.dumps(header).encode() + b"\n")
        torch.save(plain(), file)
    return folder / "sae.pt"


def gated() -> dict[str, Tensor]:
    return {"r_mag": 0.3 * numbers(K, seed=11), "b_gate": numbers(K, seed=12), "b_mag": numbers(K, seed=13)}


def gated_output() -> Tensor:
    held, inner = gated(), (X - B_DEC) @ ENC.T
    on = (inner + held["b_gate"] > 0).float()
    return on * (held["r_mag"].exp() * inner + held["b_mag"]).relu() @ DEC + B_DEC


CASES: dict[str, Case] = {
    "SAELens standard": (
        "SAELens", lambda p: write(p, plain(), {"architecture": "standard", "d_sae": K, "apply_b_dec_to_input": True}, SAELENS),
        lambda: ((X - B_DEC) @ ENC.T + B_ENC).relu() @ DEC + B_DEC, {},
    ),
    "SAELens jumprelu": (
        "SAELens",
        lambda p: write(
            p, plain() | {"threshold": THETA}, {"architecture": "jumprelu", "d_sae": K, "apply_b_dec_to_input": False}, SAELENS
        ),
        lambda: (lambda pre: pre * (pre > THETA))(X @ ENC.T + B_ENC) @ DEC + B_DEC, {},
    ),
    "SAELens topk by contribution": (
        "SAELens",
        lambda p: write(
            p, plain() | {"W_dec": DEC * LENGTHS[:, None]},
            {"architecture": "topk", "d_sae": K, "k": 3, "apply_b_dec_to_input": True, "rescale_acts_by_decoder_norm": True},
            SAELENS,
        ),
        lambda: topk(((X - B_DEC) @ ENC.T + B_ENC) * LENGTHS, 3) @ DEC + B_DEC, {},
    ),
    "SAELens gated": (
        "SAELens",
        lambda p: write(
            p, plain() | gated(), {"architecture": "gated", "d_sae": K, "apply_b_dec_to_input": True}, SAELENS
        ),
        gated_output, {},
    ),
    "SAELens with a factor": (
        "SAELens",
        lambda p: write(
            p, plain(), {
                "architecture": "standard", "d_sae": K, "apply_b_dec_to_input": True, "scaling_factor": 0.4,
                "normalize_activations": "expected_average_only_in",
            }, SAELENS,
        ),
        lambda: (((0.4 * X - B_DEC) @ ENC.T + B_ENC).relu() @ DEC + B_DEC) / 0.4, {},
    ),
    "sparsify": (
        "sparsify",
        lambda p: write(
            p, {"encoder.weight": ENC, "encoder.bias": B_ENC, "W_dec": DEC, "b_dec": B_DEC}, {"k": 3, "d_in": C},
            ("sae.safetensors", "cfg.json"),
        ),
        lambda: topk((X - B_DEC) @ ENC.T + B_ENC, 3) @ DEC + B_DEC, {},
    ),
    "ViT-Prisma": (
        "ViT-Prisma",
        lambda p: write(p, plain(), {"architecture": "standard", "activation_fn_str": "relu", "expansion_factor": 2}, PRISMA),
        lambda: ((X - B_DEC) @ ENC.T + B_ENC).relu() @ DEC + B_DEC, {},
    ),
    "saev topk": ("saev", saev, lambda: topk(X @ ENC.T + B_ENC, 3) @ DEC + B_DEC, {}),
    "overcomplete": (
        "overcomplete", lambda p: write(p, batch_norm()[0], {}, ("sae.pt", "")),
        lambda: topk(batch_norm()[1], 3) @ DEC, {"kind": "topk", "k": 3},
    ),
    "dictionary_learning relu": (
        "dictionary_learning",
        lambda p: write(p, linear() | {"bias": B_DEC}, {"trainer": {"dict_class": "AutoEncoder"}}, TRAINED),
        lambda: ((X - B_DEC) @ ENC.T + B_ENC).relu() @ DEC + B_DEC, {},
    ),
    "dictionary_learning topk": (
        "dictionary_learning",
        lambda p: write(
            p, linear() | {"b_dec": B_DEC, "k": torch.tensor(3), "threshold": torch.tensor(-1.0)},
            {"trainer": {"dict_class": "AutoEncoderTopK"}}, TRAINED,
        ),
        lambda: topk((X - B_DEC) @ ENC.T + B_ENC, 3) @ DEC + B_DEC, {},
    ),
    "dictionary_learning batchtopk": (
        "dictionary_learning",
        lambda p: write(
            p, linear() | {"b_dec": B_DEC, "k": torch.tensor(3), "threshold": torch.tensor(0.7)},
            {"trainer": {"dict_class": "BatchTopKSAE"}}, TRAINED,
        ),
        lambda: (lambda pre: pre * (pre > 0.7))((X - B_DEC) @ ENC.T + B_ENC) @ DEC + B_DEC, {},
    ),
    "dictionary_learning jumprelu": (
        "dictionary_learning",
        lambda p: write(p, plain() | {"threshold": THETA}, {"trainer": {"dict_class": "JumpReluAutoEncoder"}}, TRAINED),
        lambda: (lambda pre: pre * (pre > THETA))(X @ ENC.T + B_ENC) @ DEC + B_DEC, {},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_checkpoint_gives_what_its_tool_computes(name: str, tiny: Model, tmp_path: Path) -> None:
    layout, make, expected, options = CASES[name]
    made = read_checkpoint(make(tmp_path / "there"), tiny, "stage2", **options)
    found = made.reconstruct(X.T[None])[0].T
    torch.testing.assert_close(found, expected(), atol=1e-5, rtol=1e-4)
    assert made.found["layout"] == layout
    file = save(made, tmp_path / "own.safetensors")
    assert bind(tiny, f"dict({file}):3")[0].layer == "stage2"
    loaded = load_dictionary(file, tiny)
    assert isinstance(loaded, Sparse)
    torch.testing.assert_close(loaded.reconstruct(X.T[None]), made.reconstruct(X.T[None]))


@pytest.mark.parametrize("name", ["SAELens standard", "SAELens jumprelu", "sparsify", "dictionary_learning batchtopk"])
def test_what_is_written_as_saelens_is_read_again(name: str, tiny: Model, tmp_path: Path) -> None:
    made = read_checkpoint(CASES[name][1](tmp_path / "there"), tiny, "stage2")
    folder = write_saelens(made, tmp_path / "deep" / "written")
    assert sorted(p.name for p in folder.iterdir()) == ["cfg.json", "sae_weights.safetensors"]
    config = json.loads((folder / "cfg.json").read_text())
    assert (config["d_in"], config["d_sae"], config["metadata"]["hook_name"]) == (C, K, "stage2")
    again = read_checkpoint(folder, tiny, "stage2")
    assert again.found["layout"] == "SAELens"
    torch.testing.assert_close(again.reconstruct(X.T[None]), made.reconstruct(X.T[None]), atol=1e-5, rtol=1e-4)


def test_a_transcoder_is_written_and_read_as_one(tiny: Model, tmp_path: Path) -> None:
    made = Sparse(
        encoder=numbers(K, 12, 1, 1, seed=0), encoder_bias=B_ENC, decoder=DEC, decoder_bias=B_DEC, threshold=torch.zeros(K),
        kind="relu", layer="stage1", writes="stage2",
    )  # fmt: skip
    again = read_checkpoint(write_saelens(made, tmp_path / "t"), tiny, "stage1", writes="stage2")
    maps = numbers(2, 12, 5, seed=1)
    torch.testing.assert_close(again.reconstruct(maps), made.reconstruct(maps), atol=1e-5, rtol=1e-4)
    wide = made.with_(encoder=numbers(K, 12, 3, 3, seed=0), grid=(8, 8))
    with pytest.raises(UserError, match="no form for an encoder of 3×3"):
        write_saelens(wide, tmp_path / "w")


class Bomb:
    """Runs code where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def test_pickled_objects_are_refused_and_not_run(tiny: Model, tmp_path: Path) -> None:
    mark = tmp_path / "it ran"
    for name, content in (("ae.pt", {"cfg": Bomb(mark), "state_dict": plain()}), ("sae.pt", Bomb(mark))):
        folder = tmp_path / name.partition(".")[0]
        folder.mkdir()
        torch.save(content, folder / name)
        with pytest.raises(UserError, match="a pickle of objects, whose loading would run code"):
            read_checkpoint(folder, tiny, "stage2")
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Bomb(mark)))
    with pytest.raises(UserError):
        read_checkpoint(tmp_path / "raw.pt", tiny, "stage2")
    assert not mark.exists()


def cut(folder: Path) -> Path:
    file = CASES["sparsify"][1](folder) / "sae.safetensors"
    file.write_bytes(file.read_bytes()[:-40])
    return folder


def without(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        held = {k: v for k, v in plain().items() if k != name}
        return write(folder, held, {"architecture": "standard", "d_sae": K}, SAELENS)

    return make


REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "cut off": (cut, "not a safetensors file"),
    "a tensor missing": (without("W_dec"), "has no W_dec"),
    "values that are not finite": (
        lambda p: write(p, plain() | {"b_dec": torch.full((C,), torch.nan)}, {"d_sae": K}, SAELENS), "not finite"),
    "shapes that do not fit": (
        lambda p: write(p, plain() | {"W_dec": DEC[:5]}, {"d_sae": K}, SAELENS), "its encoder is 12×16 and its decoder 5×16"),
    "a norm that cannot be folded": (
        lambda p: write(p, plain(), {"d_sae": K, "normalize_activations": "layer_norm"}, SAELENS), "cannot be folded"),
    "batchtopk without a threshold": (
        lambda p: write(p, plain(), {"d_sae": K, "architecture": "batchtopk"}, SAELENS), "no threshold"),
    "another width": (
        lambda p: write(p, {"W_enc": ENC.T[:8], "b_enc": B_ENC, "W_dec": DEC[:, :8], "b_dec": B_DEC[:8]}, {"d_sae": K}, SAELENS),
        "reads 8 channels, but stage2 of tiny has 16"),
    "another file": (lambda p: write(p, {"x": ENC}, {}, SAELENS), "is no checkpoint of"),
    "a skip connection": (
        lambda p: write(p, plain() | {"W_skip": ENC}, {"d_sae": K, "architecture": "transcoder"}, SAELENS), "skip connection"),
    "overcomplete without a kind": (
        lambda p: write(p, batch_norm()[0], {}, ("sae.pt", "")), "does not say how features are kept"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_does_not_fit_is_refused_with_a_reason(what: str, tiny: Model, tmp_path: Path) -> None:
    make, message = REFUSED[what]
    with pytest.raises(UserError, match=message):
        read_checkpoint(make(tmp_path / "there"), tiny, "stage2")


def test_files_that_are_not_there(tiny: Model, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no checkpoint"):
        read_checkpoint(tmp_path / "none", tiny, "stage2")
    (tmp_path / "cfg.json").write_text("{}")
    with pytest.raises(UserError, match=r"holds none of sae_weights.safetensors, .* but cfg.json"):
        read_checkpoint(tmp_path, tiny, "stage2")


# --- from the command line -------------------------------------------------------------------------------------------


def test_a_checkpoint_is_read_from_the_command_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, photo_folder: Path, capsys: pytest.CaptureFixture[str], tiny: Model
) -> None:
    monkeypatch.setitem(sources.SOURCES, "tiny", lambda _name, _: (tiny_module(), tiny_card(name="tiny:net")))
    own = Sparse(
        encoder=ENC[:, :, None, None], encoder_bias=B_ENC, decoder=DEC, decoder_bias=B_DEC, threshold=THETA, kind="jumprelu",
        layer="stage2", model_sha256=tiny.card.identity,
    )  # fmt: skip
    given = write_saelens(own, tmp_path / "given")
    words = ["learn", "dictionary", "tiny:net", "stage2", "--from", str(given), "--device", "cpu"]
    bare = tmp_path / "bare"
    assert main([*words, "--out", str(bare)]) == 0
    assert "see a feature with" in capsys.readouterr().out
    made = load_dictionary(bare / "dictionary.safetensors")
    assert isinstance(made, Sparse)
    torch.testing.assert_close(made.reconstruct(X.T[None]), own.reconstruct(X.T[None]))
    assert made.found["layout"] == "SAELens"
    assert "fit" not in made.found
    measured = tmp_path / "measured"
    assert main([*words, "--photos", str(photo_folder), "--out", str(measured)]) == 0
    found = info(measured / "dictionary.safetensors")["found"]
    assert found["measured on"]["photos"] == 40
    assert found["measured on"]["kept out"] is None
    assert "cosine" in found["splicing"]
    assert (measured / "sheet.png").is_file()
    assert str(tmp_path) not in json.dumps(found)
    capsys.readouterr()
    (tmp_path / "pickle.pt").write_bytes(pickle.dumps({"a": object()}))
    words[5] = str(tmp_path / "pickle.pt")
    assert main([*words, "--out", str(tmp_path / "no")]) == 2
    assert "would run code" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()
    assert main(["learn", "dictionary", "tiny:net", "stage2"]) == 2
    assert "--photos is missing" in capsys.readouterr().err
