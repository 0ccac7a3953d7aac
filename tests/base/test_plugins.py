"""Packages that are installed beside Entoptic: what they add is there, and a broken one costs a warning."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from entoptic.base import plugins

ROOT = Path(__file__).parents[2]
POINTS = """
[entoptic.methods]
mine = my_method
broken = my_broken
thief = my_thief

[entoptic.metrics]
halves = my_metric
bad-metric = my_bad_metric

[entoptic.models]
mine = my_models:load
timm = my_models:load

[entoptic.dictionaries]
sparse = my_models:load
"""


def install(folder: Path, points: str = POINTS) -> None:
    """Puts a package into a folder as pip would: its modules and its metadata."""
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.DOTALL)
    (folder / "my_method.py").write_text(code)
    half = code.replace('"mine"', '"half-there"')
    (folder / "my_broken.py").write_text(f"{half}\nimport no_such_thing\n")
    (folder / "my_thief.py").write_text(code.replace('"mine"', '"fourier"'))
    metric = (
        "from entoptic.metrics.evidence import Evidence\n"
        "from entoptic.metrics.registry import UNIT, card, metric\n"
        "@metric(card('halves', 'Half', targets={UNIT}))\n"
        "def halves(picture):\n    return Evidence('halves', picture.value / 2, 1, (0, 1), 'higher')\n"
    )
    (folder / "my_metric.py").write_text(metric)
    (folder / "my_bad_metric.py").write_text(metric.replace("halves", "bad") + "raise RuntimeError('two\\nlines')\n")
    (folder / "my_models.py").write_text("def load(name, pretrained):\n    raise SystemExit(name)\n")
    about = folder / "my_package-1.2.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.2\n")
    (about / "entry_points.txt").write_text(points)


def call(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join([str(folder), str(ROOT / "src")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *words], env=environment, cwd=folder, capture_output=True, text=True, timeout=120
    )


def test_an_installed_package_is_in_the_command_line_and_a_broken_one_is_a_warning(tmp_path: Path) -> None:
    install(tmp_path)
    done = call(tmp_path, "-m", "entoptic", "ls", "methods")
    assert done.returncode == 0
    assert re.search(r"^\s*mine\b.*My method", done.stdout, flags=re.MULTILINE)
    assert "half-there" not in done.stdout
    assert re.search(r"^\s*fourier\b.*Fourier feature visualisation", done.stdout, flags=re.MULTILINE)
    said = done.stderr.strip().splitlines()
    assert said == [
        'warning: the package my-package 1.2 adds "broken" to entoptic.methods, but it cannot be loaded and is left out '
        "(ModuleNotFoundError: No module named 'no_such_thing')",
        'warning: the package my-package 1.2 adds "thief" to entoptic.methods, but it cannot be loaded and is left out '
        "(ValueError: it takes the place of fourier, which is there already)",
    ]
    assert "--mine.contrast" in call(tmp_path, "-m", "entoptic", "see", "--help", "mine").stdout


@pytest.mark.slow
def test_the_method_of_contributing_runs_from_a_package_and_is_measured_by_its_metric(tmp_path: Path) -> None:
    install(tmp_path, POINTS.replace("broken = my_broken\nthief = my_thief\n", "").replace("timm = ", "timm2 = "))
    words = ["see", "builtin:lite0", "logits:497", "--method", "mine", "--mine.contrast", "0.2", "--verifiers", ""]
    done = call(tmp_path, "-m", "entoptic", *words, "--out", "run")
    assert done.returncode == 0, done.stderr
    assert "logits:497 (church) by mine" in done.stdout
    assert 'adds "bad-metric" to entoptic.metrics' in done.stderr
    assert "(RuntimeError: two lines)" in done.stderr
    (sidecar,) = tmp_path.glob("run/pictures/*/*.json")
    assert '"name": "halves"' in sidecar.read_text()
    assert '"name": "bad"' not in sidecar.read_text()


def test_sources_and_kinds_are_offered_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.warns(UserWarning, match='adds "timm" to entoptic.models') as said:
        models = plugins.offered(plugins.MODELS, ["timm", "file"])
    assert len(said) == 1
    assert list(models) == ["mine"]
    assert list(plugins.offered(plugins.DICTIONARIES, ["concepts"])) == ["sparse"]


def test_without_packages_nothing_is_said() -> None:
    known: dict[str, Any] = {"a": 1}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plugins.load_plugins("entoptic.nothing-of-this-name", known)
        assert plugins.offered("entoptic.nothing-of-this-name", known) == {}
    assert known == {"a": 1}
