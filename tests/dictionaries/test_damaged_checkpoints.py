"""Checkpoints that are damaged, mistaken or hostile: each is refused with a reason, nothing is guessed and nothing is run."""

from __future__ import annotations

import io
import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor
from torch.nn.functional import normalize

from conftest import tiny_card, tiny_module
from entoptic.base.records import read_tensors
from entoptic.cli.main import main
from entoptic.dictionaries.checkpoints import read_checkpoint
from entoptic.dictionaries.measures import measure_fit
from entoptic.errors import UserError
from entoptic.models import sources
from entoptic.models.model import Model
from entoptic.units.dictionary import load_dictionary, save
from entoptic.units.splits import Split

K, C = 12, 16


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


ENC, DEC, B_ENC, B_DEC = draw(K, C, seed=0), normalize(draw(K, C, seed=1)), 0.1 * draw(K, seed=2), draw(C, seed=3)
PLAIN = {"W_enc": ENC.T, "b_enc": B_ENC, "W_dec": DEC, "b_dec": B_DEC}
LINEAR = {"encoder.weight": ENC, "encoder.bias": B_ENC, "decoder.weight": DEC.T, "b_dec": B_DEC, "k": torch.tensor(3)}
SPARSIFY = {"encoder.weight": ENC, "encoder.bias": B_ENC, "W_dec": DEC, "b_dec": B_DEC}
NORMED = {
    "encoder.0.weight": ENC, "encoder.0.bias": B_ENC, "dictionary._weights": DEC, "encoder.1.weight": torch.ones(K),
    "encoder.1.bias": torch.zeros(K), "encoder.1.running_mean": torch.zeros(K), "encoder.1.running_var": torch.ones(K),
}  # fmt: skip
STANDARD = {"architecture": "standard", "d_sae": K, "apply_b_dec_to_input": True}


def pickled(content: Any) -> bytes:
    made = io.BytesIO()
    torch.save(content, made)
    return made.getvalue()


def folder(
    where: Path, weights: str, content: bytes | dict[str, Tensor], config: Any = None, name: str = "cfg.json"
) -> Path:
    where.mkdir()
    if isinstance(content, dict):
        held = {key: value.contiguous() for key, value in content.items()}
        content = to_safetensors(held) if weights.endswith("safetensors") else pickled(held)
    (where / weights).write_bytes(content)
    if config is not None:
        (where / name).write_text(config if isinstance(config, str) else json.dumps(config))
    return where


def saelens(where: Path, change: dict[str, Tensor | None], **config: Any) -> Path:
    held = {k: v for k, v in (PLAIN | change).items() if v is not None}
    return folder(where, "sae_weights.safetensors", held, STANDARD | config)


