"""What the tests of the verbs share: `tiny:net`, and commands with their answers."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from conftest import tiny_card, tiny_module
from entoptic import cli
from entoptic.models import sources

Say = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _tiny_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """`tiny:net` names the tiny network."""
    monkeypatch.setitem(sources.SOURCES, "tiny", lambda name, pretrained: (tiny_module(), tiny_card(name="tiny:net")))


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """Runs a command; gives exit code, stdout and stderr."""

    def run(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli.main([str(word) for word in words])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def see(*words: object) -> tuple[object, ...]:
    """The words of a short `entoptic see`."""
    return ("see", "tiny:net", *words, "--steps", "3", "--device", "cpu")


def refusal(answer: tuple[int, str, str]) -> str:
    """The one sentence of bad input."""
    code, _, err = answer
    assert code == 2
    # On a busy machine what takes over two seconds says how far it is.
    err = "".join(line for line in err.splitlines(keepends=True) if " so far" not in line)
    assert err.startswith("entoptic: "), err
    assert err.count("\n") == 1
    assert err.endswith("\n")
    assert "Traceback" not in err
    return err
