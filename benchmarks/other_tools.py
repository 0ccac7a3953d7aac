"""The other tools beside Entoptic: the same network, the same classes, the same judges.

    python benchmarks/other_tools.py                              # 10 classes, one seed: hours on a CPU core
    python benchmarks/other_tools.py --classes 3 --slow-classes 0 # a first look
    python benchmarks/other_tools.py --tables-only                # measures what is there

Every tool runs in a process and an environment of its own (--run), installed by pip when it is first needed. A picture that is
there is not made again. A tool that does not install or run gets a row that says why. The classes are the first of the
half *report* of any_class.py, on which nothing was chosen. Writes docs/benchmarks/other-tools.json, other-tools.md and
other-tools.jpg.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw

HERE = Path(__file__).parent
TOOLS = HERE / "tools"
sys.path[:0] = [str(path) for path in (HERE, TOOLS) if str(path) not in sys.path]

from environments import DoesNotRun, run  # noqa: E402
from measuring import Judge, Seen, Shots, Space, against, look, read, row  # noqa: E402
from page import page  # noqa: E402
from protocol import Setting, Task, Tool  # noqa: E402

import entoptic  # noqa: E402
from common import DATA, about, verifiers  # noqa: E402
from entoptic.images.photos import Photos  # noqa: E402
from entoptic.metrics.sets.embedders import pooled  # noqa: E402
from entoptic.models.model import Model  # noqa: E402

OUT = HERE.parent / "docs" / "benchmarks"
BASE = "Entoptic vital"
"""The row to which all others are compared."""
LITE = ("Lite1", "Lite2")
ORDER = ("entoptic", "lucent", "torch_dreams", "horama", "xplique", "captum")


@dataclass(frozen=True, kw_only=True)
class Adapted:
    """A tool with the file of its adapter."""

    key: str
    path: Path
    tool: Tool


def adapters(folder: Path, wanted: Sequence[str]) -> list[Adapted]:
    """The adapters of a folder, files named KEY_adapter.py, in the order of `wanted`."""
    found = []
    for key in wanted:
        path = folder / f"{key}_adapter.py"
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec
        assert spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        found.append(Adapted(key=key, path=path, tool=module.TOOL))
    return found


def make(
    adapted: Adapted, network: str, classes: Sequence[int], slow: int, seeds: int, evaluations: int, folder: Path
) -> str:
    """Makes the pictures of a tool that are not there yet; returns why some are missing, "" where none are."""
    tasks = [
        Task(network=network, index=index, setting=setting.name, evaluations=evaluations, seed=seed,
             folder=str((folder / adapted.key).resolve()))
        for setting in sorted(adapted.tool.settings, key=lambda one: one.slow)
        for index in (classes[:slow] if setting.slow else classes)
        for seed in range(seeds)
    ]  # fmt: skip
    try:
        if tasks:
            run(adapted.tool, adapted.path, tasks, folder / "environments")
    except DoesNotRun as reason:
        return str(reason)
    return ""


def rows_of(
    found: Sequence[Adapted], folder: Path, classes: Sequence[int]
) -> dict[str, tuple[Shots, Adapted | None, Setting | None]]:
    """The pictures of every row by its name; parts of pictures are rows of their own."""
    rows: dict[str, tuple[Shots, Adapted | None, Setting | None]] = {}
    for adapted in found:
        for setting in adapted.tool.settings:
            whole = read(folder / adapted.key, setting.name)
            parts = sorted({part for record in whole.records for part in record["parts"]}) if whole else []
            for part in ["", *parts]:
                shots = only(read(folder / adapted.key, setting.name, part), classes)
                if shots:
                    name = f"{adapted.tool.name} {setting.name}" + (f", {part}" if part else "")
                    rows[name] = (shots, adapted, setting)
    return rows


def only(shots: Shots | None, classes: Sequence[int]) -> Shots | None:
    """The pictures of some classes, in their order; None where there are none."""
    if shots is None:
        return None
    kept = sorted(
        (i for i, k in enumerate(shots.classes) if k in classes), key=lambda i: classes.index(shots.classes[i])
    )
    if not kept:
        return None
    records = tuple(shots.records[i] for i in kept) if shots.records else ()
    return Shots(pictures=shots.pictures[kept], classes=tuple(shots.classes[i] for i in kept), records=records)


def tables(
    rows: Mapping[str, tuple[Shots, Adapted | None, Setting | None]],
    judges: Mapping[str, Judge],
    spaces: Sequence[Space],
    itself: str,
) -> dict[str, Any]:
    """Measures every row, and its difference to the base where both have pictures."""
    seen: dict[str, tuple[Shots, Seen]] = {
        name: (shots, look(shots, judges, spaces)) for name, (shots, _, _) in rows.items()
    }
    told = {}
    for name, (_, adapted, setting) in rows.items():
        entry = row(*seen[name], spaces, itself)
        if setting:
            entry |= {"tool": adapted.tool.name if adapted else "", "says": setting.says, "equal": setting.equal}
        if BASE in seen and name != BASE and set(seen[name][0].classes) & set(seen[BASE][0].classes):
            entry["against"] = against(seen[name], seen[BASE], spaces, itself)
        told[name] = entry
    return told


def judges_and_spaces(subject: Model) -> tuple[dict[str, Judge], list[Space]]:
    """Judges, the network itself first, and networks in which distances to photos are measured.

    Without the shared weights Lite1 and Lite2 judge alone; without the shared photos there are no distances.
    """
    from any_class import judges

    nets = (
        verifiers()
        if (DATA / "weights").is_dir()
        else {name: entoptic.load(f"builtin:{name.lower()}") for name in LITE}
    )
    told: dict[str, Judge] = {}
    if (DATA / "weights").is_dir():
        from any_class import judges

        told = dict(judges(subject))
    else:
        for name, net in {"Lite0 (itself)": subject, **nets}.items():
            told[name] = lambda pictures, net=net: torch.cat([net(net.fit(chunk)) for chunk in pictures.split(25)])  # type: ignore[misc]
    folder = DATA / "imagenet-val-650"
    if not folder.is_dir():
        return told, []
    images = torch.cat([chunk for _, chunk in Photos.open(str(folder)).batches(subject.card.prepare, 50)])
    spaces = []
    for name in [name for name in ("MobileNetV2", "Lite2") if name in nets]:
        embedder = pooled(nets[name])
        spaces.append(Space(name=name, embed=embedder.embed, photos=embedder.embed(images)))
    return told, spaces


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--tools", default=",".join(ORDER))
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--slow-classes", type=int, default=1, help="of settings that take many minutes a picture")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--tables-only", action="store_true", help="make no pictures")
    parser.add_argument("--run", type=Path, default=Path("runs/other-tools"))
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args(arguments)
    from any_class import EVALUATIONS, halves, photos_of

    classes = halves()["report"][: given.classes]
    found = adapters(TOOLS, given.tools.split(","))
    kept = given.run / "reasons.json"
    reasons: dict[str, str] = json.loads(kept.read_text()) if kept.is_file() else {}
    for adapted in found if not given.tables_only else ():
        why = make(adapted, "builtin:lite0", classes, given.slow_classes, given.seeds, EVALUATIONS, given.run)
        reasons[adapted.key] = why
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(reasons, indent=1))
    model = entoptic.load("builtin:lite0")
    judges, spaces = judges_and_spaces(model)
    rows = rows_of(found, given.run, classes)
    if (DATA / "imagenet-one-per-class").is_dir():
        photos, of = photos_of(classes)
        rows = {"photos": (Shots(pictures=photos, classes=tuple(of)), None, None), **rows}
    result = {
        "command": "python benchmarks/other_tools.py " + shlex.join(words_kept(arguments)),
        "about": about() | {"threads": "1"},
        "network": "builtin:lite0",
        "classes": {str(k): model.card.label(k) for k in classes},
        "seeds": given.seeds,
        "evaluations": EVALUATIONS,
        "rows": tables(rows, judges, spaces, next(iter(judges))),
        "tools": [
            {"key": one.key, "name": one.tool.name, "requirements": [*one.tool.bare, *one.tool.also],
             "reason": reasons.get(one.key, ""), "note": one.tool.note,
             "settings": [f"{one.tool.name} {setting.name}" for setting in one.tool.settings]}
            for one in found
        ],
    }  # fmt: skip
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "other-tools.json").write_text(json.dumps(result, indent=1) + "\n")
    (given.out / "other-tools.md").write_text(page(result))
    strip(published(rows), result["classes"], given.out / "other-tools.jpg")
    print(page(result))


def published(rows: Mapping[str, tuple[Shots, Adapted | None, Setting | None]]) -> dict[str, Shots]:
    """The rows whose pictures may be shown: those that a tool made. Photos are judged, and their terms do not allow more."""
    return {name: shots for name, (shots, adapted, _) in rows.items() if adapted is not None}


def words_kept(arguments: Sequence[str] | None) -> list[str]:
    """The words of the command without folders of this machine."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    folders = {i + shift for i, word in enumerate(words) if word in ("--run", "--out") for shift in (0, 1)}
    return [word for i, word in enumerate(words) if i not in folders and word != "--tables-only"]


