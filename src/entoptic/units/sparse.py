"""Sparse dictionaries: sparse autoencoders and transcoders.

Both encode the values φ of a layer as pre = E φ + b, keep a few features z, and decode ŷ = Wᵀ z + c. An autoencoder's ŷ is φ
itself. A transcoder's ŷ is the value of another layer, and its encoder may look at a window of k×k positions. Whatever a
training did to its inputs (a mean taken off, a scale, decoder norms) is folded into these four, so that values of the layer
go in and come out as they are.

Which features are kept is a fixed threshold for each (ReLU: 0; JumpReLU and BatchTopK: learned or measured), or the k
strongest of a position (TopK). As a unit, a feature must be a function of its own pre-activation, so a unit of a TopK
dictionary reads it above a measured threshold where the dictionary has one.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from entoptic.errors import UserError, counted
from entoptic.units.windows import encode_windows

KINDS = ("relu", "topk", "batchtopk", "jumprelu", "matryoshka")
"""Ways of keeping features, by name. All but "topk" keep what is above a feature's threshold."""


def above(pre: Tensor, threshold: Tensor) -> Tensor:
    """Returns values where they are above a threshold, and 0 elsewhere."""
    return torch.where(pre > threshold, pre, torch.zeros_like(pre))


def strongest(pre_BKD: Tensor, k: int) -> Tensor:
    """Returns the k largest values at each position, negative ones as 0; exactly k are kept, also where some are equal."""
    if k >= pre_BKD.shape[1]:
        return pre_BKD.relu()
    found = pre_BKD.topk(k, dim=1)
    return torch.zeros_like(pre_BKD).scatter(1, found.indices, found.values.relu())


