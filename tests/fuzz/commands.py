"""Commands with one thing wrong: an option of a verb, a unit, a path or a name."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

from tests.conftest import tiny_card, tiny_module

from entoptic import cli
from entoptic.base.bounds import numbers_of
from entoptic.cli.main import VERBS
from entoptic.models import sources

INTEGERS = (
    "99999999999999999999",
    "-99999999999999999999",
    "9" * 5000,
    "2147483648000000000000",
    "nan",
    "1e400",
    "x",
    "",
    "1.5",
)
REALS = ("nan", "inf", "-inf", "1e30", "-1e30", "1e308", "x", "")
PATHS = (
    "~nosuchuser/x", "a\0b", "/dev/null/x", "/proc/1/mem", "x" * 5000, "", "\n", "%s", "\udcff",
)  # fmt: skip
UNITS = ("nan*logits:0", "0*logits:0", "logits:0 + nothing:1", "logits:0 -",
    "logits:" + "9" * 5000, "logits:999999999", "logits:-1", "logits:", ":0", "", "logits:0-" + "9" * 5000, "logits:3-1",
    "logits:0@tok" + "9" * 5000, "logits:0@9,9", "stage1:0@" + "9" * 5000 + ",0", "stage1:0@99,0", "nowhere:0", 'logits:"',
    'logits:"no such label"', "dict(nowhere):0", "dict():0", "dir(nowhere#x)", "dir(x#)", "dict(~nosuchuser/x):1", "dict(a\0b):1",
    "dict(/dev/null):0", "dict(/):0", "fmap(stage1)<x>", "logits:²", "logits:٣٣٣٣", "((((", "logits:0" * 1000, "\0",
    "logits:0@mean.post", "stage1:*@cls", "dir(/dev/zero#x)",
)  # fmt: skip
MODELS = (
    "", ":", "x", "x:y", "tiny", "file:", "file:.", "file:/", "file:nowhere", "file:~nosuchuser/x", "file:a\0b",
    "file:" + "x" * 5000, "builtin:x", "builtin:\0", "torchvision:resnet18/x", "torchvision:../x",
    "timm:nosuchmodel", "file:/dev/null",
)  # fmt: skip
PRIORS = (
    "x",
    "file:nowhere",
    "file:~nosuchuser",
    "file:a\0b",
    "builtin:x",
    "fresh:",
    "fresh:²",
    "fresh:" + "9" * 5000,
    "file:/dev/null",
)


def start(verb: str, photos: Path, out: Path) -> list[str]:
    """A command that would run."""
    given = ["--photos", str(photos), "--out", str(out)]
    return {
        "see": [
            "see",
            "tiny:net",
            "logits:0",
            "--method",
            "fourier",
            "--steps",
            "1",
            "--verifiers",
            "",
            "--out",
            str(out),
        ],
        "interpolate": [
            "interpolate",
            "tiny:net",
            "logits:0",
            "logits:1",
            "--method",
            "fourier",
            "--steps",
            "1",
            "--verifiers",
            "",
            "--out",
            str(out),
        ],
        "frontier": ["frontier", "tiny:net", "logits:0", "--out", str(out)],
        "invert": ["invert", "tiny:net", "stage2", str(photos), "--out", str(out)],
        "steer": ["steer", "tiny:net", "stage2", str(photos), "--out", str(out)],
        "check": ["check", "tiny:net", "--photos", str(photos)],
        "index": ["index", "tiny:net", "--layers", "stage1", *given],
        "learn-prior": ["learn", "prior", *given],
        # Photos to measure on that are not there: what is allowed must not begin a training.
        "learn-inverter": ["learn", "inverter", "tiny:net", "stage2", "--held-out", "nowhere", *given],
        "atlas": ["atlas", "tiny:net", "stage1", *given, "--map", "mercat"],
        "circuit": ["circuit", "tiny:net", "logits:2", *given, "--n", "1", "--reruns", "0"],
        "report": ["report", "tiny:net", *given, "--method", "fourier", "--steps", "1", "--classes", "1"],
        "patterns": ["patterns", "tiny:net", "stage2", *given, "--shuffles", "0", "--tested", "0"],
        # It does not begin: a chain has at most as many switches as steps.
        "commitment": ["commitment", "tiny:net", "logits:2", "--steps", "4", "--switches", "5", "--out", str(out)],
        "name": ["name", "tiny:net", "stage2:0", *given, "--n", "1"],  # too few photos
        # Neither begins: there is no such kind, and a convolution with a stride is not split.
        "learn-dictionary": ["learn", "dictionary", "tiny:net", "stage2", "--kind", "none", *given],
        "split": ["split", "tiny:net", "stage2.0:0", *given],
        "verify": ["verify", str(out)],
        "status": ["status", str(out)],
        "gallery": ["gallery", str(photos), "--out", str(out)],
        "merge": ["merge", str(photos), "--out", str(out)],
        "figure": ["figure", str(photos), "--out", str(out)],
        "export": ["export", str(photos), "--out", str(out)],
        "push": ["push", str(photos), f"folder:{out}"],
        "pull": ["pull", f"folder:{photos}", "--out", str(out)],
        "study-build": ["study", "build", str(photos), "--out", str(out)],
        "study-serve": ["study", "serve", str(photos)],
        "study-export": ["study", "export", str(photos), "--out", str(out)],
        "study-simulate": ["study", "simulate", str(photos)],
        "study-analyse": ["study", "analyse", str(photos), "--out", str(out)],
        "bench": ["bench", "none", "--out", str(out)],
        "ls": ["ls", "tiny:net"],
    }[verb]


def options(kind: type, prefix: str = "") -> Iterator[tuple[str, bool]]:
    """Every option of a verb that takes a number, those of its configs too; and whether it is whole."""
    for name, whole, _ in numbers_of(kind):
        yield f"--{prefix}{name}".replace("_", "-"), whole
    for field in dataclasses.fields(kind):
        inner = field.default_factory if isinstance(field.default_factory, type) else None
        if inner is not None and dataclasses.is_dataclass(inner):
            name = "" if "OmitArgPrefixes" in str(field.type) else f"{field.name}."
            yield from options(inner, prefix + name)


NUMBERS = [
    # `study power` reads and writes no file, and simulates as many studies as it is told.
    (verb, *option)
    for verb, (kind, _) in VERBS.items()
    if verb != "study-power"
    for option in options(kind)
]


def command(draw: random.Random, photos: Path, out: Path) -> list[str]:
    """A command with one thing wrong."""
    what = draw.random()
    if what < 0.5:
        verb, option, whole = draw.choice(NUMBERS)
        return [*start(verb, photos, out), f"{option}={draw.choice(INTEGERS if whole else REALS)}"]
    if what < 0.7:
        words = start(draw.choice(["see", "frontier"]), photos, out)
        words[2] = draw.choice(UNITS)
        return words
    if what < 0.8:
        words = start(draw.choice(["see", "ls", "check", "index", "invert"]), photos, out)
        words[1] = draw.choice(MODELS)
        return words
    path = draw.choice(PATHS)
    return draw.choice([
        [*start("see", photos, out)[:-1], path], ["verify", path], ["gallery", path], ["merge", path, "--out", str(out)],
        ["figure", path, "--out", f"{out}.pdf"], ["export", path, "--out", str(out)],
        [*start("index", photos, out)[:-1], path], [*start("check", photos, out)[:-1], path], ["ls", path],
        [*start("see", photos, out), f"--photos={path}"], [*start("see", photos, out), f"--index={path}"],
        [*start("learn-prior", photos, out)[:-1], path], [*start("learn-inverter", photos, out), f"--pairs={path}"],
        [*start("see", photos, out), "--method=klsc", f"--prior={draw.choice(PRIORS)}"],
        [*start("invert", photos, out), f"--inverter={draw.choice(PRIORS)}"], ["invert", "tiny:net", "stage2", path],
        [*start("steer", photos, out), f"--dictionary={path}"], [*start("see", photos, out), f"--method={path}"],
        [*start("learn-inverter", photos, out), f"--prior={draw.choice(PRIORS)}"],
        ["study", "build", path, "--out", str(out)], [*start("study-build", photos, out)[:-1], path], ["study", "serve", path],
        ["study", "export", path, "--out", str(out)], [*start("study-build", photos, out), f"--consent={path}"],
        [*start("study-build", photos, out), f"--wording={path}"],
    ])  # fmt: skip


@dataclass(frozen=True)
class Answer:
    """What a command said."""

    code: int
    out: str
    err: str

    def fault(self) -> str:
        """What is wrong with it, or ""."""
        if self.code not in (0, 2):
            return f"exit code {self.code}"
        if "Traceback" in self.err or "internal error" in self.err:
            return "a traceback"
        sentences = [line for line in self.err.splitlines() if line.startswith("entoptic: ")]
        if self.code == 2 and not self.err.strip() and "differs" not in self.out:
            return "no sentence"
        return "more than one sentence" if len(sentences) > 1 else ""


@dataclass(frozen=True)
class Watched:
    """Folders that a command might write to without being asked to.

    Attributes:
        folder: holds the working directory `cwd`, `home` (with the cache of its user in it) and Entoptic's `cache`.
        more: others that nothing may change, such as the photos.
    """

    folder: Path
    more: tuple[Path, ...] = ()

    def files(self) -> dict[Path, tuple[int, int]]:
        """When each file was changed last, and its size."""
        found = [path for place in (self.folder, *self.more) for path in place.rglob("*") if path.is_file()]
        return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in found}

    def stray(self, before: dict[Path, tuple[int, int]], words: list[str], answer: Answer) -> list[Path]:
        """Files that a command changed, wrote or deleted where it should not have.

        Any command may write to the folders of its --out, which a refused one may have locked. One that went well also
        writes to the cache, and to `runs` where no --out was given.
        """
        now, cwd = self.files(), self.folder / "cwd"
        changed = [path for path in before.keys() | now.keys() if before.get(path) != now.get(path)]
        allowed = [cwd / out for option, out in pairwise(words) if option == "--out"]
        if answer.code == 0:
            allowed += [self.folder / "cache"] + ([] if allowed else [cwd / "runs"])
        return sorted(path for path in changed if not any(path.is_relative_to(place) for place in allowed))


@contextlib.contextmanager
def watched(folder: Path, *more: Path) -> Iterator[Watched]:
    """The working directory, the home and the cache in a folder, to see what a command writes there."""
    places = {name: folder / name for name in ("cwd", "home", "cache")}
    for place in places.values():
        place.mkdir(parents=True, exist_ok=True)
    home = places["home"]
    own = {
        "HOME": home, "USERPROFILE": home, "XDG_CACHE_HOME": home / ".cache", "XDG_CONFIG_HOME": home / ".config",
        "XDG_DATA_HOME": home / ".local" / "share", "XDG_STATE_HOME": home / ".local" / "state",
        "ENTOPTIC_CACHE": places["cache"],
    }  # fmt: skip
    environment = {name: str(path) for name, path in own.items()}
    with contextlib.chdir(places["cwd"]), mock.patch.dict("os.environ", environment):
        yield Watched(folder, more)


def run(words: list[str]) -> Answer:
    """Runs a command in this process; `tiny:net` is the tiny network."""
    source: dict[str, Any] = {"tiny": lambda name, pretrained: (tiny_module(), tiny_card(name="tiny:net"))}
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.dict(sources.SOURCES, source), mock.patch.dict("os.environ", {"HF_HUB_OFFLINE": "1"}),
        contextlib.redirect_stdout(out), contextlib.redirect_stderr(err),
    ):  # fmt: skip
        code = cli.main(words)
    return Answer(code, out.getvalue(), err.getvalue())
