"""`entoptic ls`."""

from __future__ import annotations

from cli.conftest import Say


def test_ls(say: Say) -> None:
    code, out, _ = say("ls")
    assert code == 0
    for word in ("builtin:", "torchvision:", "builtin:lite0", "vital", "retrieval"):
        assert word in out
    code, out, _ = say("ls", "tiny:net")
    assert code == 0
    assert "stage1.2" in out
    assert "logits" in out
    code, out, _ = say("ls", "tiny:net", "logits")
    assert "logits:2\tstripe" in out
    code, out, _ = say("ls", "tiny:net", "stage1")
    assert "12 units, 8×8 positions, ends in stage1.3" in out
    assert "stage1:0 … stage1:11" in out
