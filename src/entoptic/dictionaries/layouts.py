"""What the tensors of other tools' checkpoints mean, layout by layout.

Tools differ in which way round matrices lie, whether the decoder's bias is taken off the input, what normalises the input,
and how features are kept. Each reader below says it in one call of `Raw`, which has a single way of doing it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from entoptic.errors import UserError, nearest
from entoptic.units.sparse import KINDS, Sparse, fold, unit_norm


@dataclass(frozen=True, kw_only=True)
class Raw:
    """A checkpoint's numbers with their meaning.

    Attributes:
        encoder: K×C.
        encoder_bias: K; None for 0.
        decoder: K×O.
        decoder_bias: O; None for 0.
        kind: how features are kept.
        k: of TopK.
        threshold: one number or K; None for 0, and for TopK without one.
        taken_off: C, taken off the input before it is encoded; None for nothing.
        scale: the input and output were multiplied by this.
        by_contribution: whether TopK compares codes times the lengths of decoder rows.
    """

    encoder: Tensor
    encoder_bias: Tensor | None
    decoder: Tensor
    decoder_bias: Tensor | None
    kind: str
    k: int = 0
    threshold: Tensor | float | None = None
    taken_off: Tensor | None = None
    scale: float = 1.0
    by_contribution: bool = False

    def sparse(self) -> Sparse:
        """Returns it as a dictionary, everything folded in, with decoder rows of length 1 where that changes nothing."""
        encoder, decoder = self.encoder.float(), self.decoder.float()
        if encoder.ndim != 2 or decoder.ndim != 2 or len(decoder) != len(encoder):
            raise UserError(f"its encoder is {_shape(encoder)} and its decoder {_shape(decoder)}")
        count, outputs = decoder.shape
        threshold: Tensor | None = None
        if self.threshold is not None:
            given = torch.as_tensor(self.threshold, dtype=torch.float32)
            if not bool(given.isfinite().all()):
                raise UserError("threshold holds values that are not finite")
            threshold = _sized(given if given.numel() != 1 else given.reshape(()).expand(count), "threshold", count)
            threshold = threshold.clamp_min(0).clone()
        elif self.kind != "topk":
            threshold = torch.zeros(count)
        bias = (
            torch.zeros(count) if self.encoder_bias is None else _sized(self.encoder_bias, "the encoder's bias", count)
        )
        added = (
            torch.zeros(outputs)
            if self.decoder_bias is None
            else _sized(self.decoder_bias, "the decoder's bias", outputs)
        )
        made = Sparse(
            encoder=encoder[:, :, None, None], encoder_bias=bias, decoder=decoder, decoder_bias=added,
            threshold=threshold, kind=self.kind, k=self.k,
        )  # fmt: skip
        taken = None
        if self.taken_off is not None:
            taken = _sized(self.taken_off, "what is taken off the input", encoder.shape[1])
        folded = fold(fold(made, input_mean=taken), input_scale=self.scale, output_scale=self.scale)
        lengths = decoder.norm(dim=1)
        alike = bool((lengths - lengths.mean()).abs().max() <= 1e-3 * lengths.mean())
        return unit_norm(folded) if self.kind != "topk" or self.by_contribution or alike else folded


@dataclass(frozen=True)
class Layout:
    """One tool's layout: whether files are of it, and what they mean."""

    fits: Callable[[dict[str, Tensor], dict[str, Any], bool], bool]
    read: Callable[[dict[str, Tensor], dict[str, Any]], Sparse]


# --- SAELens and ViT-Prisma, which began as a copy of it --------------------------------------------------------------


