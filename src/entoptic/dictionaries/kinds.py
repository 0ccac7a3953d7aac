"""Kinds of dictionaries that can be trained, by name."""

from __future__ import annotations

from entoptic.dictionaries.archetypal import ARCHETYPAL
from entoptic.dictionaries.batch_topk import BATCH_TOPK
from entoptic.dictionaries.jump_relu import JUMP_RELU
from entoptic.dictionaries.matryoshka import MATRYOSHKA
from entoptic.dictionaries.network import Kind
from entoptic.dictionaries.relu import RELU
from entoptic.dictionaries.topk import TOPK

KINDS: dict[str, Kind] = {kind.name: kind for kind in (RELU, TOPK, BATCH_TOPK, JUMP_RELU, MATRYOSHKA, ARCHETYPAL)}