@dataclass(frozen=True, eq=False, kw_only=True)
class Sparse:
    """A sparse autoencoder or transcoder, as a `Dictionary`.

    Attributes:
        encoder: K×C×k×k rows E; k is 1 for autoencoders.
        encoder_bias: K, b.
        decoder: K×O rows W.
        decoder_bias: O, c.
        threshold: K; a feature is active where its pre-activation is above. None for TopK without a measured one.
        kind: how features are kept, one of `KINDS`.
        k: features that TopK keeps at a position; else 0 or the mean number in training.
        layer: whose values are encoded.
        writes: layer whose values are decoded; "" for `layer` itself.
        grid: rows and columns of the map that a window of positions needs; (1, 1) where k is 1.
        model_sha256: see `Dictionary`.
        names: see `Dictionary`.
        parents: of each feature, the numbers of the more general features that are on where it is; empty where not known.
        found: how it was found and what was measured, JSON-able.
    """

    encoder: Tensor
    encoder_bias: Tensor
    decoder: Tensor
    decoder_bias: Tensor
    threshold: Tensor | None
    kind: str
    k: int = 0
    layer: str = ""
    writes: str = ""
    grid: tuple[int, int] = (1, 1)
    model_sha256: str = ""
    names: list[str] = field(default_factory=list)
    parents: tuple[tuple[int, ...], ...] = ()
    found: dict[str, Any] = field(default_factory=dict)

    lossless = False

    def __post_init__(self) -> None:
        count, outputs = self.decoder.shape
        if self.kind not in KINDS:
            raise UserError(f'no kind of sparse dictionary "{self.kind}"; there are {", ".join(KINDS)}')
        if self.encoder.ndim != 4 or len(self.encoder) != count or self.encoder.shape[2] != self.encoder.shape[3]:
            shape = "×".join(map(str, self.encoder.shape))
            raise UserError(
                f"the encoder is {shape}, expected K×C×k×k with K = {count}, the number of the decoder's rows"
            )
        if self.encoder.shape[2] % 2 == 0:
            raise UserError(
                f"the encoder's window is {self.encoder.shape[2]} positions wide; it has a centre only if odd"
            )
        for name, tensor, size in (
            ("encoder_bias", self.encoder_bias, count), ("decoder_bias", self.decoder_bias, outputs),
            ("threshold", self.threshold, count),
        ):  # fmt: skip
            if tensor is not None and tuple(tensor.shape) != (size,):
                raise UserError(
                    f"{name} has shape {'×'.join(map(str, tensor.shape)) or 'of one number'}, expected {size}"
                )
        for name, tensor in self.tensors().items():
            if not bool(tensor.isfinite().all()):
                raise UserError(f"{name} holds values that are not finite")
        if self.threshold is None and self.kind != "topk":
            raise UserError(f"a {self.kind} dictionary needs thresholds")
        if not isinstance(self.k, int) or isinstance(self.k, bool):
            raise UserError(f"k must be a whole number, got {str(self.k)[:40]}")
        if self.kind == "topk" and not 1 <= self.k <= count:
            raise UserError(f"k must be from 1 to {counted(count, 'feature')}, got {self.k}")
        if self.names and len(self.names) != count:
            raise UserError(f"{counted(count, 'feature')} but {counted(len(self.names), 'name')}")
        if self.parents and len(self.parents) != count:
            raise UserError(f"{counted(count, 'feature')} but parents of {len(self.parents)}")
        if any(not 0 <= p < count for of_one in self.parents for p in of_one):
            raise UserError(f"a parent is none of {counted(count, 'feature')}")
        if not self.names:
            object.__setattr__(self, "names", [f"feature {k}" for k in range(count)])

    def __len__(self) -> int:
        return len(self.decoder)

    def __str__(self) -> str:
        what = "transcoder" if self.writes not in ("", self.layer) else "autoencoder"
        return f"{self.kind} {what} of {counted(len(self), 'feature')} in {self.layer or 'a layer'}"

    @property
    def channels(self) -> int:
        """Number of channels of the layer that is encoded."""
        return self.encoder.shape[1]

    @property
    def window(self) -> int:
        """Side k of the encoder's window of positions."""
        return self.encoder.shape[2]

    # --- encode and decode ----------------------------------------------------------------------------------------

    def pre_activations(self, maps_BCD: Tensor) -> Tensor:
        """Computes E φ + b of every feature: B×K×D."""
        return encode_windows(maps_BCD, self.encoder, self.encoder_bias, self.grid)

    def pre_activation(self, maps_BCD: Tensor, k: int) -> Tensor:
        """Computes E φ + b of one feature, without the others: B×D."""
        rows = slice(k, k + 1)
        return encode_windows(maps_BCD, self.encoder[rows], self.encoder_bias[rows], self.grid)[:, 0]

    def encode(self, maps_BCD: Tensor) -> Tensor:
        """Computes the codes z that are decoded: B×K×D."""
        pre_BKD = self.pre_activations(maps_BCD)
        if self.kind == "topk":
            return strongest(pre_BKD, self.k)
        assert self.threshold is not None
        return above(pre_BKD, self.threshold.to(pre_BKD)[:, None])

    def decode(self, codes_BKD: Tensor) -> Tensor:
        """Computes ŷ = Wᵀ z + c: B×O×D."""
        return self.decoder.to(codes_BKD).T @ codes_BKD + self.decoder_bias.to(codes_BKD)[:, None]

    def reconstruct(self, maps_BCD: Tensor) -> Tensor:
        """Computes ŷ of values of the layer: B×O×D."""
        return self.decode(self.encode(maps_BCD))

    # --- features as units ----------------------------------------------------------------------------------------

    def activations(self, maps_BCD: Tensor) -> Tensor:
        """Computes how strong each feature is as a unit: B×K×D. TopK codes without a threshold are those of `encode`."""
        if self.threshold is None:
            return self.encode(maps_BCD)
        pre_BKD = self.pre_activations(maps_BCD)
        return above(pre_BKD, self.threshold.to(pre_BKD)[:, None])

    def activation(self, maps_BCD: Tensor, k: int) -> Tensor:
        """Computes how strong one feature is as a unit, without the others where it has a threshold: B×D."""
        if self.threshold is None:
            return self.encode(maps_BCD)[:, k]
        pre_BD = self.pre_activation(maps_BCD, k)
        return above(pre_BD, self.threshold[k].to(pre_BD))

    def part(self, maps_BCD: Tensor, k: int) -> Tensor:
        """Computes what one feature contributes to ŷ: B×O×D."""
        active_BD = self.activation(maps_BCD, k)
        return self.decoder[k].to(active_BD)[:, None] * active_BD[:, None]

    def parts(self, maps_BCD: Tensor) -> Tensor:
        """Computes what each feature contributes to ŷ: K×B×O×D, K times as much memory as ŷ."""
        return torch.einsum("ko,bkd->kbod", self.decoder.to(maps_BCD.float()), self.activations(maps_BCD))

    def part_norms(self, maps_BCD: Tensor) -> Tensor:
        """Computes the norm of each part over channels and positions, without the parts: B×K."""
        active_BKD = self.activations(maps_BCD)
        return active_BKD.norm(dim=2) * self.decoder.to(active_BKD).norm(dim=1)

    # --- on disk --------------------------------------------------------------------------------------------------

    @classmethod
    def of_saved(cls, tensors: dict[str, Tensor], about: dict[str, Any]) -> Sparse:
        """Makes it again from what `tensors` and `about` returned."""
        rows, columns = about.get("grid", (1, 1))
        numbers = {name: tensor.float() for name, tensor in tensors.items()}
        return cls(
            encoder=numbers["encoder"], encoder_bias=numbers["encoder_bias"], decoder=numbers["decoder"],
            decoder_bias=numbers["decoder_bias"], threshold=numbers.get("threshold"), kind=about["keeps"],
            k=about.get("k", 0), layer=about["layer"], writes=about.get("writes", ""), grid=(int(rows), int(columns)),
            model_sha256=about["model_sha256"], names=about["names"],
            parents=tuple(tuple(int(p) for p in one) for one in about.get("parents", ())), found=about.get("found", {}),
        )  # fmt: skip

    def tensors(self) -> dict[str, Tensor]:
        """Returns all numbers, by name."""
        held = {
            "encoder": self.encoder, "encoder_bias": self.encoder_bias, "decoder": self.decoder,
            "decoder_bias": self.decoder_bias,
        }  # fmt: skip
        return held if self.threshold is None else held | {"threshold": self.threshold}

    def about(self) -> dict[str, Any]:
        """Returns everything else, JSON-able; see `Saved`."""
        return {
            "kind": "sparse", "keeps": self.kind, "k": self.k, "layer": self.layer, "writes": self.writes,
            "grid": list(self.grid), "model_sha256": self.model_sha256, "names": self.names,
            "parents": [list(one) for one in self.parents], "lossless": self.lossless, "found": self.found,
        }  # fmt: skip

    def with_(self, **changes: Any) -> Sparse:
        """Returns a copy with other attributes."""
        return replace(self, **changes)