def _saelens(held: dict[str, Tensor], config: dict[str, Any]) -> Sparse:
    architecture = str(config.get("architecture") or "standard")
    function = str(config.get("activation_fn_str") or config.get("activation_fn") or "relu")
    _check_name("architecture", architecture, _ARCHITECTURES)
    _check_name("activation function", function, _FUNCTIONS)
    if "W_skip" in held:
        raise UserError("it has a skip connection, which is no feature")
    encoder, decoder = _matrix(held, "W_enc").T, _matrix(held, "W_dec")
    _check_size("d_sae", config.get("d_sae"), len(encoder))
    _check_size("d_in", config.get("d_in"), encoder.shape[1])
    scale, applied = _folded_scale(config), config.get("apply_b_dec_to_input", "transcoder" not in architecture)
    taken = held["b_dec"] if applied else None
    if "gated" in architecture:
        return _gated(
            encoder, held["b_gate"], held["r_mag"], held["b_mag"], decoder, held["b_dec"], taken_off=taken, scale=scale
        )  # fmt: skip
    factor = held.get("finetuning_scaling_factor", held.get("scaling_factor"))
    if factor is not None:  # of each code, before it is decoded
        decoder = decoder * _sized(factor, "scaling_factor", len(decoder))[:, None]
    threshold, kind = held.get("threshold"), "relu"
    if "batchtopk" in architecture or "matryoshka" in architecture:
        kind = "matryoshka" if "matryoshka" in architecture else "batchtopk"
        threshold = held.get("topk_threshold") if threshold is None else threshold
    elif "topk" in architecture or function == "topk":
        kind, threshold = "topk", None
    elif "jumprelu" in architecture or threshold is not None:
        kind = "jumprelu"
    _check_threshold(kind, threshold)
    options = config.get("activation_fn_kwargs")
    inner = options.get("k") if isinstance(options, dict) else None
    return Raw(
        encoder=encoder, encoder_bias=held["b_enc"], decoder=decoder, decoder_bias=held["b_dec"], kind=kind,
        k=_whole(inner if inner is not None else config.get("k")), threshold=threshold, taken_off=taken, scale=scale,
        by_contribution=bool(config.get("rescale_acts_by_decoder_norm", False)),
    ).sparse()  # fmt: skip


def _folded_scale(config: dict[str, Any]) -> float:
    """The factor of inputs and outputs; a normalisation that differs from input to input is refused."""
    normalises, factor = str(config.get("normalize_activations") or "none"), config.get("scaling_factor")
    if normalises in ("none", "False"):
        return 1.0
    if normalises != "expected_average_only_in" or factor is None:
        raise UserError(
            f'it normalises its inputs by "{normalises}" and gives no factor for that, so it cannot be folded into weights; '
            "fold it with its own tool first"
        )
    if not isinstance(factor, int | float) or isinstance(factor, bool) or not 0 < factor < math.inf:
        raise UserError(f"its scaling_factor is {factor!r}, expected a number above 0")
    return float(factor)


def _gated(
    encoder: Tensor, gate: Tensor, log_scale: Tensor, magnitude: Tensor, decoder: Tensor, decoder_bias: Tensor,
    *, taken_off: Tensor | None, scale: float = 1.0,
) -> Sparse:  # fmt: skip
    """A gated autoencoder is a JumpReLU one: the gate and the magnitude rise with the same projection."""
    count = len(encoder)
    steeper = _sized(log_scale, "r_mag", count).exp()
    magnitude, gate = _sized(magnitude, "the magnitude's bias", count), _sized(gate, "the gate's bias", count)
    return Raw(
        encoder=encoder.float() * steeper[:, None], encoder_bias=magnitude, decoder=decoder, decoder_bias=decoder_bias,
        kind="jumprelu", threshold=(magnitude - steeper * gate).clamp_min(0), taken_off=taken_off, scale=scale,
    ).sparse()  # fmt: skip


# --- sparsify ---------------------------------------------------------------------------------------------------------


def _sparsify(held: dict[str, Tensor], config: dict[str, Any]) -> Sparse:
    if "W_skip" in held:
        raise UserError("it has a skip connection, which is no feature")
    activation = config.get("activation", "topk")
    if activation != "topk":
        raise UserError(f'its activation is "{activation}"; of sparsify, topk can be read')
    encoder = _matrix(held, "encoder.weight")
    _check_size("num_latents", config.get("num_latents") or None, len(encoder))
    _check_size("d_in", config.get("d_in"), encoder.shape[1])
    return Raw(
        encoder=encoder, encoder_bias=held["encoder.bias"], decoder=_matrix(held, "W_dec"),
        decoder_bias=held["b_dec"], kind="topk", k=_whole(config["k"]),
        taken_off=None if config.get("transcode") else held["b_dec"],
    ).sparse()  # fmt: skip


# --- dictionary_learning ----------------------------------------------------------------------------------------------