MISTAKEN: dict[str, tuple[Any, str]] = {
    "an unknown architecture": (lambda p: saelens(p, {}, architecture="temporal"), 'its architecture is "temporal"; standard,'),
    "an unknown activation": (
        lambda p: saelens(p, {}, activation_fn="tanh-relu"), 'its activation function is "tanh-relu"; relu, topk'),
    "a jumprelu without thresholds": (lambda p: saelens(p, {}, architecture="jumprelu"), "no threshold, which JumpReLU needs"),
    "another config's size": (lambda p: saelens(p, {}, d_sae=24), "says d_sae 24, but its tensors have 12: the two files"),
    "another config's width": (lambda p: saelens(p, {}, d_in=8), "says d_in 8, but its tensors have 16"),
    "no encoder bias": (lambda p: saelens(p, {"b_enc": None}), "has no b_enc"),
    "an encoder of three axes": (lambda p: saelens(p, {"W_enc": ENC.T[None]}), '"W_enc" is 1×16×12, expected a matrix'),
    "an encoder of one number": (lambda p: saelens(p, {"W_enc": torch.tensor(1.0)}), '"W_enc" is one number, expected'),
    "an encoder the wrong way round": (lambda p: saelens(p, {"W_enc": ENC}), "says d_sae 12, but its tensors have 16"),
    "a bias of another length": (lambda p: saelens(p, {"b_enc": B_ENC[1:]}), "the encoder's bias is 11, expected 12"),
    "quantised weights": (lambda p: saelens(p, {"W_dec": DEC.to(torch.int8)}), '"W_dec" holds int8 numbers, expected floating'),
    "a threshold that is not finite": (
        lambda p: saelens(p, {"threshold": torch.full((K,), torch.nan)}, architecture="jumprelu"), "threshold holds values"),
    "half a k": (lambda p: saelens(p, {}, architecture="topk", k=1.5), "its k is 1.5, expected a whole number"),
    "k that is a text": (
        lambda p: saelens(p, {}, architecture="topk", activation_fn_kwargs={"k": "x"}), "its k is x, expected a whole number"),
    "options that are a text": (lambda p: saelens(p, {}, architecture="topk", activation_fn_kwargs="x"), "k must be from 1"),
    "a factor below 0": (
        lambda p: saelens(p, {}, normalize_activations="expected_average_only_in", scaling_factor=-1), "expected a number above 0"),
    "no config": (lambda p: folder(p, "sae_weights.safetensors", PLAIN), "no cfg.json or config.json beside it"),
    "topk without its bias": (
        lambda p: folder(
            p, "ae.pt", {k: v for k, v in LINEAR.items() if k != "b_dec"}, {"trainer": {"dict_class": "AutoEncoderTopK"}}),
        "has no b_dec"),
    "topk with a threshold of NaN": (
        lambda p: folder(p, "ae.pt", LINEAR | {"threshold": torch.tensor(torch.nan)}, {"trainer": {}}), "threshold is nan"),
    "an unknown class": (
        lambda p: folder(p, "ae.pt", LINEAR, {"trainer": {"dict_class": "CrossCoder"}}), 'its dict_class is "CrossCoder"'),
    "sparsify of another size": (
        lambda p: folder(p, "sae.safetensors", SPARSIFY, {"k": 3, "d_in": C, "num_latents": 99}), "says num_latents 99"),
    "complex numbers": (
        lambda p: folder(p, "ae.pt", LINEAR | {"encoder.bias": B_ENC.to(torch.complex64)}, {}), "holds complex numbers"),
    "a pointer of LFS": (
        lambda p: folder(p, "ae.pt", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", {}), "git lfs pull"),
    "a pointer of LFS for safetensors": (
        lambda p: folder(p, "sae.safetensors", b"version https://git-lfs.github.com/spec/v1\n", {}), "git lfs pull"),
    "more numbers than the file holds": (
        lambda p: folder(p, "ae.pt", pickled(LINEAR | {"encoder.weight": torch.ones(1).expand(10**6, 10**6)}), {}),
        'says that "encoder.weight" has more numbers than it holds'),
    "a sparse tensor": (
        lambda p: folder(p, "ae.pt", pickled(LINEAR | {"encoder.weight": ENC.to_sparse()}), {}), "a form without plain numbers"),
    "a tensor without values": (
        lambda p: folder(p, "ae.pt", pickled(LINEAR | {"encoder.weight": torch.empty(K, C, device="meta")}), {}),
        "a form without plain numbers"),
    "a header of saev with odd entries": (
        lambda p: folder(p, "sae.pt", b'{"cfg": {"activation": "gelu"}}\n' + pickled(PLAIN)), 'its activation is "gelu"'),
    "saev with a list of options": (
        lambda p: folder(p, "sae.pt", b'{"cfg": {"activation": {"cls": "TopK", "params": [3]}}}\n' + pickled(PLAIN)),
        "k must be from 1 to 12 features, got 32"),
    "a header of saev without an end": (lambda p: folder(p, "sae.pt", b"{" * 9999), "is not JSON that can be read"),
}  # fmt: skip


@pytest.mark.parametrize("what", MISTAKEN)
def test_what_is_damaged_or_mistaken_is_refused_with_a_reason(what: str, tiny: Model, tmp_path: Path) -> None:
    make, message = MISTAKEN[what]
    with pytest.raises(UserError, match=message):
        read_checkpoint(make(tmp_path / "there"), tiny, "stage2")


@pytest.mark.parametrize(
    "change", [{"encoder.1.running_mean": torch.tensor(0.0)}, {"encoder.1.running_var": -torch.ones(K)}]
)
def test_normalisations_that_cannot_be(change: dict[str, Tensor], tiny: Model, tmp_path: Path) -> None:
    there = folder(tmp_path / "there", "sae.pt", NORMED | change)
    with pytest.raises(UserError, match=r"running_mean is one number, expected 12|negative variances"):
        read_checkpoint(there, tiny, "stage2", kind="topk", k=3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_numbers_of_other_precisions_are_read(dtype: torch.dtype, tiny: Model, tmp_path: Path) -> None:
    x = draw(1, C, 7, seed=5)
    made, exact = (
        read_checkpoint(saelens(tmp_path / name, held), tiny, "stage2")
        for name, held in (("given", {k: v.to(dtype) for k, v in PLAIN.items()}), ("exact", {}))
    )
    assert {tensor.dtype for tensor in made.tensors().values()} == {torch.float32}
    torch.testing.assert_close(made.reconstruct(x), exact.reconstruct(x), atol=0.1, rtol=0.1)


def test_codes_with_a_factor_of_their_own(tiny: Model, tmp_path: Path) -> None:
    factor, x = 0.5 + draw(K, seed=8).abs(), draw(1, C, 7, seed=5)
    made = read_checkpoint(saelens(tmp_path / "there", {"finetuning_scaling_factor": factor}), tiny, "stage2")
    codes = ((x[0].T - B_DEC) @ ENC.T + B_ENC).relu() * factor
    torch.testing.assert_close(made.reconstruct(x)[0].T, codes @ DEC + B_DEC, atol=1e-5, rtol=1e-4)


def test_a_factor_counts_only_where_inputs_are_normalised(tiny: Model, tmp_path: Path) -> None:
    x = draw(1, C, 7, seed=5)
    plain, with_factor = (
        read_checkpoint(saelens(tmp_path / name, {}, **more), tiny, "stage2")
        for name, more in (("a", {}), ("b", {"scaling_factor": 3.0, "normalize_activations": "none"}))
    )
    torch.testing.assert_close(plain.reconstruct(x), with_factor.reconstruct(x))


def test_state_dicts_inside_and_files_by_another_name(tiny: Model, tmp_path: Path) -> None:
    wanted = read_checkpoint(saelens(tmp_path / "a", {}), tiny, "stage2").encoder
    grown = {name: torch.nn.Parameter(value) for name, value in PLAIN.items()}
    for place, name, content in (
        ("b", "weights.pt", pickled({"state_dict": grown, "epoch": 3})), ("c", "weights.pt", pickled({"model": grown})),
        ("d", "sae.pt", to_safetensors({k: v.contiguous() for k, v in PLAIN.items()})),
    ):  # fmt: skip
        made = read_checkpoint(folder(tmp_path / place, name, content, STANDARD), tiny, "stage2")
        torch.testing.assert_close(made.encoder, wanted)
        assert not made.encoder.requires_grad


def test_pipes_and_devices_are_refused_at_once(tiny: Model, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "sae.pt")
    for what in (tmp_path / "sae.pt", Path("/dev/null")):
        with pytest.raises(UserError, match="it is no file"):
            read_checkpoint(what, tiny, "stage2")


class Bomb:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def test_no_disguise_of_a_pickle_is_run(tiny: Model, tmp_path: Path) -> None:
    mark = tmp_path / "it ran"
    bombs = [
        ("sae.pt", b"{}\n" + pickled(Bomb(mark))), ("sae.pt", pickle.dumps(Bomb(mark), 0)), ("sae.pt", pickle.dumps(Bomb(mark), 5)),
        ("weights.pt", pickled({"config": Bomb(mark), "state_dict": PLAIN})), ("sae.safetensors", pickled(Bomb(mark))),
    ]  # fmt: skip
    for number, (name, content) in enumerate(bombs):
        with pytest.raises(UserError):
            read_checkpoint(folder(tmp_path / f"{number}", name, content, STANDARD), tiny, "stage2")
    assert not mark.exists()


def test_a_kind_that_the_files_contradict_is_refused(tiny: Model, tmp_path: Path) -> None:
    there = saelens(tmp_path / "there", {}, architecture="topk", k=3)
    with pytest.raises(UserError, match="keeps features as topk by its own files, not as relu"):
        read_checkpoint(there, tiny, "stage2", kind="relu")
    assert read_checkpoint(there, tiny, "stage2", kind="topk", k=7).k == 3
    with pytest.raises(UserError, match=r'no kind of sparse dictionary "topkk"; .* did you mean "topk"'):
        read_checkpoint(there, tiny, "stage2", kind="topkk")
    with pytest.raises(UserError, match="no threshold, which BatchTopK needs"):
        read_checkpoint(folder(tmp_path / "o", "sae.pt", NORMED), tiny, "stage2", kind="batchtopk")
    with pytest.raises(UserError, match="of a layer inside the network"):
        read_checkpoint(there, tiny, "logits")


def test_a_card_holds_what_json_can(tiny: Model, tmp_path: Path) -> None:
    odd = {"lr": float("nan"), "note": "x" * 999, "seed": 7, "nested": {"a": 1}}
    made = read_checkpoint(saelens(tmp_path / "there", {}, **odd), tiny, "stage2")
    loaded: Any = load_dictionary(save(made, tmp_path / "own.safetensors"), tiny)
    assert loaded.found["says"] == STANDARD | {"seed": 7}


def test_numbers_too_large_to_reconstruct_are_said(tiny: Model, tmp_path: Path) -> None:
    there = folder(tmp_path / "there", "sae.safetensors", SPARSIFY | {"W_dec": 1e38 * DEC}, {"k": 3})
    made, x = read_checkpoint(there, tiny, "stage2"), draw(2, C, 5, seed=5)
    with pytest.raises(UserError, match="reconstructs values that are not finite"):
        measure_fit(made, x, x)


def test_the_command_refuses_options_that_only_a_training_has(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sources.SOURCES, "tiny", lambda _name, _: (tiny_module(), tiny_card(name="tiny:net")))
    words = [
        "learn",
        "dictionary",
        "tiny:net",
        "stage2",
        "--from",
        str(saelens(tmp_path / "there", {})),
        "--device",
        "cpu",
    ]
    words += ["--out", str(tmp_path / "out")]
    for more, message in (
        (["--features", "24", "--second-seed"], "--features, --second-seed cannot be used with --from"),
        (["--active", "4"], "--active goes with --kind topk"),
        (["--kind", "nmf"], 'no kind of sparse dictionary "nmf"'),
    ):
        assert main([*words, *more]) == 2
        assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("writes", [-1, True, ["x"], [-1, 2], None])
def test_an_own_file_that_writes_no_layer_is_refused(writes: Any, tiny: Model, tmp_path: Path) -> None:
    file = save(read_checkpoint(saelens(tmp_path / "there", {}), tiny, "stage2"), tmp_path / "own.safetensors")
    held = read_tensors(file)
    about = held.about() | {"writes": writes}
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(to_safetensors(held.tensors, {"entoptic": json.dumps(about)}))
    with pytest.raises(UserError, match='is damaged: its "writes" is'):
        load_dictionary(damaged, tiny)


def test_own_dictionaries_of_odd_numbers_are_refused(tiny: Model, tmp_path: Path) -> None:
    made = read_checkpoint(saelens(tmp_path / "there", {}, architecture="topk", k=3), tiny, "stage2")
    for k in (1.5, True):
        with pytest.raises(UserError, match="k must be a whole number"):
            made.with_(k=k)
    numbers: dict[str, Any] = {
        "weights": draw(1, 4, 3, 3, seed=0),
        "partition": torch.ones(1, 4),
        "of_unit": torch.tensor([0]),
    }
    for change, message in (
        ({"biases": torch.zeros(1, 1)}, r"biases have shape \(1, 1\), expected 1"),
        ({"biases": torch.zeros(0)}, r"biases have shape \(0,\), expected 1"),
        ({"biases": torch.zeros(1), "padding": 10**9}, "a window of 3 positions cannot have a padding of 1000000000"),
    ):
        with pytest.raises(UserError, match=message):
            Split(**numbers | change, units=[0])