def fold(
    dictionary: Sparse, *, input_mean: Tensor | None = None, input_scale: float = 1.0,
    output_mean: Tensor | None = None, output_scale: float = 1.0,
) -> Sparse:  # fmt: skip
    """Folds a normalisation of inputs and outputs into a dictionary.

    A dictionary that took (φ - m)·s and gave (y - n)·t becomes one that takes φ and gives y. A window at the edge of the map
    sees zeros, which stand for m once it is folded.

    Args:
        dictionary: of normalised values.
        input_mean: m, C; None for 0.
        input_scale: s.
        output_mean: n, O; None for 0.
        output_scale: t.
    """
    encoder = dictionary.encoder * input_scale
    bias, added = dictionary.encoder_bias, dictionary.decoder_bias / output_scale
    if input_mean is not None:
        bias = bias - torch.einsum("kcij,c->k", encoder, input_mean.to(encoder))
    if output_mean is not None:
        added = added + output_mean
    return replace(
        dictionary, encoder=encoder, encoder_bias=bias, decoder=dictionary.decoder / output_scale, decoder_bias=added
    )


def unit_norm(dictionary: Sparse) -> Sparse:
    """Returns the same dictionary with decoder rows of length 1: codes become the lengths of their contributions.

    TopK then keeps the largest contributions, which others do by a selection of pre·|W_k|. Rows of length 0 stay.
    """
    size = dictionary.decoder.norm(dim=1)
    size = torch.where(size > 0, size, torch.ones_like(size))
    return replace(
        dictionary, encoder=dictionary.encoder * size[:, None, None, None], encoder_bias=dictionary.encoder_bias * size,
        decoder=dictionary.decoder / size[:, None],
        threshold=None if dictionary.threshold is None else dictionary.threshold * size,
    )  # fmt: skip