def _dictionary_learning(held: dict[str, Tensor], config: dict[str, Any]) -> Sparse:
    inner = config.get("trainer")
    trainer: dict[str, Any] = inner if isinstance(inner, dict) else config
    name, threshold = str(trainer.get("dict_class") or ""), held.get("threshold")
    if name:
        _check_name("dict_class", name, _CLASSES)
    k = _whole(held["k"] if "k" in held else trainer.get("k"))
    native = "W_enc" in held
    encoder = _matrix(held, "W_enc").T if native else _matrix(held, "encoder.weight")
    decoder = _matrix(held, "W_dec") if native else _matrix(held, "decoder.weight").T
    _check_size("dict_size", trainer.get("dict_size"), len(encoder))
    _check_size("activation_dim", trainer.get("activation_dim"), encoder.shape[1])
    if native:
        matryoshka = "group_sizes" in held or "Matryoshka" in name
        jump = threshold is not None and threshold.ndim == 1 and len(threshold) == len(encoder)
        return Raw(
            encoder=encoder, encoder_bias=held["b_enc"], decoder=decoder, decoder_bias=held["b_dec"],
            kind="matryoshka" if matryoshka else "jumprelu" if jump else "batchtopk", k=k, threshold=held["threshold"],
            taken_off=held["b_dec"] if matryoshka else None,
        ).sparse()  # fmt: skip
    if "gate_bias" in held:
        return _gated(
            encoder, held["gate_bias"], held["r_mag"], held["mag_bias"], decoder, held["decoder_bias"],
            taken_off=held["decoder_bias"],
        )  # fmt: skip
    if "b_dec" in held or "k" in held or "TopK" in name:
        one = None if threshold is None else _one_number("threshold", threshold)
        measured = one if one is not None and one >= 0 else None  # -1 before the first measurement
        batch = "BatchTopK" in name
        _check_threshold("batchtopk" if batch else "topk", measured)
        return Raw(
            encoder=encoder, encoder_bias=held["encoder.bias"], decoder=decoder, decoder_bias=held["b_dec"],
            kind="batchtopk" if batch else "topk", k=k, threshold=measured, taken_off=held["b_dec"],
        ).sparse()  # fmt: skip
    before = held.get("bias")
    return Raw(
        encoder=encoder, encoder_bias=held["encoder.bias"], decoder=decoder,
        decoder_bias=before if before is not None else held["decoder.bias"], kind="relu", taken_off=before,
    ).sparse()  # fmt: skip


# --- saev -------------------------------------------------------------------------------------------------------------


def _saev(held: dict[str, Tensor], config: dict[str, Any]) -> Sparse:
    inner = config.get("cfg")
    inner = inner if isinstance(inner, dict) else config
    activation = inner.get("activation") or {}
    if not isinstance(activation, dict):
        activation = {"cls": activation}
    name = str(activation.get("cls") or config.get("cls") or "Relu")
    names = {"TopK": "topk", "BatchTopK": "topk", "Relu": "relu", "SparseAutoencoderConfig": "relu"}
    _check_name("activation", name, tuple(names))
    options = activation.get("params") or inner
    top = options.get("top_k") if isinstance(options, dict) else None
    k = (32 if top is None else _whole(top)) if names[name] == "topk" else 0  # its BatchTopK keeps k of each position
    encoder = _matrix(held, "W_enc").T
    return Raw(
        encoder=encoder, encoder_bias=held["b_enc"], decoder=_matrix(held, "W_dec"), decoder_bias=held["b_dec"],
        kind=names[name], k=k,
    ).sparse()  # fmt: skip


# --- overcomplete -----------------------------------------------------------------------------------------------------


def _overcomplete(held: dict[str, Tensor], config: dict[str, Any]) -> Sparse:
    decoder = _matrix(held, "dictionary._weights")
    decoder = decoder / decoder.norm(dim=1, keepdim=True).clamp_min(1e-8)  # its default normalisation
    matrices = [name for name, value in held.items() if name.startswith("encoder.") and value.ndim == 2]
    if len(matrices) != 1 or len(held[matrices[0]]) != len(decoder):
        raise UserError(f"its encoder has {len(matrices)} matrices; one linear layer can be read")
    stem = matrices[0].removesuffix("0.weight").removesuffix("weight")
    encoder, count = _matrix(held, matrices[0]), len(held[matrices[0]])
    given = held.get(matrices[0].removesuffix("weight") + "bias")
    bias = torch.zeros(count) if given is None else _sized(given, "the encoder's bias", count)
    norm = f"{stem}1."
    if norm + "running_var" in held:
        weight, added, mean, variance = (
            _sized(held[norm + name], norm + name, count) for name in ("weight", "bias", "running_mean", "running_var")
        )
        if bool((variance < 0).any()):
            raise UserError(f"{norm}running_var holds negative variances")
        factor = weight / (variance + 1e-5).sqrt()
        encoder = encoder * factor[:, None]
        bias = (bias - mean) * factor + added
    elif norm + "weight" in held:
        raise UserError("its encoder normalises each code by the others, which cannot be folded into weights")
    threshold = held.get("thresholds", held.get("threshold"))
    kind = str(config.get("kind") or ("jumprelu" if threshold is not None else ""))
    if kind not in KINDS:
        raise UserError(
            'a state dict of overcomplete does not say how features are kept: give kind="relu", "topk" with k, …'
        )
    _check_threshold(kind, threshold)
    return Raw(
        encoder=encoder, encoder_bias=bias, decoder=decoder, decoder_bias=None, kind=kind, k=_whole(config.get("k")),
        threshold=threshold,
    ).sparse()  # fmt: skip


