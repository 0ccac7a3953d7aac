"""The encoders of `entoptic.names.encoders`, under their old name."""

from __future__ import annotations

from entoptic.names.encoders import MINILM, MiniLM, SentenceTransformerEncoder, TextEncoder, load_encoder

__all__ = ["MINILM", "MiniLM", "SentenceTransformerEncoder", "TextEncoder", "load_encoder"]
