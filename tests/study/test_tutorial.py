"""The commands of the tutorial, in their order, with tiny settings."""

from __future__ import annotations

import re
import shlex
from functools import cache
from pathlib import Path

import pytest

pytest.importorskip("statsmodels", reason='needs the extra "study"')
pytest.importorskip("sqlmodel", reason='needs the extra "study"')
pytest.importorskip("httpx", reason='needs the extra "study"')

from cli.conftest import Say, say  # noqa: F401
from entoptic.models import sources

ROOT = Path(__file__).parents[2]
SMALLER = {"see": ["--steps", "2", "--n", "1"]}
FEWER = {"24": "3", "200": "5"}


def commands(page: str) -> list[list[str]]:
    """The commands of a page's blocks, with fewer participants and simulations."""
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "docs" / page).read_text(), flags=re.DOTALL)
    lines = [shlex.split(line)[1:] for block in blocks for line in block.splitlines() if line.startswith("entoptic ")]
    return [[FEWER.get(word, word) for word in line] + SMALLER.get(line[0], []) for line in lines]


def test_the_demo_of_the_tutorial_is_that_of_make() -> None:
    recipe = (ROOT / "Makefile").read_text().partition("demo:")[2].partition("@echo")[0].replace("\\\n", " ")
    made = shlex.split(recipe[recipe.index("entoptic see") :].replace("$(THREADS)", "2"))
    assert commands("study-tutorial.md")[0][: len(made) - 5] == made[1:-4]
    assert made[-2:] == ["--out", "runs/demo"]


@pytest.mark.slow
def test_the_tutorial_runs(say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sources, "_lite", cache(sources._lite))
    said = []
    for line in commands("study-tutorial.md"):
        code, out, err = say(*line)
        assert code == 0, (line, err)
        said.append(out)
    assert "3 simulated participants" in "".join(said)
    report = (tmp_path / "studies" / "demo-report" / "report.html").read_text()
    assert "The registered test" in report
    assert "Simulated answers" in report
    assert "vital against fourier" in report
    pages = [page.read_text() for page in (tmp_path / "runs" / "demo" / "gallery").glob("unit-*.html")]
    assert len(pages) == 6
    assert any("Simulated participants rated it" in page for page in pages)