def strip(
    rows: Mapping[str, Shots], labels: Mapping[str, str], path: Path, *, side: int = 112, columns: int = 8
) -> None:
    """Writes the first seed of the first classes, a row for each setting, as a JPEG of less than 200 KB."""
    classes, left, top = [int(k) for k in list(labels)[:columns]], 130, 18
    canvas = Image.new("RGB", (left + len(classes) * (side + 4), top + len(rows) * (side + 4)), "white")
    draw = ImageDraw.Draw(canvas)
    for x, k in enumerate(classes):
        draw.text((left + x * (side + 4), 3), labels[str(k)][:18], fill="black")
    for y, (name, shots) in enumerate(rows.items()):
        draw.multiline_text((4, top + y * (side + 4) + 40), name.replace(" ", "\n", 1), fill="black")
        for x, k in enumerate(classes):
            if k in shots.classes:
                pixels = (shots.pictures[shots.classes.index(k)] * 255).round().byte().permute(1, 2, 0).numpy()
                tile = Image.fromarray(pixels).resize((side, side), Image.Resampling.LANCZOS)
                canvas.paste(tile, (left + x * (side + 4), top + y * (side + 4)))
    for quality in (85, 75, 65, 55, 45, 35):
        canvas.save(path, quality=quality, optimize=True)
        if path.stat().st_size < 200_000:
            return


if __name__ == "__main__":
    main()