# --- checks -----------------------------------------------------------------------------------------------------------


def _matrix(held: dict[str, Tensor], name: str) -> Tensor:
    value = held[name]
    if value.ndim != 2:
        raise UserError(f'"{name}" is {_shape(value)}, expected a matrix')
    if not value.is_floating_point():
        raise UserError(f'"{name}" holds {str(value.dtype).removeprefix("torch.")} numbers, expected floating point')
    return value.float()


def _sized(value: Tensor, what: str, size: int) -> Tensor:
    if tuple(value.shape) != (size,):
        raise UserError(f"{what} is {_shape(value)}, expected {size}")
    if value.is_complex():
        raise UserError(f"{what} holds complex numbers")
    return value.float()


def _one_number(what: str, value: Tensor) -> float:
    if value.numel() != 1 or value.is_complex():
        raise UserError(f"its {what} is {_shape(value)}, expected one real number")
    number = float(value)
    if not math.isfinite(number):
        raise UserError(f"its {what} is {number}, which is not finite")
    return number


def _whole(k: Any) -> int:
    """The number of features that a position keeps; 0 where the files do not say."""
    value = _one_number("k", k) if isinstance(k, Tensor) and k.dtype != torch.bool else k
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value) or value < 0:
        raise UserError(f"its k is {str(value)[:40]}, expected a whole number")
    return int(value)


def _check_size(name: str, said: Any, has: int) -> None:
    """A config of another checkpoint would say the wrong thing of these tensors."""
    if said is not None and said != has:
        raise UserError(
            f"its config says {name} {str(said)[:40]}, but its tensors have {has}: the two files do not belong together"
        )


def _check_name(what: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        raise UserError(f'its {what} is "{name[:60]}"; {", ".join(known)} can be read{nearest(name, known)}')


def _check_threshold(kind: str, threshold: Tensor | float | None) -> None:
    if threshold is None and kind not in ("relu", "topk"):
        name = {"batchtopk": "BatchTopK", "matryoshka": "a matryoshka autoencoder", "jumprelu": "JumpReLU"}[kind]
        raise UserError(f"it has no threshold, which {name} needs outside of training")


def _shape(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "one number"


_ARCHITECTURES = (
    "standard", "vanilla", "gated", "topk", "jumprelu", "batchtopk", "matryoshka_batchtopk", "matryoshka", "transcoder",
    "topk_transcoder", "jumprelu_transcoder", "batchtopk_transcoder", "gated_transcoder",
)  # fmt: skip
_FUNCTIONS = ("relu", "topk", "jumprelu", "batchtopk")
_CLASSES = (
    "AutoEncoder", "AutoEncoderNew", "AutoEncoderTopK", "BatchTopKSAE", "MatryoshkaBatchTopKSAE", "GatedAutoEncoder",
    "JumpReluAutoEncoder",
)  # fmt: skip
_PRISMA = ("activation_fn_str", "expansion_factor", "hook_point_layer")

LAYOUTS: dict[str, Layout] = {
    "saev": Layout(lambda held, config, header: header and "W_enc" in held, _saev),
    "overcomplete": Layout(lambda held, config, header: "dictionary._weights" in held, _overcomplete),
    "sparsify": Layout(lambda held, config, header: {"encoder.weight", "W_dec"} <= set(held), _sparsify),
    "ViT-Prisma": Layout(
        lambda held, config, header: "W_enc" in held and any(name in config for name in _PRISMA) and "d_out" not in config,
        _saelens,
    ),
    "SAELens": Layout(lambda held, config, header: "W_enc" in held and "d_sae" in config, _saelens),
    "dictionary_learning": Layout(
        lambda held, config, header: {"encoder.weight", "decoder.weight"} <= set(held)
        or ("W_enc" in held and ("trainer" in config or "dict_class" in config)),
        _dictionary_learning,
    ),
}  # fmt: skip
"""By tool; the first that fits is taken."""
