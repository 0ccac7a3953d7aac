"""The distribution that a picture was drawn from, as its sampler recorded it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from entoptic.base.estimates import Estimate


class Kind(StrEnum):
    """What is known of a distribution."""

    SELECTION = "selection"
    """picks among N samples by rank: its KL divergence is known exactly"""
    TILT = "tilt"
    """a prior times exp(β s)"""
    CONDITIONAL = "conditional"
    """a prior given a class or a prompt"""
    PATH = "path"
    """the end of a guided chain: what the chain spent along its path is known, its distribution is not"""


class KlIs(StrEnum):
    """What the number of a KL divergence is."""

    EXACT = "exact"
    ESTIMATE = "estimate"
    UPPER_BOUND = "upper_bound"


@dataclass(frozen=True, kw_only=True)
class SampledDistribution:
    """The distribution of a sampled picture. An optimised picture has none: it is a point mass.

    Attributes:
        kind: how it was made.
        description: in words, for people.
        prior: name of the distribution that it is compared with.
        kl: KL divergence from the prior in nats with its 95 % interval, or None (see `refused`).
        kl_is: whether `kl` is exact, an estimate, or an upper bound.
        mean: mean score in the unit's own scale, or None.
        mean_in_sd: mean score in standard deviations above the prior's mean, or None.
        score: of the one picture, in the unit's own scale, or None.
        score_in_sd: of the one picture, in standard deviations above the prior's mean, or None.
        beta: coefficient of the tilt per standard deviation of the score; `math.inf` for its limit; None where it is no tilt.
        n: number of samples behind it (N).
        k: number of the strongest among them that it picks from (K).
        rank: of the picture among the N, 1 for the strongest, or None.
        ess: effective number of samples, or None.
        path_kl: KL divergence of the chain's path in nats without its last step, for `Kind.PATH`.
        generator_steps: steps of the prior's few-step map that the numbers refer to, or None.
        refused: why a number is not reported, or "".
        detail: further numbers of the sampler, by the names that sidecars use.
    """

    kind: Kind
    description: str
    prior: str
    kl: Estimate | None = None
    kl_is: KlIs = KlIs.ESTIMATE
    mean: Estimate | None = None
    mean_in_sd: Estimate | None = None
    score: float | None = None
    score_in_sd: float | None = None
    beta: float | None = None
    n: int = 0
    k: int = 1
    rank: int | None = None
    ess: float | None = None
    path_kl: float | None = None
    generator_steps: int | None = None
    refused: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Returns what a sidecar holds under `trace.selection`."""
        record: dict[str, Any] = {
            "kind": str(self.kind), "kl_is": str(self.kl_is), "law": self.description, "prior": self.prior,
            "N": self.n, "K": self.k, "nats": self.kl.value if self.kl is not None else None,
        }  # fmt: skip
        if self.kl_is is not KlIs.EXACT and not (self.kl_is is KlIs.UPPER_BOUND and self.kl and self.kl.se == 0):
            record["nats_interval"] = _interval(self.kl)
        for name, mean in (("mean", self.mean), ("mean_in_sd", self.mean_in_sd)):
            if mean is None and self.kind is Kind.TILT:
                record[name] = None
            elif mean is not None:
                record[name] = mean.value
                if mean.interval is not None:
                    record[f"{name}_interval"] = list(mean.interval)
        optional = {
            "score": self.score, "score_in_sd": self.score_in_sd, "rank": self.rank, "ess": self.ess,
            "path_nats_before_last_step": self.path_kl, "generator_steps": self.generator_steps,
            "beta": "infinity" if self.beta == math.inf else self.beta, "refused": self.refused or None,
        }  # fmt: skip
        return record | {name: value for name, value in optional.items() if value is not None} | dict(self.detail)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> SampledDistribution:
        """Returns the distribution that `to_json` wrote, also from sidecars that hold no `kind` and `kl_is` yet.

        Raises:
            KeyError, TypeError, ValueError: the record is damaged.
        """
        nats, interval = record.get("nats"), record.get("nats_interval")
        infinity = record.get("beta") == "infinity"
        mean, mean_in_sd = (_estimate(record, name) for name in ("mean", "mean_in_sd"))
        kl_is = KlIs(record.get("kl_is") or (KlIs.ESTIMATE if "nats_interval" in record else KlIs.EXACT))
        known_exactly = kl_is is not KlIs.ESTIMATE and "nats_interval" not in record
        kl = None
        if nats is not None:
            value = float(nats)
            kl = Estimate(value, 0.0, (value, value)) if known_exactly else Estimate(value, math.inf, _pair(interval))
        return cls(
            kind=Kind(record["kind"]) if "kind" in record else _kind_of_old(record),
            description=str(record.get("law", "")),
            prior=str(record.get("prior", "")),
            kl=kl,
            kl_is=kl_is,
            mean=mean,
            mean_in_sd=mean_in_sd,
            score=record.get("score"),
            score_in_sd=record.get("score_in_sd"),
            beta=math.inf if infinity else record.get("beta"),
            n=int(record.get("N", 0)),
            k=int(record.get("K", 1)),
            rank=record.get("rank"),
            ess=record.get("ess"),
            path_kl=record.get("path_nats_before_last_step"),
            generator_steps=record.get("generator_steps"),
            refused=str(record.get("refused", "")),
            detail={name: value for name, value in record.items() if name not in _FIELDS},
        )


_FIELDS = frozenset(
    ("kind", "kl_is", "law", "prior", "N", "K", "nats", "nats_interval", "mean", "mean_interval", "mean_in_sd",
     "mean_in_sd_interval", "score", "score_in_sd", "rank", "ess", "path_nats_before_last_step", "generator_steps",
     "beta", "refused")
)  # fmt: skip


def _kind_of_old(record: Mapping[str, Any]) -> Kind:
    """The kind of a record that was written before records held it: each kind had keys of its own."""
    if "rank" in record:
        return Kind.SELECTION
    if record.get("beta") is not None:
        return Kind.TILT
    return Kind.PATH if "path_nats_before_last_step" in record else Kind.CONDITIONAL


def _estimate(record: Mapping[str, Any], name: str) -> Estimate | None:
    value = record.get(name)
    return None if value is None else Estimate(float(value), math.inf, _pair(record.get(f"{name}_interval")))


def _pair(interval: Any) -> tuple[float, float] | None:
    return None if interval is None else (float(interval[0]), float(interval[1]))


def _interval(estimate: Estimate | None) -> list[float] | None:
    return None if estimate is None or estimate.interval is None else list(estimate.interval)
