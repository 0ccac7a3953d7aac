"""The requests that made the stored run, for `make` and for the test that repeats them: public functions alone.

All of them are to run in the stored folder (or in a copy of it) with the sources of `networks` in place, so that every
path in a sidecar is relative to it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from tests.conftest import tiny_card, tiny_module
from torch import nn

import entoptic
from entoptic.inversion.steer import Steer

HERE = Path(__file__).parent
MODEL, VERIFIER, LAYER = "tiny:0", "tiny:7", "stage2"
UNITS = ["logits:0", "stage1:3"]
PICTURES, PRIOR, INVERTER, DICTIONARY = "photos", "file:prior", "file:inverter", "four.safetensors"
FOLDERS = ("photos", "networks", "prior", "inverter", "cache", "runs")
"""What the stored folder holds beside Python files, `DICTIONARY` and `expected.json`."""

ALL = (
    "vital,vital-paper,pixels,fourier,maco,deep-inversion,deep-inversion-adaptive,retrieval,retrieval-bottom,"
    "retrieval-tilted,klsc,klsc-twisted,best-of,energydps,prompt-class"
)
SOME = "vital,vital-paper,maco,retrieval,klsc,best-of"
QUICK: dict[str, Any] = {"verifiers": VERIFIER, "device": "cpu", "progress": False}
FEW: dict[str, Any] = {"bank": 192, "particles": 12, "islands": 4, "moves": 2, "nats": 1.0}


def networks(folder: Path) -> Callable[[str, bool], tuple[nn.Module, entoptic.Card]]:
    """A source of models for `SOURCES["tiny"]`: `tiny_module` with stored weights, the same on every machine."""

    def source(seed: str, _: bool) -> tuple[nn.Module, entoptic.Card]:
        module = tiny_module(int(seed))
        module.load_state_dict(load_file(folder / "networks" / f"tiny-{seed}.safetensors"))
        return module, tiny_card(name=f"tiny:{seed}")

    return source


def see() -> list[entoptic.Run]:
    """A logit by every method that needs no prior of texts, and a channel by one method of each kind.

    Photos lie beside the logit's pictures alone: `context` is the largest part of a run.
    """
    options: dict[str, Any] = {
        "photos": PICTURES, "prior": PRIOR, "steps": 3, "canvas": 48, "crops": 2, "references": 4, "cap": 1.0,
        "relevance": "lrp", "contrast": 0.0, "class_contrast": 0.0, "smooth_from": 0,  # what `vital` did when the run was made
        "out": "runs/see", **FEW, **QUICK,
    }  # fmt: skip
    logit = entoptic.see(MODEL, UNITS[0], method=ALL, student=VERIFIER, fresh=16, **options)
    del options["cap"]
    channel = entoptic.see(MODEL, UNITS[1], method=SOME, context=False, **options)
    return [logit, channel]


def frontier() -> list[Any]:
    """The frontier of one unit. Its bank and its islands come from the cache where that holds them."""
    chain = entoptic.METHODS["energydps"].config(cap=1.0)  # type: ignore[call-arg]
    return entoptic.frontier(
        MODEL, UNITS[0], methods=["klsc", "best-of", chain, "fourier"], prior=PRIOR, photos=PICTURES, n=1, steps=3,
        out="runs/frontier", **FEW, **QUICK,
    )  # fmt: skip


def invert() -> list[entoptic.Run]:
    """Two photos as they are, a mixture, a part put in, and the better of two."""
    photos = [f"{PICTURES}/circle/0.png", f"{PICTURES}/dot/1.png"]
    requests: list[tuple[Any, dict[str, Any]]] = [
        (photos, {"n": 3}),
        (photos[0], {"n": 1, "mix": photos[1], "weights": [0.25, 0.75]}),
        (photos[0], {"n": 1, "paste": photos[1], "region": (0, 0, 2, 2)}),
        (photos[1], {"n": 1, "best_of": 2}),
    ]
    return [
        entoptic.invert(MODEL, LAYER, one, inverter=INVERTER, steps=2, out="runs/invert", **QUICK, **more)
        for one, more in requests
    ]


def steer() -> entoptic.Run:
    """Two concepts in one photo."""
    return entoptic.steer(
        MODEL, LAYER, f"{PICTURES}/square/0.png", dictionary=DICTIONARY, concepts=[0, 2], inverter=INVERTER,
        config=Steer(n=2, nulls=4, level=0.4, scales=(0.0, 1.0, 2.0)), out="runs/steer", device="cpu", progress=False,
    )  # fmt: skip


REQUESTS: dict[str, Callable[[], Any]] = {"see": see, "frontier": frontier, "invert": invert, "steer": steer}
"""By the name of the run in `runs`."""


def expected() -> list[dict[str, str]]:
    """Every stored picture: its `run`, `file` in that run, `sha256` of the PNG and `key`."""
    return json.loads((HERE / "expected.json").read_text())
