"""What the tensors of other tools' checkpoints mean, layout by layout.

Tools differ in which way round matrices lie, whether the decoder's bias is taken off the input, what normalises the input,
and how features are kept. Each reader below says it in one call of `Raw`, which has a single way of doing it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from entoptic.errors import UserError
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
        count, outputs = len(encoder), decoder.shape[1]
        if encoder.ndim != 2 or decoder.ndim != 2 or len(decoder) != count:
            raise UserError(f"its encoder is {_shape(encoder)} and its decoder {_shape(decoder)}")
        threshold: Tensor | None = None
        if self.threshold is not None:
            threshold = torch.as_tensor(self.threshold, dtype=torch.float32).clamp_min(0).expand(count).clone()
        elif self.kind != "topk":
            threshold = torch.zeros(count)
        bias = torch.zeros(count) if self.encoder_bias is None else self.encoder_bias.float()
        added = torch.zeros(outputs) if self.decoder_bias is None else self.decoder_bias.float()
        made = Sparse(
            encoder=encoder[:, :, None, None], encoder_bias=bias, decoder=decoder, decoder_bias=added,
            threshold=threshold, kind=self.kind, k=self.k,
        )  # fmt: skip
        taken = None if self.taken_off is None else self.taken_off.float()
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
    architecture = str(config.get("architecture", "standard"))
    options = config.get("activation_fn_kwargs") or {}
    function = str(config.get("activation_fn_str", config.get("activation_fn", "relu")))
    normalises = str(config.get("normalize_activations") or "none")
    factor = config.get("scaling_factor")
    if normalises not in ("none", "False") and not (normalises == "expected_average_only_in" and factor):
        raise UserError(
            f'it normalises its inputs by "{normalises}" and gives no factor for that, so it cannot be folded into weights; '
            "fold it with its own tool first"
        )
    if "W_skip" in held:
        raise UserError("it has a skip connection, which is no feature")
    bias, encoder, threshold = held.get("b_enc"), held["W_enc"].T, held.get("threshold")
    kind, k = "relu", int(config.get("k") or options.get("k") or 0)
    if "gated" in architecture:
        return _gated(
            encoder, held["b_gate"], held["r_mag"], held["b_mag"], held["W_dec"], held["b_dec"],
            taken_off=held["b_dec"] if config.get("apply_b_dec_to_input", True) else None,
        )  # fmt: skip
    if "batchtopk" in architecture or "matryoshka" in architecture:
        kind = "matryoshka" if "matryoshka" in architecture else "batchtopk"
        if threshold is None:
            threshold = held.get("topk_threshold")
        if threshold is None:
            raise UserError("it has no threshold, which BatchTopK needs outside of training")
    elif "topk" in architecture or function == "topk":
        kind, threshold = "topk", None
    elif "jumprelu" in architecture or threshold is not None:
        kind = "jumprelu"
        if threshold is None:
            raise UserError("it is a JumpReLU without thresholds")
    transcoder = "transcoder" in architecture
    applied = config.get("apply_b_dec_to_input", not transcoder)
    raw = Raw(
        encoder=encoder, encoder_bias=bias, decoder=held["W_dec"], decoder_bias=held["b_dec"], kind=kind, k=k,
        threshold=threshold, taken_off=held["b_dec"] if applied else None, scale=float(factor or 1.0),
        by_contribution=bool(config.get("rescale_acts_by_decoder_norm", False)),
    )  # fmt: skip
    return raw.sparse()


def _gated(
    encoder: Tensor, gate: Tensor, log_scale: Tensor, magnitude: Tensor, decoder: Tensor, decoder_bias: Tensor,
    *, taken_off: Tensor | None,
) -> Sparse:  # fmt: skip
    """A gated autoencoder is a JumpReLU one: the gate and the magnitude rise with the same projection."""
    scale = log_scale.float().exp()
    return Raw(
        encoder=encoder.float() * scale[:, None], encoder_bias=magnitude, decoder=decoder, decoder_bias=decoder_bias,
        kind="jumprelu", threshold=(magnitude.float() - scale * gate.float()).clamp_min(0), taken_off=taken_off,
    ).sparse()  # fmt: skip


# --- sparsify ---------------------------------------------------------------------------------------------------------


def _sparsify(held: dict[str, Tensor], config: dict[str, Any]) -> Sparse:
    if "W_skip" in held:
        raise UserError("it has a skip connection, which is no feature")
    activation = config.get("activation", "topk")
    if activation != "topk":
        raise UserError(f'its activation is "{activation}"; of sparsify, topk can be read')
    return Raw(
        encoder=held["encoder.weight"], encoder_bias=held["encoder.bias"], decoder=held["W_dec"],
        decoder_bias=held["b_dec"], kind="topk", k=int(config["k"]),
        taken_off=None if config.get("transcode") else held["b_dec"],
    ).sparse()  # fmt: skip


# --- dictionary_learning ----------------------------------------------------------------------------------------------


def _dictionary_learning(held: dict[str, Tensor], config: dict[str, Any]) -> Sparse:
    trainer = config.get("trainer") if isinstance(config.get("trainer"), dict) else config
    name = str((trainer or {}).get("dict_class", ""))
    threshold = held.get("threshold")
    k = int(held["k"]) if "k" in held else int((trainer or {}).get("k") or 0)
    if "W_enc" in held:
        matryoshka = "group_sizes" in held or "Matryoshka" in name
        jump = threshold is not None and threshold.ndim == 1 and len(threshold) == held["W_enc"].shape[1]
        return Raw(
            encoder=held["W_enc"].T, encoder_bias=held["b_enc"], decoder=held["W_dec"], decoder_bias=held["b_dec"],
            kind="matryoshka" if matryoshka else "jumprelu" if jump else "batchtopk", k=k, threshold=held["threshold"],
            taken_off=held["b_dec"] if matryoshka else None,
        ).sparse()  # fmt: skip
    if "gate_bias" in held:
        return _gated(
            held["encoder.weight"], held["gate_bias"], held["r_mag"], held["mag_bias"], held["decoder.weight"].T,
            held["decoder_bias"], taken_off=held["decoder_bias"],
        )  # fmt: skip
    encoder, decoder = held["encoder.weight"], held["decoder.weight"].T
    measured = float(threshold) if threshold is not None and float(threshold) >= 0 else None
    if "b_dec" in held:
        batch = "BatchTopK" in name
        if batch and measured is None:
            raise UserError("it has no threshold, which BatchTopK needs outside of training")
        return Raw(
            encoder=encoder, encoder_bias=held["encoder.bias"], decoder=decoder, decoder_bias=held["b_dec"],
            kind="batchtopk" if batch else "topk", k=k, threshold=measured, taken_off=held["b_dec"],
        ).sparse()  # fmt: skip
    before = held.get("bias")
    return Raw(
        encoder=encoder, encoder_bias=held["encoder.bias"], decoder=decoder,
        decoder_bias=before if before is not None else held.get("decoder.bias"), kind="relu", taken_off=before,
    ).sparse()  # fmt: skip


# --- saev -------------------------------------------------------------------------------------------------------------


def _saev(held: dict[str, Tensor], config: dict[str, Any]) -> Sparse:
    inner = config.get("cfg") if isinstance(config.get("cfg"), dict) else config
    activation = (inner or {}).get("activation") or {}
    name = str(activation.get("cls", config.get("cls", "Relu")))
    options = activation.get("params") or inner or {}
    names = {"TopK": "topk", "BatchTopK": "topk", "Relu": "relu", "SparseAutoencoderConfig": "relu"}
    if name not in names:
        raise UserError(f'its activation is "{name}"; of saev, {", ".join(names)} can be read')
    k = int(options.get("top_k") or 32) if names[name] == "topk" else 0  # its BatchTopK keeps k of each position
    return Raw(
        encoder=held["W_enc"].T, encoder_bias=held["b_enc"], decoder=held["W_dec"], decoder_bias=held["b_dec"],
        kind=names[name], k=k,
    ).sparse()  # fmt: skip


# --- overcomplete -----------------------------------------------------------------------------------------------------


def _overcomplete(held: dict[str, Tensor], config: dict[str, Any]) -> Sparse:
    decoder = held["dictionary._weights"].float()
    decoder = decoder / decoder.norm(dim=1, keepdim=True).clamp_min(1e-8)  # its default normalisation
    matrices = [name for name, value in held.items() if name.startswith("encoder.") and value.ndim == 2]
    if len(matrices) != 1 or len(held[matrices[0]]) != len(decoder):
        raise UserError(f"its encoder has {len(matrices)} matrices; one linear layer can be read")
    stem = matrices[0].removesuffix("0.weight").removesuffix("weight")
    encoder, bias = held[matrices[0]].float(), held.get(matrices[0].removesuffix("weight") + "bias")
    bias = torch.zeros(len(encoder)) if bias is None else bias.float()
    norm = f"{stem}1."
    if norm + "running_var" in held:
        factor = held[norm + "weight"].float() / (held[norm + "running_var"].float() + 1e-5).sqrt()
        encoder = encoder * factor[:, None]
        bias = (bias - held[norm + "running_mean"].float()) * factor + held[norm + "bias"].float()
    elif norm + "weight" in held:
        raise UserError("its encoder normalises each code by the others, which cannot be folded into weights")
    threshold = held.get("thresholds", held.get("threshold"))
    kind = str(config.get("kind") or ("jumprelu" if threshold is not None else ""))
    if kind not in KINDS:
        raise UserError(
            'a state dict of overcomplete does not say how features are kept: give kind="relu", "topk" with k, …'
        )
    return Raw(
        encoder=encoder, encoder_bias=bias, decoder=decoder, decoder_bias=None, kind=kind, k=int(config.get("k") or 0),
        threshold=threshold,
    ).sparse()  # fmt: skip


def _shape(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape))


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
