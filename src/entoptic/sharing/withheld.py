"""`withheld.jsonl`: what stands in place of photos that may not be published: a hash and a caption of each, no pixel."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from entoptic.errors import printable
from entoptic.methods import METHODS
from entoptic.runs.scrub import Scrubber, name_of
from entoptic.runs.store import Run

FILE = "withheld.jsonl"
_OF_PHOTO = re.compile(r"photo (?P<name>.+), sha256 (?P<sha256>[0-9a-f]{8,64}), score (?P<score>[-+.\deE]+|nan|inf)")


def withheld(run: Run, copy: Run, scrubber: Scrubber) -> Iterator[dict[str, Any]]:
    """Yields a row for each picture that a public copy lacks because it is a photo, and for each photo beside the pictures.

    Args:
        run: the run itself.
        copy: what is published of it.
        scrubber: takes paths of this machine out of texts.
    """
    there = {str(picture.record.get("key")) for picture in copy}
    for picture in run:
        card = METHODS.get(picture.method)
        if str(picture.record.get("key")) in there or card is None or card.reads != {"scores"}:
            continue
        scrubber.learn(picture.record)
        note = next(filter(None, map(_OF_PHOTO.search, _notes(picture.record))), None)
        about = {
            "kind": "picture", "unit": scrubber.unit(picture.unit), "label": picture.label, "method": picture.method,
            "sample": picture.sample, "sha256": picture.record["image"].get("sha256"),
            "photo": name_of(note["name"]) if note else None, "photo_sha256": note["sha256"] if note else None,
        }  # fmt: skip
        caption = f"a real photo that {picture.method} chose for {about['unit']}"
        yield about | {"caption": caption + (f" ({picture.label})" if picture.label else "")}
    for place in sorted((run.path / "context").glob("*/context.json")):
        record = run.context(place.parent.name) or {}
        unit = scrubber.unit(str(record.get("unit") or place.parent.name))
        for end in ("strongest", "weakest"):
            for rank, entry in enumerate(_entries(record.get(end)), 1):
                file = place.parent / str(entry.get("file") or "")
                yield {
                    "kind": "context", "unit": unit, "label": entry.get("label") or None, "method": end, "sample": rank - 1,
                    "sha256": _sha256(file, run), "photo": name_of(str(entry.get("photo") or "")) or None, "photo_sha256": None,
                    "caption": f"number {rank} of the photos that drive {unit} {'most' if end == 'strongest' else 'least'}"
                    + (f": {entry['label']}" if entry.get("label") else ""),
                }  # fmt: skip


def as_lines(rows: Iterator[dict[str, Any]]) -> bytes:
    """Returns rows as JSON lines."""
    text = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)
    return printable(text).encode()


def _sha256(file: Path, run: Run) -> str | None:
    from entoptic.base.files import is_inside, sha256_of

    try:
        return sha256_of(file) if is_inside(file, run.path) and file.is_file() else None
    except OSError:
        return None


def _notes(record: Mapping[str, Any]) -> list[str]:
    trace = record.get("trace")
    notes = trace.get("notes") if isinstance(trace, Mapping) else None
    return [str(note) for note in notes] if isinstance(notes, list) else []


def _entries(value: Any) -> list[Mapping[str, Any]]:
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []
